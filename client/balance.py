"""What has been spent and what is left: per study and in life, from the hospital's own ledger."""

from collections.abc import Sequence
from dataclasses import dataclass

from client.ledger import Charge, epsilon_of
from client.policy import Policy
from client.releases import aborts
from fedmodels.study import Study

_MOMENTS = 60


@dataclass(frozen=True)
class Account:
    """One study. name: where it is the approved one; limit: most that policy and approved study allow it to cost."""

    digest: bytes
    name: str
    train: int
    evaluate: int
    aborts: int
    spent: float
    limit: float

    @property
    def left(self) -> float:
        return max(0.0, self.limit - self.spent)


@dataclass(frozen=True)
class Balance:
    """Of one hospital. spent and limit are those of its lifetime, over all studies."""

    studies: tuple[Account, ...]
    spent: float
    limit: float

    @property
    def left(self) -> float:
        return max(0.0, self.limit - self.spent)


def balance(charges: Sequence[Charge], policy: Policy, approved: Study | None) -> Balance:
    """Accounts in the order in which the studies began, that of the approved one last where it has not begun."""
    digests = list(dict.fromkeys([c.study_digest for c in charges] + ([approved.digest] if approved else [])))
    accounts = tuple(_account(charges, policy, digest, approved) for digest in digests)
    return Balance(accounts, sum(account.spent for account in accounts), policy.epsilon_lifetime)


def over_time(charges: Sequence[Charge]) -> list[tuple[str, float]]:
    """(time, epsilon spent in life) after some of the charges, the first and the last among them."""
    step = max(1, -(-len(charges) // _MOMENTS))
    numbers = sorted({1, *range(step, len(charges) + 1, step), len(charges)}) if charges else []
    return [(charges[n - 1].time, sum(epsilon_of(charges[:n], charges[0].study_digest))) for n in numbers]


def _account(charges: Sequence[Charge], policy: Policy, digest: bytes, approved: Study | None) -> Account:
    own = [charge for charge in charges if charge.study_digest == digest]
    kinds = [charge.kind for charge in own]
    limit, name = policy.epsilon_per_study, ""
    if approved and approved.digest == digest:
        limit, name = min(limit, approved.epsilon_total), approved.study.name
    spent, _ = epsilon_of(own, digest)
    return Account(digest, name, kinds.count("train"), kinds.count("evaluate"), aborts(own, digest), spent, limit)
