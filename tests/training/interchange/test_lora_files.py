"""LoRA files: how strong their changes are, against numbers worked out by hand, and what is refused by the name of the
key that is unknown, missing or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from semblant.errors import FileProblem
from semblant.patches.weights import LowRank
from semblant.training.concepts import Concept
from semblant.training.interchange import diffusers_file, kohya_file, lora_config, places, writing
from semblant.training.interchange.adoption import concept_of
from semblant.training.interchange.layers import Layer
from semblant.training.interchange.learned import from_concept
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


NAME = "lora_unet_" + K.replace(".", "_")


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    assert name in tensors
    return {key: tensor for key, tensor in tensors.items() if key != name}


WRONG_KOHYA: dict[str, tuple[dict[str, Tensor], str]] = {
    "unknown layer": (
        kohya(**{"lora_unet_label_0.lora_up.weight": torch.ones(1, 1)}),
        r"nothing called lora_unet_label_0\.lora_up",
    ),
    "unknown tensor": (kohya(extra=torch.ones(1)), "nothing called extra"),
    "no up": (without(kohya(), f"{NAME}.lora_up.weight"), rf"lacks {NAME}\.lora_up\.weight"),
    "no down": (without(kohya(), f"{NAME}.lora_down.weight"), rf"lacks {NAME}\.lora_down\.weight"),
    "no alpha": (without(kohya(), f"{NAME}.alpha"), rf"lacks {NAME}\.alpha"),
    "alpha alone": (kohya(lora_unet_conv_in__alpha=torch.ones(())), "nothing called lora_unet_conv_in__alpha"),
    "alpha of no layer": (kohya(**{"lora_unet_conv_in.alpha": torch.ones(())}), r"lacks lora_unet_conv_in\.lora_down"),
    "alpha of many": (kohya(**{f"{NAME}.alpha": torch.ones(2)}), rf"{NAME}\.alpha \[2\]"),
    "DoRA": (kohya(**{f"{NAME}.dora_scale": torch.ones(6)}), r"dora_scale.*DoRA"),
    "Tucker": (kohya(**{f"{NAME}.lora_mid.weight": torch.ones(4, 4)}), "lora_mid"),
    "LyCORIS": (kohya(**{"lora_unet_conv_in.hada_w1_a": torch.ones(4, 4)}), "hada_w1_a.*LyCORIS"),
    "whole numbers": (
        kohya(**{f"{NAME}.lora_up.weight": torch.ones(6, 4).int()}),
        rf"{NAME}\.lora_up\.weight in int32",
    ),
    "NaN": (kohya(**{f"{NAME}.lora_up.weight": torch.full((6, 4), float("nan"))}), "lora_up.weight holds NaN"),
    "shapes": (kohya(**{f"{NAME}.lora_up.weight": torch.ones(6, 5)}), "do not fit together"),
    "kernels": (kohya(**{f"{NAME}.lora_up.weight": torch.ones(6, 4, 3, 3)}), "do not fit together"),
    "second text encoder": (kohya(**{"lora_te2_x.alpha": torch.ones(())}), r"nothing called lora_te2_x\.alpha"),
    "first names": (
        kohya(**{"lora_unet_input_blocks_4_1_proj_in.alpha": torch.ones(())}),
        r"lacks lora_unet_input_blocks_4_1_proj_in\.lora_down",
    ),
    "widths": (kohya(**{f"{NAME}.lora_down.weight": torch.ones(4, 2048)}), "several widths, 2048 .*768"),
    "two widths": (kohya(**{f"{NAME}.lora_down.weight": torch.ones(4, 1024)}), "several widths"),
}


@pytest.mark.parametrize("case", WRONG_KOHYA)
def test_keys_that_are_unknown_or_missing_are_named(tmp_path: Path, case: str) -> None:
    tensors, says = WRONG_KOHYA[case]
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(FileProblem, match=says) as caught:
        read(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_metadata_tells_stable_diffusion_xl(tmp_path: Path) -> None:
    save_file(kohya(), tmp_path / "x.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    found = read(tmp_path / "x.safetensors")
    assert found.xl and not any("ss_base_model_version" in text for text in found.said)
    save_file(kohya(), tmp_path / "y.safetensors", {"ss_base_model_version": "sd_v1"})
    found = read(tmp_path / "y.safetensors")
    assert not found.xl and any("ss_base_model_version" in text for text in found.said)


def diffusers_tensors(**more: Tensor) -> dict[str, Tensor]:
    up, down = halves(4)
    return {f"unet.{K}.lora_A.weight": down, f"unet.{K}.lora_B.weight": up, **more}


ACCOUNT = {"unet.r": 4, "unet.lora_alpha": 2}
WRONG_DIFFUSERS: dict[str, tuple[dict[str, Tensor], dict[str, Any] | str, str]] = {
    "unknown layer": (
        diffusers_tensors(**{"unet.conv_norm_out.lora_A.weight": torch.ones(1, 1)}),
        ACCOUNT,
        "conv_norm_out",
    ),
    "bias": (diffusers_tensors(**{f"unet.{K}.lora_B.bias": torch.ones(6)}), ACCOUNT, r"lora_B\.bias.*biases"),
    "alpha as a tensor": (
        diffusers_tensors(**{f"unet.{K}.alpha": torch.ones(())}),
        ACCOUNT,
        r"nothing called unet.*\.alpha",
    ),
    "another model": (
        diffusers_tensors(**{"transformer.x.lora_A.weight": torch.ones(1, 1)}),
        ACCOUNT,
        "another architecture",
    ),
    "second text encoder": (
        diffusers_tensors(**{"text_encoder_2.x.lora_A.weight": torch.ones(1, 1)}),
        ACCOUNT,
        r"nothing called text_encoder_2\.x",
    ),
    "half": (without(diffusers_tensors(), f"unet.{K}.lora_B.weight"), ACCOUNT, rf"lacks unet\.{K}\.lora_B\.weight"),
    "twice": (diffusers_tensors(**{f"unet.{K}.lora.up.weight": torch.ones(6, 4)}), ACCOUNT, "twice"),
    "no alpha": (diffusers_tensors(), {"unet.r": 4}, "without lora_alpha"),
    "no such network": (
        diffusers_tensors(),
        {**ACCOUNT, "vae.r": 4},
        r"vae\.r.*none of unet, text_encoder, text_encoder_2",
    ),
    "network left out": (
        diffusers_tensors(),
        {"text_encoder.r": 4, "text_encoder.lora_alpha": 4},
        "without r and lora_alpha",
    ),
    "other rank": (diffusers_tensors(), {**ACCOUNT, "unet.r": 8}, "the rank 8 in its configuration and 4"),
    "DoRA": (diffusers_tensors(), {**ACCOUNT, "unet.use_dora": True}, "use_dora = True"),
    "unheard of": (diffusers_tensors(), {**ACCOUNT, "unet.twist": 2}, "twist = 2"),
    "moved base": (diffusers_tensors(), {**ACCOUNT, "unet.init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
    "expression": (diffusers_tensors(), {**ACCOUNT, "unet.alpha_pattern": {"(a+)+": 1}}, r"pattern '\(a\+\)\+'"),
    "no table": (diffusers_tensors(), {**ACCOUNT, "unet.alpha_pattern": {"to_k": "high"}}, "no table of numbers"),
    "no JSON": (diffusers_tensors(), "{", "no JSON object"),
}


@pytest.mark.parametrize("case", WRONG_DIFFUSERS)
def test_what_a_diffusers_file_should_not_say_is_named(tmp_path: Path, case: str) -> None:
    tensors, account, says = WRONG_DIFFUSERS[case]
    text = account if isinstance(account, str) else json.dumps(account)
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()},
        tmp_path / "x.safetensors",
        {"lora_adapter_metadata": text},
    )
    with pytest.raises(FileProblem, match=says) as caught:
        read(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def peft(folder: Path, config: Any = None, **more: Tensor) -> Path:
    up, down = halves(4)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{K}.lora_A.weight": down, f"base_model.model.{K}.lora_B.weight": up, **more}
    save_file(tensors, folder / "adapter_model.safetensors")
    text = json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2, **(config or {})})
    (folder / "adapter_config.json").write_text(text)
    return folder


def test_a_folder_of_peft_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = peft(tmp_path / "good")
    assert read(folder).layers[f"unet.{K}"].scale == 0.5
    assert read(folder / "adapter_model.safetensors").form == "peft"
    for case, more, says in (
        ("bias", {f"base_model.model.{K}.lora_B.bias": torch.ones(6)}, "lora_B.bias"),
        ("name", {"base_model.model.proj.lora_A.weight": torch.ones(1, 1)}, "nothing called base_model.model.proj"),
        ("magnitude", {f"base_model.model.{K}.lora_magnitude_vector": torch.ones(6)}, "DoRA"),
    ):
        with pytest.raises(FileProblem, match=says):
            read(peft(tmp_path / case, **more))
    with pytest.raises(FileProblem, match=r"'LOHA'.*only LORA"):
        read(peft(tmp_path / "kind", {"peft_type": "LOHA"}))
    with pytest.raises(FileProblem, match="modules_to_save"):
        read(peft(tmp_path / "more", {"modules_to_save": ["conv_in"]}))
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(FileProblem, match="no JSON object"):
        read(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(FileProblem, match=r"no adapter_config\.json"):
        read(folder)
    with pytest.raises(FileProblem, match="which says how strong they are"):
        read(folder / "adapter_model.safetensors")
    (tmp_path / "kind" / "adapter_model.safetensors").rename(tmp_path / "kind" / "adapter_model.bin")
    with pytest.raises(FileProblem, match="as a pickle"):
        read(tmp_path / "kind")


def test_folders_of_both_networks_are_one_lora_and_other_pairs_are_in_the_way(
    lora: Callable[[str], Concept], tmp_path: Path
) -> None:
    both, folder = from_concept(lora("text too"), "x"), tmp_path / "both"
    writing.write(both, "peft", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["text_encoder", "unet"]
    with pytest.raises(FileProblem, match="holds another LoRA"):
        writing.write(from_concept(lora("attention"), "x"), "peft", folder)
    peft(folder)
    with pytest.raises(FileProblem, match=r"adapter_config\.json and unet/adapter_config\.json as well"):
        read(folder)


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
