"""A network that shares another's weights, but has hooks and replaced weights of its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from semblant.errors import SemblantError

Hook = Callable[[nn.Module, Any, Any], Any]
"""A forward hook, `hook(module, inputs, output)`; what it returns replaces the output unless it is None."""
Value = TypeVar("Value")
COMPUTES = (torch.float32, torch.bfloat16, torch.float16)
"""Types that networks can run in."""
SPARING = "gradient_checkpointing"
"""The mark by which diffusers' blocks tell whether they keep only what goes into them."""


def computable(held: torch.dtype) -> tuple[torch.dtype, ...]:
    """The types that a network whose weights are held in one can run in: of two halves only its own."""
    return tuple(dtype for dtype in COMPUTES if dtype == torch.float32 or held in (torch.float32, dtype))


def twin(network: nn.Module, weights: Mapping[str, Tensor], hooks: Mapping[str, Sequence[Hook]]) -> nn.Module:
    """A twin of `network` in which the named parameters are `weights` and the named modules carry forward `hooks`.

    Only modules on the way to a change are copied, none of their weights. The network itself is left alone, so that
    other threads may run it meanwhile, and the twin stays what it is until gradient checkpointing ran it again.
    Raises KeyError for a name that the network lacks, SemblantError where something replaced a module's forward method.
    """
    if "forward" in vars(network):
        # It is bound to the network, so the twin would run that and silently ignore its own changes.
        raise SemblantError(
            f"the forward method of {type(network).__name__} was replaced (by CPU offloading, perhaps), which patches "
            "cannot follow. Undo it first; for a pipeline, call pipeline.remove_all_hooks()."
        )
    made = copy.copy(network)
    made._parameters = dict(network._parameters)
    made._modules = dict(network._modules)
    made._forward_hooks = OrderedDict(network._forward_hooks)
    for name, weight in weights.items():
        if "." not in name:
            # A plain assignment would refuse a tensor that is no Parameter.
            made._parameters[name] = _replaced(network._parameters, name, weight)
    for hook in hooks.get("", ()):
        made.register_forward_hook(hook)
    inner_weights = _by_child({name: weight for name, weight in weights.items() if "." in name})
    inner_hooks = _by_child({name: found for name, found in hooks.items() if name})
    for child in inner_weights.keys() | inner_hooks.keys():
        module = network._modules[child]
        assert module is not None
        made._modules[child] = twin(module, inner_weights.get(child, {}), inner_hooks.get(child, {}))
    return made


def narrowed(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A twin of `network` that holds what linear layers and convolutions learned in `dtype`, the type they run in under
    autocast, to the same result. Raises SemblantError as `twin` does."""
    layers = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    held = {f"{name}.{own}": w.to(dtype) for name, m in layers for own, w in m.named_parameters(recurse=False)}
    return twin(network, held, {})


def standing(network: nn.Module) -> Hashable:
    """What changes when layers of a network or their weights do: a LoRA put in or fused, a move to another device. It
    is not noticed behind torch's back, through `weight.data` in place."""
    counted = ((w.data_ptr(), 0 if w.is_inference() else w._version) for w in network.parameters())
    return sum(1 for _ in network.modules()), tuple(counted)


class Casts:
    """Narrow twins of networks by name, made when first asked for and again when their network has changed. One that
    something else runs in its own way (CPU offloading) is left as it is."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Hashable, nn.Module]] = {}

    def of(self, name: str, network: nn.Module, dtype: torch.dtype) -> nn.Module:
        """The network in `dtype`."""
        state = standing(network)
        if name not in self._made or self._made[name][0] != state:
            try:
                self._made[name] = state, narrowed(network, dtype)
            except SemblantError:
                self._made[name] = state, network
        return self._made[name][1]

    def without(self, name: str) -> Casts:
        """The others, for a view in which this network is another."""
        rest = Casts()
        rest._made = {other: made for other, made in self._made.items() if other != name}
        return rest


def sparing(network: nn.Module) -> nn.Module:
    """A twin of `network` that needs less memory and more time to be differentiated, for the same result.

    Blocks that can keep only what goes into them do so, and run once more for their gradients (Chen et al. 2016, arXiv
    1604.06174). Raises SemblantError as `twin` does.
    """
    made = twin(network, {}, {})
    for name, child in network._modules.items():
        if child is not None and any(hasattr(module, SPARING) for module in child.modules()):
            made._modules[name] = sparing(child)
    if hasattr(network, SPARING):
        setattr(made, SPARING, True)
        made._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
    return made


def uncompiled(network: Any) -> Any:
    """The network that `torch.compile` was given, whose modules have their own names; any other as it is."""
    return getattr(network, "_orig_mod", network)


def _by_child(named: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """{"a.b.c": value} to {"a": {"b.c": value}}; what belongs to the child itself is named ""."""
    grouped: dict[str, dict[str, Value]] = {}
    for name, value in named.items():
        child, _, rest = name.partition(".")
        grouped.setdefault(child, {})[rest] = value
    return grouped


def _replaced(parameters: Mapping[str, Any], name: str, weight: Tensor) -> Any:
    if name not in parameters:
        raise KeyError(f"no parameter {name!r}; there are {', '.join(parameters)}")
    return weight
