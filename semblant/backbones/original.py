"""A base in one .safetensors file, in the layout that Stable Diffusion 1.x, 2.x and XL were first published in.

The file's own shapes say how large its networks are; what shapes cannot say (heads, activation, the text layer that is
read) follows from which text encoders lie in it: CLIP in 1.x (arXiv 2112.10752, appendix E), OpenCLIP in 2.x, both in
XL (arXiv 2307.01952). Names of weights are translated by diffusers' own converters. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTokenizer

from semblant.backbones import original_text, parts
from semblant.backbones.architecture import architecture_of
from semblant.backbones.base import Base
from semblant.backbones.folder import examine, schedule_of
from semblant.backbones.header import Header, read_header
from semblant.backbones.networks import blank, filled, layout_on, read_weights
from semblant.backbones.original_text import count
from semblant.backbones.reader import SIZES
from semblant.backbones.rest import can_rest
from semblant.errors import FileProblem, out_of_memory

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
LABEL = f"{UNET}label_emb.0.0.weight"
"""Where XL's U-Net reads a prompt as a whole and the sizes of a picture."""
NO_SIGNAL, PREDICTS_V = "ztsnr", "v_pred"
"""Tensors by which files for XL say that their schedule ends in pure noise, and that they predict v."""
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""The noise schedule of Stable Diffusion 1.x, 2.x and XL."""
SIDES = {"epsilon": 64, "v_prediction": 96}
"""Side of the latents that a base was trained on; of 2.x those that predict v are the larger ones (768 pixels)."""
XL_SIDE = 128
XL_AUTOENCODER = {"scaling_factor": 0.13025, "force_upcast": True}
"""What the autoencoder of XL has that its shapes do not say."""

UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, AttributeError, SafetensorError)
"""What libraries raise where a file makes no sense to them."""


def require(path: Path) -> Header:
    """The header of a whole checkpoint. Raises FileProblem for pickles, XL's refiner, and files of something else."""
    header = read_header(path)
    if any(name.startswith(original_text.REFINER) for name in header.shapes):
        raise FileProblem(f"{path} {parts.REFINER}")
    if not is_checkpoint(header):
        raise FileProblem(
            f"{path} is not a whole Stable Diffusion 1.x, 2.x or XL checkpoint (U-Net, autoencoder and all its text "
            f"encoders in one file); `semblant inspect {path.name}` says what it is"
        )
    if NO_SIGNAL in header.shapes:
        raise FileProblem(
            f"{path} has a schedule that ends in pure noise ({NO_SIGNAL}), where a prediction says nothing"
        )
    if f"{UNET}label_emb.weight" in header.shapes or (LABEL in header.shapes) != is_xl(header):
        raise FileProblem(f"{path} has a U-Net that takes more, or less, than a prompt (label_emb); use a plain base")
    return header


def is_checkpoint(header: Header) -> bool:
    """Whether a file holds U-Net, autoencoder and text encoders in the original layout."""
    networks = all(any(name.startswith(p) for name in header.shapes) for p in (UNET, AUTOENCODER))
    return networks and bool(original_text.sources(header.shapes))


def is_xl(header: Header) -> bool:
    """Whether a file holds a text encoder of XL."""
    return any(name.startswith(original_text.XL) for name in header.shapes)


def facts(header: Header) -> dict[str, Any]:
    """Architecture and channels beside the latent. Raises KeyError or IndexError when shapes make no sense."""
    unet, vae = unet_config(header.shapes), autoencoder_config(header.shapes)
    extra = unet["in_channels"] - vae["latent_channels"]
    return {
        "architecture": architecture_of(unet["cross_attention_dim"], extra, is_xl(header)),
        "extra_channels": extra,
    }


def from_file(
    path: Path,
    header: Header,
    companion: Path,
    device: str | torch.device = "cpu",
    weights: torch.dtype = torch.float32,
) -> Base:
    """A base from a whole checkpoint and a `companion`: a folder in diffusers' layout with tokenizers and scheduler.

    Weights are held in `weights`. Of U-Nets that were also averaged (EMA) the plain weights are taken. Raises
    FileProblem when the file or the companion cannot be used.
    """
    shapes, found = header.shapes, original_text.sources(header.shapes)
    configs, schedule = _companion(path, header, companion)
    prediction = schedule.get("prediction_type", "epsilon")
    try:
        unet_sizes, vae_sizes = unet_config(shapes), autoencoder_config(shapes)
        unet_sizes["sample_size"] = XL_SIDE if is_xl(header) else SIDES.get(prediction, SIDES["epsilon"])
        tokenizers = [
            CLIPTokenizer.from_pretrained(companion / part, local_files_only=True)
            for part in ("tokenizer", "tokenizer_2")[: len(found)]
        ]
        # Text encoders are for a moment in memory twice, and so come first.
        # Random weights are made, and replaced at once; nobody else's randomness may move by that.
        with torch.random.fork_rng():
            texts = [source.empty(shapes, tokenizer) for source, tokenizer in zip(found, tokenizers, strict=True)]
        for source, text in zip(found, texts, strict=True):
            _fill(text, source.convert(text, read_weights([path], source.prefix)))
            text.to(weights)
        named = convert_ldm_unet_checkpoint(read_weights([path], UNET, weights), unet_sizes)
        unet = filled("unet", blank(UNet2DConditionModel, unet_sizes), named)
        # Less is not enough for the activations of XL's autoencoder.
        exact = torch.float32 if is_xl(header) else weights
        autoencoder = _autoencoder(path, vae_sizes, exact, device)
    except UNREADABLE as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise FileProblem(f"{path} cannot be loaded as a base: {said}") from problem
    known = min(source.config(shapes)["vocab_size"] for source in found)
    if len(tokenizers[0]) > known:
        raise FileProblem(
            f"the tokenizer in {companion} knows {len(tokenizers[0])} tokens and {path} {known}; "
            "give the --config of a base of the same kind"
        )
    xl: dict[str, Any] = {}
    if len(found) > 1:
        zeros = configs[parts.INDEX].get(parts.ZEROS, True)
        xl = {"text_encoder_2": texts[1], "tokenizer_2": tokenizers[1], "zeros_for_empty": zeros}
    base = Base(
        unet=unet,
        text_encoder=texts[0],
        tokenizer=tokenizers[0],
        autoencoder=autoencoder,
        schedule=schedule_of(schedule),
        prediction=prediction,
        name=path.stem,
        **xl,
    )
    for part in (unet, *texts):
        part.to(device)

    def again() -> Iterator[tuple[str, Tensor]]:
        try:
            yield from _autoencoder(path, vae_sizes, exact, device).state_dict().items()
        except UNREADABLE as problem:
            if out_of_memory(problem):
                raise
            raise FileProblem(f"the autoencoder in {path} cannot be read again: {problem}") from problem

    can_rest(autoencoder, again)
    return base


