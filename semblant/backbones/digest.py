"""Hashes of networks: what a concept remembers of the weights it was made on."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import nn

_KNOWN: WeakKeyDictionary[nn.Module, tuple[Hashable, str]] = WeakKeyDictionary()
"""The last hash of a network, and what its weights were then."""


def digest(module: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over all weights, names included.

    It is computed once and again after weights were changed in place, which torch counts; not where that happened
    behind its back, through `weight.data` or an array that shares the memory.
    """
    weights = sorted(module.state_dict().items())
    counted = not any(weight.is_inference() for _, weight in weights)
    state = tuple((name, w.data_ptr(), w._version) for name, w in weights) if counted else None
    known = _KNOWN.get(module)
    if state is not None and known is not None and known[0] == state:
        return known[1]
    total = hashlib.sha256()
    for name, weight in weights:
        total.update(name.encode())
        total.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    found = total.hexdigest()[:16]
    if state is not None:
        _KNOWN[module] = state, found
    return found
