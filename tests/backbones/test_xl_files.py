"""Bases in the form of Stable Diffusion XL: in folders, by name from a hub's cache, in one file; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from semblant.backbones import original, original_text
from semblant.backbones.loading import load
from semblant.backbones.moment import Moment
from semblant.errors import FileProblem

AT = Moment.of(torch.tensor([300]))
WIDE = "conditioner.embedders.1.model."


@pytest.fixture(scope="module")
def form(layouts):
    return layouts.base_like("sdxl")


@pytest.fixture(scope="module")
def written(xl, layouts, tmp_path_factory):
    return layouts.write_folder(xl, tmp_path_factory.mktemp("written") / "base")


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "base"))


@pytest.fixture(scope="module")
def single(form, layouts, tmp_path_factory):
    place = tmp_path_factory.mktemp("single")
    return layouts.write_original(form, place / "model.safetensors"), layouts.write_companion(form, place / "companion")


def change(path: Path, **entries) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def same(loaded, base, tolerance: float = 0.0) -> None:
    """That two bases encode, denoise and decode alike, up to a share of the largest number."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for of in (
            lambda b: b.prepare(b.text("a photo of a dog"), AT).table,
            lambda b: b.prepare(b.text("a photo of a dog"), AT).pooled,
            lambda b: b.denoise(x, AT, b.text("a photo of a dog")),
            lambda b: b.denoise(x, AT, b.text("")),
            lambda b: b.encode(b.decode(x)),
        ):
            one, other = of(loaded), of(base)
            assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_a_folder_is_the_base_it_was_saved_from(xl, folder):
    loaded = load(folder)
    assert loaded.hashes() == xl.hashes() and loaded.describe() == {**xl.describe(), "name": "base"}
    assert (loaded.size, loaded.factor, loaded.zeros_for_empty) == (16, 2, True)
    assert loaded.text("a dog").rows[0].ids == xl.text("a dog").rows[0].ids
    assert loaded.readers[1].pad == xl.readers[1].pad
    same(loaded, xl, tolerance=1e-5)
    change(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    assert not load(folder).zeros_for_empty
    (folder / "model_index.json").unlink()
    assert load(folder).zeros_for_empty, "what lies there says what it is"


def test_held_in_half_precision_its_autoencoder_stays_in_single(folder):
    held = {name.split(".")[0]: weight.dtype for name, weight in load(folder, weights=torch.half).named_parameters()}
    assert held == {"unet": torch.half, "text": torch.half, "text_2": torch.half, "autoencoder": torch.float32}


def test_an_inpainting_base_is_named(layouts, tmp_path):
    from semblant.backbones.loading import miniature_xl

    loaded = load(layouts.write_folder(miniature_xl(in_channels=9), tmp_path))
    assert (loaded.architecture, loaded.extra_channels) == ("sdxl-inpainting", 5)


def test_weights_of_both_text_encoders_come_in_half_precision_too(xl, layouts, tmp_path):
    assert load(layouts.write_folder(xl, tmp_path, variant="fp16")).hashes() == xl.hashes()


def test_a_base_of_the_hub_is_whole_with_its_second_text_encoder(xl, folder, tmp_path, monkeypatch):
    asked = []

    def download(name, *, revision, allow_patterns, ignore_patterns, local_files_only):
        asked.append((local_files_only, allow_patterns))
        for file in huggingface_hub.utils.filter_repo_objects(
            [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()],
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
        ):
            target = tmp_path / "fetched" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, target)
        return str(tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    (folder / "text_encoder_2" / "model.safetensors").rename(folder / "text_encoder_2" / "model.fp16.safetensors")
    loaded = load("owner/xl", offline=True)
    assert loaded.hashes() == xl.hashes() and loaded.name == "owner/xl"
    assert [offline for offline, _ in asked] == [True, True]
    assert all(pattern.startswith("text_encoder_2/") for pattern in asked[1][1])


REFUSED = {
    "no second encoder": (lambda f: shutil.rmtree(f / "text_encoder_2"), "lacks text_encoder_2"),
    "no second tokenizer": (lambda f: shutil.rmtree(f / "tokenizer_2"), "lacks tokenizer_2"),
    "refiner": (lambda f: change(f / "model_index.json", requires_aesthetics_score=True), "the refiner of"),
    "refiner by part": (lambda f: change(f / "model_index.json", text_encoder=[None, None]), "the refiner of"),
    "another pipeline": (
        lambda f: change(f / "model_index.json", _class_name="StableDiffusionXLControlNetPipeline"),
        "made for StableDiffusionXLControlNetPipeline",
    ),
    "unknown setting": (lambda f: change(f / "model_index.json", twist=1), "twist = 1"),
    "zeros": (lambda f: change(f / "model_index.json", force_zeros_for_empty_prompt="no"), "is true or false"),
    "class": (
        lambda f: change(f / "text_encoder_2/config.json", architectures=["CLIPTextModel"]),
        "CLIPTextModel for text_encoder_2",
    ),
    "code": (lambda f: change(f / "text_encoder_2/config.json", auto_map={"AutoModel": "m.M"}), "auto_map"),
    "program": (lambda f: (f / "tokenizer_2" / "own.py").write_text("print()"), "runs no code"),
    "U-Net reads one": (lambda f: change(f / "unet/config.json", addition_embed_type=None), "its U-Net reads one"),
    "U-Net reads images": (
        lambda f: change(f / "unet/config.json", encoder_hid_dim_type="image_proj"),
        "takes more than a prompt",
    ),
    "distilled": (lambda f: change(f / "unet/config.json", time_cond_proj_dim=256), "time_cond_proj_dim = 256"),
    "unknown key": (lambda f: change(f / "unet/config.json", twisted=True), "twisted = True"),
    "shifted latents": (lambda f: change(f / "vae/config.json", latents_mean=[0.1]), "latents_mean = [0.1]"),
    "pickled": (
        lambda f: (f / "text_encoder_2/model.safetensors").rename(f / "text_encoder_2/pytorch_model.bin"),
        "the weights of text_encoder_2 are pickled",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_in_one_sentence(folder, layouts, case):
    layouts.require_refusal(folder, *REFUSED[case])


def test_a_single_file_is_the_base_it_was_written_from(form, single):
    file, companion = single
    loaded = load(file, config=companion)
    assert (loaded.architecture, loaded.prediction, loaded.size) == ("sdxl", "epsilon", 256)
    assert loaded.zeros_for_empty and loaded.autoencoder.config.scaling_factor == 0.13025
    there = dict(form.named_parameters())
    assert {name for name, _ in loaded.named_parameters()} == there.keys()
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, there[name].half().float()), name
    # Half precision moves weights by a thousandth; a wrong head count or activation would move these by far more.
    same(loaded, form, tolerance=0.01)


def test_a_single_file_goes_without_scheduler_and_with_its_companions_word_on_zeros(form, single, layouts, tmp_path):
    companion = layouts.write_companion(form, tmp_path, scheduler=False)
    (companion / "model_index.json").write_text('{"force_zeros_for_empty_prompt": false}')
    loaded = load(single[0], config=companion)
    assert torch.allclose(loaded.schedule.alphas, form.schedule.alphas, atol=1e-7) and not loaded.zeros_for_empty
    (companion / "tokenizer_2").rename(companion / "elsewhere")
    with pytest.raises(FileProblem, match="lacks tokenizer_2"):
        load(single[0], config=companion)


def published() -> dict[str, tuple[int, ...]]:
    """The shapes that configurations are read from, as they stand in the published file."""
    unet: dict[str, tuple[int, ...]] = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    for i, width in enumerate((320, 320, 0, 640, 640, 0, 1280, 1280), start=1):
        unet[f"input_blocks.{i}.0.{'out_layers.3' if width else 'op'}.weight"] = (width or 1, width or 1, 3, 3)
        if width > 320:
            unet[f"input_blocks.{i}.1.norm.weight"] = (width,)
        for block in range({640: 2, 1280: 10}.get(width, 0)):
            unet[f"input_blocks.{i}.1.transformer_blocks.{block}.norm1.weight"] = (width,)
    unet["middle_block.1.proj_in.weight"] = (1280, 1280)
    unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"] = (1280, 2048)
    unet["label_emb.0.0.weight"] = (1280, 2816)
    text: dict[str, tuple[int, ...]] = {"text_projection": (1280, 1280), "positional_embedding": (77, 1280)}
    text |= {"token_embedding.weight": (49408, 1280), "transformer.resblocks.31.ln_1.weight": (1280,)}
    text["transformer.resblocks.0.mlp.c_fc.weight"] = (5120, 1280)
    named = {f"model.diffusion_model.{name}": shape for name, shape in unet.items()}
    return {**named, **{f"{WIDE}{name}": shape for name, shape in text.items()}}


def test_the_published_shapes_give_the_published_configuration():
    made = original.unet_config(published())
    assert made["block_out_channels"] == (320, 640, 1280) and made["layers_per_block"] == 2
    assert made["down_block_types"] == ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    assert made["up_block_types"] == ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    assert made["transformer_layers_per_block"] == (1, 2, 10) and made["attention_head_dim"] == (5, 10, 20)
    assert made["addition_time_embed_dim"] == 256 and made["projection_class_embeddings_input_dim"] == 2816
    assert made["cross_attention_dim"] == 2048 and made["use_linear_projection"]
    two = original_text.BOTH[1].config(published())
    assert (two["hidden_size"], two["num_hidden_layers"], two["num_attention_heads"]) == (1280, 32, 20)
    assert (two["projection_dim"], two["intermediate_size"], two["hidden_act"]) == (1280, 5120, "gelu")


SPOILT = {
    "refiner": (lambda t: t | {"conditioner.embedders.0.model.x": torch.zeros(1)}, "the refiner of"),
    "half of the text": (lambda t: {n: w for n, w in t.items() if not n.startswith(WIDE)}, "all its text encoders"),
    "pure noise": (lambda t: t | {"ztsnr": torch.zeros(1)}, "ends in pure noise"),
    "predicts v": (lambda t: t | {"v_pred": torch.zeros(1)}, "predicts v"),
    "no sizes": (lambda t: {n: w for n, w in t.items() if "label_emb" not in n}, "label_emb"),
    "a weight less": (lambda t: {n: w for n, w in t.items() if "text_projection" not in n}, "cannot be loaded"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_files_that_are_something_else_are_refused(single, tmp_path, case):
    file, companion = single
    spoil, says = SPOILT[case]
    save_file(spoil(load_file(file)), tmp_path / "x.safetensors")
    with pytest.raises(FileProblem, match=says) as caught:
        load(tmp_path / "x.safetensors", config=companion)
    assert "x.safetensors" in str(caught.value) and "\n" not in str(caught.value)