def _autoencoder(path: Path, sizes: dict[str, Any], dtype: torch.dtype, device: str | torch.device) -> nn.Module:
    named = convert_ldm_vae_checkpoint(read_weights([path], AUTOENCODER, dtype, layout_on(device)), sizes)
    return filled("vae", blank(AutoencoderKL, sizes), named).to(device)


def unet_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes of the U-Net, as diffusers spells them. Raises KeyError or IndexError where tensors lack.

    In 1.x every attention layer has eight heads and projects by convolutions; in 2.x and XL heads are 64 wide and
    projections linear.
    """
    inner = {name.removeprefix(UNET): shape for name, shape in shapes.items() if name.startswith(UNET)}
    levels: list[list[int]] = [[]]
    for i in range(1, count(inner, r"input_blocks\.(\d+)\.")):
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
        **(_xl_config(shapes, inner, levels) if LABEL in shapes else {}),
    }


def _xl_config(
    shapes: Mapping[str, tuple[int, ...]], inner: Mapping[str, tuple[int, ...]], levels: list[list[int]]
) -> dict[str, Any]:
    """What XL's U-Net has beside: several transformer blocks in a layer, and what it is told of prompt and sizes."""
    blocks = [_blocks(inner, f"input_blocks.{level[0]}.1") for level in levels]
    told, pooled = shapes[LABEL][1], shapes[f"{original_text.BOTH[1].prefix}text_projection"][1]
    return {
        "transformer_layers_per_block": tuple(blocks),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (told - pooled) // SIZES,
        "projection_class_embeddings_input_dim": told,
    }


def _blocks(inner: Mapping[str, tuple[int, ...]], layer: str) -> int:
    """Transformer blocks in a layer; 1 where there is no attention, which diffusers then ignores."""
    pattern = rf"{re.escape(layer)}\.transformer_blocks\.(\d+)\."
    return count(inner, pattern) if any(re.match(pattern, name) for name in inner) else 1


def autoencoder_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Sizes of the autoencoder, as diffusers spells them. Raises KeyError where tensors lack."""
    inner = {name.removeprefix(AUTOENCODER): shape for name, shape in shapes.items() if name.startswith(AUTOENCODER)}
    levels = count(inner, r"encoder\.down\.(\d+)\.")
    return {
        "in_channels": inner["encoder.conv_in.weight"][1],
        "out_channels": inner["decoder.conv_out.weight"][0],
        "latent_channels": inner["post_quant_conv.weight"][0],
        "block_out_channels": tuple(inner[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)),
        "layers_per_block": count(inner, r"encoder\.down\.0\.block\.(\d+)\."),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        **(XL_AUTOENCODER if LABEL in shapes else {}),
    }


def _companion(path: Path, header: Header, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Configurations of the companion, and of its scheduler. 1.x are all alike in that, and of XL those that predict
    noise, so there need not be one."""
    given, xl = (folder / "scheduler").is_dir(), is_xl(header)
    wanted = ["tokenizer", *(["tokenizer_2"] if xl else []), *(["scheduler"] if given else [])]
    configs = examine(folder, wanted)
    if given:
        schedule = configs["scheduler"]
    elif original_text.sources(header.shapes) == (original_text.OPEN_CLIP,):
        raise FileProblem(
            f"{path} does not say whether it predicts noise or v (2.x bases for 512 and 768 pixels differ in that), "
            f"and {folder} has no scheduler; give the --config of a base of the same kind with one"
        )
    else:
        schedule = dict(SCHEDULE)
    if PREDICTS_V in header.shapes and schedule.get("prediction_type") != "v_prediction":
        raise FileProblem(
            f"{path} predicts v ({PREDICTS_V}), and the scheduler in {folder} does not say so; give the --config of a "
            'base of the same kind, whose scheduler has "prediction_type": "v_prediction"'
        )
    return configs, schedule


def _fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put every weight of a text encoder in its place. Raises ValueError, naming some, when weights lack or have other
    shapes."""
    places = network.state_dict()
    # Versions of transformers differ in this beginning of names.
    plain = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    named = {name: plain.get(name.removeprefix("text_model.")) for name in places}
    # What is left over is no part of the network: position numbers, and the layer of OpenCLIP that is not read.
    fitting = {n: weight for n, weight in named.items() if weight is not None and weight.shape == places[n].shape}
    if wrong := sorted(places.keys() - fitting.keys()):
        raise ValueError(f"{len(wrong)} weights lack or have another shape, such as {', '.join(wrong[:3])}")
    network.load_state_dict(fitting)
