"""The report: what it must say, and that it is safe to open and possible to read for everyone."""

import hashlib
import json
import re
from collections import Counter, namedtuple
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from html_page import Page, page_of
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from run_directories import HOSPITALS, METRICS, change_result, write_run

from fedmodels.report.charts import line_chart
from fedmodels.report.page import show_epsilon, write_report
from fedmodels.study import parse_roster, parse_study

LOADS = {"src", "srcset", "data", "action", "poster", "background", "href", "formaction"}
SECTIONS = ("promise", "traffic", "metrics", "examples", "rounds", "dropouts", "time", "roster", "identity", "limits")
ATTACK = "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>"


Example = namedtuple("Example", "title markup alt sums")
DROPOUTS = ((5, "dublin", "no answer in time"),)
VARIANTS = {
    "private": {},
    "private-simulation-dropouts": {"simulation": True, "dropouts": DROPOUTS},
    "distributed": {"mode": "distributed", "dropouts": DROPOUTS},
    "none": {"mode": "none"},
    "none-simulation": {"mode": "none", "simulation": True},
    "one-round": {"rounds": 1},
    "many-rounds": {"rounds": 50, "mode": "none"},
    "threshold": {"rule": "youden", "sure": 2.5, "mode": "none", "simulation": True},
    "several-labels": {"labels": ("a", "b", "c", "d"), "mode": "none", "simulation": True},
    "several-labels-private": {"labels": ("a", "b", "c")},
    "no-evaluation": {"no_evaluation": (("basel", "no answer in time"),)},
    "hostile": {"labels": (ATTACK, "\"&'>{{ 7 * 7 }}"), "dropouts": ((2, "basel", ATTACK),)},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def any_page(request, tmp_path_factory) -> Page:
    return page_of(write_run(tmp_path_factory.mktemp("page"), **request.param))


def test_every_page_loads_nothing_and_runs_nothing(any_page):
    assert not any_page.all(
        "script", "link", "iframe", "object", "embed", "img", "image", "base", "form", "foreignobject"
    )
    for tag, attrs in any_page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in {"xmlns", "xlink:href"}], tag
        assert all(attrs[name].startswith("#") for name in LOADS & attrs.keys()), tag
        assert not re.search(r"https?:|javascript:|//", " ".join(attrs.values())), tag
    policy = [meta["content"] for meta in any_page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_the_style_sheet_loads_nothing(tmp_path):
    text = write_report(write_run(tmp_path / "run")).read_text()
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert not re.search(r"@import|url\(|@font-face|//", style)
    assert not re.search(r"https?:", text)


def test_every_page_has_all_sections_in_order_with_their_headings(any_page):
    assert tuple(attrs["id"] for attrs in any_page.all("h2")) == SECTIONS
    assert [attrs["aria-labelledby"] for attrs in any_page.all("section")] == list(SECTIONS)


def test_every_page_is_accessible(any_page):
    assert any_page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in any_page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attrs.get("scope") in {"col", "row"} for attrs in any_page.all("th"))
    ids = Counter(attrs["id"] for _, attrs in any_page.tags if "id" in attrs)
    assert set(ids.values()) == {1}
    charts = any_page.all("svg")
    assert len(charts) == (3 if "No secure evaluation" in any_page.text else 6)
    for chart in charts:
        assert chart["role"] == "img"
        assert set(chart["aria-labelledby"].split()) <= ids.keys()


def test_every_row_has_as_many_cells_as_its_table_has_columns(any_page):
    assert any_page.check_tables() > 0


def test_charts_refer_only_to_what_is_on_the_page(any_page):
    ids = {attrs["id"] for _, attrs in any_page.tags if "id" in attrs}
    used = {attrs["href"][1:] for attrs in any_page.all("use")}
    used |= {name for _, attrs in any_page.tags for name in re.findall(r"url\(#([^)]*)\)", " ".join(attrs.values()))}
    assert used
    assert used <= ids


