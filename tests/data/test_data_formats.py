"""One table in every format and encoding, and what is refused by name."""

import io
from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import pytest

from fedmodels.data.rowfile import Reader
from fedmodels.errors import DataError

SECRET = "Xsecret9"
CSV = "who,age,note,dose\na,50,咳嗽,0.1\nb,,,1e-07\n"
ROWS = [("a", "50", "咳嗽", "0.1"), ("b", "", "", "1e-7")]
JSON = '{"who": "a", "age": 50, "note": " 咳嗽 ", "dose": 0.1}\n\n{"dose": 1e-7, "who": "b", "age": null}\n'


def rows(path, content, encoding="detect", header=()):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Reader(encoding).rows(path, header)


def parquet(frame):
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def test_every_format_gives_the_same_cells(tmp_path):
    typed = pl.DataFrame({"who": ["a", "b"], "age": [50, None], "note": ["咳嗽 ", None], "dose": [0.1, 1e-7]})
    csv_rows = rows(tmp_path / "t.csv", CSV)
    assert csv_rows.rows() == [ROWS[0], ("b", "", "", "1e-07")]
    assert csv_rows.equals(rows(tmp_path / "t.tsv", CSV.replace(",", "\t")))
    for other in (
        rows(tmp_path / "t.PARQUET", parquet(typed)),
        rows(tmp_path / "t.jsonl", JSON),
        rows(tmp_path / "t.ndjson", JSON),
    ):
        assert other.columns == csv_rows.columns
        assert other.rows() == ROWS
        assert set(other.dtypes) == {pl.String}


def test_typed_columns_of_parquet_become_text_without_loss(tmp_path):
    moment = datetime(2024, 1, 31, 7, 30, 15)
    frame = pl.DataFrame(
        {
            "whole": [12345678901234567],
            "small": pl.Series([0.1], dtype=pl.Float32),
            "nan": [float("nan")],
            "yes": [True],
            "day": [date(2024, 1, 31)],
            "moment": [moment],
            "zoned": [moment.replace(tzinfo=UTC)],
            "clock": [time(7, 30)],
            "kind": pl.Series(["B"], dtype=pl.Categorical),
            "nothing": pl.Series([None], dtype=pl.Null),
        }
    )
    (cells,) = rows(tmp_path / "t.parquet", parquet(frame)).rows()
    assert cells[:6] == ("12345678901234567", "0.1", "NaN", "true", "2024-01-31", "2024-01-31T07:30:15")
    assert datetime.fromisoformat(cells[6]) == moment.replace(tzinfo=UTC)
    assert cells[7:] == ("07:30:00", "B", "")


@pytest.mark.parametrize(
    ("name", "values"),
    [("list", [[1]]), ("struct", [{"a": 1}]), ("binary", [b"x"]), ("duration", [timedelta(hours=1)])],
)
def test_a_column_of_parquet_that_is_no_cell_is_refused_by_name(tmp_path, name, values):
    with pytest.raises(DataError, match=f"column `{name}_column` holds {name} values"):
        rows(tmp_path / "t.parquet", parquet(pl.DataFrame({"who": ["a"], f"{name}_column": values})))


