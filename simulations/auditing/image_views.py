"""`fedmodels audit view` for images: what attacks get back from updates with and without each protection."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedmodels.audit.imprint import plan_imprint, plant, take_apart
from fedmodels.audit.inversion import Attack, Search, invert_features, invert_gradient
from fedmodels.audit.similarity import match, psnr, ssim
from fedmodels.errors import UsageError
from fedmodels.models.batches import to_tensors
from fedmodels.models.cnn import Cnn
from fedmodels.models.losses import loss_fn
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.study import Study
from simulations.auditing.patients import ATTACKED, Cast
from simulations.auditing.threads import one_thread
from simulations.auditing.updates import Make, Scene, inversions, noise_of, part

Pictures = npt.NDArray[np.float64]
OnStep = Callable[[], None]

GRADIENT = Attack(steps=2000, restarts=2, learning_rate=0.02, total_variation=1e-3)
FEATURES = Attack(steps=2000, restarts=1, learning_rate=0.05, total_variation=1e-3, signs=False)
# Fewer features than pixels leave many pictures to choose from, and smoothness has to choose among them.
NARROW_GRADIENT = replace(GRADIENT, learning_rate=0.01, total_variation=1e-2)
NARROW_FEATURES = replace(FEATURES, total_variation=3e-2)
_PUBLIC = 512  # records of others that the planner of an imprint knows
_CHUNK = 64  # records per forward pass: a large picture has large activations
_EXACT = 0.01  # relative error of what the dense layer was given


@dataclass(frozen=True, repr=False)
class View:
    """What one attack got back. pictures: [n, channels, height, width] in [0, 1], in the order of the patients.

    exact: how many patients' inputs to the dense layer were read out to within 1%; None for attacks that do not try.
    """

    name: str
    pictures: Pictures
    psnr: float
    ssim: float
    baseline_psnr: float
    baseline_ssim: float
    exact: int | None = None


@dataclass(frozen=True, repr=False)
class Gallery:
    """originals, baseline: [8, channels, height, width] in [0, 1]; baseline: the mean picture of the others with the
    same label, what one can guess without any update."""

    originals: Pictures
    baseline: Pictures
    views: list[View] = field(default_factory=list)


def steps_of(study: Study) -> int:
    """Steps of all attacks together."""
    private = study.privacy.mode != "none"
    return (4 + private) * GRADIENT.steps * GRADIENT.restarts + (2 + private) * FEATURES.steps * FEATURES.restarts


def show(study: Study, cast: Cast, on_view: Callable[[str], None], on_step: OnStep) -> Gallery:
    """All views of a study of images, at its first round, when the model is new."""
    viewer = _Viewer(study, cast, on_step)
    with one_thread():
        for name, patients, make in inversions(study):
            on_view(name)
            viewer.invert(name, patients, make)
        for name, make in _imprints(study):
            on_view(name)
            viewer.imprint(name, make)
    return viewer.gallery


def _imprints(study: Study) -> Iterator[tuple[str, Make]]:
    hospitals = min(study.federation.hospitals, ATTACKED)
    yield f"imprint, 1 hospital, {ATTACKED} patients", Scene.unprotected
    yield f"imprint, secure sum of {hospitals} hospitals, {ATTACKED} patients, clipped", Scene.clipped
    if study.privacy.mode != "none":
        yield f"imprint, {ATTACKED} patients, clipped, {noise_of(study)}", Scene.protected


class _Viewer:
    """Runs attacks on the patients of one cast, and compares what comes out with who they are."""

    def __init__(self, study: Study, cast: Cast, on_step: OnStep) -> None:
        self._study, self._cast, self._on_step = study, cast, on_step
        self._x = to_tensors(cast.attacked, study.input)[0]
        labels = cast.attacked.y
        means = {label: self._mean(label) for label in set(labels.tolist())}
        self.gallery = Gallery(_pictures(self._x), np.stack([means[label] for label in labels.tolist()]))

    def invert(self, name: str, patients: int, make: Make) -> None:
        """Gradient inversion by a coordinator that keeps to the protocol."""
        model, attacked = self._model(), self._cast.attacked.take(np.arange(patients))
        observed = make(Scene(self._study, flatten(model)), attacked)
        found = invert_gradient(
            model.eval(),
            loss_fn(self._study.training.class_weights, "sum"),
            torch.from_numpy(observed.astype(np.float32)),
            torch.from_numpy(attacked.y),
            self._x.shape[1:],
            self._search(NARROW_GRADIENT if self._narrow(model) else GRADIENT),
        )
        self._keep(name, found.images)

    def imprint(self, name: str, make: Make) -> None:
        """The imprint attack by a coordinator that sends malicious weights for the two dense layers."""
        model = self._model()
        public = self._cast.others.take(np.arange(min(_PUBLIC, len(self._cast.others))))
        plant(plan_imprint(_features(model, to_tensors(public, self._study.input)[0]), model.dense.out_features),
              model.dense, model.output)  # fmt: skip
        observed = make(Scene(self._study, flatten(model)), self._cast.attacked)
        weight, bias = part(model, observed, "dense.weight"), part(model, observed, "dense.bias")
        found = take_apart(weight, bias, ATTACKED)
        true = _features(model, self._x)
        exact = int((torch.cdist(true, found).amin(1) < _EXACT * true.norm(dim=1)).sum())
        search = self._search(NARROW_FEATURES if self._narrow(model) else FEATURES)
        images = invert_features(_encoder(model), found, self._x.shape[1:], search).images
        missing = ATTACKED - len(images)
        self._keep(name, torch.cat([images, images.new_zeros(missing, *images.shape[1:])]), exact)

    def _keep(self, name: str, images: Tensor, exact: int | None = None) -> None:
        pictures = _pictures(images)
        originals, baseline = self.gallery.originals[: len(pictures)], self.gallery.baseline[: len(pictures)]
        pictures = pictures[match(pictures, originals)]
        view = View(name, pictures, *_likeness(pictures, originals), *_likeness(baseline, originals), exact)
        self.gallery.views.append(view)

    def _mean(self, label: int) -> Pictures:
        x = to_tensors(self._cast.others.take(np.flatnonzero(self._cast.others.y == label)), self._study.input)[0]
        mean: Pictures = _pictures(x.mean(0, keepdim=True))[0]
        return mean

    def _model(self) -> Cnn:
        """The study's model with its initial weights, fresh for every attack."""
        model = build_model(self._study)
        if not isinstance(model, Cnn):
            raise UsageError(
                f"there is no view for the model `{self._study.model.name}`",
                where="audit view",
                fix="use the model `cnn`",
            )
        return model

    def _narrow(self, model: Cnn) -> bool:
        return model.dense.in_features < self._x[0].numel()

    def _search(self, attack: Attack) -> Search:
        return Search(attack, self._study.training.seed, self._on_step)


def _likeness(pictures: Pictures, originals: Pictures) -> tuple[float, float]:
    """Mean PSNR and SSIM."""
    pairs = list(zip(pictures, originals, strict=True))
    return float(np.mean([psnr(p, o) for p, o in pairs])), float(np.mean([ssim(p, o) for p, o in pairs]))


def _pictures(images: Tensor) -> Pictures:
    """Images in [-1, 1] as pictures in [0, 1]."""
    pictures: Pictures = ((images.detach().double() + 1.0) / 2.0).numpy()
    return pictures


def _encoder(model: Cnn) -> nn.Module:
    return model.features.eval().requires_grad_(requires_grad=False)


@torch.no_grad()
def _features(model: Cnn, x: Tensor) -> Tensor:
    return torch.cat([model.features(chunk).flatten(1) for chunk in torch.split(x, _CHUNK)])
