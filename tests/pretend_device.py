"""A device that is not there: its tensors compute on the CPU, and refuse to meet tensors that were left on the CPU.

For checking on a machine without a GPU that code moves what it must. As on CUDA: an operation on tensors of both sides
fails, unless those of the CPU are single numbers or indices; copies go through `.to`, `.cpu()` and `copy_` alone;
`.numpy()` works on the CPU only; and GroupNorm refuses images with channels last. Values are those of the CPU: what
CUDA's kernels compute is not shown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

PRETENDED = torch.device("lazy:0")  # autograd runs this type of device without a backend, as it does the CPU
_CPU = torch.device("cpu")
_aten = torch.ops.aten
_COPIES = (_aten.copy_.default, _aten._to_copy.default)
_BY_INDEX = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)
_IMAGES = {_aten.native_group_norm.default: 1, _aten.native_group_norm_backward.default: 2}  # so many arguments


class Elsewhere(Tensor):
    """A tensor that says it is on the pretended device, around one on the CPU."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> "Elsewhere":
        outside: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inside.shape, strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype,
            device=PRETENDED, requires_grad=False,
        )  # fmt: skip
        outside.inside = inside
        return outside

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inside!r})"

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inside.untyped_storage()

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _Pretend(TorchDispatchMode):
    """Also for what has no tensors among its arguments, such as `torch.zeros(3, device=...)`."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(function, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[torch.device]:
    real = torch.is_autocast_enabled  # knows no device of this type

    def autocast(kind: str = "cuda") -> bool:
        return kind != PRETENDED.type and real(kind)

    with _Pretend(), mock.patch.object(torch, "is_autocast_enabled", autocast):
        yield PRETENDED


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    ours = [v for v in tensors if isinstance(v, Elsewhere)]
    asked = kwargs.get("device")
    here = bool(ours) if asked is None else torch.device(asked).type == PRETENDED.type
    if ours and function not in _COPIES:
        _refuse_strangers(function, args, tensors)
        if not all(v.is_contiguous() for v in args[: _IMAGES.get(function, 0)]):
            raise RuntimeError(f"{function}: expected contiguous images")
    if asked is not None and torch.device(asked).type == PRETENDED.type:
        kwargs = {**kwargs, "device": _CPU}
    inner_args, inner_kwargs = tree_map(_inside, (args, kwargs))
    result = function(*inner_args, **inner_kwargs)
    if function is _aten.copy_.default:
        return args[0]
    if not here:
        return result
    wrapped = tree_map(lambda v: Elsewhere(v) if isinstance(v, Tensor) else v, result)
    return return_and_correct_aliasing(function, args, kwargs, wrapped) if ours else wrapped


def _inside(value: object) -> object:
    return value.inside if isinstance(value, Elsewhere) else value


def _refuse_strangers(function: Any, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    strangers = [v for v in tensors if not isinstance(v, Elsewhere) and v.dim()]
    if function in _BY_INDEX and isinstance(args[0], Elsewhere):
        indices = [v for v in args[1] if v is not None]
        strangers = [v for v in strangers if not any(v is i for i in indices)]
    if strangers:
        shapes = [tuple(v.shape) for v in strangers]
        raise RuntimeError(f"{function}: tensors of the CPU, of shapes {shapes}, meet those of another device")
