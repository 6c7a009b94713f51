"""The audit's page: says what the results say, whole or in part, and is a page that loads nothing and reads well."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from html_page import Page
from typer.testing import CliRunner

from fedmodels.cli import app
from fedmodels.errors import FileError, UsageError
from fedmodels.report.audit_page import write_audit
from fedmodels.report.audit_record import read_folder
from fedmodels.report.protection import posterior

HASH = "ab" * 32
FINDINGS = [{"check": "noise", "probability": 0.4, "said": "1.003 of the noise", "flagged": False},
            {"check": "shift", "probability": 0.2, "said": "clips: 0.995", "flagged": False}]  # fmt: skip
ABOUT = {"study": "di<b>gits", "study_hash": HASH, "synthetic": True, "mode": "distributed", "delta": 1e-5,
         "observer": "the coordinator and 1 colluding hospital", "rounds": 20, "hospitals": 4,
         "canaries": {"free": 1000, "inner": 40, "inside": 500}, "versions": {"torch": "2.13"}}  # fmt: skip
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def bounds(step_level: float) -> list[dict[str, Any]]:
    told = {"Steinke et al. 2023": 0.9, "GDP trajectory": 2.1, "step level": step_level}
    return [{"name": n, "epsilon": e, "confidence": 0.99, "assumption": f"of {n}"} for n, e in told.items()]


def results() -> dict[str, dict[str, Any]]:
    """What each command leaves, by path."""
    points = [{"rounds": r, "steps": r, "claimed": c, "bounds": bounds(c - 0.1)} for r, c in ((10, 2.0), (20, 2.991))]
    holds = {"holds": "what has to", "examined": "3 of 3 uploads", "problems": []}
    return {
        "run/audit.json": {**ABOUT, "claimed": 2.991, "findings": FINDINGS, "points": points,
                           "verdict": {"conclusion": "consistent", "said": "Consistent: so it is."}},
        "colluders/colluders.json": {**ABOUT, "views": [
            {"colluders": c, "noise": 1.5 - c / 4, "shift": 0.99, "epsilon": 2.5 + c, "claimed": None if c else 2.991}
            for c in range(3)]},
        "self-test/self-test.json": {
            "honest_runs": 20, "false_alarms": 0, "checks": ["noise", "shift"], "honest": {"noise": 0, "shift": 0},
            "passed": True, "seconds": 3.0,
            "mutants": [{"mutant": "half noise", "about": "too little", "flagged_by": ["noise"],
                         "findings": {"distributed": [{**FINDINGS[0], "flagged": True}]}}]},
        "transcript-1/transcript.json": {
            "hospital": "hospital-1", "study": "digits", "study_hash": HASH, "roster_hash": HASH, "messages": 4,
            "uploads": 3, "kept": 2, "charges": 3, "wrong": [], "limit": "not what was carried out",
            "checks": [{"check": "uniform", "verdict": "right", **holds}]},
        "view/view.json": {**ABOUT, "epsilon": 3.0, "limit": "attacks that we know", "views": [
            {"view": "1 patient, unprotected", "patients": 1, "psnr_db": None, "guess_psnr_db": 21.0, "ssim": 1.0,
             "guess_ssim": 0.8, "exact_dense_inputs": None},
            {"view": "1 patient, clipped, noise of the sum", "patients": 1, "psnr_db": 12.0, "guess_psnr_db": 21.0,
             "ssim": 0.1, "guess_ssim": 0.8, "exact_dense_inputs": 0}]},
        "membership/membership.json": {
            **ABOUT, "shadows": 8, "warning": "This is no evidence.", "assumption": "It takes.",
            "rows": [{"attack": "RMIA", "group": "everyone", "members": 90, "others": 80, "area": 0.52,
                      "true_at_false_0.01": 0.021, "leaks": False},
                     {"attack": "RMIA", "group": "site a", "members": 3, "others": 2}]},
    }  # fmt: skip


def write(folder: Path, told: dict[str, dict[str, Any]]) -> Path:
    for name, content in told.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def page_of(folder: Path) -> Page:
    return Page(write_audit(folder).path.read_text(encoding="utf-8"))


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return page_of(write(tmp_path, results()))


def test_the_page_loads_nothing_runs_nothing_and_is_accessible(page: Page) -> None:
    assert not page.all("script", "link", "iframe", "object", "form", "button")
    assert {attrs["href"][0] for attrs in page.all("a")} == {"#"}
    (policy,) = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    assert all(name in ids for _, attrs in page.tags for name in attrs.get("aria-labelledby", "").split())
    assert len(page.all("h1")) == 1
    assert all(attrs.get("tabindex") == "0" for _, attrs in page.tags if attrs.get("role") == "region")
    assert [attrs for attrs in page.all("html") if attrs.get("lang") == "en"]


def test_every_row_has_as_many_cells_as_its_table_has_columns(page: Page) -> None:
    assert page.check_tables() > 8


def test_the_first_table_says_who_sees_what_learns_how_much_and_on_what_evidence(page: Page) -> None:
    for said in (
        "The coordinator and 1 colluding hospital the sum of the hospitals' contributions",
        "epsilon 3.00: whoever thought it as likely as not that a patient took part can be 95.22% sure",
        "attacks in one run show at least 2.89; 2 of 2 checks passed",
        "The coordinator and 2 colluding hospitals",
        "they learn at least epsilon 4.50",
        "with noise, attacks get back less than a guess would, without, the very picture",
        "attacks found 2.1% of those trained on while accusing 1% of others",
        "2 of 3 uploads of 1 hospital examined: random",
        "nothing here protects a patient from the own hospital",
        "Nothing that was tried contradicts the promise.",
    ):
        assert said in page.text, said
    assert "SYNTHETIC DATA." in page.text


def test_numbers_are_one_click_away(page: Page) -> None:
    assert len(page.all("details")) == len(page.all("summary")) >= 7
    for said in ("1.003 of the noise", "of GDP trajectory", "1.250", "too few", "1 patient, unprotected", HASH):
        assert said in page.text
    assert page.named["td", "x"] == 1
    assert page.named["td", "·"] == 1


def test_names_from_outside_are_shown_as_text(page: Page) -> None:
    assert not page.all("b")
    assert page.named["h1", "di<b>gits"] == 1


def test_pictures_are_part_of_the_page_with_a_warning_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, results())
    assert not page_of(folder).all("img")
    (folder / "view/grid.png").write_bytes(PNG)
    page = page_of(folder)
    (picture,) = page.all("img")
    assert picture["src"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert picture["alt"]
    assert "They are not what anybody saw of the study’s patients" in page.text
    assert (folder / "audit.html").stat().st_mode & 0o777 == 0o600


CONTRADICTIONS: dict[str, tuple[str, Any, str]] = {
    "audit": ("run/audit.json", {"verdict": {"conclusion": "broken", "said": "Broken: yes."}}, "Broken: yes."),
    "colluders": ("colluders/colluders.json", {"views": [
        {"colluders": 1, "noise": 1.0, "shift": 1.0, "epsilon": 9.5, "claimed": 3.0}]}, "epsilon 9.50 of 3.00"),
    "self-test": ("self-test/self-test.json", {"passed": False, "mutants": [
        {"mutant": "no clip", "about": "", "flagged_by": [], "findings": {}}]}, "it did not notice: no clip"),
    "transcript": ("transcript-1/transcript.json", {"wrong": ["uniform"]}, "left hospital-1 is not in order: uniform"),
    "membership": ("membership/membership.json", {"rows": [
        {"attack": "LiRA", "group": "everyone", "members": 9, "others": 9, "leaks": True}]}, "gives away who"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_whatever_contradicts_the_promise_stands_first_and_ends_the_command_with_1(tmp_path: Path, kind: str) -> None:
    path, changes, said = CONTRADICTIONS[kind]
    told = results()
    told[path] |= changes
    page = page_of(write(tmp_path, told))
    assert said in page.text
    assert page.text.index("THE PROMISE DOES NOT HOLD") < page.text.index("Who is protected from whom")
    assert "Nothing that was tried contradicts" not in page.text
    done = CliRunner().invoke(app, ["audit", "report", str(tmp_path)])
    assert done.exit_code == 1


@pytest.mark.parametrize("path", results())
def test_of_each_result_alone_there_is_a_page_that_names_what_is_missing(tmp_path: Path, path: str) -> None:
    page = page_of(write(tmp_path, {path: results()[path]}))
    missing = [file for file in results() if file != path]
    for file in missing:
        assert file.rpartition("/")[2].removesuffix(".json").replace("audit", "run") in page.text
    assert page.text.count("--out FOLDER/") == len(missing)


def test_results_of_different_studies_are_told_apart(tmp_path: Path) -> None:
    told = results()
    told["membership/membership.json"]["study_hash"] = "cd" * 32
    text = page_of(write(tmp_path, told)).text
    assert "2 DIFFERENT STUDIES." in text
    assert text.count("(in another study: “di<b>gits”, cdcdcdcd)") == 1
    assert "DIFFERENT STUDIES" not in page_of(write(tmp_path, results())).text


def test_texts_are_told_by_their_words(tmp_path: Path) -> None:
    told = results()
    views = [{"name": n, "patients": 1, "tokens": 25, "share": s, "baseline": 0.2}
             for n, s in (("1 patient, unprotected", 1.0), ("1 patient, clipped, noise of the sum", 0.04))]  # fmt: skip
    told["view/view.json"]["views"] = views
    text = page_of(write(tmp_path, told)).text
    assert "less than a guess would, without, 100% of a text's words (1 patient, unprotected)" in text
    assert "1 patient, clipped, noise of the sum 25 4.0% 20.0%" in text


def test_a_folder_without_results_with_two_of_a_kind_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has none of"):
        read_folder(tmp_path)
    write(tmp_path, results())
    write(tmp_path, {"again/audit.json": results()["run/audit.json"]})
    with pytest.raises(UsageError, match="more than one"):
        read_folder(tmp_path)
    (tmp_path / "again/audit.json").unlink()
    (tmp_path / "view/view.json").write_text('{"study": 3}')
    with pytest.raises(FileError, match="not what the command writes"):
        read_folder(tmp_path)


@pytest.mark.parametrize(("prior", "epsilon"), [(0.5, 0.0), (0.5, 1.0), (0.01, 3.0), (0.1, 8.0)])
def test_a_guess_becomes_as_sure_as_bayes_allows_rounded_up(prior: float, epsilon: float) -> None:
    odds = prior / (1 - prior) * math.exp(epsilon)
    shown = float(posterior(prior, epsilon).rstrip("%"))
    assert 100 * odds / (1 + odds) - 1e-6 <= shown < 100 * odds / (1 + odds) + 0.011
    assert posterior(0.5, 12.0) == "practically 100%"


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path, results())
    first = write_audit(folder).path.read_bytes()
    assert write_audit(folder).path.read_bytes() == first
