"""Words and LoRAs for Stable Diffusion XL: names of layers, there and back, files of others, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.header import read_header
from semblant.backbones.loading import miniature
from semblant.errors import FileProblem, SemblantError
from semblant.training.concepts import Concept
from semblant.training.interchange import places, writing
from semblant.training.interchange.adoption import concept_of
from semblant.training.interchange.layers import Layer
from semblant.training.interchange.learned import Learned, from_concept
from semblant.training.interchange.reading import read, require

Make = Callable[..., Concept]
FORMS = ("peft", "diffusers", "kohya")
KINDS = ("attention", "all texts", "second text alone", "everything")


# -- names ------------------------------------------------------------------------------------------------------------


def published() -> list[str]:
    """Names of all matrices and convolutions of the true U-Net, without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    return [name.removesuffix(".weight") for name, weight in unet.named_parameters() if weight.ndim > 1]


KNOWN = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_2": "time_embed_2",
    "add_embedding.linear_1": "label_emb_0_0",
    "down_blocks.0.resnets.1.conv1": "input_blocks_2_0_in_layers_2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "down_blocks.1.attentions.0.proj_in": "input_blocks_4_1_proj_in",
    "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.2": "input_blocks_8_1_transformer_blocks_9_ff_net_2",
    "mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0": "middle_block_1_transformer_blocks_3_attn2_to_out_0",
    "mid_block.resnets.1.time_emb_proj": "middle_block_2_emb_layers_1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
    "up_blocks.1.resnets.2.conv_shortcut": "output_blocks_5_0_skip_connection",
    "up_blocks.2.resnets.0.conv2": "output_blocks_6_0_out_layers_3",
}


def test_every_layer_of_the_published_unet_has_one_first_name() -> None:
    names = published()
    spelled = {name: places.to_kohya(f"unet.{name}", xl=True) for name in names}
    assert len(names) > 750 and len(set(spelled.values())) == len(names)
    for name, key in spelled.items():
        assert places.of_kohya(key) == places.of_kohya(places.to_kohya(f"unet.{name}")) == f"unet.{name}"
        assert not any(f"_{theirs}_" in key for theirs in ("down_blocks", "up_blocks", "mid_block", "resnets"))
    assert {name: spelled[name].removeprefix("lora_unet_") for name in KNOWN} == KNOWN
    text = "encoder.layers.0.self_attn.q_proj"
    for network, start in (("text", "lora_te1_"), ("text_2", "lora_te2_")):
        key = places.to_kohya(f"{network}.{text}", xl=True)
        assert key == f"{start}text_model_encoder_layers_0_self_attn_q_proj"
        assert places.of_kohya(key) == f"{network}.{text}"


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_input_blocks_9_1_proj_in",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn3_to_q",
        "lora_unet_input_blocks_4_2_proj_in",
        "lora_unet_output_blocks_2_1_op",
        "lora_unet_middle_block_3_in_layers_2",
        "lora_unet_out_3",
        "lora_te2_text_projection",
        "lora_te3_text_model_encoder_layers_0_mlp_fc1",
    ],
)
def test_other_names_are_none(name: str) -> None:
    assert places.of_kohya(name) is None


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_a_lora_comes_back_from_every_form_as_it_was(xl_lora: Make, tmp_path: Path, form: str, kind: str) -> None:
    concept, target = xl_lora(kind), tmp_path / "maya"
    found = from_concept(concept, "maya.safetensors")
    assert found.xl
    writing.write(found, form, target)
    files = sorted(target.rglob("*.safetensors")) if form == "peft" else [target]
    names = [name for file in files for name in read_header(file).shapes]
    assert len(names) == (3 if form == "kohya" else 2) * len(found.layers)
    again = read(target)
    assert again.form == form and again.xl
    back, _ = concept_of(again)
    assert back.base == concept.base and (back.word, back.settings["identifier"]) == ("<maya>", "cup")
    scale = lambda concept: concept.settings["alpha"] / concept.settings["rank"]
    assert back.tensors.keys() == concept.tensors.keys()
    for name, tensor in concept.tensors.items():
        if name.endswith(".down"):
            assert torch.equal(back.tensors[name], tensor), name
        else:
            assert torch.allclose(scale(back) * back.tensors[name], scale(concept) * tensor, rtol=1e-5), name


@pytest.mark.parametrize("count", [1, 3])
def test_a_word_comes_back_as_a_row_in_each_text_encoder(xl_word: Make, tmp_path: Path, count: int) -> None:
    concept, target = xl_word(count), tmp_path / "rex.safetensors"
    found = from_concept(concept, "x")
    said = writing.write(found, "embedding", target)
    assert any("no place for a word" in text and "rex" in text for text in said)
    tensors = load_file(target)
    assert {name: tuple(rows.shape) for name, rows in tensors.items()} == {"clip_l": (count, 16), "clip_g": (count, 32)}
    back, _ = concept_of(read(target))
    assert torch.equal(back.tensors["rows"], concept.tensors["rows"]) and back.base == concept.base
    assert back.word == "<rex>" and back.settings["num_vectors"] == count
    with pytest.raises(SemblantError, match="emb_params has one tensor for one; use embedding"):
        require(found, "emb_params")


# -- files of others, and what is refused -----------------------------------------------------------------------------

