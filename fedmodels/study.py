"""The study and the roster: the two public files that every party of a run reads and pins.

Both are typed and strict, and have a canonical hash: SHA-256 over a label and the sorted JSON of all keys with their
defaults filled in, so that comments, order and spelling of defaults do not change it and every value does. The hashes
bind key derivations, signatures, ledger rows and results. This module does no I/O.
"""

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedmodels import strict_toml
from fedmodels.errors import FileError
from fedmodels.study_input import ImageInput, Input
from fedmodels.typed import Name, NonNegative, Positive, PositiveFloat, Probability, Sentences, SizeValue, Strict


class About(Strict, frozen=True):
    """`[study]`: what is learnt. labels: the class names in the order of the model's outputs.

    description, intended_use, limits: for the model card (Mitchell et al., FAccT 2019): what is predicted from what, by
    whom and for whom to be used, and what it was not made or tried for.
    """

    name: Name
    task: Literal["binary", "multiclass"]
    labels: Annotated[tuple[str, ...], Meta(min_length=2)]
    synthetic: bool = False
    description: Sentences = ""
    intended_use: Sentences = ""
    limits: Sentences = ""

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        if self.task == "binary" and len(self.labels) != 2:
            raise ValueError("a binary task has exactly two labels, the second one is the positive class")


class Model(Strict, frozen=True):
    """`[model]`: a registered family or preset, and the sizes that differ from its defaults."""

    name: Name
    sizes: dict[str, SizeValue] = msgspec.field(default_factory=dict)


class Training(Strict, frozen=True):
    """`[training]`: every constant of the optimisation. All are public, none depends on a hospital's data.

    rounds: aggregations; local_steps: steps between two of them. batch_rate: probability with which each patient is in
    a step's batch. optimiser, learning_rate, momentum, weight_decay: of the hospitals' steps; in privacy mode
    `distributed`, where a round is one step of all hospitals together, of that step, which the coordinator takes.
    average: decay a of an exponential moving average of the model over rounds (0 = none), a_t = min(a, t / (t + 9));
    the averaged model is what is evaluated and published.
    class_weights: weight of each label in the loss, from public priors; empty = all 1. focal_gamma: exponent of the
    focal loss, which turns to the records that are hard; 0 = cross-entropy. class_rates: share of `batch_rate` with
    which patients of each label are in a batch, one of them 1; empty = all 1.
    proximal: FedProx's mu, which holds local steps near the round's model; 0 = none. personal: layers that never leave
    a hospital and are trained there alone: the normalisation (FedBN) or the last layer (FedPer).
    records: how many of a patient's records are in a step that has the patient, drawn without replacement and, where
    there are fewer, repeated in turn. Their mean gradient counts as the patient's, also under the clip.
    augment: random changes of images before every step. augmentations: copies of a record in a step, each changed
    differently, whose mean gradient counts as the record's (De et al. 2022).
    gradient_norm: bound on a batch gradient's norm where no privacy clip does it (exploding gradients); 0 = none.
    """

    rounds: Positive
    local_steps: Positive = 1
    batch_rate: Probability = 0.1
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    weight_decay: NonNegative = 0.0
    gradient_norm: NonNegative = 1.0
    server_optimiser: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    server_learning_rate: PositiveFloat = 1.0
    average: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    class_weights: tuple[PositiveFloat, ...] = ()
    focal_gamma: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    class_rates: tuple[Probability, ...] = ()
    proximal: NonNegative = 0.0
    personal: Literal["none", "norm", "head"] = "none"
    records: Annotated[int, Meta(ge=1, le=64)] = 1
    augment: tuple[Literal["flip", "shift", "brightness"], ...] = ()
    augmentations: Annotated[int, Meta(ge=1, le=64)] = 1
    seed: Annotated[int, Meta(ge=0, lt=1 << 53)] = 0

    @property
    def copies(self) -> int:
        """Rows of a batch that are one patient: the copies of each of the records."""
        return self.records * self.augmentations


