"""`fedmodels audit view` for texts: which hash buckets of patients' words an update shows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedmodels.audit.tokens import by_gradient, recovery
from fedmodels.data.dataset import Dataset
from fedmodels.errors import UsageError
from fedmodels.models.recurrent import Recurrent
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.study import Study
from simulations.auditing.patients import ATTACKED, Cast
from simulations.auditing.updates import Make, Scene, inversions, noise_of, part


@dataclass(frozen=True)
class TextView:
    """What one update showed. tokens: different buckets in the texts; share: of them that were found among as many
    guesses; baseline: the same for guessing the buckets that are most common in other texts."""

    name: str
    patients: int
    tokens: int
    share: float
    baseline: float


def show(study: Study, cast: Cast) -> list[TextView]:
    """All views of a study of texts, at its first round, when the model is new."""
    model = build_model(study)
    if not isinstance(model, Recurrent):
        raise UsageError(f"there is no view for the model `{study.model.name}`", where="audit view")
    scene, common = Scene(study, flatten(model)), _most_common(cast.others)
    views = []
    for name, count, make in _updates(study):
        patients = cast.attacked.take(np.arange(count))
        present = set(_buckets(patients).tolist())
        rows = part(model, make(scene, patients), "encoder.weight").numpy()
        found, guessed = recovery(by_gradient(rows), present), recovery(common, present)
        views.append(TextView(name, count, found.present, found.share, guessed.share))
    return views


def _updates(study: Study) -> Iterator[tuple[str, int, Make]]:
    """Those of images, and one that is quick to look for in texts alone."""
    yield from inversions(study)
    if study.privacy.mode != "none":
        yield f"{ATTACKED} patients, clipped, {noise_of(study)}", ATTACKED, Scene.protected


def _buckets(data: Dataset) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The buckets of all words of all texts."""
    if data.lengths is None:
        raise UsageError("the records are not texts", where="--data", fix="name data of the study's modality")
    return np.concatenate([row[:length].astype(np.int64) for row, length in zip(data.x, data.lengths, strict=True)])


def _most_common(others: Dataset) -> list[int]:
    """Buckets by how many words of the others fall into them, most first."""
    values, counts = np.unique(_buckets(others), return_counts=True)
    return [int(value) for value in values[np.argsort(-counts, kind="stable")]]
