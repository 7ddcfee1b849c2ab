"""Random-weight bases in the form of Stable Diffusion 1, small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from semblant.backbones.base import Base
from semblant.backbones.vocabulary import word_tokenizer
from semblant.ops.schedule import Schedule


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
