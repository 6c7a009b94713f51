"""`client results`: how good the model is on this hospital's own test patients, beside the consortium's."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from client.folder import SiteFolder
from client.ownresults import OwnResult, own_results_of
from fedmodels.errors import UsageError
from fedmodels.evaluation.noise import Noise
from fedmodels.evaluation.summary import Summary, measure, summarise
from fedmodels.packing import evaluation_layout
from fedmodels.report.record import Record, read_record
from fedmodels.study import Study

_console = Console(highlight=False)


def results(directory: Path, run: Path | None, *, as_json: bool) -> None:
    """Print the newest result; with a run directory, that of the run, and the consortium's beside it."""
    found = own_results_of(directory)
    if not found:
        raise UsageError("no model was evaluated here yet", where=str(directory), fix="wait for the end of a run")
    site = SiteFolder(directory)
    record = read_record(run) if run else None
    own = _of_run(found, run, record.result.run_id) if run and record else found[-1]
    study = record.study if record else site.study
    if own.study_hash != study.digest.hex():
        raise UsageError(
            "the newest result is of a study that is not approved here any more",
            where=str(directory / "results"),
            fix="name the run directory with --run",
        )
    mine = _own(own, study, record)
    if as_json:
        _console.print_json(data=_as_dict(site.name, mine, record))
        return
    _console.print(_table(site.name, study, mine, record))
    _console.print(
        f"Of {own.time}. These values are exact: they stay at this hospital unless somebody here tells them."
    )


def _of_run(found: list[OwnResult], run: Path, run_id: str) -> OwnResult:
    for result in found:
        if result.run == run_id:
            return result
    raise UsageError("this hospital took no part in this run", where=str(run), fix="name a run that it evaluated")


def _own(own: OwnResult, study: Study, record: Record | None) -> Summary:
    """At the consortium's operating point and temperature, if there is one; exact where bins would matter."""
    layout, rule = evaluation_layout(study), study.evaluation
    counts, shared = np.array(own.counts, np.int64), record.result.summary if record else None
    if shared is None:
        told = summarise(counts, layout, "half", rule.specificity, Noise())
    else:
        told = measure(counts, layout, rule.specificity, Noise(), shared)
    exact = {name: own.metrics[name] for name in told.binning_error if name in own.metrics}
    return Summary(told.metrics | exact, told.intervals, {}, told.optimism, told.operating_point, told.calibration)


def _table(name: str, study: Study, mine: Summary, record: Record | None) -> Table:
    table = Table("metric", title=f"{study.study.name}: {name} beside the consortium" if record else study.study.name)
    columns = [(name, mine)]
    if record and record.result.summary:
        columns.append(("consortium, from secure counts", record.result.summary))
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    for metric in mine.metrics:
        table.add_row(metric, *(_cell(summary, metric) for _, summary in columns))
    return table


def _cell(summary: Summary, metric: str) -> str:
    if metric not in summary.metrics:
        return "n/a"
    value, interval = summary.metrics[metric], summary.intervals.get(metric)
    if metric == "n":
        return f"{value:.0f}"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _as_dict(name: str, mine: Summary, record: Record | None) -> dict[str, object]:
    shared = record.result.summary if record else None
    return {
        "hospital": name,
        "metrics": mine.metrics,
        "intervals": mine.intervals,
        "consortium": {"metrics": shared.metrics, "intervals": shared.intervals} if shared else None,
    }
