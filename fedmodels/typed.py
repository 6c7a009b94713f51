"""The types that typed files are made of: strict immutable sections, names and numbers with their bounds."""

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0.0, le=1e12)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e12)]
Probability = Annotated[float, Meta(gt=0.0, le=1.0)]
Sentences = Annotated[str, Meta(max_length=4000)]
SizeValue = bool | int | float | str | tuple[int, ...]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the sections: immutable, unknown keys refused."""