def test_lines_of_json_keep_numbers_as_written_and_later_keys(tmp_path):
    frame = rows(tmp_path / "t.jsonl", '{"a": 1.50, "b": true}\n{}\n{"c": "x", "a": 12345678901234567890}\n')
    assert frame.select("a", "b", "c").rows() == [
        ("1.50", "true", ""),
        ("", "", ""),
        ("12345678901234567890", "", "x"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.tsv", b"", "the file is empty"),
        ("t.jsonl", b"", "the file is empty"),
        ("t.jsonl", b"\n\n", "the file is empty"),
        ("t.parquet", b"", "is not a whole Parquet file"),
        ("t.parquet", b"PAR1" + SECRET.encode(), "is not a whole Parquet file"),
        ("t.parquet", parquet(pl.DataFrame({"a": [1]}))[:-9], "is not a whole Parquet file"),
        ("t.parquet", parquet(pl.DataFrame()), "the file is empty"),
        ("t.jsonl", '{"a": 1}\n{"a": "' + SECRET, "line 2 is not one JSON object"),
        ("t.jsonl", '{"a": NaN}\n', "line 1 is not one JSON object"),
        ("t.jsonl", '{"a": 1, "a": 2}\n', "with different keys"),
        ("t.jsonl", '{"a": 1} {"a": 2}\n', "line 1 is not one JSON object"),
        ("t.jsonl", "[" * 100_000, "line 1 is not one JSON object"),
        ("t.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("t.jsonl", '{"a": 1}\n\n{"b": {"c": "' + SECRET + '"}}', "line 3 has a nested value in `b`"),
        ("t.jsonl", '{"b": ["' + SECRET + '"]}', "line 1 has a nested value in `b`"),
        ("t.csv.gz", b"x", "is packed"),
        ("t.xlsx", b"x", ".xlsx files are not read"),
        ("t.json", b"x", ".json files are not read"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name_and_not_quoted(tmp_path, name, content, named):
    with pytest.raises(DataError) as caught:
        rows(tmp_path / name, content)
    assert named in str(caught.value)
    assert name in caught.value.where
    assert SECRET not in repr(caught.value)


def test_column_names_in_the_binding_are_for_files_without_them(tmp_path):
    with pytest.raises(DataError, match="`header` is for CSV files"):
        rows(tmp_path / "t.jsonl", JSON, header=("a", "b"))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    for name in ("t.csv", "t.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="cannot be read"):
            Reader("detect").rows(tmp_path / name)


def test_more_rows_than_a_chunk_stay_in_order_and_a_late_ragged_one_is_found(tmp_path):
    body = "".join(f"{i},{i % 7}\n" for i in range(45_000))
    frame = rows(tmp_path / "t.csv", "a,b\n" + body)
    assert frame["a"].to_list() == [str(i) for i in range(45_000)]
    lines = "".join(f'{{"a": {i}}}\n' for i in range(45_000)) + '{"z": 1}\n'
    frame = rows(tmp_path / "t.jsonl", lines)
    assert frame["a"].to_list() == [*(str(i) for i in range(45_000)), ""]
    assert frame["z"].to_list()[-1] == "1"
    with pytest.raises(DataError, match="1 of 45001 rows do not have 2 cells, the first is row 45001"):
        rows(tmp_path / "t.csv", f"a,b\n{body}1\n")


# --- encodings ------------------------------------------------------------------------------------------------------

CHINESE = "who,note\na,患者反复咳嗽三天\nb,体温39°，无胸痛\n"
WESTERN = "who,note\na,fièvre élevée depuis trois jours\nb,Übelkeit, 38 °C\n".replace(", 38", " 38")


@pytest.mark.parametrize(
    ("text", "written", "found"),
    [
        (CHINESE, "utf-8", None),
        (CHINESE, "utf-8-sig", None),
        (WESTERN, "utf-8", None),
        (CHINESE, "gb18030", "gb18030"),
        ("who,note\na,隆隆\n", "gb18030", None),  # its four bytes are valid UTF-8 as well: two other characters
        ("who,note\na,隆隆\nb,阿司匹林\n", "gb18030", "gb18030"),
        (CHINESE + "c,𠮷镕\n", "gb18030", "gb18030"),
        (WESTERN, "latin-1", "latin-1"),
    ],
)
def test_an_encoding_that_is_not_declared_is_found_and_said(tmp_path, text, written, found):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(written))
    reader = Reader("detect")
    frame = reader.rows(path)
    assert frame.columns == ["who", "note"]
    if found is None:
        assert reader.notes == []
    else:
        assert frame.rows() == Reader(written).rows(path).rows() == rows(tmp_path / "u.csv", text).rows()
        (note,) = reader.notes
        assert f"a file is not UTF-8 and was read as {found}" in note


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16", "latin-1"])
def test_a_declared_encoding_is_used_without_a_word(tmp_path, encoding):
    text = WESTERN if encoding == "latin-1" else CHINESE
    (tmp_path / "t.csv").write_bytes(text.encode(encoding, "ignore"))
    reader = Reader(encoding)
    assert reader.rows(tmp_path / "t.csv")["who"].to_list() == ["a", "b"]
    assert reader.notes == []


@pytest.mark.parametrize(("first", "second"), [("utf-8", "gb18030"), ("gb18030", "utf-8"), ("utf-8", "latin-1")])
@pytest.mark.parametrize("declared", ["detect", "gb18030", "utf-8"])
def test_two_encodings_in_one_file_are_refused_with_the_line_at_which_they_change(tmp_path, first, second, declared):
    texts = {
        "utf-8": f"{SECRET},高血压，糖尿病史\n",
        "gb18030": f"{SECRET},高血压，糖尿病史\n",
        "latin-1": f"{SECRET},élevée\n",
    }
    content = f"who,note\n{SECRET},none\n".encode() + texts[first].encode(first) * 2 + texts[second].encode(second)
    with pytest.raises(DataError) as caught:
        rows(tmp_path / "t.csv", content, declared)
    line = 3 if declared == "utf-8" and first != "utf-8" else 5
    assert f"line {line}" in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    "content", ["who,note\na,“élevée”\n".encode("cp1252"), CHINESE.encode("utf-16"), b"who\n\x00\xff\n"]
)
def test_other_encodings_have_to_be_declared(tmp_path, content):
    with pytest.raises(DataError, match=r"line \d is not UTF-8, and the file is not plainly") as caught:
        rows(tmp_path / "t.csv", content)
    assert "encoding" in caught.value.fix
