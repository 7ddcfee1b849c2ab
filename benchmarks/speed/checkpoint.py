"""What both sides get: a random-weight checkpoint in diffusers' layout, five pictures, and a bank to read losses on.

`python -m benchmarks.speed.checkpoint FOLDER --shape tiny` makes all three. The same seed gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.speed.recipe import IDENTIFIER, PICTURES, RARE
from semblant.backbones.loading import load
from semblant.backbones.vocabulary import word_tokenizer
from semblant.bench.sitter import Sitter, draw
from semblant.data.pictures import to_tensor
from semblant.data.templates import IMAGENET_TEMPLATES
from semblant.methods.finetune.custom_diffusion import FAR, NEAR

WORDS = (
    IDENTIFIER,
    RARE,
    "person",
    *(w for text in (*IMAGENET_TEMPLATES, *FAR, *NEAR) for w in text.split() if w != "{}"),
)
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's."""
LIVELY = 4
"""How many times what cross-attention gives is enlarged."""
ROWS = 2
"""Rows of the bank, unless asked otherwise."""


@dataclass(frozen=True)
class Shape:
    """How large the three networks are."""

    resolution: int
    """Side of the pictures in pixels."""
    unet: Mapping[str, Any]
    text: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    vocabulary: int | None = None
    """Tokens in all; None for as many as there are words."""


SHAPES = {
    "tiny": Shape(
        resolution=64,
        unet={
            "block_out_channels": (32, 64, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 64,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        text={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
        autoencoder={"block_out_channels": (16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8},
    ),
    "sd15": Shape(
        resolution=256,
        unet={
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        text={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        autoencoder={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
        vocabulary=49408,
    ),
}
"""`sd15`: the U-Net of Stable Diffusion 1.5 (860 million weights), the text encoder of CLIP ViT-L/14 and their
autoencoder, at 256 pixels."""


def tokenizer_of(shape: Shape) -> CLIPTokenizer:
    """A tokenizer to whom every word of the prompts is one token. Further tokens, which no prompt has, fill it up."""
    small = word_tokenizer(WORDS)
    if shape.vocabulary is None:
        return small
    model = json.loads(small.backend_tokenizer.to_str())["model"]
    start, end = small.bos_token, small.eos_token
    tokens = [token for token in model["vocab"] if token not in (start, end)]
    tokens += [f"filler{number}</w>" for number in range(shape.vocabulary - len(tokens) - 2)]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    vocabulary = {token: number for number, token in enumerate([*tokens, start, end])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def pipeline_of(shape: Shape, seed: int) -> StableDiffusionPipeline:
    """Networks of random weights, as diffusers' own pipeline holds them."""
    tokenizer = tokenizer_of(shape)
    levels = len(shape.unet["block_out_channels"])
    cells = shape.resolution // 2 ** (len(shape.autoencoder["block_out_channels"]) - 1)
    stages = len(shape.autoencoder["block_out_channels"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=cells,
            down_block_types=(*("CrossAttnDownBlock2D",) * (levels - 1), "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * (levels - 1)),
            **shape.unet,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                max_position_embeddings=77,
                hidden_act="quick_gelu",
                projection_dim=shape.text["hidden_size"],
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **shape.text,
            )
        )
        with torch.no_grad():
            for name, weight in unet.named_parameters():
                # In a network of random weights a prompt hardly matters otherwise, and losses would tell nothing.
                if name.endswith("attn2.to_out.0.weight"):
                    weight.mul_(LIVELY)
        autoencoder = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * stages,
            up_block_types=("UpDecoderBlock2D",) * stages,
            latent_channels=4,
            sample_size=shape.resolution,
            **shape.autoencoder,
        )
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def bank_of(folder: Path, pictures: list[Any], rows: int, seed: int) -> dict[str, Tensor]:
    """Rows of noise, a timestep, and what they make of a picture's latent (the mean that the autoencoder gives of it).

    The pictures are taken in turn. The timesteps are the middles of equal parts of the schedule, so that few rows tell
    of all of it.
    """
    base = load(folder)
    with torch.no_grad():
        images = torch.stack([to_tensor(pictures[row % len(pictures)], base.size) for row in range(rows)])
        latents = torch.cat([base.encode(image[None]) for image in images])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    total = base.schedule.timesteps
    timesteps = (torch.arange(rows) * 2 + 1) * total // (2 * rows)
    return {"x": base.schedule.noised(latents, noise, timesteps), "noise": noise, "timesteps": timesteps}


def make(folder: Path, shape: str, seed: int = 0, rows: int = ROWS) -> None:
    """Write FOLDER/checkpoint, FOLDER/pictures and FOLDER/bank.safetensors."""
    chosen = SHAPES[shape]
    pipeline_of(chosen, seed).save_pretrained(folder / "checkpoint", safe_serialization=True)
    pictures = draw(Sitter().others(PICTURES), chosen.resolution)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / "pictures" / f"{number}.png")
    save_file(bank_of(folder / "checkpoint", pictures, rows, seed), folder / "bank.safetensors")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the bank")
    given = parser.parse_args()
    make(given.folder, given.shape, given.seed, given.rows)


if __name__ == "__main__":
    main()