class Privacy(Strict, frozen=True):
    """`[privacy]`: what is promised to every patient, see `fedmodels study check`.

    mode `local`: each hospital adds the whole noise; `distributed`: a share of it, so that only sums are private, with
    the accuracy of private training on pooled data; `none`: no noise and no promise.

    epsilon, delta bound the whole training of the study; evaluation_epsilon pays for the published evaluation counts.
    """

    mode: Literal["none", "local", "distributed"]
    epsilon: PositiveFloat = 8.0
    delta: Annotated[float, Meta(gt=0.0, lt=1.0)] = 1e-5
    unit: Literal["patient"] = "patient"
    adjacency: Literal["add-remove"] = "add-remove"
    clip: PositiveFloat = 1.0
    max_colluding: Annotated[int, Meta(ge=0)] = 1
    evaluation_epsilon: PositiveFloat = 1.0


class Evaluation(Strict, frozen=True):
    """`[evaluation]`: how the published counts are read.

    operating_point, of two labels: from which probability on the second is predicted: `half` 0.5, `youden` where the
    sum of sensitivity and specificity is largest, `specificity` the lowest with at least `specificity`; chosen on the
    secure counts. sensitivity is told at `specificity` in any case.
    """

    operating_point: Literal["half", "youden", "specificity"] = "half"
    specificity: Annotated[float, Meta(ge=0.5, lt=1.0)] = 0.9


class Federation(Strict, frozen=True):
    """`[federation]`: how a round opens.

    on_dropout `retry`: a round opens over all hospitals asked, or not at all, and is run again without the missing; for
    cheap rounds. `recover`: it opens over those who did not drop out, at least `threshold`; for expensive rounds.
    threshold: of `recover`; 0 = the smallest that leaves two honest hospitals in any sum a lying coordinator can open.
    max_retries: aborted rounds that the whole study may have (each is charged). update_bound: largest absolute change
    of one parameter in one round that can be encoded; larger ones are clipped and counted.
    """

    hospitals: Positive
    min_contributors: Positive = 3
    on_dropout: Literal["retry", "recover"] = "retry"
    threshold: Annotated[int, Meta(ge=0)] = 0
    max_retries: Annotated[int, Meta(ge=0)] = 2
    timeout_seconds: PositiveFloat = 600.0
    update_bound: PositiveFloat = 4.0

    def __post_init__(self) -> None:
        if self.on_dropout == "retry" and self.threshold:
            raise ValueError("`threshold` belongs to on_dropout `recover`")


