"""How often a hospital contributes to a study, decided by pure functions from its own ledger."""

from collections.abc import Sequence

from client.ledger import Charge
from fedmodels.errors import Refused
from fedmodels.study import Roster, Study


def check_releases(releases: int, charges: Sequence[Charge], charge: Charge) -> None:
    """Raise `Refused` where a private study has had all the uploads that its noise was calibrated for.

    releases: training uploads of the whole study, retries included. Evaluation counts are drawn once per study;
    `charge.pure_epsilon` is 0 for counts that were drawn before and leave again.
    """
    before = [c for c in charges if (c.study_digest, c.kind) == (charge.study_digest, charge.kind)]
    if charge.kind == "train" and len(before) >= releases:
        raise Refused(
            "releases",
            f"all {releases} training uploads of this study are used up, those of earlier runs included",
            where="ledger",
            fix="more training needs a study of its own, approved again",
        )
    if charge.pure_epsilon and any(c.pure_epsilon for c in before):
        raise Refused(
            "evaluations",
            "the evaluation of this study is used up",
            where="ledger",
            fix="more evaluations need a study of their own, approved again",
        )


def check_without_privacy(study: Study, roster: Roster, charges: Sequence[Charge], charge: Charge) -> None:
    """Raise `Refused` where a coordinator could subtract two sums without noise and read a single hospital.

    `retry`: every sum is over the whole roster, so there is nothing to subtract. `recover`: sums are over whoever is
    left, so a hospital contributes once to each round of a study, once to each global model, and to one evaluation;
    that the models of successive rounds differ is all that protects it, which is why mode `none` promises nothing.
    A round that changed nothing therefore ends the run: also where the same hospitals are asked, the coordinator says
    who dropped out, and the sums of two rounds from one model may be over different ones.
    """
    if study.federation.on_dropout == "retry":
        if charge.contributors != tuple(roster.sizes):
            raise Refused(
                "whole-roster",
                "without differential privacy every sum is over the whole roster, because sums over different "
                "hospitals could be subtracted",
                fix="ask all hospitals, or use a privacy mode with noise",
            )
        return
    for before in charges:
        if (before.study_digest, before.kind) == (charge.study_digest, charge.kind):
            _check_sums_apart(before, charge)


def _check_sums_apart(before: Charge, charge: Charge) -> None:
    """Raise `Refused` for a second sum of the same round, of the same model, or of an evaluation."""
    if charge.kind == "evaluate" or before.round == charge.round:
        raise Refused(
            "round-twice",
            "without differential privacy a hospital contributes once to each round of a study and to one evaluation, "
            "because two sums over different hospitals could be subtracted",
            fix="go on with the next round, approve a new study, or use a privacy mode with noise",
        )
    if before.model == charge.model:
        raise Refused(
            "model-twice",
            f"the model of round {charge.round} is that of round {before.round}, bit for bit; without differential "
            "privacy a hospital contributes once to each model, because two sums over different hospitals could be "
            "subtracted",
            fix="a round in which nobody drew a patient changes nothing: in a new study, raise `training.batch_rate`, "
            'use on_dropout = "retry", or use a privacy mode with noise',
        )


def aborts(charges: Sequence[Charge], study_digest: bytes) -> int:
    """Training uploads of a study beyond one for each of its rounds."""
    rounds = [charge.round for charge in charges if (charge.study_digest, charge.kind) == (study_digest, "train")]
    return len(rounds) - len(set(rounds))
