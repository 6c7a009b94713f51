"""`fedmodels explain` as a person uses it: which record, which picture, what is said, and what is refused."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from model_studies import SERIES, TABLE, TEXT, a_study
from PIL import Image
from typer.testing import CliRunner

from fedmodels.cli import app
from fedmodels.commands.explain import explain
from fedmodels.data.text import token_spans, tokenise
from fedmodels.errors import DataError, UsageError
from fedmodels.evaluation.explanations import pictures
from fedmodels.evaluation.explanations.examples import read_examples
from fedmodels.evaluation.explanations.explain import explain as explain_record
from fedmodels.evaluation.explanations.figures import neighbourhoods, ranked
from fedmodels.evaluation.explanations.words import marked_words
from fedmodels.models.artifact import load_model, save_model
from fedmodels.models.registry import build_model
from fedmodels.study_input import TextInput

TEXTS = ["咳嗽三天，发烧<39>。Cough & fever!", "没有发热", "头痛 and more words than the model reads at all"]
FILES = {
    "mlp": (
        TABLE,
        'kind = "table"\npath = "t.csv"\n[columns]\npatient = "p"\n',
        "p,n,k\nann,0.5,x\nbob,0.25,\nann,,z\n",
    ),
    "text-gru": (
        TEXT.replace("50", "4096"),
        'kind = "text"\npath = "t.csv"\n[columns]\npatient = "row"\ntext = ["t"]\n',
        "t\n" + "".join(f'"{text}"\n' for text in TEXTS),
    ),
    "gru": (
        SERIES,
        'kind = "series-long"\npath = "t.csv"\n',
        "patient,time,variable,value\nann,0,a,0.5\nann,90,b,0.75\nann,0,c,1\n",
    ),
}


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """The family, and a folder with a run of it and a data binding without labels."""
    return request.param, a_run(request.param, tmp_path)


def a_run(name: str, folder: Path) -> Path:
    input_, binding, data = FILES[name]
    study = a_study(name, input_)
    save_model(folder, build_model(study), study)
    (folder / "data.toml").write_text(binding)
    (folder / "t.csv").write_text(data, encoding="utf-8")
    return folder


def an_image_run(folder: Path) -> Path:
    study = a_study("cnn", "modality = 'image'\nheight = 16\nwidth = 16")
    save_model(folder, build_model(study), study)
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(pixels).save(folder / "x.png")
    return folder


def test_a_page_says_what_is_predicted_how_the_shares_add_up_and_what_it_is_not(case: tuple[str, Path]) -> None:
    _, folder = case
    explain(folder, folder / "data.toml", "", 1, "", folder / "out.html")
    page = (folder / "out.html").read_text(encoding="utf-8")
    assert re.search(r"<h1>Predicted: [01] \(probability 0\.\d\d\)</h1>", page)
    assert re.search(r"the shares add up to [+-]\d+\.\d\d of [+-]\d+\.\d\d\.", page)
    for said in ("what moved this model", "keep it where the data are", "default-src 'none'"):
        assert said in page
    assert "://" not in page
    assert "<script" not in page
    assert (folder / "out.html").stat().st_mode & 0o777 == 0o600
    again = folder / "again.html"
    explain(folder, folder / "data.toml", "", 1, "", again)
    assert again.read_text(encoding="utf-8") == page


def test_the_words_of_a_text_stand_in_the_page_as_they_were_written(tmp_path: Path) -> None:
    folder = a_run("text-gru", tmp_path)
    explain(folder, folder / "data.toml", "", 1, "", folder / "out.html")
    page = (folder / "out.html").read_text(encoding="utf-8")
    body = page[page.index('<p translate="no"') : page.index("</figure>")]
    shown = re.sub(r"<[^>]+>", "", body[: body.index("</p>")])
    assert shown == TEXTS[0].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    marks = re.findall(r'title="([+-]\d+\.\d{3})"[^>]*>([^<]*)<', body)
    assert [word for _, word in marks] == ["咳", "嗽", "三", "天", "发", "烧", "39"]  # max_tokens = 7
    assert '<span style="opacity:.6">&gt;。Cough &amp; fever!</span>' in page
    assert "beyond what the model reads" in page


def test_a_text_that_is_read_to_its_end_has_nothing_in_grey(tmp_path: Path) -> None:
    folder = a_run("text-gru", tmp_path)
    picture = pictures(*load_model(folder), folder / "data.toml")[1]
    assert "opacity" not in picture.markup
    assert "beyond" not in picture.alt


def test_a_variable_is_one_row_and_a_static_one_sum(tmp_path: Path) -> None:
    folder = a_run("gru", tmp_path)
    picture = pictures(*load_model(folder), folder / "data.toml")[0]
    assert re.search(r"In all: (([abc]) \([+-]\d\.\d\d\)(, )?){3}\.", picture.alt)
    assert {name for name in "abc" if f">{name}</text>" in picture.markup} == {"a", "b", "c"}
    assert "value" not in picture.alt


def test_a_column_is_one_bar_with_what_the_record_says(tmp_path: Path) -> None:
    folder = a_run("mlp", tmp_path)
    explained = pictures(*load_model(folder), folder / "data.toml")
    said = [re.findall(r"(\w) = (not known|[\w.]+) \([+-]", picture.alt) for picture in explained]
    assert [sorted(columns) for columns in said] == [
        [("k", "x"), ("n", "0.5")],
        [("k", "not known"), ("n", "0.25")],
        [("k", "z"), ("n", "not known")],
    ]
    assert len({picture.markup for picture in explained}) == 3
    assert 'id="explanation1-' in explained[0].markup
    assert 'id="explanation1-' not in explained[1].markup


def test_an_image_file_needs_no_binding(tmp_path: Path) -> None:
    folder = an_image_run(tmp_path)
    explain(folder, folder / "x.png", "", None, "", folder / "out.png")
    with Image.open(folder / "out.png") as drawn:
        assert drawn.size[0] > 1000
    picture = pictures(*load_model(folder), folder / "x.png")[0]
    assert picture.markup.count("data:image/png;base64") >= 4  # the image twice, Grad-CAM, shares
    assert "Grad-CAM" in picture.markup
    assert read_examples(folder / "x.png", load_model(folder)[1]).data.x.reshape(-1).tolist() == list(range(256))


def test_a_text_file_needs_no_binding(tmp_path: Path) -> None:
    folder = a_run("text-gru", tmp_path)
    (folder / "one.txt").write_text(TEXTS[1], encoding="utf-8")
    alone = pictures(*load_model(folder), folder / "one.txt")
    assert alone[0].markup == pictures(*load_model(folder), folder / "data.toml")[1].markup


def test_the_command_line_needs_no_option_for_a_single_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(an_image_run(tmp_path))
    assert CliRunner().invoke(app, ["explain", ".", "x.png"]).exit_code == 0
    assert (tmp_path / "explanation.html").stat().st_mode & 0o777 == 0o600
    assert CliRunner().invoke(app, ["explain", ".", "x.png", "--record", "0", "--out", "y.html"]).exit_code == 2


def test_another_label_is_explained_when_asked_for(tmp_path: Path) -> None:
    folder = a_run("mlp", tmp_path)
    titles = []
    for label in "01":
        out = folder / f"{label}.html"
        explain(folder, folder / "data.toml", "bob", None, label, out)
        titles += re.findall("<h1>(.*)</h1>", out.read_text())
    assert sorted("Explained" in title for title in titles) == [False, True]


def test_what_is_explained_is_the_calibrated_model_at_its_operating_point(tmp_path: Path) -> None:
    folder = a_run("mlp", tmp_path)
    model, card = load_model(folder)
    plain = explain_record(model, card, read_examples(folder / "data.toml", card).at(0))
    card = msgspec.structs.replace(card, temperature=2.0, threshold=0.99)
    careful = explain_record(model, card, read_examples(folder / "data.toml", card).at(0), "1")
    assert "Predicted: 0" in careful.title
    assert abs(careful.parts.shares.record) == pytest.approx(abs(plain.parts.shares.record) / 2)


def test_record_counts_within_the_patient(tmp_path: Path) -> None:
    folder = a_run("mlp", tmp_path)
    explain(folder, folder / "data.toml", "ann", 2, "", folder / "second.html")
    explain(folder, folder / "data.toml", "", 3, "", folder / "third.html")
    assert (folder / "second.html").read_text() == (folder / "third.html").read_text()
    assert "ann" not in (folder / "second.html").read_text()


@pytest.mark.parametrize(
    ("source", "patient", "record", "label", "out", "says"),
    [
        ("data.toml", "", None, "", "x.html", "there are 3 records"),
        ("data.toml", "ann", None, "", "x.html", "there are 2 records"),
        ("data.toml", "", 4, "", "x.html", "there are 3 records only"),
        ("data.toml", "eve", None, "", "x.html", "no such patient"),
        ("data.toml", "", 1, "9", "x.html", "no label `9`"),
        ("data.toml", "", 1, "", "x.pdf", "an .html or a .png"),
        ("data.toml", "", 1, "", "t.csv", "an .html or a .png"),
        ("data.toml", "", 1, "", "there.html", "exists already"),
        ("t.csv", "", 1, "", "x.html", "cannot be read from such a file"),
        ("nothing.txt", "", 1, "", "x.html", "cannot be read from such a file"),
    ],
)
def test_a_users_mistake_gets_a_sentence(
    tmp_path: Path, source: str, patient: str, record: int | None, label: str, out: str, says: str
) -> None:
    folder = a_run("mlp", tmp_path)
    (folder / "there.html").write_text("")
    with pytest.raises(UsageError, match=says) as caught:
        explain(folder, folder / source, patient, record, label, folder / out)
    assert caught.value.fix
    assert not (folder / "x.html").exists()


def test_files_that_hold_no_record_are_refused(tmp_path: Path) -> None:
    folder = an_image_run(tmp_path)
    (folder / "torn.png").write_bytes((folder / "x.png").read_bytes()[:40])
    for name in ("torn.png", "absent.png"):
        with pytest.raises(DataError, match="absent, or not an image"):
            explain(folder, folder / name, "", None, "", folder / "out.html")
    texts = a_run("text-gru", tmp_path)
    (texts / "empty.txt").write_text("…！\n")
    with pytest.raises(DataError, match="no word"):
        explain(texts, texts / "empty.txt", "", None, "", texts / "out.html")


def test_a_png_of_names_that_no_font_here_can_write_is_refused(tmp_path: Path) -> None:
    study = a_study("mlp", TABLE.replace("'n'", "'年龄'"))
    save_model(tmp_path, build_model(study), study)
    (tmp_path / "t.csv").write_text("年龄,k\n0.5,x\n", encoding="utf-8")
    (tmp_path / "data.toml").write_text('kind = "table"\npath = "t.csv"\n[columns]\npatient = "row"\n')
    with pytest.raises(UsageError, match="cannot write") as caught:
        explain(tmp_path, tmp_path / "data.toml", "", None, "", tmp_path / "out.png")
    assert ".html" in caught.value.fix
    explain(tmp_path, tmp_path / "data.toml", "", None, "", tmp_path / "out.html")
    assert "年龄 = 0.5</text>" in (tmp_path / "out.html").read_text(encoding="utf-8")
    texts = a_run("text-gru", tmp_path)
    with pytest.raises(UsageError, match="without a font"):
        explain(texts, texts / "data.toml", "", 1, "", texts / "out.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("你好，ＣＯＶＩＤ－19 Fever 38.5℃", ["你", "好", "ＣＯＶＩＤ", "19", "Fever", "38", "5", "℃"]),
        ("ﬁne e\u0301tude", ["ﬁne", "e\u0301tude"]),
        ("½ ㎏", ["½", "½", "㎏"]),
        ("\u1100\u1161 ｶﾞ", ["\u1100\u1161", "ｶﾞ"]),
        ("\u0301", []),
        ("", []),
    ],
)
def test_tokens_are_found_in_the_text_as_it_was_written(text: str, words: list[str]) -> None:
    spans = token_spans(text, TextInput())
    assert [text[begin:end] for begin, end in spans] == words
    assert len(spans) == len(tokenise(text, TextInput()))


def test_a_masked_name_is_not_in_the_page_either(tmp_path: Path) -> None:
    run = a_run("text-gru", tmp_path)
    (run / "note.txt").write_text("咳嗽, seen by Dr. Smith", encoding="utf-8")
    explain(run, run / "note.txt", "", 0, "", run / "out.html")
    page = (run / "out.html").read_text(encoding="utf-8")
    assert "&lt;name&gt;" in page
    assert "Smith" not in page


def test_tokens_written_as_one_character_are_one_mark() -> None:
    markup = marked_words("½!", token_spans("½!", TextInput()), np.array([0.25, 0.5]))
    assert re.findall('title="(.*?)".*?>(.*?)<', markup) == [("+0.750", "½")]


def test_small_shares_become_one_row_and_no_share_is_lost() -> None:
    rows = [(f"v{i}", (-1.0) ** i * i, i) for i in range(40)]
    shown = ranked(rows)
    assert len(shown) == 25
    assert shown[0][0] == "v39"
    assert shown[-1][0] == "16 others"
    assert sum(share for _, share, _ in shown) == pytest.approx(sum(share for _, share, _ in rows))


def test_spreading_shares_over_neighbours_keeps_their_sum() -> None:
    shares = np.random.default_rng(0).normal(size=(28, 40))
    assert neighbourhoods(shares).sum() == pytest.approx(shares.sum())
