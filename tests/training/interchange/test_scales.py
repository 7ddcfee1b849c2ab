"""How strong changes are: alpha and rank in every form, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from semblant.patches.weights import LowRank
from semblant.training.interchange import diffusers_file, kohya_file, lora_config, places
from semblant.training.interchange.adoption import concept_of
from semblant.training.interchange.layers import Layer
from semblant.training.interchange.reading import read

K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
V = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
CONV = "down_blocks.0.resnets.0.conv1"
Q_TEXT = "encoder.layers.0.self_attn.q_proj"


def halves(rank: int, kernel: bool = False) -> tuple[Tensor, Tensor]:
    """`up` and `down` of a small layer."""
    generator = torch.Generator().manual_seed(rank)
    up, down = torch.randn(6, rank, generator=generator), torch.randn(rank, 768, generator=generator)
    return (up[:, :, None, None], down.view(rank, 768, 1, 1).repeat(1, 1, 3, 3)) if kernel else (up, down)


def kohya(**more: Tensor) -> dict[str, Tensor]:
    """A file of kohya's in half precision, with three ranks and alphas."""
    made: dict[str, Tensor] = {}
    for name, rank, alpha in ((K, 4, 1.0), (V, 8, 2.0), (CONV, 2, 8.0)):
        up, down = halves(rank, kernel=name == CONV)
        key = "lora_unet_" + name.replace(".", "_")
        made |= {f"{key}.lora_up.weight": up.half(), f"{key}.lora_down.weight": down.half()}
        made[f"{key}.alpha"] = torch.tensor(alpha).half()
    return {**made, **more}


def test_layers_of_other_ranks_and_alphas_change_weights_as_they_did(tmp_path: Path) -> None:
    save_file(kohya(), tmp_path / "x.safetensors", {"ss_output_name": "x"})
    found = read(tmp_path / "x.safetensors")
    concept, said = concept_of(found, "<maya>", "person")
    # Two of three layers have alpha / rank 1/4; the third's 8 / 2 goes into `up`.
    assert (concept.settings["rank"], concept.settings["alpha"]) == (4, 1.0)
    assert any("1 of 3 layers had another alpha / rank than 0.25" in text for text in said)
    assert any("ss_output_name" in text for text in found.said)
    changed = LowRank.of(concept.tensors, 1.0 / 4)
    for name, rank, scale in ((K, 4, 0.25), (V, 8, 0.25), (CONV, 2, 4.0)):
        up, down = (half.half().float() for half in halves(rank, kernel=name == CONV))
        by_hand = scale * torch.einsum("orab,rihw->oihw" if name == CONV else "or,ri->oi", up, down)
        change = changed.delta(f"unet.{name}.weight", torch.zeros_like(by_hand))
        assert torch.allclose(change, by_hand, rtol=1e-5, atol=1e-5)
    assert concept.base == {"name": "unknown", "architecture": "sd-1", "width": 768}


def test_without_any_alpha_changes_count_once(tmp_path: Path) -> None:
    save_file({k: v for k, v in kohya().items() if not k.endswith(".alpha")}, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")
    assert {layer.scale for layer in found.layers.values()} == {1.0}
    assert any("no alpha" in text for text in found.said)


def test_peft_counts_by_pattern_and_by_the_root_of_the_rank() -> None:
    ranks = {f"unet.{K}": 4, f"unet.{V}": 8, f"text.{Q_TEXT}": 4}
    config = {"r": 4, "lora_alpha": 2, "rank_pattern": {"attn2.to_v": 8}, "alpha_pattern": {f"^{K}": 3}}
    assert lora_config.read(config, ranks, "x") == {f"unet.{K}": 3, f"unet.{V}": 2, f"text.{Q_TEXT}": 2}
    rooted = lora_config.read({**config, "use_rslora": True}, ranks, "x")
    # alpha / sqrt(rank) of PEFT is alpha * sqrt(rank) / rank here.
    assert rooted[f"unet.{V}"] / 8 == pytest.approx(2 / 8**0.5)
    prefixed = {"r": 4, "lora_alpha": 1, "alpha_pattern": {f"^text_model.{Q_TEXT}": 9, "to_k": 5, "o_v": 7}}
    found = lora_config.read({**prefixed, "rank_pattern": {r"to\.q": 1, V: 8}}, ranks, "x")
    assert found == {f"unet.{K}": 5, f"unet.{V}": 1, f"text.{Q_TEXT}": 9}


def test_one_alpha_goes_for_all_layers_of_a_kohya_file() -> None:
    layers = {
        f"unet.{K}": Layer(*halves(4), 2.0),
        f"unet.{V}": Layer(*halves(8), 6.0),
        "unet.conv_in": Layer(*halves(2), 2.0),
    }
    tensors, metadata, said = kohya_file.write(layers)
    key = places.to_kohya(f"unet.{V}")
    assert all(float(tensor) == 2.0 for name, tensor in tensors.items() if name.endswith(".alpha"))
    assert torch.equal(tensors[f"{key}.lora_up.weight"], 3 * halves(8)[0])
    assert torch.equal(tensors[f"{places.to_kohya(f'unet.{K}')}.lora_up.weight"], halves(4)[0])
    assert metadata == {"ss_network_module": "networks.lora", "ss_network_dim": "Dynamic", "ss_network_alpha": "2.0"}
    assert "1 of 3 layers" in said[0]
    # An alpha that went through single precision is the same alpha.
    close = {f"unet.{K}": Layer(*halves(4), 0.1), f"unet.{V}": Layer(*halves(8), float(torch.tensor(0.1)))}
    tensors, _, said = kohya_file.write(close)
    assert torch.equal(tensors[f"{key}.lora_up.weight"], halves(8)[0]) and said == []


def test_diffusers_keeps_alpha_in_its_metadata() -> None:
    layers = {
        f"unet.{K}": Layer(*halves(4), 2.0),
        f"unet.{V}": Layer(*halves(8), 4.0),
        f"text.{Q_TEXT}": Layer(*halves(4), 1.0),
    }
    tensors, metadata, said = diffusers_file.write(layers)
    account = json.loads(metadata["lora_adapter_metadata"])
    assert account["unet.r"] in (4, 8) and account["text_encoder.lora_alpha"] == 1.0
    assert set(tensors) == {
        *(f"unet.{name}.lora.{side}.weight" for name in (K, V) for side in ("up", "down")),
        *(f"text_encoder.text_model.{Q_TEXT}.lora_linear_layer.{side}.weight" for side in ("up", "down")),
    }
    assert said and "take it for the rank" in said[0]
    plain = {f"unet.{K}": Layer(*halves(4), 4.0)}
    assert diffusers_file.write(plain)[2] == []


EARLY = {
    f"unet.{K}".replace(".to_k", ".processor.to_k_lora"): f"unet.{K}",
    K.replace(".to_k", ".processor.to_out_lora"): f"unet.{K}".replace("to_k", "to_out.0"),
    f"text_encoder.text_model.{Q_TEXT}.lora_linear_layer": f"text.{Q_TEXT}",
    "text_encoder.text_model.encoder.layers.1.self_attn.to_out_lora": "text.encoder.layers.1.self_attn.out_proj",
    f"unet.{V}.lora": f"unet.{V}",
}


def test_early_names_of_diffusers_are_read() -> None:
    up, down = halves(4)
    tensors = {f"{name}.{side}.weight": half for name in EARLY for side, half in (("up", up), ("down", down))}
    layers, _ = diffusers_file.read(tensors, {}, "x")
    assert set(layers) == set(EARLY.values()) and all(layer.scale == 1 for layer in layers.values())
