"""Making a Base from weights: diffusers folders and pipelines, the embedded base, and random miniatures for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from semblant.backbones.base import Base
from semblant.errors import FileProblem, SemblantError
from semblant.ops.schedule import Schedule

EMBEDDED = "embedded"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def load(source: str | Path = EMBEDDED, device: str | torch.device = "cpu") -> Base:
    """Load a base: "embedded", or a folder in diffusers' layout with safetensors weights.

    Raises FileProblem for a missing or incomplete folder.
    """
    if str(source) == EMBEDDED:
        return from_folder(embedded_folder(), device, name=EMBEDDED)
    if Path(source).is_dir():
        return from_folder(Path(source), device)
    raise FileProblem(
        f"no base at {source}: give `embedded` or a folder in diffusers' layout (unet, vae, text_encoder, ...)"
    )


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


def from_folder(folder: Path, device: str | torch.device = "cpu", name: str | None = None) -> Base:
    """A base from a folder in diffusers' layout. Only safetensors are read; weights become float32."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise FileProblem(f"{folder} is no base: it lacks {', '.join(missing)} of {', '.join(PARTS)}")
    options: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True}
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", **options)
        autoencoder = AutoencoderKL.from_pretrained(folder / "vae", **options)
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    except (OSError, ValueError, KeyError, SafetensorError) as problem:
        raise FileProblem(f"{folder} cannot be loaded as a base: {str(problem).splitlines()[0]}") from problem
    base = Base(
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        autoencoder=autoencoder,
        schedule=schedule_of(scheduler),
        prediction=scheduler.get("prediction_type", "epsilon"),
        name=name or folder.name,
        architecture=EMBEDDED if name == EMBEDDED else None,
    )
    for part in (base.unet, base.text_encoder, base.autoencoder):
        for weight in part.parameters():
            # Mapped from a file they lie at odd addresses, where some kernels round otherwise.
            weight.data = weight.data.clone()
        part.to(device)
    return base


def from_pipeline(pipeline: Any, name: str = "pipeline") -> Base:
    """A base that shares the modules of a diffusers Stable Diffusion pipeline."""
    lacking = [
        p for p in ("unet", "vae", "text_encoder", "tokenizer", "scheduler") if getattr(pipeline, p, None) is None
    ]
    if lacking:
        raise SemblantError(
            f"the pipeline lacks {', '.join(lacking)}; a Stable Diffusion 1.x or 2.x pipeline has them all"
        )
    config = dict(pipeline.scheduler.config)
    return Base(
        unet=pipeline.unet,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        autoencoder=pipeline.vae,
        schedule=schedule_of(config),
        prediction=config.get("prediction_type", "epsilon"),
        name=name,
    )


def schedule_of(config: dict[str, Any]) -> Schedule:
    """The noise schedule of a diffusers scheduler configuration. Raises SemblantError if it ends without any signal."""
    if config.get("rescale_betas_zero_snr"):
        raise SemblantError(
            "a schedule with rescale_betas_zero_snr ends in pure noise, where a prediction says nothing"
        )
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    return Schedule(DDIMScheduler(**{k: config[k] for k in known if k in config}).alphas_cumprod.float())


def miniature(
    *,
    width: int = 32,
    channels: Sequence[int] = (16, 32),
    layers: int = 1,
    size: int = 8,
    in_channels: int = 4,
    vocabulary: Sequence[str] = (),
    prediction: str = "epsilon",
    seed: int = 0,
) -> Base:
    """A random-weight base in the form of Stable Diffusion 1, small enough for tests: every layer is there.

    `size` is the latent's side; pictures are twice as large per level of the autoencoder (factor 2).
    """
    from semblant.backbones.vocabulary import word_tokenizer

    words = tuple(vocabulary) or (
        "person",
        "a",
        "photo",
        "of",
        "the",
        "face",
        "cup",
        "old",
        "smiling",
        "dog",
        "on",
        "beach",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = word_tokenizer(words)
        text = CLIPTextModel(text_config(len(tokenizer), width, 2, 4, tokenizer))
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=in_channels,
            out_channels=4,
            layers_per_block=layers,
            block_out_channels=tuple(channels),
            down_block_types=("CrossAttnDownBlock2D",) * len(channels),
            up_block_types=("CrossAttnUpBlock2D",) * len(channels),
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=size * 2,
        )
        _lively(unet)
    return Base(
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        autoencoder=autoencoder,
        schedule=Schedule.scaled_linear(),
        prediction=prediction,
        name="miniature",
        architecture="miniature",
    )


def text_config(vocabulary: int, width: int, layers: int, heads: int, tokenizer: Any) -> CLIPTextConfig:
    """Configuration of a CLIP text encoder whose end and padding tokens are the tokenizer's."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _lively(unet: nn.Module) -> None:
    """Stronger cross-attention outputs, so that in a random network prompts visibly matter."""
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "attn2.to_out" in name and name.endswith("weight"):
                weight.mul_(4)
