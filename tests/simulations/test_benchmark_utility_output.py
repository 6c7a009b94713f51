"""What `fedmodels bench utility` shows of a report: a table per data set with every goal's verdict, and a plot."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from simulations.benchmarks import utility as bench
from simulations.benchmarks.machine import this_machine
from simulations.benchmarks.output import Target
from simulations.benchmarks.utility import Point, Report, Result
from simulations.benchmarks.utility_command import draw, print_tables

TARGETS = (
    Target("a goal that was met", ">= 0.95", 0.97, True),
    Target("a goal that was not", "<= 0.005", 0.0123, False),
    Target("a goal that says nothing", ">= 0.85", math.nan, None),
)


def result(name: str, rows: tuple[str, ...], first: float) -> Result:
    """Scores that are all different: `first` and a hundredth more for each row and epsilon."""
    points = [Point(bench.NON_PRIVATE, None, first, 0.001, (first, first))]
    for row in rows:
        for epsilon in bench.EPSILONS:
            mean = first + 0.01 * len(points)
            points.append(Point(row, epsilon, mean, 0.0001 * len(points), (mean, mean)))
    return Result(name, f"score of {name}", 6, 2, tuple(points), TARGETS)


SOME = (bench.ROWS[0], *bench.ROWS[2:])  # as where a row makes no sense for a data set
REPORT = Report(this_machine(), (result("everything", bench.ROWS, 0.1), result("less", SOME, 0.5)))
ROWS_OF = {"everything": bench.ROWS, "less": SOME}


def drawn(monkeypatch: pytest.MonkeyPatch, report: Report, path: Path) -> Figure:
    """The figure that was written to `path`."""
    figures, save = [], Figure.savefig

    def seen(self: Figure, *arguments: Path) -> None:
        figures.append(self)
        save(self, *arguments)

    with monkeypatch.context() as watched:
        watched.setattr(Figure, "savefig", seen)
        draw(report, path)
    (figure,) = figures
    return figure


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot_is_written_as_what_its_name_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot{suffix}"
    draw(REPORT, path)
    if suffix == ".png":
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
    else:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_there_is_a_panel_for_each_data_set_and_in_it_every_row_with_its_means_and_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn(monkeypatch, REPORT, tmp_path / "plot.png")
    assert [axes.get_title() for axes in figure.axes] == list(ROWS_OF)
    for axes, shown in zip(figure.axes, REPORT.results, strict=True):
        assert axes.get_ylabel() == shown.metric
        assert tuple(bars.get_label() for bars in axes.containers) == ROWS_OF[shown.problem]
        (plain,) = (line for line in axes.lines if line.get_label() == bench.NON_PRIVATE)
        assert set(plain.get_ydata()) == {shown.point(bench.NON_PRIVATE, None).mean}
        for bars in axes.containers:
            line, _, (errors,) = bars.lines
            points = [shown.point(bars.get_label(), epsilon) for epsilon in bench.EPSILONS]
            assert line.get_xydata().tolist() == [[point.epsilon, point.mean] for point in points]
            half = [np.ptp(segment[:, 1]) / 2 for segment in errors.get_segments()]
            assert half == pytest.approx([point.standard_error for point in points])


@pytest.mark.parametrize("order", [1, -1])
def test_a_row_has_one_colour_in_all_panels_and_the_legend_names_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """Also where the last panel lacks a row."""
    figure = drawn(monkeypatch, Report(REPORT.machine, REPORT.results[::order]), tmp_path / "plot.png")
    lines = [bars for axes in figure.axes for bars in axes.containers]
    colours = {(bars.get_label(), to_hex(bars.lines[0].get_color())) for bars in lines}
    assert sorted(row for row, _ in colours) == sorted(bench.ROWS)
    assert len({colour for _, colour in colours}) == len(bench.ROWS)
    (legend,) = figure.legends
    named = {text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    assert list(named) == [bench.NON_PRIVATE, *bench.ROWS]
    assert {(row, to_hex(named[row].get_color()[0])) for row in bench.ROWS} == colours


def test_the_tables_have_every_row_and_every_goal_with_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(REPORT)
    out = capsys.readouterr().out
    for part, shown in zip(out.split("score of ")[1:], REPORT.results, strict=True):
        assert part.startswith(f"{shown.problem}, mean ± standard error over 2 seeds, 6 hospitals")
        lines = [re.sub(r"\s{2,}", "  ", line).strip() for line in part.splitlines()]
        for row in (bench.NON_PRIVATE, *ROWS_OF[shown.problem]):
            epsilons = (None,) if row == bench.NON_PRIVATE else bench.EPSILONS
            points = [shown.point(row, epsilon) for epsilon in epsilons]
            cells = [row, *(f"{point.mean:.3f} ± {point.standard_error:.3f}" for point in points)]
            assert "  ".join(cells) in lines
        absent = set(bench.ROWS) - set(ROWS_OF[shown.problem])
        assert not [line for line in lines if line.split("  ")[0] in absent]
        assert [line for line in lines if "goal" in line] == [
            "reached: a goal that was met: 0.970 (goal >= 0.95)",
            "missed: a goal that was not: 0.012 (goal <= 0.005)",
            "gap too small: a goal that says nothing: nan (goal >= 0.85)",
        ]


def test_a_single_seed_has_no_standard_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    points = [Point(bench.NON_PRIVATE, None, 0.75, math.nan, (0.75,))]
    points += [Point(bench.ROWS[0], epsilon, 0.5, math.nan, (0.5,)) for epsilon in bench.EPSILONS]
    report = Report(REPORT.machine, (Result("single", "accuracy", 4, 1, tuple(points), ()),))
    print_tables(report)
    out = capsys.readouterr().out
    assert "0.750" in out
    assert "nan" not in out
    draw(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0
