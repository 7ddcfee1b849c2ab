"""A base in one .safetensors file, in the layout that Stable Diffusion 1.x and 2.x were first published in.

The file's own shapes say how large its networks are; what shapes cannot say (heads, activation, the text layer that is
read) follows from which text encoder lies in it: CLIP in 1.x (arXiv 2112.10752, appendix E), OpenCLIP in 2.x, whose
last layer but one is read. Names of weights are translated by diffusers' own converters. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from semblant.backbones.base import Base, architecture_of
from semblant.backbones.folder import NO_XL, examine, schedule_of
from semblant.backbones.header import Header, read_header
from semblant.errors import FileProblem

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP, XL = "cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders."
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""The noise schedule of Stable Diffusion 1.x and 2.x."""
SIDES = {"epsilon": 64, "v_prediction": 96}
"""Side of the latents that a base was trained on; of 2.x those that predict v are the larger ones (768 pixels)."""


def require(path: Path) -> Header:
    """The header of a whole checkpoint. Raises FileProblem for pickles, SDXL, and files that are something else."""
    header = read_header(path)
    if any(name.startswith(XL) for name in header.shapes):
        raise FileProblem(f"{path} {NO_XL}")
    if not is_checkpoint(header):
        raise FileProblem(
            f"{path} is not a whole Stable Diffusion 1.x or 2.x checkpoint (U-Net, autoencoder and text encoder in one "
            f"file); `semblant inspect {path.name}` says what it is"
        )
    if f"{UNET}label_emb.weight" in header.shapes or f"{UNET}label_emb.0.0.weight" in header.shapes:
        raise FileProblem(f"{path} has a U-Net that takes more than a prompt (label_emb); use a plain base")
    return header


def is_checkpoint(header: Header) -> bool:
    """Whether a file holds U-Net, autoencoder and text encoder in the original layout."""
    return all(any(name.startswith(p) for name in header.shapes) for p in (UNET, AUTOENCODER, (CLIP, OPEN_CLIP)))


def facts(header: Header) -> dict[str, Any]:
    """Architecture and channels beside the latent. Raises FileProblem when shapes make no sense."""
    unet, vae = unet_config(header.shapes), autoencoder_config(header.shapes)
    extra = unet["in_channels"] - vae["latent_channels"]
    return {"architecture": architecture_of(unet["cross_attention_dim"], extra), "extra_channels": extra}


def from_file(path: Path, header: Header, companion: Path, device: str | torch.device = "cpu") -> Base:
    """A base from a whole checkpoint and a `companion`: a folder in diffusers' layout with tokenizer and scheduler.

    Weights become float32. Of U-Nets that were also averaged (EMA) the plain weights are taken. Raises FileProblem when
    the file or the companion cannot be used.
    """
    shapes = header.shapes
    open_clip = any(name.startswith(OPEN_CLIP) for name in shapes)
    schedule = _schedule(path, companion, open_clip)
    prediction = schedule.get("prediction_type", "epsilon")
    try:
        unet_sizes, vae_sizes = unet_config(shapes), autoencoder_config(shapes)
        text_sizes = (open_clip_config if open_clip else clip_config)(shapes)
        unet_sizes["sample_size"] = SIDES.get(prediction, SIDES["epsilon"])
        tokenizer = CLIPTokenizer.from_pretrained(companion / "tokenizer", local_files_only=True)
        text_config = CLIPTextConfig(
            **text_sizes,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        # Random weights are made, and replaced at once; nobody else's randomness may move by that.
        with torch.random.fork_rng():
            unet, text = UNet2DConditionModel(**unet_sizes), CLIPTextModel(text_config)
            autoencoder = AutoencoderKL(**vae_sizes)
        _fill(unet, convert_ldm_unet_checkpoint(_read(path, UNET), unet_sizes))
        _fill(autoencoder, convert_ldm_vae_checkpoint(_read(path, AUTOENCODER), vae_sizes))
        words = _read(path, OPEN_CLIP if open_clip else CLIP)
        _fill(text, convert_open_clip_checkpoint(text, words) if open_clip else convert_ldm_clip_checkpoint(words))
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, AttributeError, SafetensorError) as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise FileProblem(f"{path} cannot be loaded as a base: {said}") from problem
    if len(tokenizer) > text_sizes["vocab_size"]:
        raise FileProblem(
            f"the tokenizer in {companion} knows {len(tokenizer)} tokens and {path} {text_sizes['vocab_size']}; "
            "give the --config of a base of the same kind"
        )
    base = Base(
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        autoencoder=autoencoder,
        schedule=schedule_of(schedule),
        prediction=prediction,
        name=path.stem,
    )
    for part in (unet, text, autoencoder):
        part.to(device)
    return base


