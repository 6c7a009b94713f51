"""Images cut into blocks that stay in the cache while several operations pass over them, whatever their layout."""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

_BLOCK = 1 << 18  # elements; torch starts its threads for as many
_WIDTH = 512  # elements in a row where channels lie last: loops over the few channels alone would be short


def layout(x: Tensor) -> torch.memory_format:
    """Channels last for images that lie so on the CPU, otherwise contiguous: CUDA's GroupNorm takes nothing else."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and x.device.type == "cpu" else torch.contiguous_format


class Table:
    """The elements of a batch [n, c, ...] as [n, rows, width], in the order in which they lie in memory.

    Channels last: some positions with all their channels are a row. Otherwise a row is a channel.
    """

    def __init__(self, x: Tensor) -> None:
        self._batch_shape = x.shape
        records, channels = x.shape[:2]
        positions = prod(x.shape[2:])
        self._last = layout(x) == torch.channels_last
        self._beside = 1  # positions in a row
        if self._last:
            most = max(1, _WIDTH // channels)
            self._beside = next(k for k in range(most, 0, -1) if positions % k == 0)
        self._shape = (records, channels, positions)
        if self._last:
            self._shape = (records, positions // self._beside, self._beside * channels)

    def sums(self, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """[n, c] float64 each: the sums over positions of `values` and of `values * weights`, of the batch's shape."""
        values, weights = self._rows(values), self._rows(weights)
        over = 1 if self._last else 2
        size = [d for i, d in enumerate(self._shape) if i != over]
        plain, weighted = values.new_zeros(2, *size, dtype=torch.float64)
        for block in self._blocks():
            part, place = values[block], block[0] if self._last else block
            plain[place] += part.sum(over)
            weighted[place] += (part * weights[block]).sum(over)
        folded = (len(values), self._beside, self._batch_shape[1])
        return plain.view(folded).sum(1), weighted.view(folded).sum(1)

    def combination(self, first: Tensor, second: Tensor, factors: Tensor) -> Tensor:
        """a * first + b * second + c in the batch's shape and layout; factors: [3, n, c], for all positions alike."""
        first, second = self._rows(first), self._rows(second)
        a, b, c = self._everywhere(factors.to(first.dtype))
        result = torch.empty_like(first, memory_format=torch.contiguous_format)
        for block in self._blocks():
            part = torch.addcmul(c[block], first[block], a[block], out=result[block])
            part.addcmul_(second[block], b[block])
        return self._batch(result)

    def _rows(self, x: Tensor) -> Tensor:
        """[n, rows, width]; a view if x lies as the batch does."""
        return (x.permute(0, 2, 3, 1) if self._last else x).reshape(self._shape)

    def _batch(self, rows: Tensor) -> Tensor:
        """The inverse of `_rows`."""
        if self._last:
            n, c, height, width = self._batch_shape
            return rows.view(n, height, width, c).permute(0, 3, 1, 2)
        return rows.view(self._batch_shape)

    def _everywhere(self, values: Tensor) -> Tensor:
        """[k, n, c] at each element [k, n, rows, width], in the memory of a row."""
        wide = values.repeat(1, 1, self._beside)[:, :, None] if self._last else values[..., None]
        return wide.expand(-1, *self._shape)

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Indices that cut [n, rows, width] into blocks: several records, or a part of one."""
        records, rows, width = self._shape
        at_once, step = max(1, _BLOCK // max(1, rows * width)), max(1, min(rows, _BLOCK // max(1, width)))
        for record in range(0, records, at_once):
            for row in range(0, rows, step):
                yield slice(record, record + at_once), slice(row, row + step)
