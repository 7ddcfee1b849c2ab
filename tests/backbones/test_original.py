"""Bases in one file, in the layout of Stable Diffusion's first releases."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from semblant.backbones import original
from semblant.backbones.header import Header
from semblant.backbones.loading import load
from semblant.backbones.moment import Moment
from semblant.errors import FileProblem

AT = Moment.of(torch.tensor([300]))


@pytest.fixture(scope="session")
def files(sd1, sd2, layouts, tmp_path_factory):
    """Both forms, each as (base, file, companion), in half precision as such files are."""
    made = {}
    for base in (sd1, sd2):
        place = tmp_path_factory.mktemp(base.architecture)
        file = layouts.write_original(base, place / "model.safetensors")
        made[base.architecture] = (base, file, layouts.write_companion(base, place / "companion"))
    return made


@pytest.mark.parametrize("form", ["sd-1", "sd-2"])
@torch.no_grad()
def test_a_single_file_is_the_base_it_was_written_from(files, form):
    base, file, companion = files[form]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    loaded = load(file, config=companion)
    assert torch.equal(torch.rand(1), expected), "nobody else's randomness moves"
    for attribute in ("architecture", "prediction", "size", "factor", "extra_channels"):
        assert getattr(loaded, attribute) == getattr(base, attribute)
    assert loaded.name == "model"
    there = dict(base.named_parameters())
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, there[name].half().float()), name
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    # Half precision moves weights by a thousandth; a wrong head count or activation would move these by far more.
    for of in (
        lambda b: b.encodings(b.text("a photo of a dog")),
        lambda b: b.denoise(x, AT, b.text("a photo of a dog")),
        lambda b: b.decode(b.encode(picture)),
    ):
        assert (of(loaded) - of(base)).abs().max() < 0.01 * of(base).abs().max()


def test_the_weights_of_a_single_file_are_held_as_it_has_them_where_that_is_asked_for(files):
    _, file, companion = files["sd-1"]
    whole, half = (
        dict(load(file, config=companion, weights=t).named_parameters()) for t in (torch.float32, torch.half)
    )
    assert {weight.dtype for weight in half.values()} == {torch.half}
    assert all(torch.equal(weight.float(), whole[name]) for name, weight in half.items())


def test_a_file_without_scheduler_is_enough_for_1_and_not_for_2(files, layouts, tmp_path):
    for form in ("sd-1", "sd-2"):
        base, file, _ = files[form]
        companion = layouts.write_companion(base, tmp_path / form, scheduler=False)
        if form == "sd-2":
            with pytest.raises(FileProblem, match=r"noise or v.*has no scheduler"):
                load(file, config=companion)
        else:
            assert torch.allclose(load(file, config=companion).schedule.alphas, base.schedule.alphas, atol=1e-7)


def test_inpainting_files_are_named(layouts, tmp_path):
    base = layouts.base_like("sd-1", in_channels=9)
    file = layouts.write_original(base, tmp_path / "inpainting.safetensors")
    loaded = load(file, config=layouts.write_companion(base, tmp_path / "companion"))
    assert (loaded.architecture, loaded.extra_channels) == ("sd-1-inpainting", 5)


def test_the_published_shapes_give_the_published_configuration():
    """Stable Diffusion 1.5's: the shapes that configurations are read from, as they stand in its file."""
    unet: dict[str, tuple[int, ...]] = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    for i, width in enumerate((320, 320, 0, 640, 640, 0, 1280, 1280, 0, 1280, 1280), start=1):
        if width:
            unet[f"input_blocks.{i}.0.out_layers.3.weight"] = (width, width, 3, 3)
        else:
            unet[f"input_blocks.{i}.0.op.weight"] = (1, 1, 3, 3)
        if width and i < 9:
            unet[f"input_blocks.{i}.1.norm.weight"] = (width,)
    unet["middle_block.1.proj_in.weight"] = (1280, 1280, 1, 1)
    unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"] = (1280, 768)
    one = original.unet_config({f"model.diffusion_model.{name}": shape for name, shape in unet.items()})
    assert one["block_out_channels"] == (320, 640, 1280, 1280) and one["layers_per_block"] == 2
    assert one["down_block_types"] == ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    assert one["up_block_types"] == ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    assert one["attention_head_dim"] == 8 and not one["use_linear_projection"] and one["cross_attention_dim"] == 768
    unet["middle_block.1.proj_in.weight"] = (1280, 1280)
    two = original.unet_config({f"model.diffusion_model.{name}": shape for name, shape in unet.items()})
    assert two["attention_head_dim"] == (5, 10, 20, 20) and two["use_linear_projection"]


def test_what_a_single_file_needs_is_said(files, tmp_path):
    _, file, companion = files["sd-1"]
    with pytest.raises(FileProblem, match="no tokenizer: add --config FOLDER"):
        load(file)
    with pytest.raises(FileProblem, match="no folder at nowhere"):
        load(file, config="nowhere")
    with pytest.raises(FileProblem, match="lacks tokenizer"):
        load(file, config=tmp_path)
    with pytest.raises(FileProblem, match="--config goes with a single"):
        load("embedded", config=companion)
    (companion / "tokenizer" / "own.py").write_text("print('run')")
    with pytest.raises(FileProblem, match="runs no code"):
        load(file, config=companion)
    (companion / "tokenizer" / "own.py").unlink()


def test_other_files_are_refused(files, tmp_path):
    _, file, companion = files["sd-1"]
    pickled = tmp_path / "model.ckpt"
    torch.save({"weights": torch.zeros(1)}, pickled)
    with pytest.raises(FileProblem, match="a pickle"):
        load(pickled, config=companion)
    xl = tmp_path / "xl.safetensors"
    save_file({"conditioner.embedders.0.transformer.x": torch.zeros(1)}, xl)
    with pytest.raises(FileProblem, match=r"not a whole Stable Diffusion .* all its text encoders"):
        load(xl, config=companion)
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(1, 2)}, lora)
    with pytest.raises(FileProblem, match=r"not a whole Stable Diffusion .*inspect"):
        load(lora, config=companion)
    weights = load_file(file)
    name = next(name for name in weights if "output_blocks.1.0.in_layers.2" in name)
    del weights[name]
    save_file(weights, tmp_path / "torn.safetensors")
    with pytest.raises(FileProblem, match=r"unet lacks 1 weights.*up_blocks"):
        load(tmp_path / "torn.safetensors", config=companion)


def test_a_tokenizer_of_another_base_is_refused(files, tmp_path):
    from semblant.backbones.vocabulary import word_tokenizer

    word_tokenizer([f"word{chr(97 + i)}{chr(97 + j)}" for i in range(20) for j in range(20)]).save_pretrained(
        tmp_path / "tokenizer"
    )
    with pytest.raises(FileProblem, match="give the --config of a base of the same kind"):
        load(files["sd-1"][1], config=tmp_path)


def test_averaged_weights_do_not_make_a_checkpoint():
    assert not original.is_checkpoint(Header({}, {"model_ema.decay": ()}, {}))
