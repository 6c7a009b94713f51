"""Extra gradient records that an auditor puts beside a hospital's own: the one seam between an audit and the product.

A canary is a patient of its own whose gradient is known beforehand. From the sampler on it is treated as any patient:
drawn with the study's rate, clipped, added up, covered by the noise, encoded, masked. It has its gradient either in one
*free* coordinate, appended behind the model's weights for it, where nothing else is, or in the model's own weights.

Canaries are given to a hospital's `Site` in its own process, by whoever runs that process. No message, study or policy
can ask for them, and without them nothing here runs. The appended coordinates make the upload longer than the session
of an honest coordinator, which therefore refuses it: an audited hospital can only take part in an audit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedmodels.dp.clipping.entries import Entry, PerRecord
from fedmodels.dp.clipping.prepare import Prepared
from fedmodels.errors import PrivacyError
from fedmodels.models.device import device_of

_PARAMETER = "~canaries"  # behind every name that Python gives to a parameter

Rows = npt.NDArray[np.int64]


class Canaries:
    """The canaries inside one hospital's training data, and what an audit needs to know of every contribution.

    names: [n] patients, none of them real; columns: [f] the free coordinate of the first f canaries; lengths: [f] their
    gradients there; directions: [n - f, D] the gradients of the others in the model's weights; width: free coordinates
    that are appended, also for canaries that are not inside or at other hospitals.

    After a run: `drawn` has the canaries of every batch in order, `contributed` every vector before masking.
    """

    def __init__(
        self,
        names: npt.NDArray[np.str_],
        columns: Rows,
        lengths: npt.NDArray[np.float32],
        directions: npt.NDArray[np.float32],
        width: int,
    ) -> None:
        if len(columns) != len(lengths) or len(names) != len(columns) + len(directions):
            raise PrivacyError("canaries need a name and a gradient each")
        if width < 1 or (len(columns) and not 0 <= int(columns.min()) <= int(columns.max()) < width):
            raise PrivacyError("a canary has no coordinate of its own")
        self.names, self.width = names, width
        self._reserved = frozenset(names.tolist())
        self._columns, self._lengths = torch.from_numpy(columns), torch.from_numpy(lengths)
        self._directions = torch.from_numpy(directions)
        self.drawn: list[Rows] = []
        self.contributed: list[npt.NDArray[np.uint32]] = []

    def among(self, patients: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
        """`patients` and behind them the canaries, as the sampler is to see them."""
        if not self._reserved.isdisjoint(patients.tolist()):
            raise PrivacyError("a canary has the name of a patient", fix="choose other names")
        return np.concatenate([patients, self.names])

    def attach(self, prepared: Prepared) -> None:
        """Append the free coordinates to a model as weights that start at zero and are in no layer."""
        weights = sum(p.numel() for p in prepared.book.names)
        if len(self._directions) and self._directions.shape[1] != weights:
            raise PrivacyError(f"canaries for {self._directions.shape[1]} weights in a model of {weights}")
        free = nn.Parameter(torch.zeros(self.width, device=device_of(prepared.model)))
        prepared.model.register_parameter(_PARAMETER, free)
        prepared.book.names[free] = _PARAMETER

    def write(self, prepared: Prepared, rows: Rows) -> Iterator[None]:
        """Write the gradients of the drawn canaries `rows` into the book; yields for each pass that is to be clipped.

        Called once for every batch, also where no canary was drawn.
        """
        self.drawn.append(rows)
        drawn = torch.from_numpy(rows)
        free = drawn[drawn < len(self._columns)]
        if len(free):
            parameter = next(p for p, name in prepared.book.names.items() if name == _PARAMETER)
            columns, lengths = (v[free].to(parameter.device) for v in (self._columns, self._lengths))
            prepared.book.write_for(len(free), [Single(parameter, columns, lengths)])
            yield
        inner = drawn[drawn >= len(self._columns)] - len(self._columns)
        if len(inner):
            prepared.book.write_for(len(inner), list(self._inner(prepared, self._directions[inner])))
            yield

    def _inner(self, prepared: Prepared, gradients: Tensor) -> Iterator[Entry]:
        weights = sorted((name, p) for p, name in prepared.book.names.items() if name != _PARAMETER)
        parts = torch.split(gradients, [p.numel() for _, p in weights], dim=1)
        for (_, parameter), part in zip(weights, parts, strict=True):
            yield PerRecord(parameter, part.reshape(len(part), *parameter.shape).to(parameter.device))


@dataclass(frozen=True, eq=False)
class Single:
    """Gradients of a vector that are zero but in one place each. columns: [n] int64; values: [n]."""

    parameter: Tensor
    columns: Tensor
    values: Tensor

    @property
    def records(self) -> int:
        return len(self.columns)

    def grouped(self, copies: int) -> Entry:
        raise PrivacyError(f"a canary has one gradient, not {copies} to be averaged")

    def squared_norms(self) -> Tensor:
        return self.values.double().square()

    def select(self, rows: Tensor) -> "Single":
        return replace(self, columns=self.columns[rows], values=self.values[rows])

    def added(self, factors: Tensor) -> Tensor:
        return torch.zeros_like(self.parameter).index_add_(0, self.columns, factors * self.values)
