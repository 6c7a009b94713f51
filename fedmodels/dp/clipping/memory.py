"""How many records fit into one forward and backward pass."""

import torch
from torch import Tensor, nn

from fedmodels.dp.clipping.prepare import Prepared

_BUDGET = 1 << 30  # bytes of activations and per-record gradients
_MOST = 1024


def physical_batch(prepared: Prepared, *one: Tensor | None) -> int:
    """Records per pass that need about a GiB beside weights, sums and what waits for them; at least 1, at most 1024.

    What waits is copied once more when its part ends: together at most twice the size of the sums (`Outer.may_wait`).
    one: the model's inputs for a batch of one record with all its copies, of any valid values. What its forward pass
    saves for the backward pass is counted twice (gradients of activations), and for each copy the gradients of all but
    dense layers and embeddings, which are never made for one position.
    """
    saved: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in prepared.model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        kept = prepared.model(*one)  # alive while it is counted: a freed storage's address is used again
    del kept
    made = prepared.book.copies * sum(
        p.numel() * p.element_size()
        for layer in prepared.model.modules()
        if not isinstance(layer, nn.Linear | nn.Embedding)
        for p in layer.parameters(recurse=False)
    )
    return max(1, min(_MOST, _BUDGET // (2 * sum(saved.values()) + made + 1)))
