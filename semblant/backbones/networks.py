"""U-Nets and autoencoders filled from safetensors files: weights lie in memory once, each in a place of its own.

What the loaders of the libraries return is mapped from the file: at odd addresses, where some kernels round otherwise,
and held in memory a second time as soon as it is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What the attention of autoencoders was called in older releases of diffusers."""


def read_weights(files: Sequence[Path], prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of files whose names begin so, in `dtype`; names stay whole."""
    found = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        for name in names:
            # What was mapped goes when the file is closed.
            with safe_open(path, framework="pt") as file:
                found[name] = file.get_tensor(name).to(dtype, copy=True)
    return found


def blank(kind: Any, config: Mapping[str, Any]) -> nn.Module:
    """A network of one of diffusers' classes without weights. What it raises for settings that make no sense is as its
    class would have it."""
    with torch.device("meta"):
        network: nn.Module = kind.from_config(dict(config))
    return network


def filled(part: str, network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A blank network, which now holds these very tensors; what it has no place for is left out.

    Raises ValueError, naming `part` and some of them, when weights lack or have other shapes.
    """
    places = network.state_dict()
    named = {_renamed(name, places): weight for name, weight in weights.items()}
    wrong = sorted(name for name, place in places.items() if name not in named or named[name].shape != place.shape)
    if wrong:
        some = ", ".join(wrong[:3])
        raise ValueError(f"{part} lacks {len(wrong)} weights, or has them in another shape, such as {some}")
    network.load_state_dict({name: named[name] for name in places}, assign=True)
    return network


def _renamed(name: str, places: Mapping[str, Tensor]) -> str:
    """The present name of a weight."""
    if name in places:
        return name
    layer, _, rest = name.rpartition(".")
    block, _, old = layer.rpartition(".")
    return f"{block}.{OLDER.get(old, old)}.{rest}"
