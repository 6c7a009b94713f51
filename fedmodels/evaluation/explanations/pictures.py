"""Explanations for a reader: markup for the pages of others, a page of its own, or a PNG."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from markupsafe import Markup
from torch import nn

from fedmodels.errors import UsageError
from fedmodels.evaluation.explanations.examples import read_examples
from fedmodels.evaluation.explanations.explain import Explanation, explain
from fedmodels.models.artifact import Card
from fedmodels.report.charts import inline_svg, page_style
from fedmodels.report.pages import render_page

CAVEAT = (
    "This shows what moved this model's answer. It shows neither what causes the condition nor whether the model is "
    "right."
)
_PRIVATE = "It is about a patient: keep it where the data are."
_LETTERS_PER_INCH = 16  # of small print
_SYNTHETIC = "SYNTHETIC: this patient does not exist."


@dataclass(frozen=True)
class Picture:
    """An explanation for an HTML page.

    markup: `<svg>`, or for a text `<p>`, without ids of other pictures; a page's content security policy must allow
    `img-src data:`, which heat maps are drawn with. alt: the same in words. sums: how the shares add up.
    """

    title: str
    markup: Markup
    alt: str
    sums: tuple[str, ...]


def pictures(model: nn.Module, card: Card, binding: Path, most: int = 4) -> list[Picture]:
    """Explanations of the first records of a data binding, for whoever may show them: synthetic or consented ones."""
    examples = read_examples(binding, card)
    return [
        as_picture(explain(model, card, examples.at(row)), f"explanation{row + 1}")
        for row in range(min(most, len(examples)))
    ]


def as_picture(explanation: Explanation, key: str) -> Picture:
    """key: prefix of all ids in the markup."""
    parts = explanation.parts
    if isinstance(parts.picture, Markup):
        return Picture(explanation.title, parts.picture, parts.alt, explanation.sums)
    with page_style(key), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # browsers have fonts for every script
        markup = inline_svg(parts.picture(), key, explanation.title, parts.alt)
    return Picture(explanation.title, markup, parts.alt, explanation.sums)


def page(explanation: Explanation, card: Card) -> str:
    """A self-contained HTML page."""
    values = {
        "picture": as_picture(explanation, "explanation"),
        "card": card,
        "notes": _notes(card),
    }
    return render_page("explanation.html", values, package="fedmodels.evaluation.explanations")


def png(explanation: Explanation, card: Card) -> bytes:
    """The picture as a PNG. `UsageError` for a text, and for names that the font of this machine cannot write."""
    picture = explanation.parts.picture
    if isinstance(picture, Markup):
        raise UsageError("words cannot be drawn without a font for them", where="--out", fix="write an .html file")
    with page_style("png"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure = picture()
        figure.suptitle(f"{card.study.name}: {explanation.title}")
        width = int(figure.get_figwidth() * _LETTERS_PER_INCH)
        figure.supxlabel("\n".join(fill(line, width) for line in (*explanation.sums, *_notes(card))), fontsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    if any("missing from font" in str(warning.message) for warning in said):
        raise UsageError(
            "there are names that the font of this machine cannot write", where="--out", fix="write an .html file"
        )
    return buffer.getvalue()


def _notes(card: Card) -> tuple[str, ...]:
    return CAVEAT, _SYNTHETIC if card.study.synthetic else _PRIVATE