def test_names_from_outside_are_shown_as_text(tmp_path):
    page = page_of(write_run(tmp_path / "run", **VARIANTS["hostile"]))
    assert page.text.count(ATTACK) == 4  # task, dropout, row and column of the confusion matrix
    assert "{{ 7 * 7 }}" in page.text


def test_the_promise_names_observer_unit_delta_and_an_epsilon_for_each_hospital(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    for expected in ("patient: all records of one person", "add-remove:", "everyone, also if secure", "0.00001",
                     "1.000 for the published counts", "planned at most 8.000"):  # fmt: skip
        assert expected in page.text
    # 8.4041 rounded up, not to the nearest
    for name, epsilon in zip(HOSPITALS, ("8.405", "8.530", "8.655", "8.780"), strict=True):
        assert f"{name} {epsilon} 0.00001" in page.text
    assert "NOTHING IS PROMISED" not in page.text
    assert "Mean training loss" not in page.text


def test_without_privacy_the_page_says_that_nothing_is_promised(tmp_path):
    page = page_of(write_run(tmp_path / "run", mode="none"))
    assert "NOTHING IS PROMISED" in page.text
    assert "no bound holds for any hospital" in page.text
    assert "Mean training loss" in page.text
    assert "e epsilon" not in page.text
    assert "with noise" not in page.text


def test_a_distributed_run_is_not_told_as_a_local_one(tmp_path):
    """Who adds how much noise, what one vector holds, and whom the promise protects from."""
    local, distributed = (page_of(write_run(tmp_path / mode, mode=mode)).text for mode in ("local", "distributed"))
    for mine, theirs in (
        ("adds its share of the noise", "adds all the noise itself"),
        ("given secure aggregation", "also if secure aggregation were broken"),
        ("257 × 4", "259 × 4"),
        ("nothing else: no training loss and no count", "the clip count"),
        ("12 rounds of 1 step of all hospitals together", "12 rounds of 5 local steps"),
        ("by what a sum of gradients is divided", "they weigh the hospitals’ updates"),
        ("the noise is exact", "the training noise is computed in floating point"),
    ):
        assert (mine in distributed, theirs in distributed) == (True, False), mine
        assert (mine in local, theirs in local) == (False, True), theirs
    assert "Clipped numbers" in local
    assert "Clipped numbers" not in distributed


@given(st.floats(min_value=0.0, max_value=1e12))
def test_a_shown_epsilon_is_never_below_the_true_one_and_close(epsilon):
    shown = Decimal(show_epsilon(epsilon))
    assert Decimal(str(epsilon)) <= shown <= Decimal(str(epsilon)) + Decimal("0.001")


def test_traffic_counts_words_of_four_bytes_over_all_sessions(tmp_path):
    page = page_of(write_run(tmp_path / "run", dropouts=DROPOUTS))
    # 3 inputs and missing flags = 6 features, 32 hidden, 1 output = 257 parameters, + loss and clip count
    parameters = 6 * 32 + 32 + 32 + 1
    total = 4 * (13 * (parameters + 2) + 2 * 32)
    assert f"{parameters + 2} × 4 {4 * (parameters + 2):,} bytes 13" in page.text
    assert "64 × 4 256 bytes 1" in page.text
    assert f"All together {total / 1000:.1f} kB" in page.text
    assert "because a hospital was missing: 1." in page.text
    assert "never a sum over fewer than 3 hospitals" in page.text
    assert "no training loss" in page.text


def test_without_privacy_evaluation_bins_are_finer_and_the_loss_is_in_the_vector(tmp_path):
    page = page_of(write_run(tmp_path / "run", mode="none"))
    assert "512 × 4 2,048 bytes 1" in page.text
    assert "the mean training loss;" in page.text


def test_metrics_of_a_simulation_are_told_apart_and_marked(tmp_path):
    real, simulated = page_of(write_run(tmp_path / "real")), page_of(write_run(tmp_path / "sim", simulation=True))
    assert re.search(r"area under the ROC curve 0\.903 0\.\d+ to \S+ ± \S+ AUPRC", real.text)
    assert re.search(r"area under the ROC curve 0\.903 0\.\d+ to \S+ ± \S+ 0\.912 AUPRC", simulated.text)
    assert "amsterdam 300 0.850 0.912" in simulated.text
    assert "coimbra 0 n/a n/a n/a n/a n/a n/a" in simulated.text
    assert "possible in simulation only" in simulated.text
    assert "SIMULATION." in simulated.text
    assert "simulation" not in real.text.lower()


def test_a_chosen_threshold_is_told_with_its_optimism_and_the_temperature_with_its_interval(tmp_path):
    run = write_run(tmp_path / "run", **VARIANTS["threshold"])
    result = json.loads((run / "result.json").read_text())
    text = page_of(run).text
    assert f"from a probability of {result['operating_point']['threshold']:.3f} on (Youden’s index" in text
    assert f"sensitivity looks {result['optimism']['sensitivity']:+.3f}" in text
    low, high = result["calibration"]["interval"]
    assert 2.0 < low < result["calibration"]["temperature"] < high < 3.0
    assert f"{result['calibration']['temperature']:.2f} (95% interval {low:.3f} to {high:.3f})" in text
    assert "too sure" in text
    assert f"ECE after temperature {result['metrics']['ece_calibrated']:.3f}" in text
    plain = page_of(write_run(tmp_path / "plain")).text
    assert "from a probability of 0.500 on (fixed by the study)" in plain
    assert "too good" not in plain
    assert "after temperature" not in plain


def test_the_confusion_matrix_holds_the_counts_and_shades_by_the_share_of_the_row(tmp_path):
    run = write_run(tmp_path / "run", mode="none")
    counts = np.array(json.loads((run / "counts.json").read_text())["counts"]).reshape(2, 2, 128).sum(2)
    page = page_of(run)
    shares = counts / counts.sum(1, keepdims=True)
    for row, share, label in zip(counts, shares, ("well", "sepsis"), strict=True):
        assert f"{label} {row[0]:,} {100 * share[0]:.0f}% {row[1]:,} {100 * share[1]:.0f}%" in page.text
    shades = [
        float(attrs["style"].removeprefix("--shade: ").rstrip("%")) for attrs in page.all("td") if "style" in attrs
    ]
    assert shades == pytest.approx(34 * shares.ravel(), abs=0.51)


def test_noise_too_strong_for_intervals_is_said(tmp_path):
    run = write_run(tmp_path / "run")
    change_result(run, intervals={})
    assert "no interval can be told" in page_of(run).text


def test_examples_are_shown_only_if_given_and_are_announced(tmp_path):
    run = write_run(tmp_path / "run")
    without = page_of(run)
    assert "No record is explained on this page" in without.text
    assert "img-src" not in (run / "report.html").read_text()
    given = Example("Predicted: sepsis", Markup("<p>the words</p>"), "Most of it is lactate.", ("The shares add up.",))
    page = Page(write_report(run, [given]).read_text())
    for text in (
        "EXAMPLES.",
        "synthetic, or of people who agreed",
        *(given.title, given.alt, *given.sums, "the words"),
    ):
        assert text in page.text
    assert "No record is explained" not in page.text
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_colours_have_the_contrast_that_readers_need(tmp_path):
    """WCAG 2.2: text 4.5, in both schemes, also on the darkest cell of the confusion matrix."""
    text = write_report(write_run(tmp_path / "run")).read_text()
    schemes = re.findall(r":root \{([^}]*)\}", text)
    assert len(schemes) == 2
    light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", schemes[0]))
    dark = light | dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", schemes[1]))
    assert dark["page"] != light["page"]
    for colours in (light, dark):
        ink, page, accent = (rgb(colours[name]) for name in ("ink", "page", "accent"))
        for other in ("muted", "accent", "ink"):
            assert contrast(rgb(colours[other]), page) >= 4.5
        assert contrast(ink, rgb(colours["warn"])) >= 4.5
        assert contrast(ink, 0.34 * accent + 0.66 * page) >= 4.5


def rgb(colour: str) -> np.ndarray:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)])


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    def luminance(colour: np.ndarray) -> float:
        share = colour / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_synthetic_data_is_announced_only_where_the_study_says_so(tmp_path):
    assert "SYNTHETIC DATA." in page_of(write_run(tmp_path / "a", simulation=True)).text
    assert "SYNTHETIC" not in page_of(write_run(tmp_path / "b")).text


