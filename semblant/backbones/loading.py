"""Making a Base from its name: the embedded base, a folder, a name on the hub, a single file; or from a pipeline."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from semblant.backbones import hub, original, parts
from semblant.backbones.base import Base
from semblant.backbones.folder import from_folder, schedule_of
from semblant.backbones.header import PICKLED
from semblant.backbones.miniature import miniature, miniature_xl, text_config
from semblant.backbones.offload import require_own_memory
from semblant.backbones.twin import COMPUTES
from semblant.errors import FileProblem, SemblantError

EMBEDDED = "embedded"
POSSIBLE = (
    "`embedded`, a folder in diffusers' layout (unet, vae, text_encoder, ...), owner/name on the Hugging Face hub, "
    "or a .safetensors file"
)


def load(
    source: str | Path = EMBEDDED,
    device: str | torch.device = "cpu",
    *,
    offline: bool = False,
    config: str | Path | None = None,
    weights: torch.dtype = torch.float32,
    offload: bool = False,
) -> Base:
    """Load a base by its name.

    `source` is "embedded"; a folder in diffusers' layout with safetensors weights; `owner/name` or
    `owner/name@revision` on the hub, which with `offline` has to be in the local cache; or a .safetensors file in the
    original layout, which needs in `config` a folder, or a name on the hub, that holds the tokenizer and the schedule.
    `weights` is float32, or bfloat16 or float16, in which they take half the memory and lose their last digits. With
    `offload` text encoders, U-Net and autoencoder wait in ordinary memory and come to the device while they are needed.
    Raises FileProblem when there is no such base, or it cannot be read, SemblantError for a device that is not there,
    or has no memory of its own with `offload`, and for another type.
    """
    path, device = Path(source).expanduser(), device_of(device)
    if offload:
        require_own_memory(device)
        return load(source, offline=offline, config=config, weights=weights).offloaded(device)
    if weights not in COMPUTES:
        raise SemblantError(f"{weights} is not a type to hold weights in; possible: {', '.join(map(str, COMPUTES))}")
    if str(source) != EMBEDDED and path.is_file():
        return _single(path, device, offline, config, weights)
    if config is not None:
        raise FileProblem(f"--config goes with a single .safetensors file, and {source} is none; leave it out")
    if str(source) == EMBEDDED:
        return from_folder(embedded_folder(), device, EMBEDDED, weights)
    if path.is_dir():
        return from_folder(path, device, weights=weights)
    if hub.is_name(str(source)) and path.suffix not in (*PICKLED, ".safetensors"):
        return from_folder(hub.snapshot(str(source), offline), device, str(source), weights)
    raise FileProblem(f"no base at {source}: give {POSSIBLE}")


KINDS = ("cpu", "cuda", "mps")


def device_of(name: str | torch.device) -> torch.device:
    """The device of a name such as cpu, cuda, cuda:1, mps. Raises SemblantError for what is none, or not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SemblantError(
            f"no device {str(name)!r}; possible: {', '.join(KINDS)}, or cuda:1 for the second"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SemblantError(
            f"torch sees {torch.cuda.device_count() or 'no'} GPU of NVIDIA, so there is no {name}: install a torch "
            "that suits your driver (`semblant doctor` says what it sees), or compute on the cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SemblantError("torch sees no GPU of Apple, so there is no mps; compute on the cpu")
    return device


def embedded_folder() -> Path:
    """Where the embedded base lies inside the package. Raises FileProblem when it was never trained."""
    folder = Path(str(resources.files("semblant"))) / "embedded" / "weights" / "base"
    if not (folder / "unet").is_dir():
        raise FileProblem("this copy of semblant has no embedded base; `make embedded` trains one")
    return folder


def embedded_card() -> dict[str, Any]:
    """What was measured about the embedded base when it was shipped; empty when there is no card."""
    card = embedded_folder().parent / "card.json"
    return dict(json.loads(card.read_text())) if card.is_file() else {}


def from_pipeline(pipeline: Any, name: str = "pipeline") -> Base:
    """A base that shares the modules of a diffusers Stable Diffusion pipeline, XL's too."""
    lacking = [p for p in parts.PARTS if getattr(pipeline, p, None) is None]
    if lacking:
        raise SemblantError(
            f"the pipeline lacks {', '.join(lacking)}; a Stable Diffusion 1.x, 2.x or XL pipeline has them all"
        )
    for part, network in (("unet", pipeline.unet), ("vae", pipeline.vae)):
        for key, value in parts.unfollowed(network.config).items():
            raise SemblantError(f"the {part} of the pipeline has {key} = {value!r}, which is not followed here")
    config = dict(pipeline.scheduler.config)
    second = getattr(pipeline, "text_encoder_2", None)
    return Base(
        unet=pipeline.unet,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        autoencoder=pipeline.vae,
        schedule=schedule_of(config),
        prediction=config.get("prediction_type", "epsilon"),
        name=name,
        text_encoder_2=second,
        tokenizer_2=getattr(pipeline, "tokenizer_2", None),
        zeros_for_empty=second is not None and bool(pipeline.config.get(parts.ZEROS, True)),
    )


def _single(
    path: Path, device: str | torch.device, offline: bool, config: str | Path | None, weights: torch.dtype
) -> Base:
    """A base from one file, with a tokenizer from the folder or hub name in `config`."""
    header = original.require(path)
    if config is None:
        raise FileProblem(
            f"{path} holds weights but no tokenizer: add --config FOLDER, a folder in diffusers' layout with tokenizer "
            "and scheduler (weights are not needed there), or --config OWNER/NAME of such a base on the hub"
        )
    folder = Path(config).expanduser()
    if not folder.is_dir():
        if not hub.is_name(str(config)):
            raise FileProblem(f"no folder at {config}: --config takes a folder in diffusers' layout, or owner/name")
        folder = hub.snapshot(str(config), offline, weights=False)
    return original.from_file(path, header, folder, device, weights)


__all__ = [
    "EMBEDDED",
    "embedded_card",
    "embedded_folder",
    "from_folder",
    "from_pipeline",
    "load",
    "miniature",
    "miniature_xl",
    "schedule_of",
    "text_config",
]