K = "input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def foreign(**more: Tensor) -> dict[str, Tensor]:
    """A file as kohya's scripts write it, in half precision."""
    made: dict[str, Tensor] = {}
    sizes = {f"lora_unet_{K}": (640, 2048), "lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}
    sizes["lora_te2_text_model_encoder_layers_0_mlp_fc1"] = (5120, 1280)
    for name, (out, wide) in sizes.items():
        made |= {f"{name}.lora_up.weight": torch.ones(out, 2).half(), f"{name}.alpha": torch.tensor(1.0).half()}
        made[f"{name}.lora_down.weight"] = torch.ones(2, wide).half()
    return made | more


def test_a_foreign_file_is_for_xl_without_being_told(tmp_path: Path) -> None:
    save_file(foreign(), tmp_path / "x.safetensors", {"ss_base_model_version": "sdxl_base_v1-0", "ss_epoch": "3"})
    found = read(tmp_path / "x.safetensors")
    concept, _ = concept_of(found, "<maya>", "person")
    assert concept.base == {"name": "unknown", "architecture": "sdxl", "width": 2048, "widths": [768, 1280]}
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight.up" in concept.tensors
    assert "text_2.text_model.encoder.layers.0.mlp.fc1.weight.down" in concept.tensors
    assert any("ss_epoch" in text for text in found.said) and not any("ss_base_model" in text for text in found.said)
    writing.write(found, "diffusers", tmp_path / "y.safetensors")
    names = read_header(tmp_path / "y.safetensors").shapes
    assert len(names) == 6 and sum(name.startswith("text_encoder_2.text_model.") for name in names) == 2
    writing.write(read(tmp_path / "y.safetensors"), "kohya", tmp_path / "z.safetensors")
    header = read_header(tmp_path / "z.safetensors")
    assert set(header.shapes) == set(foreign()) and header.metadata["ss_base_model_version"] == "sdxl_base_v1-0"


def test_a_foreign_word_is_for_xl_without_being_told(tmp_path: Path) -> None:
    rows = {"clip_g": torch.full((2, 1280), 2.0).half(), "clip_l": torch.ones(2, 768).half()}
    save_file(rows, tmp_path / "maya.safetensors")
    concept, said = concept_of(read(tmp_path / "maya.safetensors"))
    assert concept.base == {"name": "unknown", "architecture": "sdxl", "width": 2048, "widths": [768, 1280]}
    table = concept.tensors["rows"][0, 0, 0]
    assert table.shape == (2, 2048) and (table[:, :768] == 1).all() and (table[:, 768:] == 2).all()
    assert concept.word == "<maya>" and any("--word" in text for text in said)


WRONG = {
    "unknown layer": (foreign(**{"lora_unet_input_blocks_9_1_proj_in.alpha": torch.ones(())}), "input_blocks_9_1"),
    "no down": ({k: v for k, v in foreign().items() if k != f"lora_unet_{K}.lora_down.weight"}, f"lacks lora_unet_{K}"),
    "no alpha": ({k: v for k, v in foreign().items() if k != f"lora_unet_{K}.alpha"}, rf"lacks lora_unet_{K}\.alpha"),
    "alpha alone": (foreign(**{"lora_te2_text_model_encoder_layers_1_mlp_fc2.alpha": torch.ones(())}), "lora_te2_text"),
    "under both names": (
        foreign(
            **{
                "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": torch.ones(1, 1),
            }
        ),
        "twice",
    ),
    "widths": (foreign(**{f"lora_unet_{K}.lora_down.weight": torch.ones(2, 768)}), "768 and 1280 wide, and its U-Net"),
    "DoRA": (foreign(**{f"lora_unet_{K}.dora_scale": torch.ones(640)}), "DoRA"),
}


@pytest.mark.parametrize("case", WRONG)
def test_keys_that_are_unknown_missing_or_wrong_are_named(tmp_path: Path, case: str) -> None:
    tensors, says = WRONG[case]
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(FileProblem, match=says) as caught:
        read(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_what_fits_no_base_is_refused(xl: Base, xl_word: Make) -> None:
    rows = Learned("embedding", "x", rows=torch.ones(1, 48), widths=(24, 24), xl=True)
    with pytest.raises(SemblantError, match="24 and 24 wide, and those of miniature-xl are 16 and 32"):
        concept_of(rows, base=xl)
    with pytest.raises(SemblantError, match="width 24 and 24; give --base"):
        concept_of(rows)
    assert concept_of(replace(rows, widths=(16, 32)), base=xl)[0].base["widths"] == [16, 32]
    layer = {"unet.add_embedding.linear_1": Layer(torch.ones(8, 1), torch.ones(1, 60), 1.0)}
    found = Learned("kohya", "x", layers=layer, xl=True)
    assert concept_of(found)[0].base["architecture"] == "sdxl"
    with pytest.raises(SemblantError, match="is for Stable Diffusion XL, and miniature is miniature"):
        concept_of(found, base=miniature())
    with pytest.raises(SemblantError, match=r"add_embedding\.linear_1 as one of \[8, 60\], and in miniature-xl it is"):
        concept_of(found, base=xl)
    damaged = replace(xl_word(1), base={"architecture": "sdxl", "width": 48, "widths": [16, 16]})
    with pytest.raises(FileProblem, match="damaged"):
        from_concept(damaged, "x")


def test_a_text_encoder_of_peft_is_known_by_its_folder(xl_lora: Make, tmp_path: Path) -> None:
    writing.write(from_concept(xl_lora("second text alone"), "x"), "peft", tmp_path / "maya")
    assert sorted(path.name for path in (tmp_path / "maya").iterdir()) == ["text_encoder_2"]
    config = json.loads((tmp_path / "maya" / "text_encoder_2" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    for path in (tmp_path / "maya", tmp_path / "maya" / "text_encoder_2"):
        assert {place.partition(".")[0] for place in read(path).layers} == {"text_2"}
