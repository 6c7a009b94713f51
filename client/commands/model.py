"""`client model`: a run's model with the layers in it that this hospital kept to itself."""

import json
from pathlib import Path

import msgspec
from rich.console import Console

from client.ownlayers import OwnLayers
from client.site import Site
from fedmodels.errors import UsageError
from fedmodels.files import read_text
from fedmodels.models.artifact import CARD, load_model, save_model
from fedmodels.study import Study, parse_study


def model(directory: Path, run: Path, out: Path) -> None:
    """Write the model that this hospital should use after a run with `training.personal`, as a directory of its own."""
    study = parse_study(read_text(run / "study.toml"), str(run / "study.toml"))
    layers = OwnLayers(Site(directory).directory / "personal", _run_id(run, study), study)
    if study.training.personal == "none" or not layers.trained:
        what = "kept no layers to itself" if study.training.personal == "none" else "took no part in this run"
        raise UsageError(f"this hospital {what}", where=str(run), fix="use the run's own model")
    if (out / CARD).exists():
        raise UsageError("there is a model in this folder already", where=str(out), fix="name a new folder")
    net, card = load_model(run)
    layers.complete(net)
    out.mkdir(parents=True, exist_ok=True)
    trained = card.trained and msgspec.structs.replace(card.trained, lacks="none")
    save_model(out, net, study, card.working, trained)
    Console().print(f"{out}: the run's model with this hospital's own layers. It is not published: keep it here.")


def _run_id(run: Path, study: Study) -> str:
    result = json.loads(read_text(run / "result.json"))
    if result.get("study_hash") != study.digest.hex() or not isinstance(result.get("run_id"), str):
        raise UsageError(
            "is not a finished run of its study", where=str(run), fix="name a run directory as it was left"
        )
    return str(result["run_id"])
