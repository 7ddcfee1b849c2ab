"""U-Nets and autoencoders filled from safetensors files: weights lie in memory once, each in a place of its own.

What the loaders of the libraries return is mapped from the file: at odd addresses, where some kernels round otherwise,
and held in memory a second time as soon as it is copied.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What the attention of autoencoders was called in older releases of diffusers."""


def read_weights(
    files: Sequence[Path],
    prefix: str = "",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> dict[str, Tensor]:
    """The tensors of files whose names begin so, in `dtype`, those of convolutions in a `layout`; names stay whole."""
    return dict(each_weight(files, prefix, dtype, layout))


def each_weight(
    files: Sequence[Path], prefix: str, dtype: torch.dtype, layout: torch.memory_format
) -> Iterator[tuple[str, Tensor]]:
    """The same, one after the other."""
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        for name in names:
            # What was mapped goes when the file is closed.
            with safe_open(path, framework="pt") as file:
                read = file.get_tensor(name)
                own = layout if read.ndim == 4 else torch.contiguous_format
                copied = read.to(dtype, copy=True, memory_format=own)
                del read
            yield name, copied


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
    named = {renamed(name, places): weight for name, weight in weights.items()}
    wrong = sorted(name for name, place in places.items() if name not in named or named[name].shape != place.shape)
    if wrong:
        some = ", ".join(wrong[:3])
        raise ValueError(f"{part} lacks {len(wrong)} weights, or has them in another shape, such as {some}")
    network.load_state_dict({name: named[name] for name in places}, assign=True)
    return network


def layout_on(device: str | torch.device) -> torch.memory_format:
    """How the weights of an autoencoder lie best: on a CPU with its channels side by side, since convolutions then need
    not lay their many pixels out anew. The embedded one takes a fifth less time for it."""
    return torch.channels_last if torch.device(device).type == "cpu" else torch.contiguous_format


def renamed(name: str, places: Container[str]) -> str:
    """The present name of a weight that older releases of diffusers may have named."""
    if name in places:
        return name
    layer, _, rest = name.rpartition(".")
    block, _, old = layer.rpartition(".")
    return f"{block}.{OLDER.get(old, old)}.{rest}"