class Study(Strict, frozen=True):
    """A whole study file. `digest` is its canonical hash."""

    study: About
    model: Model
    input: Input
    training: Training
    privacy: Privacy
    federation: Federation
    evaluation: Evaluation = Evaluation()

    def __post_init__(self) -> None:
        if self.evaluation.operating_point != "half" and len(self.study.labels) > 2:
            raise ValueError("`evaluation.operating_point` is for two labels: of more, the most probable is predicted")
        for key in ("class_weights", "class_rates"):
            if (values := getattr(self.training, key)) and len(values) != len(self.study.labels):
                raise ValueError(f"`training.{key}` needs one number per label")
        if self.training.class_rates and max(self.training.class_rates) != 1.0:
            raise ValueError("the largest of `training.class_rates` must be 1: `training.batch_rate` is its rate")
        if self.training.augment and not isinstance(self.input, ImageInput):
            raise ValueError("`training.augment` changes images, which this study does not have")
        if self.training.augmentations > 1 and not self.training.augment:
            raise ValueError("several `training.augmentations` need `training.augment`, or all copies are the same")
        least, colluding = self.federation.min_contributors, self.privacy.max_colluding
        if least - colluding < 2:
            raise ValueError(
                f"`federation.min_contributors` ({least}) minus `privacy.max_colluding` ({colluding}) must be at "
                "least 2, or one hospital could be singled out by subtracting the colluding ones"
            )
        if self.federation.hospitals < least:
            raise ValueError("`federation.hospitals` must be at least `federation.min_contributors`")
        if self.federation.on_dropout == "recover":
            self._check_threshold()
        if self.privacy.mode == "distributed":
            self._check_one_step()

    def _check_one_step(self) -> None:
        if self.training.local_steps != 1:
            raise ValueError(
                "privacy.mode `distributed` takes one step per round: set `training.local_steps` to 1 and raise "
                "`training.rounds`"
            )
        if self.training.server_optimiser != "fedavg" or self.training.server_learning_rate != 1.0:
            raise ValueError(
                "in privacy.mode `distributed` the coordinator takes the step with `training.optimiser`, "
                "`learning_rate` and `momentum`: leave `server_optimiser` and `server_learning_rate` out"
            )
        if self.training.personal != "none":
            raise ValueError(
                "in privacy.mode `distributed` a hospital adds only a share of the noise, and layers that stay with it "
                'would need all of it: set `training.personal` to "none", or use mode `local`'
            )
        if self.training.proximal:
            raise ValueError("`training.proximal` does nothing in a single local step: leave it out")

    def _check_threshold(self) -> None:
        hospitals, colluding = self.federation.hospitals, self.privacy.max_colluding
        if self.threshold > hospitals:
            raise ValueError(
                f"on_dropout `recover` needs {self.threshold} of {hospitals} hospitals in every sum: take more "
                "hospitals, a smaller `privacy.max_colluding`, or on_dropout `retry`"
            )
        if 2 * self.threshold - hospitals - colluding < 2:
            raise ValueError(
                f"`federation.threshold` {self.threshold} is too small: with {hospitals} hospitals of whom {colluding} "
                "may collude, a coordinator that lies about dropouts could single one hospital out "
                f"(2 * threshold - hospitals - colluding must be at least 2: {self._least_threshold} or more)"
            )

    @property
    def _least_threshold(self) -> int:
        return -(-(self.federation.hospitals + self.privacy.max_colluding + 2) // 2)

    @property
    def threshold(self) -> int:
        """t of `recover`: fewest hospitals in a sum, as given or the smallest that is safe."""
        return self.federation.threshold or self._least_threshold

    @property
    def digest(self) -> bytes:
        return _digest(b"fedmodels/study/v1", self)

    @property
    def observer(self) -> str:
        """Whom the study's privacy protects patients from, in words."""
        if self.privacy.mode == "none":
            return "nobody: without noise the published model may reveal patients"
        if self.privacy.mode == "local":
            return "everyone, also if secure aggregation were broken and all other hospitals colluded"
        colluding = {0: "alone", 1: "together with one colluding hospital"}.get(
            self.privacy.max_colluding, f"together with up to {self.privacy.max_colluding} colluding hospitals"
        )
        return f"everyone who sees the model, and the coordinator {colluding}, given secure aggregation"

    @property
    def epsilon_total(self) -> float:
        """Planned epsilon of the study: training plus evaluation; infinite without privacy."""
        if self.privacy.mode == "none":
            return float("inf")
        return self.privacy.epsilon + self.privacy.evaluation_epsilon


class Hospital(Strict, frozen=True):
    """One line of the roster. Keys are hex; declared_size is a rounded public number of patients."""

    name: Name
    identity_key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    declared_size: Positive
    node_key: str = ""


class Roster(Strict, frozen=True):
    """Who takes part, in ascending order of name. `digest` is its canonical hash."""

    hospital: Annotated[tuple[Hospital, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        names = [hospital.name for hospital in self.hospital]
        if names != sorted(set(names)):
            raise ValueError("hospitals must have different names, in ascending order")
        if len({hospital.identity_key for hospital in self.hospital}) != len(names):
            raise ValueError("two hospitals have the same identity_key")

    @property
    def digest(self) -> bytes:
        return _digest(b"fedmodels/roster/v1", self)

    @property
    def keys(self) -> dict[str, bytes]:
        """Ed25519 public key of each hospital, by name."""
        return {hospital.name: bytes.fromhex(hospital.identity_key) for hospital in self.hospital}

    @property
    def sizes(self) -> dict[str, int]:
        return {hospital.name: hospital.declared_size for hospital in self.hospital}


def _digest(label: bytes, value: Strict) -> bytes:
    body = msgspec.json.encode(value, order="sorted")
    return hashlib.sha256(len(label).to_bytes(8, "big") + label + body).digest()


def parse_study(text: str, source: str = "study.toml") -> Study:
    """The study in a TOML text; `FileError` names file, line, key and expectation."""
    return strict_toml.decode(text, Study, source)


def parse_roster(text: str, source: str = "roster.toml") -> Roster:
    """The roster in a TOML text."""
    return strict_toml.decode(text, Roster, source)


def check_roster(study: Study, roster: Roster) -> None:
    """Refuse a roster that does not have the number of hospitals that the study was planned for."""
    if len(roster.hospital) != study.federation.hospitals:
        raise FileError(
            f"the roster has {len(roster.hospital)} hospitals, the study was planned for {study.federation.hospitals}",
            where="roster.toml",
            fix="correct `federation.hospitals` or the roster; both are part of what every hospital approves",
        )
