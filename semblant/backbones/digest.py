"""Hashes of networks: what a concept remembers of the weights it was made on."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_KNOWN: WeakKeyDictionary[nn.Module, tuple[Hashable, str]] = WeakKeyDictionary()
"""The last hash of a network, and what its weights were then."""


def digest(module: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over all weights, names included.

    It is computed once and again after weights were changed in place, which torch counts; not where that happened
    behind its back, through `weight.data` or an array that shares the memory.
    """
    weights = module.state_dict()
    counted = not any(weight.is_inference() for weight in weights.values())
    state = tuple((name, w.data_ptr(), w._version) for name, w in sorted(weights.items())) if counted else None
    known = _KNOWN.get(module)
    if state is not None and known is not None and known[0] == state:
        return known[1]
    found = digest_of(weights)
    if state is not None:
        _KNOWN[module] = state, found
    return found


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """The same of weights by name, computed in any case."""
    total = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        total.update(name.encode())
        flat = weight.detach().cpu().reshape(-1)
        # Not every tensor of one dimension lies without gaps.
        flat = flat if flat.numel() < 2 or flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
