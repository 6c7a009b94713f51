"""`export`: a run's model for programs without this package."""

from pathlib import Path

from rich.console import Console

from fedmodels.models.export import export as write


def export(run: Path, out: Path) -> None:
    """Write the files and say how far they agree."""
    worst = write(run, out)
    Console().print(
        f"model.onnx, model.safetensors and model.json written to {out}. On random input the probabilities of ONNX "
        f"Runtime and PyTorch differ by at most {worst:.0e}.",
        markup=False,
    )
