"""Who sees what and learns at most how much of a patient, told from the results of an audit for a reader without DP."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import Any

from fedmodels.report.audit_record import COMMANDS, Audit, File, Folder, Membership, View

PRIORS = ((0.5, "1 in 2"), (0.1, "1 in 10"), (0.01, "1 in 100"))
_SURE = 0.9999


@dataclass(frozen=True)
class Observer:
    """A row of the page's first table. section: the id of the section with the numbers; empty: there are none."""

    who: str
    sees: str
    learns: str
    evidence: str
    section: str = ""


def posterior(prior: float, epsilon: float) -> str:
    """How sure somebody can be at most whose guess began with `prior`, as a percentage rounded up, delta left out.

    Bayes: (epsilon, 0)-DP multiplies the odds by at most e^epsilon.
    """
    sure = 1.0 / (1.0 + (1.0 / prior - 1.0) * math.exp(-epsilon))
    return "practically 100%" if sure > _SURE else f"{math.ceil(sure * 10_000 - 1e-9) / 100:.2f}%"


def rounded_up(epsilon: float) -> str:
    """With two decimals."""
    return str(Decimal(repr(epsilon)).quantize(Decimal("0.01"), ROUND_UP))


def observers(found: Folder) -> list[Observer]:
    """The rows, strongest observers first."""
    return [
        *_coordinator(found.audit.content if found.audit else None),
        *_colluders(found),
        _rebuilder(found),
        _model(found),
        _wire(found),
        Observer(
            "A patient's own hospital",
            "all records of its patients, as before",
            "everything; nothing here protects a patient from the own hospital",
            "not a matter of this audit",
        ),
    ]


def contradictions(found: Folder) -> list[str]:
    """What contradicts the promise, or the audit itself, one sentence each."""
    return [*_of_audit(found), *_of_model_and_logs(found)]


def _of_audit(found: Folder) -> Iterator[str]:
    if found.audit and found.audit.content.verdict.conclusion == "broken":
        yield found.audit.content.verdict.said
    for seen in found.colluders.content.views if found.colluders else ():
        if seen.claimed is not None and seen.epsilon > seen.claimed:
            yield (
                f"{_colluding(seen.colluders)} learn more than is claimed: epsilon {seen.epsilon:.2f} of "
                f"{seen.claimed:.2f}."
            )
    if found.self_test and not found.self_test.content.passed:
        tested = found.self_test.content
        missed = [mutant.mutant for mutant in tested.mutants if not mutant.flagged_by]
        told = f"it did not notice: {', '.join(missed)}." if missed else "it accused the correct implementation."
        yield f"The self-test of the audit failed, so that the audit cannot be relied on: {told}"


def _of_model_and_logs(found: Folder) -> Iterator[str]:
    for file in found.transcripts:
        if file.content.wrong:
            yield f"What left {file.content.hospital} is not in order: {', '.join(file.content.wrong)}."
    if found.membership and any(row.leaks and row.group == "everyone" for row in found.membership.content.rows):
        yield "The published model gives away who was trained on."


def _coordinator(audit: Audit | None) -> Iterator[Observer]:
    if audit is None:
        yield Observer("The coordinator", "the sums of a study", "what the hospitals' ledgers say", _not("audit.json"))
        return
    best = max(audit.points[-1].bounds, key=lambda bound: bound.epsilon)
    passed = sum(not finding.flagged for finding in audit.findings)
    sums = "the sum of the hospitals' contributions of every round, with noise"
    yield Observer(
        f"{audit.observer[0].upper()}{audit.observer[1:]}",
        "each hospital's own contribution to every round, with noise" if audit.mode == "local" else sums,
        f"epsilon {rounded_up(audit.claimed)}: whoever thought it as likely as not that a patient took part can be "
        f"{posterior(0.5, audit.claimed)} sure afterwards, and no surer",
        f"attacks in one run show at least {best.epsilon:.2f}; {passed} of {len(audit.findings)} checks passed",
        "bounds",
    )


