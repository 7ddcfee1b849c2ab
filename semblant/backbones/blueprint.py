"""New, untrained networks in the form of a small Stable Diffusion 1, and writing them as a diffusers folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from semblant.backbones.base import Base
from semblant.backbones.miniature import text_config
from semblant.ops.schedule import Schedule

Tokenizer = CLIPTokenizer


@dataclass(frozen=True)
class Blueprint:
    """Sizes of an embedded base."""

    size: int = 128
    """Side of its pictures in pixels; latents are a quarter of it."""
    unet: tuple[int, ...] = (64, 128, 192)
    unet_layers: int = 1
    attention_from: int = 1
    """First level with attention: 1 trains on two cores, 0 is the larger shape for a GPU."""
    heads: int = 4
    """Attention heads everywhere; four of 32 and 48 dimensions, where eight would have 16 and 24."""
    width: int = 192
    """Width of text encodings."""
    text_layers: int = 4
    autoencoder: tuple[int, ...] = (32, 64, 96)

    @staticmethod
    def large() -> Blueprint:
        """Two layers a block and attention on all three levels: sixteen cross-attention sites, as in SD-1."""
        return Blueprint(unet_layers=2, attention_from=0)


def new_autoencoder(plan: Blueprint) -> AutoencoderKL:
    """An autoencoder with factor 4 and four latent channels.

    One normalisation group and residual branches that start at zero: with several groups, flat colours take many times
    longer to come through.
    """
    levels = len(plan.autoencoder)
    network = AutoencoderKL(
        block_out_channels=plan.autoencoder,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=1,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=plan.size,
    )
    for name, module in network.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a base in diffusers' layout."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return tokenizer


def read_autoencoder(folder: Path) -> AutoencoderKL:
    """The autoencoder of a base folder, in float32."""
    network = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32, use_safetensors=True)
    return network.eval()


def new_unet(plan: Blueprint) -> UNet2DConditionModel:
    """A U-Net whose levels from `attention_from` on have self- and cross-attention."""
    levels = len(plan.unet)
    attends = [level >= plan.attention_from for level in range(levels)]
    return UNet2DConditionModel(
        sample_size=plan.size // 4,
        layers_per_block=plan.unet_layers,
        block_out_channels=plan.unet,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        cross_attention_dim=plan.width,
        attention_head_dim=plan.heads,
        norm_num_groups=16,
    )


def attend_explicitly(unet: UNet2DConditionModel) -> None:
    """Compute attention maps as they are written. On CPUs the fused kernel's backward pass took a fifth of a training
    step with eight narrow heads, and torch's own explicit one a tenth more than this."""
    unet.set_attn_processor(AttnProcessor())


def new_text_encoder(plan: Blueprint, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder over the tokenizer's vocabulary."""
    return CLIPTextModel(text_config(len(tokenizer), plan.width, plan.text_layers, plan.width // 32, tokenizer))


def assemble(
    plan: Blueprint, unet: nn.Module, text_encoder: nn.Module, tokenizer: CLIPTokenizer, autoencoder: nn.Module
) -> Base:
    """A base of these networks."""
    return Base(
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        autoencoder=autoencoder,
        schedule=Schedule.scaled_linear(),
        name="embedded",
        architecture="embedded",
    )


def new_scheduler(prediction: str = "epsilon", noisier: float = 1.0) -> DDIMScheduler:
    """DDIM with Stable Diffusion's schedule, or one that ends `noisier`, for whoever samples with diffusers."""
    alphas = Schedule.scaled_linear().noisier(noisier).alphas.double()
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=alphas.dtype), alphas[:-1]])
    return DDIMScheduler(
        trained_betas=None if noisier == 1 else [round(beta, 9) for beta in betas.tolist()],
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def write_part(folder: Path, kind: str, module: Any, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write one network ("unet", "vae", "text_encoder") in half precision, as diffusers lays it out.

    `weights` replaces the module's own (a moving average, say). Text-encoder keys carry the usual `text_model.` prefix.
    """
    part = folder / kind
    part.mkdir(parents=True, exist_ok=True)
    name = "model.safetensors" if kind == "text_encoder" else "diffusion_pytorch_model.safetensors"
    if kind == "text_encoder":
        config = {**json.loads(module.config.to_json_string(use_diff=False)), "dtype": "float32"}
        (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    else:
        module.save_config(part)
    # Both libraries note the folder that a network was read from, which is nobody's business.
    config = json.loads((part / "config.json").read_text())
    config.pop("_name_or_path", None)
    (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    state = weights if weights is not None else module.state_dict()
    prefix = "text_model." if kind == "text_encoder" else ""
    half = {
        key if key.startswith(prefix) else prefix + key: value.detach().to("cpu", torch.float16).contiguous()
        for key, value in state.items()
        if value.is_floating_point()
    }
    target = part / name
    temporary = target.with_suffix(".tmp")
    save_file(half, temporary, metadata={"format": "pt"})
    temporary.replace(target)


def write_frame(folder: Path, tokenizer: CLIPTokenizer, prediction: str = "epsilon", noisier: float = 1.0) -> None:
    """Write what is no network: tokenizer, scheduler, and the index that makes the folder a diffusers pipeline.

    `prediction` is what the U-Net predicts, "epsilon" or "v_prediction", on Stable Diffusion's schedule or a `noisier`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    new_scheduler(prediction, noisier).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def plan_record(plan: Blueprint) -> dict[str, Any]:
    """The plan as JSON data."""
    return asdict(plan)


def plan_from(record: dict[str, Any]) -> Blueprint:
    """The plan that `plan_record` wrote."""
    sizes: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return Blueprint(**sizes)
