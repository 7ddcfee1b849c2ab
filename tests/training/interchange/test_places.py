"""Names of layers, on the true architectures without their weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from semblant.training.interchange import places


def stable_diffusion(version: int) -> tuple[list[str], list[str]]:
    """Names of all matrices and convolutions of the true architecture, without weights."""
    sizes: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
    if version == 2:
        sizes = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **sizes)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=64, num_hidden_layers=12, num_attention_heads=4))
    named = [[n.removesuffix(".weight") for n, w in net.named_parameters() if w.ndim > 1] for net in (unet, text)]
    return named[0], [name for name in named[1] if "embedding" not in name]


@pytest.mark.parametrize("version", [1, 2])
def test_kohyas_names_of_every_layer_of_stable_diffusion_are_read_exactly(version: int) -> None:
    unet, text = stable_diffusion(version)
    attention = [name for name in unet if ".attn" in name]
    assert len(attention) == 128 and len(unet) > 250 and len(text) == 72
    for name in unet:
        place = f"unet.{name}"
        assert places.place_of("unet", name) == place
        assert places.to_kohya(place) == "lora_unet_" + name.replace(".", "_")
        assert places.of_kohya(places.to_kohya(place)) == place
    for name in text:
        place, plain = places.place_of("text", name), name.removeprefix("text_model.")
        assert place == f"text.{plain}"
        assert places.to_kohya(place) == "lora_te_text_model_" + plain.replace(".", "_")
        for start in ("lora_te_", "lora_te1_"):
            assert places.of_kohya(f"{start}text_model_{plain.replace('.', '_')}") == place


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn3_to_q",
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out",
        "lora_unet_down_blocks_0_attentions_0",
        "lora_unet_down__blocks_0_resnets_0_conv1",
        "lora_unet_conv_norm_out",
        "lora_te_text_model_final_layer_norm",
        "lora_te_text_model_encoder_layers_0_self_attn_to_q",
        "lora_prior_conv_in",
        "conv_in",
    ],
)
def test_other_names_are_none_of_kohyas(name: str) -> None:
    assert places.of_kohya(name) is None
