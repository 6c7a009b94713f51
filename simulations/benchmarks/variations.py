"""What the benchmark runs of every study: variations of its file, as `--set` takes them."""

from dataclasses import dataclass

from simulations.partition import Partition


@dataclass(frozen=True)
class Variation:
    """One federated row. settings: `section.key=value`, applied in order to the bundled study file."""

    title: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """The federated rows of one study. partition: how pooled data are divided; natural hospitals ignore it."""

    rows: tuple[Variation, ...]
    partition: Partition = Partition()


def _local(epsilon: float, *settings: str) -> Variation:
    chosen = ("privacy.mode=local", f"privacy.epsilon={epsilon:g}", *settings)
    return Variation(f"federated, local epsilon {epsilon:g}", chosen)


_NONE = Variation("federated, none")

SUITES = {
    "heart_disease": Suite((_NONE, _local(8), _local(3))),
    "icu_mortality": Suite((_NONE, _local(8), _local(3))),
    "pneumonia": Suite((_NONE, _local(8), _local(3)), Partition(0.5)),
    "chinese_triage": Suite((_NONE, _local(8), _local(3))),
}
