"""Random-weight bases in the forms of Stable Diffusion 1 and XL, small enough for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from semblant.backbones.base import Base
from semblant.backbones.vocabulary import word_tokenizer
from semblant.ops.schedule import Schedule

WORDS = ("person", "a", "photo", "of", "the", "face", "cup", "old", "smiling", "dog", "on", "beach")
"""What a miniature's tokenizer knows as one token each, unless said otherwise."""


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
    words = tuple(vocabulary) or WORDS
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
        autoencoder = _autoencoder(size)
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


def miniature_xl(
    *,
    widths: tuple[int, int] = (16, 32),
    size: int = 8,
    in_channels: int = 4,
    prediction: str = "epsilon",
    seed: int = 0,
) -> Base:
    """A random-weight base in the form of Stable Diffusion XL, small enough for tests: three levels of two layers, of
    which the first has no attention, two text encoders, a projection of the prompt, and its autoencoder's settings."""
    channels, projected = (8, 16, 16), 12
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer, second = word_tokenizer(WORDS), word_tokenizer(WORDS)
        second.pad_token = "!"
        sizes = [text_config(len(tokenizer), width, 2, 2, tokenizer) for width in widths]
        sizes[1].hidden_act, sizes[1].projection_dim = "gelu", projected
        text, text_2 = CLIPTextModel(sizes[0]), CLIPTextModelWithProjection(sizes[1])
        unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=in_channels,
            out_channels=4,
            layers_per_block=2,
            block_out_channels=channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(2, 2, 2),
            use_linear_projection=True,
            cross_attention_dim=sum(widths),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=projected + 6 * 8,
            norm_num_groups=4,
        )
        autoencoder = _autoencoder(size, scaling_factor=0.13025, force_upcast=True)
        _lively(unet)
    return Base(
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        autoencoder=autoencoder,
        schedule=Schedule.scaled_linear(),
        prediction=prediction,
        name="miniature-xl",
        text_encoder_2=text_2,
        tokenizer_2=second,
        zeros_for_empty=True,
    )


def _autoencoder(size: int, **settings: Any) -> AutoencoderKL:
    """One of factor 2 for latents of this side."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=size * 2,
        **settings,
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
