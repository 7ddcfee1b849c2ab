"""Folders of PEFT: `adapter_config.json` and `adapter_model.safetensors`, one pair for each network that is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from semblant.backbones.header import reason
from semblant.backbones.spelling import text_roots
from semblant.errors import FileProblem
from semblant.training.files import read_tensors
from semblant.training.inspection import LORAS
from semblant.training.interchange import lora_config, places
from semblant.training.interchange.layers import Half, Layer, Side, joined, require_known

FORM = "peft"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FOLDERS: dict[places.Network, str] = {"unet": "unet", "text": "text_encoder", "text_2": "text_encoder_2"}
"""Where the pairs lie when several networks are changed; one alone lies in the folder itself. The second text encoder
of XL always has its own, since its layers are called as the first one's are."""
_ROOT = "base_model.model."
_SIDES: dict[str, Side] = {"A": "down", "B": "up"}
_PLAIN = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "bias": "none",
    "lora_dropout": 0.0,
    "use_rslora": False,
}
"""The part of a configuration that is the same for all."""


def pairs_in(folder: Path) -> list[Path]:
    """The folders with a configuration: the folder itself, or those of the networks in it.

    Raises FileProblem when there is none, and when there are both, which would leave open what counts.
    """
    inner = [folder / name for name in FOLDERS.values() if (folder / name / CONFIG).is_file()]
    own = (folder / CONFIG).is_file()
    if own and inner:
        raise FileProblem(f"{folder} holds {CONFIG} and {inner[0].name}/{CONFIG} as well; give the folder of one")
    if not own and not inner:
        raise FileProblem(f"{folder} is no folder of PEFT, for it has no {CONFIG}; give such a folder, or a file")
    return [folder] if own else inner


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Configuration, tensors and metadata of one pair. Raises FileProblem for what is missing, damaged or pickled."""
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").exists():
        raise FileProblem(f"{folder} holds its LoRA as a pickle, adapter_model.bin, which is not read; get {WEIGHTS}")
    tensors, metadata = read_tensors(folder / WEIGHTS)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as problem:
        raise FileProblem(f"{folder / CONFIG} cannot be read: {reason(problem)}") from problem
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise FileProblem(f"{folder / CONFIG} is damaged: it holds no JSON object")
    return config, tensors, metadata


def read(tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: str) -> dict[str, Layer]:
    """Layers by place, of one pair.

    Raises FileProblem for unknown tensors, halves of layers, and entries of the configuration that would change the
    result and are not known.
    """
    text: places.Network = "text_2" if Path(file).name == FOLDERS["text_2"] else "text"
    halves: list[Half] = []
    unknown: list[str] = []
    for key, tensor in tensors.items():
        found = LORAS["PEFT"].match(key)
        name = found[1] if found else ""
        place = places.place_of("unet", name) or places.place_of(text, name)
        if found is None or place is None:
            unknown.append(key)
        else:
            halves.append(Half(key, place, _SIDES[found[2]], tensor))
    require_known(unknown, "PEFT", file)
    pairs = joined(halves, file)
    alphas = lora_config.read(config, {place: int(down.shape[0]) for place, (_, down) in pairs.items()}, file)
    return {place: Layer(up, down, alphas[place]) for place, (up, down) in pairs.items()}


def write(layers: Mapping[str, Layer]) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    """Tensors and configuration of every pair, by the name of its folder inside the whole; "" for the whole itself.

    The text encoders' names are those of the installed transformers, because PEFT compares them letter by letter.
    """
    own = {network: some for network in FOLDERS if (some := _of(layers, network))}
    apart = len(own) > 1 or "text_2" in own
    return {
        FOLDERS[network] if apart else "": (_tensors(some), {**_PLAIN, **lora_config.write(some)})
        for network, some in own.items()
    }


def _of(layers: Mapping[str, Layer], network: str) -> dict[str, Layer]:
    return {place: layer for place, layer in layers.items() if place.startswith(f"{network}.")}


def _tensors(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    roots = text_roots()
    for place, layer in layers.items():
        network, _, name = place.partition(".")
        root = _ROOT + roots.get(network, "")
        tensors |= {f"{root}{name}.lora_A.weight": layer.down, f"{root}{name}.lora_B.weight": layer.up}
    return tensors
