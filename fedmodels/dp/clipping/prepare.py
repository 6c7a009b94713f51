"""From a stock model to one whose backward pass fills a book: which layers are supported, and what is refused."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedmodels.dp.clipping import convolution, embedding, linear, normalisation, recurrent
from fedmodels.dp.clipping.book import Book
from fedmodels.errors import PrivacyError


class _Kind(NamedTuple):
    """forward: (layer, book, *inputs) -> what the stock layer returns. check: refuses options."""

    forward: Callable[..., Any]
    check: Callable[[Any], None] = lambda _: None


_KINDS: dict[type[nn.Module], _Kind] = {
    nn.Linear: _Kind(linear.forward),
    nn.Conv1d: _Kind(convolution.forward),
    nn.Conv2d: _Kind(convolution.forward),
    nn.Conv3d: _Kind(convolution.forward),
    nn.Embedding: _Kind(embedding.forward, embedding.check),
    nn.LSTM: _Kind(recurrent.forward, recurrent.check),
    nn.GRU: _Kind(recurrent.forward, recurrent.check),
    nn.GroupNorm: _Kind(normalisation.group_forward),
    nn.LayerNorm: _Kind(normalisation.layer_forward),
}
_NAMES = ("weight", "bias", "weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Prepared(NamedTuple):
    """model: has the stock model's type, parameter names and outputs. book: filled by each of its backward passes."""

    model: nn.Module
    book: Book


def prepare(model: nn.Module, copies: int = 1) -> Prepared:
    """A copy of `model` whose backward passes record per-record gradients; in it `p.grad` stays None.

    The model takes records in the first dimension of its first input, and its loss must be a sum over records.
    copies: so many adjacent rows count as one record: one that is changed at random (augmentation multiplicity, De et
    al. 2022), or several of a patient. Its gradient is the sum over them, which is clipped once; with losses divided by
    `copies`, their mean.
    In an `nn.Sequential` with `called_whole = True`, of which nothing but the output is read, a max-pooling may work
    before the ReLU in front of it.
    Refused with a `PrivacyError`, because a record's gradient would be wrong or unknown: layers that mix records
    (BatchNorm), trainable parameters in a layer that is not in the table above, or shared between layers.
    Sharp edge: arithmetic between records in a model's own `forward` is not seen. No layer here does that.
    """
    model = copy.deepcopy(model)
    names = _trainable(model)
    book = Book(names, copies)
    for name, layer in model.named_modules():
        _refuse_mixing(name, layer)
        own = {key: p for key, p in layer.named_parameters(recurse=False) if p.requires_grad}
        if own:
            kind = _supported(name, layer, own)
            layer.forward = _Forward(layer, kind, book)
    _pool_first(model)
    model.register_forward_pre_hook(book.open, with_kwargs=True)
    return Prepared(model, book)


class _Forward:
    """The forward method of a layer that records. The stock kernels run where no gradient is wanted."""

    def __init__(self, layer: nn.Module, kind: _Kind, book: Book) -> None:
        self._recorded = partial(kind.forward, layer, book)
        self._stock = layer.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the layer's
        return (self._recorded if torch.is_grad_enabled() else self._stock)(*args, **kwargs)


def _pool_first(model: nn.Module) -> None:
    """Let a max-pooling work before the ReLU in front of it, where nobody reads in between: a quarter of the numbers.

    Both are monotone, so values are the same; so are gradients, which go to the largest number of a window if it is
    positive and nowhere otherwise.
    """
    for parent in model.modules():
        if isinstance(parent, nn.Sequential) and getattr(parent, "called_whole", False):
            for place, (relu, pool) in enumerate(pairwise(list(parent))):
                if _is_plain(relu, nn.ReLU) and _is_plain(pool, nn.MaxPool2d) and not pool.return_indices:
                    parent[place], parent[place + 1] = pool, relu


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Of that type itself, and without hooks, which would see other numbers."""
    return type(layer) is kind and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)


def _trainable(model: nn.Module) -> dict[Tensor, str]:
    names: dict[Tensor, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter in names:
            raise PrivacyError(
                f"the parameter is also `{names[parameter]}`: gradients of shared parameters cannot be told apart",
                where=name,
                fix="give every layer parameters of its own",
            )
        if parameter.requires_grad:
            names[parameter] = name
    return names


def _refuse_mixing(name: str, layer: nn.Module) -> None:
    if isinstance(layer, _BatchNorm) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats):
        raise PrivacyError(
            f"{type(layer).__name__} mixes patients: its statistics are those of a batch",
            where=name or "model",
            fix="use GroupNorm, which normalises within a record",
        )


def _supported(name: str, layer: nn.Module, own: dict[str, Tensor]) -> _Kind:
    kind = _KINDS.get(type(layer))
    if kind is None or "forward" in vars(layer):
        raise PrivacyError(
            f"there are no per-record gradients for {type(layer).__name__}",
            where=name or "model",
            fix=f"use {', '.join(k.__name__ for k in _KINDS)}, or freeze its parameters",
        )
    kind.check(layer)
    for key, parameter in own.items():
        if key.partition("_l")[0] not in _NAMES or parameter.dtype not in (torch.float32, torch.float64):
            raise PrivacyError(
                f"the parameter `{key}` of type {parameter.dtype} is not one that {type(layer).__name__} has",
                where=name or "model",
                fix="remove reparametrisations such as weight_norm; train in float32",
            )
    return kind
