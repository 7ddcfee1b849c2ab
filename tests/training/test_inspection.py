"""What files and folders are said to be, by their headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from semblant.backbones.header import read_header
from semblant.backbones.miniature import miniature, miniature_xl
from semblant.data.pictures import save_png
from semblant.errors import FileProblem
from semblant.training import concepts
from semblant.training.inspection import inspect


def saved(path: Path, metadata: dict[str, str] | None = None, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path, metadata=metadata)
    return path


def test_a_concept_says_how_it_was_made(tmp_path: Path) -> None:
    concept = concepts.Concept(
        method="sefi-ide",
        settings={"steps": 3},
        word="<maya>",
        class_word="person",
        base={"name": "embedded", "architecture": "embedded", "width": 192},
        tensors={"rows": torch.zeros(5, 1, 2, 1, 192)},
        stages=[0, 0, 1, 2, 3, 4],
        steps=3,
        figures={"seconds": 1.5},
    )
    concepts.save(concept, tmp_path / "maya.safetensors")
    found = inspect(tmp_path / "maya.safetensors")
    assert found["kind"] == "concept" and found["readable"] and found["method"] == "sefi-ide"
    assert (found["word"], found["class_word"], found["base"]["architecture"]) == ("<maya>", "person", "embedded")
    assert found["rows"] == {"stages": 5, "sites": 1, "parts": 2, "length": 1, "dim": 192}
    assert found["stages"] == {"0": 2, "1": 1, "2": 1, "3": 1, "4": 1}
    assert found["settings"] == {"steps": 3} and found["figures"] == {"seconds": 1.5}
    assert (found["tensors"], found["parameters"], found["dtypes"]) == (1, 1920, {"F32": 1})
    assert found["metadata"]["steps"] == 3


A, B = torch.zeros(4, 16), torch.zeros(16, 4)
LORAS: dict[str, tuple[dict[str, torch.Tensor], dict[str, int]]] = {
    "PEFT": (
        {f"base_model.model.down_blocks.0.to_q.lora_{x}.weight": w for x, w in (("A", A), ("B", B))},
        {"unet": 1},
    ),
    "diffusers": (
        {
            "unet.up_blocks.1.attn1.to_k.lora.down.weight": A,
            "unet.up_blocks.1.attn1.to_k.lora.up.weight": B,
            "unet.mid_block.attn1.processor.to_q_lora.down.weight": A,
            "unet.mid_block.attn1.processor.to_q_lora.up.weight": B,
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": A,
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": B,
        },
        {"unet": 2, "text encoder": 1},
    ),
    "kohya": (
        {
            "lora_unet_down_blocks_0_attn1_to_q.alpha": torch.tensor(4.0),
            "lora_unet_down_blocks_0_attn1_to_q.lora_down.weight": A[:, :, None, None],
            "lora_unet_down_blocks_0_attn1_to_q.lora_up.weight": B[:, :, None, None],
            "lora_te_text_model_encoder_layers_0_self_attn_k_proj.lora_down.weight": A,
            "lora_te_text_model_encoder_layers_0_self_attn_k_proj.lora_up.weight": B,
        },
        {"unet": 1, "text encoder": 1},
    ),
}


@pytest.mark.parametrize("naming", LORAS)
def test_low_rank_weights_are_known_by_their_names(tmp_path: Path, naming: str) -> None:
    tensors, of = LORAS[naming]
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "x.safetensors", {"ss_a": "1"})
    found = inspect(tmp_path / "x.safetensors")
    assert (found["kind"], found["naming"], found["of"]) == ("LoRA", naming, of)
    assert found["layers"] == sum(of.values()) and found["rank"] == {"4": found["layers"]}
    assert found["tensors"] == len(tensors) and found["metadata"] == {"ss_a": 1}


def test_embeddings_are_known_by_their_shapes(tmp_path: Path) -> None:
    word = inspect(saved(tmp_path / "w.safetensors", **{"<cat>": torch.zeros(2, 768, dtype=torch.float16)}))
    assert word["kind"] == "textual-inversion embedding" and word["word"] == "<cat>" and word["vectors"] == 2
    assert word["architecture"] == "sd-1" and word["dtypes"] == {"F16": 1}
    other = inspect(saved(tmp_path / "e.safetensors", emb_params=torch.zeros(1024)))
    assert (other["architecture"], other["vectors"], other["word"]) == ("sd-2", 1, None)
    both = inspect(saved(tmp_path / "xl.safetensors", clip_l=torch.zeros(1, 768), clip_g=torch.zeros(1, 1280)))
    assert (both["architecture"], both["width"], both["widths"], both["word"]) == ("sdxl", 2048, [768, 1280], None)


def test_other_tensors_are_named_as_far_as_known(tmp_path: Path) -> None:
    tensors = {"controlnet_cond_embedding.conv_in.weight": torch.zeros(1, 3, 3, 3), "x": torch.zeros(1)}
    assert inspect(saved(tmp_path / "c.safetensors", **tensors))["kind"] == "a ControlNet"
    nothing = inspect(saved(tmp_path / "n.safetensors", a=torch.zeros(1), b=torch.zeros(2, 2, 2)))
    assert nothing["kind"] == "other tensors" and nothing["names"] == ["a", "b"]


def test_a_base_folder_says_what_it_is_and_whether_it_can_be_used(layouts: Any, tmp_path: Path) -> None:
    base = miniature(in_channels=9, prediction="v_prediction")
    folder = layouts.write_folder(base, tmp_path / "base", variant="fp16")
    found = inspect(folder)
    assert found["kind"] == "base folder" and found["usable"] and found["extra_channels"] == 5
    assert (found["architecture"], found["prediction"], found["size"]) == ("width-32-inpainting", "v_prediction", 16)
    assert found["parts"]["unet"]["variant"] == "fp16"
    counted = sum(weight.numel() for weight in base.unet.parameters())
    assert found["parts"]["unet"]["parameters"] == counted
    assert found["parameters"] == sum(weight.numel() for _, weight in base.named_parameters())
    (folder / "own.py").write_text("print('run')")
    refused = inspect(folder)
    assert not refused["usable"] and "runs no code" in refused["why"] and refused["parameters"] == found["parameters"]


def test_single_files_say_their_form(layouts: Any, tmp_path: Path) -> None:
    file = layouts.write_original(layouts.base_like("sd-1", in_channels=9), tmp_path / "one.safetensors")
    found = inspect(file)
    assert (found["kind"], found["usable"]) == ("single-file checkpoint", True)
    assert found["architecture"] == "sd-1-inpainting" and found["dtypes"]["F16"] == found["tensors"]
    xl = inspect(saved(tmp_path / "xl.safetensors", **{"conditioner.embedders.0.x": torch.zeros(1)}))
    assert not xl["usable"] and "all its text encoders" in xl["why"] and xl["architecture"] == "sdxl"
    whole = inspect(layouts.write_original(layouts.base_like("sdxl", in_channels=9), tmp_path / "whole.safetensors"))
    assert whole["usable"] and whole["architecture"] == "sdxl-inpainting" and whole["extra_channels"] == 5


def test_a_folder_of_xl_is_named_with_both_text_encoders(layouts: Any, tmp_path: Path) -> None:
    base = miniature_xl()
    found = inspect(layouts.write_folder(base, tmp_path / "base"))
    assert found["usable"] and found["architecture"] == "sdxl"
    assert list(found["parts"]) == ["unet", "vae", "text_encoder", "text_encoder_2"]
    assert found["parameters"] == sum(weight.numel() for _, weight in base.named_parameters())
    (tmp_path / "base" / "text_encoder_2" / "model.safetensors").unlink()
    refused = inspect(tmp_path / "base")
    assert not refused["usable"] and "text_encoder_2 has no safetensors weights" in refused["why"]


XL_LORAS: dict[str, dict[str, torch.Tensor]] = {
    "second text encoder": {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 1280)},
    "first names": {"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": torch.zeros(4, 640)},
    "width": {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": torch.zeros(4, 2048)},
    "diffusers": {"text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.zeros(4, 1280)},
}


@pytest.mark.parametrize("case", XL_LORAS)
def test_loras_for_xl_are_named(tmp_path: Path, case: str) -> None:
    save_file(XL_LORAS[case], tmp_path / "x.safetensors")
    found = inspect(tmp_path / "x.safetensors")
    assert found["kind"] == "LoRA" and found["architecture"] == "sdxl"
    second = case in ("second text encoder", "diffusers")
    assert found["of"] == ({"text encoder 2": 1} if second else {"unet": 1})


def test_a_lora_says_its_base_by_the_width_that_it_reads(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    for width, architecture in ((768, "sd-1"), (1024, "sd-2")):
        found = inspect(saved(tmp_path / "x.safetensors", **{name: torch.zeros(4, width)}))
        assert found["architecture"] == architecture


def test_pictures_give_their_settings_back(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 32))
    save_png(image, tmp_path / "made.png", {"prompt": "a dog", "seed": 3})
    found = inspect(tmp_path / "made.png")
    assert found["made_by_semblant"] and found["settings"] == {"prompt": "a dog", "seed": 3}
    assert found["size"] == [40, 32]
    image.save(tmp_path / "other.png")
    assert not inspect(tmp_path / "other.png")["made_by_semblant"]


def test_tensors_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a terabyte of nothing is told from its header, for its tensors stay where they are."""
    size = 2**40
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**19, 2**19], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        try:
            file.truncate(8 + len(header) + size)
        except OSError:
            pytest.skip("this file system takes no sparse file of a terabyte")
    assert read_header(path).parameters == 2**38


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt", "pth", "safetensors"])
def test_pickles_are_named_and_left_alone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(FileProblem, match="a pickle, which can run any program"):
        inspect(path)
    old = tmp_path / "old.pt"
    old.write_bytes(b"cos\nmkdir\n(Vsprung\ntR.")
    with pytest.raises(FileProblem, match="by its name a pickle"):
        inspect(old)


HEADERS = {
    "no length": b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{nah",
    "list": struct.pack("<Q", 2) + b"[]",
    "no shapes": struct.pack("<Q", 14) + b'{"w":{"a": 1}}',
    "longer than the file": struct.pack("<Q", 4000) + b"{}",
    "enormous": struct.pack("<Q", 2**63) + b"{}",
    "text": b"this is a text of no tensors at all",
    "empty": b"",
    "trailing": struct.pack("<Q", 2) + b"{}" + b"more",
}


@pytest.mark.parametrize("case", HEADERS)
def test_damaged_headers_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(HEADERS[case])
    with pytest.raises(FileProblem, match=r"x\.safetensors is") as caught:
        inspect(path)
    assert "\n" not in str(caught.value)


def test_what_is_nothing_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="is no base: it has none of"):
        inspect(tmp_path)
    with pytest.raises(FileProblem, match="there is no file"):
        inspect(tmp_path / "gone.safetensors")