def test_metrics_that_are_undefined_or_missing_are_said_to_be(tmp_path):
    run = write_run(tmp_path / "run")
    change_result(run, metrics={name: value for name, value in METRICS.items() if name != "auroc"})
    assert "area under the ROC curve n/a" in page_of(run).text
    text = page_of(write_run(tmp_path / "gone", no_evaluation=(("basel", "no answer in time"),))).text
    assert "No secure evaluation." in text
    assert "AUROC" not in text
    assert "What it predicts" not in text


def test_dropouts_are_listed_with_round_and_reason_or_said_to_be_none(tmp_path):
    run = write_run(tmp_path / "a", dropouts=DROPOUTS, no_evaluation=(("basel", "refused: budget"),))
    text = page_of(run).text
    assert "5 dublin no answer in time" in text
    assert "evaluation basel refused: budget" in text
    assert "None: every hospital contributed" in page_of(write_run(tmp_path / "b")).text


def test_roster_shows_declared_sizes_and_the_fingerprint_of_each_key(tmp_path):
    page = page_of(write_run(tmp_path / "run"))
    for number, name in enumerate(HOSPITALS, 1):
        fingerprint = hashlib.sha256(number.to_bytes(32, "big")).hexdigest()[:16]
        assert f"{name} {100 * number} {fingerprint}" in page.text


