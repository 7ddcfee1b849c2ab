"""LoRA files of diffusers: `unet.`, `text_encoder.`, `text_encoder_2.` before layers' names, alpha in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from semblant.errors import FileProblem
from semblant.training.inspection import LORAS
from semblant.training.interchange import lora_config, places
from semblant.training.interchange.layers import Half, Layer, Side, alphas_of_ranks, joined, listed, require_known, same
from semblant.training.interchange.places import Network

FORM = "diffusers"
CONFIG = "lora_adapter_metadata"
"""The metadata entry with PEFT's account of the layers, `unet.r`, `text_encoder.lora_alpha` and so on."""
PREFIXES: dict[Network, str] = {"unet": "unet.", "text": "text_encoder.", "text_2": "text_encoder_2."}
ENDINGS: dict[Network, str] = {"unet": ".lora", "text": ".lora_linear_layer", "text_2": ".lora_linear_layer"}
"""What stands between a layer's name and `.up.weight` or `.down.weight`, as diffusers' training scripts write it."""
_SIDES = {"A": "down", "B": "up"}
_EARLIER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""How early files call the layers of text encoders, by names of the U-Net's."""


def read(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: str) -> tuple[dict[str, Layer], list[str]]:
    """Layers by place, and what to say of them. Early namings, with `processor` or without `unet.`, are read too.

    Raises FileProblem for unknown tensors, halves of layers, and metadata that is not understood.
    """
    halves: list[Half] = []
    unknown: list[str] = []
    for key, tensor in tensors.items():
        found = LORAS["diffusers"].match(key)
        place = _place(found[1]) if found else None
        if found is None or place is None:
            unknown.append(key)
        else:
            side = _SIDES.get(found[2], found[3])
            halves.append(Half(key, place, cast(Side, side), tensor))
    require_known(unknown, FORM, file)
    pairs = joined(halves, file)
    alphas = _alphas(metadata, pairs, file)
    return {place: Layer(up, down, alphas[place]) for place, (up, down) in pairs.items()}, []


def write(layers: Mapping[str, Layer], xl: bool = False) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Tensors, metadata, and what to say of them. Files for XL (`xl`) are of the same form."""
    tensors: dict[str, Tensor] = {}
    account: dict[str, Any] = {}
    for network, prefix in PREFIXES.items():
        own = {place: layer for place, layer in layers.items() if place.startswith(f"{network}.")}
        if not own:
            continue
        account |= {f"{prefix}{key}": value for key, value in lora_config.write(own).items()}
        root = prefix + ("" if network == "unet" else places.TEXT_MODEL)
        for place, layer in own.items():
            name = root + place.partition(".")[2] + ENDINGS[network]
            tensors |= {f"{name}.down.weight": layer.down, f"{name}.up.weight": layer.up}
    said = []
    if not all(same(layer.scale, 1.0) for layer in layers.values()):
        said = ["alpha is in the metadata, where diffusers looks; a program that does not will take it for the rank"]
    return tensors, {CONFIG: json.dumps(account, sort_keys=True)}, said


def _place(name: str) -> str | None:
    network: Network = next((own for own, prefix in PREFIXES.items() if name.startswith(prefix)), "unet")
    plain = name.removeprefix(PREFIXES[network]).replace(".processor.", ".")
    before, _, last = plain.rpartition(".")
    if network != "unet" and before.endswith("self_attn"):
        plain = f"{before}.{_EARLIER.get(last, last)}"
    elif last == "to_out":
        plain = f"{before}.to_out.0"
    return places.place_of(network, plain)


def _alphas(metadata: Mapping[str, str], pairs: Mapping[str, tuple[Tensor, Tensor]], file: str) -> dict[str, float]:
    """Alpha by place, as the metadata says or, where it says nothing, the rank."""
    if CONFIG not in metadata:
        return alphas_of_ranks(pairs)
    try:
        account = json.loads(metadata[CONFIG])
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, dict):
        raise FileProblem(f"{file} is damaged: {CONFIG} in its metadata is no JSON object")
    if strange := sorted(key for key in account if not key.startswith(tuple(PREFIXES.values()))):
        known = ", ".join(prefix.rstrip(".") for prefix in PREFIXES.values())
        raise FileProblem(f"{file} has {listed(strange)} in {CONFIG}, which belongs to none of {known}")
    alphas: dict[str, float] = {}
    for network, prefix in PREFIXES.items():
        ranks = {place: down.shape[0] for place, (_, down) in pairs.items() if place.startswith(f"{network}.")}
        own = {key.removeprefix(prefix): value for key, value in account.items() if key.startswith(prefix)}
        if ranks:
            alphas |= lora_config.read(own, ranks, file)
    return alphas
