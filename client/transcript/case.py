"""What there is to examine of one hospital, and what a check says."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.ledger import Chain, Charge
from client.proof import Proof
from client.sentlog import Line
from client.transcript.kept import Sent
from fedmodels.study import Roster, Study

UPLOADS = ("train", "evaluate")


@dataclass(frozen=True)
class Case:
    """What there is to examine. chain: None where the ledger does not verify, which `trouble` explains.

    lines: of the log, in order; sent: the messages that are kept; megabytes: `keep_sent_megabytes` of the policy.
    """

    name: str
    study: Study
    roster: Roster
    proof: Proof
    chain: Chain | None
    trouble: str
    lines: Sequence[Line]
    sent: Sequence[Sent]
    megabytes: int

    @property
    def charges(self) -> tuple[Charge, ...]:
        return self.chain.charges if self.chain else ()

    @property
    def uploads(self) -> list[Sent]:
        return [message for message in self.sent if message.line.kind in UPLOADS]

    def approved(self, charge: Charge) -> bool:
        """Whether it is of the study and roster that are approved now."""
        return (charge.study_digest, charge.roster_digest) == (self.study.digest, self.roster.digest)


@dataclass(frozen=True)
class Found:
    """examined: what was looked at, with counts; problems: what is wrong, one sentence each."""

    examined: str
    problems: Sequence[str] = ()
    possible: bool = True  # False: there was nothing to look at


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
