"""A device that is not there: its tensors lie in ordinary memory, and refuse the company of tensors from elsewhere.

torch keeps a place for devices that others write, and lets Python fill it. What a GPU would refuse, tensors and
generators of two devices in one operation, is refused here too, so that tests find it without a GPU. What an operation
does is done by the CPU, to the same bits.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "pretend"
CPU = torch.device("cpu")
COPIES = ("copy_", "_to_copy", "_copy_from")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Operations that take tensors of two devices on a GPU as well: copies, and indices that lie in ordinary memory."""
WHOLE = ("cat", "stack", "embedding")
"""Operations to which a single number from elsewhere is a tensor like any other."""
NEVER = ("sparse", "quantized", "cudnn", "mkldnn", "nested", "_make_dep_token", "from_file")
NARROW = ("linear", "conv2d", "matmul", "mm", "addmm", "bmm", "baddbmm", "scaled_dot_product_attention")
WIDE = ("layer_norm", "group_norm", "softmax.int", "mse_loss", "exp", "pow.Tensor_Scalar", "sum", "sum.dim_IntList")
"""What autocast computes in half precision on a GPU, and what in float32: the operations used here, out of torch's
lists for CUDA. On a CPU the second list is another."""
REFUSED = "Expected all tensors to be on the same device"


class Pretend(Tensor):
    """A tensor on the device; `near` is the same in ordinary memory."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Pretend:
        made: Pretend = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
        )
        made.near = near
        return made

    def tolist(self) -> Any:
        return self.near.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.near} on {NAME}"

    @classmethod
    def __torch_dispatch__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operate(function, args, kwargs or {})


def _operate(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given, shape = tree_flatten((args, kwargs))
    name = function._schema.name.removeprefix("aten::")
    ours = [x for x in given if isinstance(x, Pretend)]
    concerned = given
    if name in INDEXING and isinstance(args[0], Pretend):
        concerned = [args[0], *(args[2:3] if name != "index" else ())]
    _refuse(name, concerned, ours)
    devices = [x for x in given if isinstance(x, torch.device)]
    plain = [x.near if isinstance(x, Pretend) else CPU if isinstance(x, torch.device) else x for x in given]
    args_near, kwargs_near = tree_unflatten(plain, shape)
    out = function(*args_near, **kwargs_near)
    if name == "_local_scalar_dense" or (name == "copy_" and not isinstance(args[0], Pretend)):
        return args[0] if name == "copy_" else out
    leaves = bool(devices) and all(device.type != NAME for device in devices)
    same = {id(x.near): x for x in ours}

    def ours_again(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if leaves:
            return x.clone() if id(x) in same else x
        return same[id(x)] if id(x) in same else Pretend(x)

    return tree_map(ours_again, out)


def _refuse(name: str, given: Sequence[Any], ours: list[Pretend]) -> None:
    """What a GPU would: only single numbers may come from elsewhere, and what indexes its tensors."""
    smallest = 0 if name in WHOLE else 1
    others = [x for x in given if isinstance(x, Tensor) and not isinstance(x, Pretend) and x.dim() >= smallest]
    if ours and others and name not in COPIES:
        raise RuntimeError(f"{REFUSED}: {name} of {[*map(_size, ours)]} on {NAME} and {[*map(_size, others)]} on cpu")
    if ours and any(isinstance(x, torch.Generator) for x in given):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")


def _size(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _factories() -> Iterator[tuple[str, Any]]:
    """Operations that make a tensor of none."""
    for full in torch._C._dispatch_get_all_op_names():
        name, _, overload = full.removeprefix("aten::").partition(".")
        if not full.startswith("aten::") or any(part in full for part in NEVER):
            continue
        try:
            function = getattr(getattr(torch.ops.aten, name), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        arguments, returns = function._schema.arguments, function._schema.returns
        if any("Tensor" in str(a.type) for a in arguments) or len(returns) != 1 or "Tensor" not in str(returns[0].type):
            continue
        if any(a.name == "device" for a in arguments):
            yield full.removeprefix("aten::"), function


def _made_there(function: Any) -> Callable[..., Tensor]:
    def make(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
        kwargs.pop("pin_memory", None)
        return Pretend(function(*args, **{**kwargs, "device": CPU}))

    return make


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    near, into = (x.near if isinstance(x, Pretend) else x for x in (source, to))
    into.copy_(near)
    return to


def _autocast(function: Any, wide: bool) -> Callable[..., Any]:
    """An operation that casts its tensors first."""
    ours = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.float32 if wide else torch.get_autocast_dtype(NAME)

        def fitting(x: Any) -> Any:
            return x.to(dtype) if isinstance(x, Pretend) and x.is_floating_point() else x

        with torch._C._ExcludeDispatchKeyGuard(ours):
            return function(*tree_map(fitting, args), **tree_map(fitting, kwargs))

    return cast


_libraries: list[torch.library.Library] = []


def plug_in() -> None:
    """Let torch know the device, for as long as this process lives."""
    if _libraries:
        return
    module = types.ModuleType(f"torch.{NAME}")
    answers = {"is_available": True, "is_initialized": True, "_is_in_bad_fork": False, "device_count": 1}
    answers |= {"current_device": 0, "get_rng_state": torch.zeros(1, dtype=torch.uint8)}
    answers |= {"get_amp_supported_dtype": [torch.float16, torch.bfloat16]}
    for name, answer in answers.items():
        setattr(module, name, lambda *_, answer=answer: answer)
    for name in ("manual_seed", "manual_seed_all", "set_device", "set_rng_state", "synchronize"):
        setattr(module, name, lambda *_: None)
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module)
    library = torch.library.Library("aten", "IMPL")
    for name, function in _factories():
        library.impl(name, _made_there(function), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    for name in (*NARROW, *WIDE):
        plain, _, overload = name.partition(".")
        function = getattr(getattr(torch.ops.aten, plain), overload or "default")
        library.impl(name, _autocast(function, name in WIDE), "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _libraries.extend([library, others])
    # A network that moves keeps its parameters, as between a CPU and a GPU.
    torch.__future__.set_swap_module_params_on_conversion(True)