def _colluders(found: Folder) -> Iterator[Observer]:
    for seen in found.colluders.content.views if found.colluders else ():
        if seen.claimed is None:
            yield Observer(
                _colluding(seen.colluders), "the sums, and their own contributions", "nothing is promised against them",
                f"they learn at least epsilon {seen.epsilon:.2f}", "colluders",
            )  # fmt: skip


def _colluding(count: int) -> str:
    return f"The coordinator and {count} colluding hospital{'' if count == 1 else 's'}"


def _rebuilder(found: Folder) -> Observer:
    who, sees = "A coordinator who tries to rebuild records", "the same sums"
    if found.view is None:
        return Observer(who, sees, _promised(found), _not("view.json"))
    views = found.view.content.views
    noisy = [view for view in views if view.noisy]
    bare = max((view for view in views if not view.noisy), key=_gain, default=None)
    told = []
    if noisy:
        told.append(
            f"with noise, attacks get back {'more' if max(map(_gain, noisy)) > 0.0 else 'less'} than a guess would"
        )
    if bare:
        told.append(f"without, {_likeness(bare)}")
    exact = max((view.exact_dense_inputs or 0 for view in views if not view.noisy), default=0)
    if exact:
        told.append(f"and the model's inputs of {exact} patients exactly")
    return Observer(who, sees, _promised(found), ", ".join(told) + _elsewhere(found, found.view), "views")


def _gain(view: View) -> float:
    """How much more an attack shows than a guess; a figure that is not there is infinite, see `psnr`."""
    if view.share is not None:
        return view.share - (view.baseline or 0.0)
    return (math.inf if view.psnr_db is None else view.psnr_db) - (view.guess_psnr_db or 0.0)


def _likeness(view: View) -> str:
    if view.share is not None:
        return f"{view.share:.0%} of a text's words ({view.title})"
    if view.psnr_db is None:
        return f"the very picture ({view.title})"
    return f"{view.psnr_db:.1f} dB where a guess has {view.guess_psnr_db:.1f} ({view.title})"


def _model(found: Folder) -> Observer:
    who, sees = "Somebody who has the published model", "the model"
    if found.membership is None:
        return Observer(who, sees, _promised(found), _not("membership.json"))
    evidence = _found(found.membership.content) + _elsewhere(found, found.membership)
    return Observer(who, sees, _promised(found), evidence, "membership")


def _promised(found: Folder) -> str:
    return f"no more than epsilon {rounded_up(found.audit.content.claimed)}" if found.audit else "no more than above"


def _elsewhere(found: Folder, file: File[Any]) -> str:
    """Where a result is of another study than the audited run."""
    if found.audit is None or file.content.study_hash == found.audit.content.study_hash:
        return ""
    return f" (in another study: “{file.content.study}”, {file.content.study_hash[:8]})"


def _found(membership: Membership) -> str:
    rates = [row.found for row in membership.rows if row.group == "everyone" and row.found is not None]
    best = f"{max(rates):.1%}" if rates else "none"
    return f"attacks found {best} of those trained on while accusing 1% of others; chance is 1%"


def _wire(found: Folder) -> Observer:
    who, sees = "Whoever sees one hospital's upload, the coordinator included", "masked numbers"
    learns = "nothing, as long as the masks' cryptography holds and not all other hospitals collude"
    if not found.transcripts:
        return Observer(who, sees, learns, _not("transcript.json"))
    every = [file.content for file in found.transcripts]
    kept, uploads = sum(t.kept for t in every), sum(t.uploads for t in every)
    tested = [check for t in every for check in t.checks if check.check == "uniform"]
    told = f"{kept} of {uploads} uploads of {len(every)} hospital{'' if len(every) == 1 else 's'} examined"
    verdict = "not random" if any(check.verdict == "wrong" for check in tested) else "random" if kept else "none kept"
    return Observer(who, sees, learns, f"{told}: {verdict}" + _elsewhere(found, found.transcripts[0]), "transcripts")


def _not(name: str) -> str:
    return f"not examined: {COMMANDS[name].partition(' --')[0]}"
