"""A text in its own words, marked for or against a label, as HTML: browsers bring the fonts."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from fedmodels.evaluation.explanations.attribution import Floats

_FOR, _AGAINST = "178,24,43", "33,102,172"
_DARKEST = 0.6  # ink stays readable on it, on a light page and on a dark one


def marked_words(text: str, spans: Sequence[tuple[int, int]], shares: Floats) -> Markup:
    """The text with each token in its place; solid lines and red are for the label, dotted and blue against it.

    spans: [begin, end) of each token, ascending. Words behind the last one were not read, and are grey.
    """
    parts, position = [], 0
    limit = float(np.abs(shares).max(initial=0.0)) or 1.0
    for (begin, end), share in merged(spans, shares):
        parts += [Markup.escape(text[position:begin]), _mark(text[begin:end], share, share / limit)]
        position = end
    rest = Markup('<span style="opacity:.6">{}</span>') if not_read(text, spans) else Markup("{}")
    parts.append(rest.format(text[position:]))
    return Markup('<p translate="no" style="white-space:pre-wrap;line-height:2;overflow-wrap:anywhere">{}</p>').format(
        Markup().join(parts)
    )


def not_read(text: str, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether there are words behind the last token."""
    return any(character.isalnum() for character in text[spans[-1][1] :])


def merged(spans: Sequence[tuple[int, int]], shares: Floats) -> list[tuple[tuple[int, int], float]]:
    """Tokens that are written as one character (½ is 1, 2) as one, their shares added up."""
    result: list[tuple[tuple[int, int], float]] = []
    for (begin, end), share in zip(spans, shares.tolist(), strict=True):
        if result and begin < result[-1][0][1]:
            (first, last), before = result.pop()
            result.append(((first, max(last, end)), before + share))
        else:
            result.append(((begin, end), share))
    return result


def _mark(word: str, share: float, part: float) -> Markup:
    colour, line = (_FOR, "solid") if share > 0 else (_AGAINST, "dotted")
    return Markup(
        '<span title="{:+.3f}" style="background:rgba({},{:.2f});border-bottom:2px {} rgba({},{:.2f})">{}</span>'
    ).format(share, colour, _DARKEST * abs(part), line, colour, min(1.0, 2 * abs(part)), word)
