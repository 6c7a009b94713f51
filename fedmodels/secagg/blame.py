"""Whose fault wrong shares are, where it can be said.

A wrong share, or one that does not open, was dealt wrong or opened wrong: it speaks against the pair {dealer, holder}.
Shares that lie further from any polynomial than so few liars could bring them speak against their dealer alone. Those
who lied have part in every such pair, so they are a vertex cover of the graph that the pairs make. A hospital is proven
to have lied if every cover that is small enough has it. The rule that finds them is that of Buss and Goldsmith (1993,
"Nondeterminism within P"): whoever is in more pairs than there may be liars must be one, or all its peers in these
pairs would be.
"""

from collections import Counter
from collections.abc import Set

Pair = frozenset[str]
"""A dealer and a holder; one name where a hospital's share of its own secret is wrong, or a dealer's shares of any."""


def liars(pairs: Set[Pair], few: int, most: int) -> tuple[str, ...]:
    """The hospitals that must have lied if at most `few` did, those with most wrong shares first; often nobody.

    Guarantee: while at most `few` hospitals lie, however they arrange it, no honest one is named. Where the pairs show
    that more than `few` lied, the smallest number up to `most` that may explain them is taken in its place.
    """
    wrong = Counter(name for pair in pairs for name in pair)
    for number in range(few, most + 1):
        found = _forced(pairs, number)
        if found is not None:
            return tuple(sorted(found, key=lambda name: (-wrong[name], name)))
    return ()


def _forced(pairs: Set[Pair], number: int) -> set[str] | None:
    """Members of every cover of at most `number` hospitals; None where it is plain that there is no such cover."""
    forced: set[str] = set()
    rest = set(pairs)
    while True:
        left = number - len(forced)
        if left < 0:
            return None
        counts = Counter(name for pair in rest for name in pair)
        alone = {name for pair in rest if len(pair) == 1 for name in pair}
        found = alone | {name for name, count in counts.items() if count > left}
        if not found:
            return forced if len(rest) <= left * left else None
        forced |= found
        rest = {pair for pair in rest if not pair & forced}
