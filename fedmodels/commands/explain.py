"""`explain`: why the model of a run says what it says of one record."""

from pathlib import Path

import numpy as np
from rich.console import Console

from fedmodels.errors import UsageError
from fedmodels.evaluation.explanations.examples import Examples, read_examples
from fedmodels.evaluation.explanations.explain import explain as explain_record
from fedmodels.evaluation.explanations.pictures import page, png
from fedmodels.files import write_synced
from fedmodels.models.artifact import load_whole_model


def explain(run: Path, source: Path, patient: str, record: int | None, label: str, out: Path) -> None:
    """Write a picture of one record's explanation. record counts from 1, among the patient's where one is named."""
    if out.suffix not in (".html", ".png"):
        raise UsageError("a picture is an .html or a .png", where=str(out), fix="name such a file")
    if out.exists():
        raise UsageError("the file exists already", where=str(out), fix="name a new file with --out")
    model, card = load_whole_model(run)
    explanation = explain_record(model, card, _one(read_examples(source, card), patient, record), label)
    content = png(explanation, card) if out.suffix == ".png" else page(explanation, card).encode()
    write_synced(out, content, mode=0o600)
    console = Console()
    console.print(explanation.title, *explanation.sums, sep="\n", markup=False)
    console.print(f"{out} written. It is about a patient: keep it where the data are.", markup=False)


def _one(examples: Examples, patient: str, record: int | None) -> Examples:
    rows = np.arange(len(examples))
    if patient:
        rows = rows[examples.data.patients == patient]
        if not len(rows):
            raise UsageError("there is no such patient among the records", where="--patient", fix="check the name")
    if record is None and len(rows) > 1:
        raise UsageError(
            f"there are {len(rows)} records",
            fix="say which with --record 1, 2, ... (in the order of `fedmodels predict`) or --patient",
        )
    if (record or 1) > len(rows):
        raise UsageError(f"there are {len(rows)} records only", where=f"--record {record}", fix="count from 1")
    return examples.at(int(rows[(record or 1) - 1]))
