"""What only texts or only images can have wrong: cut or almost empty texts, blank, saturated or inverted images."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.finding import Finding, share
from fedmodels.data.checks.subject import Subject
from fedmodels.data.checks.summary import Summary
from fedmodels.study_input import ImageInput, TextInput

_FEW_TOKENS = 3
_CUT = 0.25  # beyond this the upper quartile of the texts is not seen in full
_SATURATED = 0.5
_ALIKE = 0.5


def content(subject: Subject, summary: Summary) -> Iterator[Finding]:
    """The findings for the study's modality; none for tables and series."""
    match subject.study.input:
        case TextInput() as input_:
            yield from _lengths(subject, input_)
            yield from _languages(subject)
        case ImageInput() as input_:
            yield from _blank(subject, summary, input_)
            yield from _polarity(subject, summary)
            yield from _sizes(subject, input_)


def _lengths(subject: Subject, input_: TextInput) -> Iterator[Finding]:
    lengths, total = subject.data.lengths, len(subject.data)
    if lengths is None:
        raise ValueError("texts have lengths")
    full, short = lengths >= input_.max_tokens, lengths <= _FEW_TOKENS
    cut, few = int(full.sum()), int(short.sum())
    said = (
        f"median {np.median(lengths):.0f} tokens; {share(cut, total)} fill all {input_.max_tokens} and may be cut; "
        f"{share(few, total)} have {_FEW_TOKENS} or fewer"
    )
    numbers = {"cut": cut / total, "short": few / total, "median_tokens": float(np.median(lengths))}
    if cut > _CUT * total:
        do = "put what matters first, or propose a larger `max_tokens` to the consortium"
        yield Finding("length of texts", "warn", said, do, numbers, [np.flatnonzero(full)])
    elif few > 0.05 * total:
        do = "check that the right column is bound as text, and leave placeholders such as `none` out"
        yield Finding("length of texts", "warn", said, do, numbers, [np.flatnonzero(short)])
    else:
        yield Finding("length of texts", "ok", said, numbers=numbers)


def _languages(subject: Subject) -> Iterator[Finding]:
    if (han := subject.source.han) is None:
        return
    total = len(han)
    kinds = {"Chinese": han >= 0.9, "other scripts": han <= 0.1, "mixed": (han > 0.1) & (han < 0.9)}
    said = ", ".join(f"{name} {share(int(flags.sum()), total)}" for name, flags in kinds.items() if flags.any())
    main = max(kinds, key=lambda name: int(kinds[name].sum()))
    odd = np.flatnonzero(~kinds[main] & ~kinds["mixed"])
    numbers = {name: float(flags.mean()) for name, flags in kinds.items()}
    # As few as this of a language cannot be learnt from, and are more likely template or broken characters.
    if 0 < len(odd) < 0.01 * total:
        do = "look at the few in another script: they may be templates, or text in the wrong encoding"
        yield Finding("languages", "warn", said, do, numbers, [odd])
    else:
        yield Finding("languages", "ok", said, numbers=numbers)


def _blank(subject: Subject, summary: Summary, input_: ImageInput) -> Iterator[Finding]:
    contrast = next(p.values for p in summary.predictors if p.of == "contrast")
    full = next(p.values for p in summary.predictors if p.of == "share of pixels at the brightest")
    bright = next(p.values for p in summary.predictors if p.of == "brightest pixel")
    blank = contrast <= 1e-3 * (input_.high - input_.low) / 255
    saturated = ~blank & (bright >= input_.high) & (full > _SATURATED)
    total, none, much = len(subject.data), int(blank.sum()), int(saturated.sum())
    numbers = {"blank": none, "saturated": much}
    if not none and not much:
        yield Finding("blank images", "ok", "no image is blank, and none is saturated in half of it", numbers=numbers)
        return
    yield Finding(
        "blank images",
        "warn",
        f"{none:,} of {total:,} images have one brightness throughout, {much:,} are at the brightest in half or more",
        "leave failed acquisitions out; if there are many, check the pixel range or window of the export",
        numbers,
        [np.flatnonzero(flags) for flags in (blank, saturated) if flags.any()],
    )


def _polarity(subject: Subject, summary: Summary) -> Iterator[Finding]:
    """Images that look like the negative of the others, if the others look like each other."""
    if summary.frequencies is None or not (turned := inverted(summary.frequencies)).any():
        return
    count, total = int(turned.sum()), len(subject.data)
    yield Finding(
        "polarity",
        "warn",
        f"{count:,} of {total:,} images ({share(count, total)}) look like a negative of the others",
        "export all images with the same photometric interpretation (dark air on X-rays), or invert these",
        {"images": count},
        [np.flatnonzero(turned)],
    )


def inverted(frequencies: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """[n] whether an image of [n, coefficients] is nearer to the negative of the others' mean than half to the mean.

    Frequencies change their sign when an image is inverted. Where typical images have a correlation below one half with
    their mean, nothing can be said. The direction is the leading one, so that many inverted ones do not cancel it.
    """
    _, vectors = np.linalg.eigh(np.asarray(frequencies.T @ frequencies, dtype=np.float64))
    along = frequencies @ vectors[:, -1]
    typical = float(np.median(np.abs(along)))
    if typical < _ALIKE:
        return np.zeros(len(along), dtype=np.bool_)
    direction = 1.0 if np.median(along) > 0 else -1.0
    return np.asarray(direction * along < -_ALIKE * typical)


def _sizes(subject: Subject, input_: ImageInput) -> Iterator[Finding]:
    sizes = subject.source.sizes
    if sizes is None or not (known := sizes.all(axis=1)).any():
        return
    width, height = sizes[known].T
    kinds = len(np.unique(sizes[known], axis=0))
    numbers = {"sizes": kinds, "smallest_width": float(width.min()), "smallest_height": float(height.min())}
    said = f"{kinds:,} sizes, {width.min()} × {height.min()} pixels at least, {width.max()} × {height.max()} at most"
    small = known & ((sizes[:, 0] < input_.width) | (sizes[:, 1] < input_.height))
    stretch = (sizes[:, 0] * input_.height) / np.maximum(sizes[:, 1] * input_.width, 1)
    bent = known & ((stretch > 1.5) | (stretch < 1 / 1.5))
    if small.any() or bent.any():
        count, total = int(small.sum()), int(known.sum())
        said += f"; {share(count, total)} are smaller than the study's {input_.width} × {input_.height}"
        said += f", {share(int(bent.sum()), total)} are stretched by more than half when resized"
        do = "export originals instead of previews, and crop to the study's shape where it differs"
        rows = [np.flatnonzero(flags) for flags in (small, bent) if flags.any()]
        yield Finding("size of images", "warn", said, do, numbers, rows)
    else:
        yield Finding("size of images", "ok", said, numbers=numbers)
