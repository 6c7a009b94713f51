"""Runs every check of a transcript on a site directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from client.folder import SiteFolder
from client.ledger import Chain, LedgerError
from client.proof import prove
from client.transcript.case import Case, Found
from client.transcript.checks import CHECKS, NEEDS_LEDGER
from client.transcript.kept import read

Verdict = Literal["right", "wrong", "not examined"]


@dataclass(frozen=True)
class Examined:
    """One check. holds: what has to hold; examined: what was looked at, with counts; problems: what is wrong."""

    check: str
    holds: str
    examined: str
    verdict: Verdict
    problems: Sequence[str]


@dataclass(frozen=True)
class Transcript:
    """What was found of one hospital. kept: uploads of which the bytes could be examined, of `uploads` that left."""

    hospital: str
    study: str
    study_hash: str
    roster_hash: str
    messages: int
    uploads: int
    kept: int
    charges: int
    checks: Sequence[Examined]

    @property
    def wrong(self) -> list[str]:
        """The checks that found something."""
        return [check.check for check in self.checks if check.verdict == "wrong"]


def examine(site: SiteFolder) -> Transcript:
    """Everything that the hospital's own files tell. `Refused` where no study is approved, or it was changed since;
    `LogError` where a line of the log cannot be read. Nothing is written."""
    chain, trouble = _chain(site)
    proof = prove(site.sent, chain.charges if chain else ())
    lines, sent = [line for line, _ in site.sent.lines()], list(read(site.sent))
    case = Case(site.name, site.study, site.roster, proof, chain, trouble, lines, sent, site.policy.keep_sent_megabytes)
    checks = [_examined(name, case) for name in CHECKS]
    return Transcript(
        site.name, site.study.study.name, site.study.digest.hex(), site.roster.digest.hex(), len(lines),
        proof.uploads, len(case.uploads), len(case.charges), checks,
    )  # fmt: skip


def _chain(site: SiteFolder) -> tuple[Chain | None, str]:
    try:
        return site.ledger.chain(), ""
    except LedgerError as error:
        return None, error.what


def _examined(name: str, case: Case) -> Examined:
    if name in NEEDS_LEDGER and case.chain is None:
        found = Found("the ledger does not verify", possible=False)
    else:
        found = CHECKS[name](case)
    verdict: Verdict = "wrong" if found.problems else "right" if found.possible else "not examined"
    holds = " ".join((CHECKS[name].__doc__ or "").split())
    return Examined(name, holds, found.examined, verdict, found.problems)
