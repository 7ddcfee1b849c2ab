"""LoRA files of kohya's scripts: `lora_unet_...`, `lora_te_...`, and an alpha tensor beside every layer.

Those for Stable Diffusion XL call its text encoders `lora_te1_...` and `lora_te2_...`, and the layers of its U-Net as
they were first called (`lora_unet_input_blocks_4_1_...`). Either naming of the U-Net is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from semblant.errors import FileProblem
from semblant.training.inspection import LORAS
from semblant.training.interchange import places
from semblant.training.interchange.layers import (
    Half,
    Layer,
    Side,
    alphas_of_ranks,
    joined,
    listed,
    require_known,
    usual,
)

FORM = "kohya"
UNDERSTOOD = ("ss_network_module", "ss_network_dim", "ss_network_alpha")
"""Metadata entries that say again what the tensors say."""
MADE_FOR, XL_BASE = "ss_base_model_version", "sdxl_base_v1-0"
"""The entry that says what a file is for, and what it says for XL, where we write it."""


def read(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: str) -> tuple[dict[str, Layer], list[str]]:
    """Layers by place, and what to say of them.

    Raises FileProblem for unknown tensors, halves of layers, and alphas that some layers lack.
    """
    halves: list[Half] = []
    given: dict[str, float] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        found = LORAS["kohya"].match(key)
        place = _place(key)
        if place is None or not (found or key.endswith(".alpha")):
            unknown.append(key)
        elif found:
            halves.append(Half(key, place, cast(Side, found[2]), tensor))
        else:
            given[place] = _alpha(key, tensor, file)
    require_known(unknown, FORM, file)
    pairs = joined(halves, file)
    if alone := sorted(given.keys() - pairs.keys()):
        name = next(key.removesuffix(".alpha") for key in tensors if _place(key) == alone[0])
        raise FileProblem(f"{file} lacks {name}.lora_down.weight and its other half, although {name}.alpha is there")
    lacking = sorted(
        f"{half.key.partition('.')[0]}.alpha" for half in halves if half.side == "down" and half.place not in given
    )
    if given and lacking:
        raise FileProblem(f"{file} lacks {listed(lacking)}, while other layers say their alpha")
    said = [f"{file} says no alpha; as usual then, every change counts once (alpha is the rank)"] if lacking else []
    alphas = given or alphas_of_ranks(pairs)
    return {place: Layer(up, down, alphas[place]) for place, (up, down) in pairs.items()}, said


def _place(key: str) -> str | None:
    found = LORAS["kohya"].match(key)
    return places.of_kohya(found[1] if found else key.removesuffix(".alpha"))


def write(layers: Mapping[str, Layer], xl: bool = False) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Tensors, metadata, and what to say of them.

    One alpha goes for all layers, and what differs into `up`: diffusers reads several alphas of one file wrongly. For
    XL (`xl`) layers have the names that are usual there.
    """
    alpha = usual(layer.alpha for layer in layers.values())
    ranks = {layer.rank for layer in layers.values()}
    tensors: dict[str, Tensor] = {}
    folded = 0
    for place, layer in layers.items():
        name, uniform = places.to_kohya(place, xl), layer.with_alpha(alpha)
        folded += uniform.up is not layer.up
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        tensors[f"{name}.lora_down.weight"] = uniform.down
        tensors[f"{name}.lora_up.weight"] = uniform.up
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    metadata = dict(zip(UNDERSTOOD, ("networks.lora", rank, str(alpha)), strict=True))
    metadata |= {MADE_FOR: XL_BASE} if xl else {}
    said = f"{folded} of {len(layers)} layers had another alpha than {alpha:g}, which went into their `up` matrix"
    return tensors, metadata, [said] if folded else []


def _alpha(key: str, tensor: Tensor, file: str) -> float:
    if tensor.numel() != 1 or not bool(tensor.float().isfinite().all()):
        raise FileProblem(f"{file} has {key} {list(tensor.shape)}, and an alpha is one finite number")
    return float(tensor)
