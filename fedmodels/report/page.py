"""`report.html`: one self-contained page about a run, for a data-protection officer and a data scientist.

No network, no script: the page carries its style and its charts, and forbids everything else to the browser.
"""

import hashlib
from collections.abc import Callable, Sequence
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Any, Protocol

from markupsafe import Markup

from fedmodels.errors import UsageError
from fedmodels.files import write_synced
from fedmodels.models.registry import expected_parameters
from fedmodels.packing import evaluation_layout, update_packing
from fedmodels.report.charts import line_chart
from fedmodels.report.metrics import PER_HOSPITAL, evaluation_of, metric_names
from fedmodels.report.pages import render_page
from fedmodels.report.record import Record, read_record
from fedmodels.study import Hospital

_WORD_BYTES = 4
_SPACE = "\N{NO-BREAK SPACE}"  # keeps number and unit on one line


class Picture(Protocol):
    """An explained example, as `fedmodels.evaluation.explanations` makes it: markup without ids of other pictures."""

    @property
    def title(self) -> str: ...
    @property
    def markup(self) -> Markup: ...
    @property
    def alt(self) -> str: ...
    @property
    def sums(self) -> tuple[str, ...]: ...


def write_report(run: Path, pictures: Sequence[Picture] = ()) -> Path:
    """Write `report.html` into the directory of a finished run, over an older one; returns its path.

    pictures: explained examples, synthetic or of people who agreed; never a patient's without that.
    `UsageError` where the directory is not that of a finished run, its files are malformed or of different runs, or
    it cannot be written to.
    """
    page = render(read_record(run), pictures).encode()
    path = run / "report.html"
    try:
        write_synced(path, page)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix="check permissions and free space of the folder",
        ) from None
    return path


def render(record: Record, pictures: Sequence[Picture] = ()) -> str:
    """The page as HTML. The same record and pictures give the same page."""
    values = {
        "run": record,
        "study": record.study,
        "result": record.result,
        "private": record.study.privacy.mode != "none",
        "distributed": record.study.privacy.mode == "distributed",
        "metrics": metric_names(record.study),
        "evaluation": evaluation_of(record),
        "exact": record.result.simulation.metrics if record.result.simulation else {},
        "per_hospital": PER_HOSPITAL,
        "pictures": pictures,
        "traffic": _traffic(record),
        "charts": _charts(record),
    }
    filters: dict[str, Callable[..., str]] = {
        "epsilon": show_epsilon,
        "decimal": _show_decimal,
        "duration": _show_duration,
        "metric": _show_metric,
        "size": _show_size,
        "fingerprint": key_fingerprint,
        "interval": _show_interval,
        "error": _show_error,
        "signed": _show_signed,
    }
    return render_page("report.html", values, filters)


def _traffic(record: Record) -> dict[str, int]:
    """Words of each vector and the most bytes of vectors that left any one hospital."""
    parameters = expected_parameters(record.study)
    training = parameters  # mode `distributed`: a gradient and nothing beside it
    if record.study.privacy.mode != "distributed":
        training = update_packing(record.study, record.roster, parameters).words
    evaluation = evaluation_layout(record.study).length
    return {
        "parameters": parameters,
        "training_words": training,
        "training_bytes": training * _WORD_BYTES,
        "evaluation_words": evaluation,
        "evaluation_bytes": evaluation * _WORD_BYTES,
        "total_bytes": (record.sessions * training + evaluation) * _WORD_BYTES,
    }


def _charts(record: Record) -> list[dict[str, Any]]:
    """The curves that the run has, in reading order."""
    rounds = record.rounds
    curves = {
        "Size of the mean update (L2 norm)": [line.update_norm for line in rounds],
        "Mean training loss": [line.loss for line in rounds if line.loss is not None],
        "Epsilon spent on training so far": [line.epsilon for line in rounds if line.epsilon is not None],
        "Seconds per round": [line.seconds for line in rounds],
    }
    told = [(title, values) for title, values in curves.items() if values]
    return [
        {"title": title, "svg": line_chart(f"chart{number}", title, values)}
        for number, (title, values) in enumerate(told, 1)
    ]


def key_fingerprint(hospital: Hospital) -> str:
    """The first 16 hex digits of the SHA-256 of the hospital's 32-byte identity key."""
    return hashlib.sha256(bytes.fromhex(hospital.identity_key)).hexdigest()[:16]


def show_epsilon(value: float) -> str:
    """With three decimals, rounded up: a report never promises more privacy than there is."""
    return str(Decimal(str(value)).quantize(Decimal("0.001"), ROUND_UP))


def _show_decimal(value: float) -> str:
    """In full, without an exponent: 0.00001 is plainer than 1e-05."""
    return format(Decimal(str(value)), "f")


def _show_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2f}{_SPACE}s"
    return f"{seconds / 60:.1f}{_SPACE}min" if seconds < 7200 else f"{seconds / 3600:.1f}{_SPACE}h"


def _show_metric(value: float | None, name: str) -> str:
    if value is None:
        return "n/a"
    return f"{value:,.0f}" if name == "n" else f"{value:.3f}"


def _show_interval(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} to {value[1]:.3f}"


def _show_error(value: float | None) -> str:
    """Rounded up: a bound stays one."""
    return "" if value is None else f"± {Decimal(str(value)).quantize(Decimal('0.001'), ROUND_UP)}"


def _show_signed(value: float) -> str:
    return f"{value:+.3f}"


def _show_size(size: int) -> str:
    if size < 10_000:
        return f"{size:,}{_SPACE}bytes"
    return f"{size / 1e3:,.1f}{_SPACE}kB" if size < 10_000_000 else f"{size / 1e6:,.1f}{_SPACE}MB"