def unet_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes of the U-Net, as diffusers spells them. Raises KeyError or IndexError where tensors lack.

    In 1.x every attention layer has eight heads and projects by convolutions; in 2.x heads are 64 wide and projections
    linear.
    """
    inner = {name.removeprefix(UNET): shape for name, shape in shapes.items() if name.startswith(UNET)}
    levels: list[list[int]] = [[]]
    for i in range(1, _count(inner, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in inner:
            levels.append([])
        else:
            levels[-1].append(i)
    channels = tuple(inner[f"input_blocks.{level[-1]}.0.out_layers.3.weight"][0] for level in levels)
    attends = [f"input_blocks.{level[0]}.1.norm.weight" in inner for level in levels]
    linear = len(inner["middle_block.1.proj_in.weight"]) == 2
    return {
        "in_channels": inner["input_blocks.0.0.weight"][1],
        "out_channels": inner["out.2.weight"][0],
        "layers_per_block": len(levels[0]),
        "block_out_channels": channels,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "cross_attention_dim": inner["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": tuple(max(1, c // 64) for c in channels) if linear else 8,
        "use_linear_projection": linear,
    }


def autoencoder_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes of the autoencoder, as diffusers spells them. Raises KeyError where tensors lack."""
    inner = {name.removeprefix(AUTOENCODER): shape for name, shape in shapes.items() if name.startswith(AUTOENCODER)}
    levels = _count(inner, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": inner["encoder.conv_in.weight"][1],
        "out_channels": inner["decoder.conv_out.weight"][0],
        "latent_channels": inner["post_quant_conv.weight"][0],
        "block_out_channels": tuple(inner[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)),
        "layers_per_block": _count(inner, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }


def clip_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes of the CLIP text encoder of 1.x; some files write its names without `text_model`."""
    inner = {name.removeprefix(CLIP).removeprefix("text_model."): s for name, s in shapes.items()}
    table = inner["embeddings.token_embedding.weight"]
    return {
        **_text_sizes(table, inner["embeddings.position_embedding.weight"]),
        "intermediate_size": inner["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": _count(inner, r"encoder\.layers\.(\d+)\."),
        "hidden_act": "quick_gelu",
    }


def open_clip_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes of the OpenCLIP text encoder of 2.x, without its last layer, which is not read."""
    inner = {name.removeprefix(OPEN_CLIP): shape for name, shape in shapes.items()}
    return {
        **_text_sizes(inner["token_embedding.weight"], inner["positional_embedding"]),
        "intermediate_size": inner["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": _count(inner, r"transformer\.resblocks\.(\d+)\.") - 1,
        "hidden_act": "gelu",
    }


def _text_sizes(table: tuple[int, ...], positions: tuple[int, ...]) -> dict[str, Any]:
    """What both text encoders have in common; their heads are 64 wide."""
    width = table[1]
    return {
        "vocab_size": table[0],
        "hidden_size": width,
        "projection_dim": width,
        "max_position_embeddings": positions[0],
        "num_attention_heads": max(1, width // 64),
    }


def _schedule(path: Path, companion: Path, open_clip: bool) -> dict[str, Any]:
    """The scheduler configuration of the companion; for 1.x, which are all alike, there need not be one."""
    given = (companion / "scheduler").is_dir()
    configs = examine(companion, ("tokenizer", "scheduler") if given else ("tokenizer",))
    if given:
        return configs["scheduler"]
    if open_clip:
        raise FileProblem(
            f"{path} does not say whether it predicts noise or v (2.x bases for 512 and 768 pixels differ in that), "
            f"and {companion} has no scheduler; give the --config of a base of the same kind with one"
        )
    return dict(SCHEDULE)


def _read(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, in float32; names stay whole, as the converters want them."""
    with safe_open(path, framework="pt", device="cpu") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name: file.get_tensor(name).float() for name in names}


def _fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put every weight in its place. Raises ValueError, naming some, when weights lack or have other shapes."""
    places = network.state_dict()
    wrapped = any(name.startswith("text_model.") for name in places)
    named = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    named = {f"text_model.{name}" if wrapped else name: weight for name, weight in named.items()}
    # What is left over is no part of the network: position numbers, and the layer of OpenCLIP that is not read.
    wrong = sorted(n for n, place in places.items() if n not in named or named[n].shape != place.shape)
    if wrong:
        raise ValueError(f"{len(wrong)} weights lack or have another shape, such as {', '.join(wrong[:3])}")
    network.load_state_dict({name: named[name] for name in places})


def _count(names: Mapping[str, object], pattern: str) -> int:
    """One more than the largest number that names hold where `pattern` has its group. Raises KeyError without any."""
    found = [int(match[1]) for name in names if (match := re.match(pattern, name))]
    if not found:
        raise KeyError(f"nothing is called {pattern}")
    return 1 + max(found)