def test_hashes_versions_and_times_are_told(tmp_path):
    run = write_run(tmp_path / "run")
    text = page_of(run).text
    for expected in (
        parse_study((run / "study.toml").read_text()).digest.hex(),
        parse_roster((run / "roster.toml").read_text()).digest.hex(),
        "torch 2.13.0", "had come 11.7 min", "stepping 4.00 s", "not answer 50.00 s", "Total 12.6 min",
    ):  # fmt: skip
        assert expected in text


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "run")
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=3))
def test_a_chart_of_any_values_is_well_formed_and_takes_the_colours_of_its_page(values):
    svg = str(line_chart("k", "A < B & C", values))
    assert Page(svg).named["title", "A < B & C"] == 1
    assert set(re.findall(r"(?:fill|stroke|color): ?([^;\"]+)", svg)) <= {
        "none",
        "currentColor",
        "var(--accent)",
        "var(--line)",
    }
    assert not re.search(r"#[0-9a-f]{6}\b|<style|xmlns|ns0:", svg)


def test_a_curve_goes_through_its_values_from_zero_upwards():
    svg = str(line_chart("k", "t", [1.0, 3.0, 2.0]))
    lines = [attrs["d"] for attrs in Page(svg).all("path") if "stroke: var(--accent)" in attrs.get("style", "")]
    (path,) = [line for line in lines if line.count("L") == 2]
    heights = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert np.isclose((heights[0] - heights[2]) * 2, heights[0] - heights[1], rtol=1e-4)
    assert np.argmin(heights) == 1  # SVG counts downwards


def test_a_curve_is_left_out_where_nothing_was_told(tmp_path):
    lines = (write_run(tmp_path / "run", mode="none") / "rounds.jsonl").read_text().splitlines()
    assert all(json.loads(line)["epsilon"] is None for line in lines)
    assert "Epsilon spent" not in page_of(tmp_path / "run").text
