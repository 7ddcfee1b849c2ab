"""Bases from folders and pipelines."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from typer.testing import CliRunner

from semblant.backbones.base import Base
from semblant.backbones.loading import load, miniature
from semblant.backbones.moment import Moment
from semblant.cli.main import app
from semblant.errors import FileProblem, SemblantError
from semblant.patches.weights import attention_weights, text_attention_weights
from semblant.patches.words import LearnedWord
from semblant.sampling.loop import Branches, sample_latents
from semblant.training.precision import choose

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
AT = Moment.of(torch.tensor([500]))


@pytest.fixture
def folder(base, tmp_path):
    base.unet.save_pretrained(tmp_path / "unet")
    base.autoencoder.save_pretrained(tmp_path / "vae")
    base.text_encoder.save_pretrained(tmp_path / "text_encoder")
    base.tokenizer.save_pretrained(tmp_path / "tokenizer")
    DDIMScheduler(**SCHEDULER).save_pretrained(tmp_path / "scheduler")
    return tmp_path


@torch.no_grad()
def test_a_folder_is_the_base_it_was_saved_from(base, folder, x):
    loaded = load(folder)
    prompt = "a photo of a zebra, (smiling:1.3)"
    assert loaded.hashes() == base.hashes()
    assert loaded.text(prompt).rows[0].ids == base.text(prompt).rows[0].ids
    assert torch.equal(loaded.denoise(x[:1], AT, loaded.text(prompt)), base.denoise(x[:1], AT, base.text(prompt)))
    # An autoencoder from files lies in memory otherwise, and so rounds otherwise.
    assert torch.allclose(loaded.encode(loaded.decode(x)), base.encode(base.decode(x)), atol=1e-4)
    assert torch.allclose(loaded.schedule.alphas, base.schedule.alphas, atol=1e-7)
    assert (loaded.size, loaded.factor, loaded.channels, loaded.extra_channels) == (16, 2, 4, 0)
    assert loaded.prediction == "epsilon" and loaded.name == folder.name


def test_half_precision_files_become_float32(base, folder):
    loaded = load(folder)
    for part, name in ((loaded.unet, "unet"), (loaded.autoencoder, "vae"), (loaded.text_encoder, "text_encoder")):
        part.half().save_pretrained(folder / name)
    again = load(folder)
    assert {weight.dtype for _, weight in again.named_parameters()} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_weights_are_held_in_half_the_memory_where_that_is_asked_for(folder, x, dtype, near):
    whole, half = load(folder), load(folder, weights=dtype)
    held = dict(half.named_parameters())
    for name, weight in whole.named_parameters():
        assert torch.equal(held[name], weight.to(dtype)), name
    for of in (
        lambda b: b.denoise(x[:1], AT, b.text("a photo of a (zebra:1.3)")),
        lambda b: b.decode(b.encode(x[:, :3].repeat(1, 1, 2, 2).clamp(-1, 1))),
    ):
        assert 0 < (of(half).float() - of(whole)).abs().max() < near * of(whole).abs().max()


def test_weights_held_in_one_half_are_not_computed_in_the_other(folder):
    half = load(folder, weights=torch.float16)
    assert half.computing(torch.float16).computing(torch.float32).compute == torch.float32
    with pytest.raises(SemblantError, match=r"bfloat16 is not .*possible: torch.float32, torch.float16$"):
        half.computing(torch.bfloat16)
    assert choose(half) is torch.float32


def test_weights_are_held_in_a_type_that_networks_run_in(folder):
    with pytest.raises(SemblantError, match=r"torch.float64 is not a type .*torch.bfloat16"):
        load(folder, weights=torch.float64)


def test_what_a_folder_says_of_its_prediction_holds(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    assert load(folder).prediction == "v_prediction"


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_folder_without_a_part_is_refused(folder, part):
    (folder / part).rename(folder / "elsewhere")
    with pytest.raises(FileProblem, match=f"lacks {part}"):
        load(folder)


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_damaged_folder_is_refused(folder, file, damage):
    path = folder / file
    assert path.exists()
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"no such thing")
    with pytest.raises(FileProblem, match="cannot be loaded as a base"):
        load(folder)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(FileProblem, match="no base at"):
        load(tmp_path / "nowhere")


@pytest.fixture
def pipeline():
    """A pipeline of a miniature's weights, never touched by a Base."""
    parts, copy = miniature(seed=3), miniature(seed=3)
    unet = type(parts.unet).from_config(parts.unet.config)
    unet.load_state_dict(copy.unet.state_dict())
    made = StableDiffusionPipeline(
        vae=parts.autoencoder,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


PROMPTS, NEGATIVE = ["a photo of an old dog", "the beach"], "a cup"


def run(pipeline, x, output_type="latent"):
    settings = {"num_inference_steps": 6, "guidance_scale": 7.5, "height": 16, "width": 16}
    negative = [NEGATIVE] * len(x)
    return pipeline(PROMPTS, negative_prompt=negative, latents=x, output_type=output_type, **settings).images


def test_a_wrapped_pipeline_samples_what_it_sampled(pipeline, x):
    expected, picture = run(pipeline, x), run(pipeline, x, "pt")
    base = Base.wrap(pipeline)
    branches = Branches.of(base.text(PROMPTS), base.text(NEGATIVE))
    latents = sample_latents(base, x, branches, steps=6, guidance=7.5)
    assert (latents - expected).abs().max() < 1e-4
    with torch.no_grad():
        assert ((base.decode(latents) / 2 + 0.5).clamp(0, 1) - picture).abs().max() < 1e-4

    view = base.patched(LearnedWord("<v>", torch.randn(1, 7, 2, 1, base.width), base.token_row("dog")))
    sample_latents(view, x, Branches.of(view.text("a <v>").repeat(2), view.text("")), steps=1)
    assert torch.equal(run(pipeline, x), expected), "the pipeline works as before"
    assert Base.wrap(pipeline).hashes() == base.hashes(), "and can be wrapped again"


def test_a_pipeline_without_a_text_encoder_is_refused(pipeline):
    pipeline.text_encoder = None
    with pytest.raises(SemblantError, match="lacks text_encoder"):
        Base.wrap(pipeline)


def test_a_schedule_of_zero_signal_is_refused(pipeline):
    pipeline.scheduler = DDIMScheduler(**SCHEDULER, rescale_betas_zero_snr=True)
    with pytest.raises(SemblantError, match="rescale_betas_zero_snr"):
        Base.wrap(pipeline)


def test_a_schedule_of_an_unknown_kind_is_refused(pipeline):
    pipeline.scheduler = DDPMScheduler(beta_schedule="sigmoid")
    with pytest.raises(SemblantError, match='beta_schedule = "sigmoid" is not known; possible: linear, scaled_linear'):
        Base.wrap(pipeline)


def test_a_pipeline_of_shifted_latents_is_refused(pipeline):
    pipeline.vae.register_to_config(shift_factor=0.5)
    with pytest.raises(SemblantError, match=r"vae .*shift_factor = 0\.5, which is not followed"):
        Base.wrap(pipeline)


def test_a_pipeline_whose_layers_read_text_of_several_widths_is_refused(pipeline):
    pipeline.unet.register_to_config(cross_attention_dim=(32, 32))
    with pytest.raises(SemblantError, match=r"cross_attention_dim = \(32, 32\)"):
        Base.wrap(pipeline)


@torch.no_grad()
@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_compiled_network_is_patched_as_the_one_it_was_compiled_from(pipeline, x, part):
    context = lambda base: base.text("a <v>")
    plain = Base.wrap(pipeline)
    setattr(pipeline, part, torch.compile(getattr(pipeline, part)))
    base = Base.wrap(pipeline)
    assert base.hashes() == plain.hashes() and [s.name for s in base.sites] == [s.name for s in plain.sites]
    word = LearnedWord("<v>", torch.randn(1, 7, 2, 1, base.width), base.token_row("dog"))
    answers = [view.denoise(x[:1], AT, context(view)) for view in (base.patched(word), plain.patched(word))]
    assert torch.equal(*answers) and not torch.equal(answers[0], plain.denoise(x[:1], AT, context(plain)))
    assert torch.equal(base.decode(x), plain.decode(x))


@torch.no_grad()
def test_a_lora_of_the_pipeline_is_to_be_unloaded_before_attention_is_learned(pipeline, x):
    for network, targets in ((pipeline.unet, ["to_k"]), (pipeline.text_encoder, ["q_proj"])):
        network.add_adapter(LoraConfig(r=2, target_modules=targets))
    base = Base.wrap(pipeline)
    base.denoise(x[:1], AT, base.text("a dog"))
    for weights in (attention_weights, text_attention_weights):
        with pytest.raises(SemblantError, match=r"unload the LoRA first \(pipeline\.unload_lora_weights\(\)\)"):
            weights(base)
    assert attention_weights(base, ["to_q"]), "those that it leaves alone can be learned"
    pipeline.unload_lora_weights()
    assert attention_weights(Base.wrap(pipeline))


@torch.no_grad()
def test_the_autoencoder_is_scaled_as_diffusers_does(base):
    picture = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae: AutoencoderKL = base.autoencoder
    posterior, scale = vae.encode(picture).latent_dist, vae.config.scaling_factor
    mean, deviation = base.posterior(picture)
    assert torch.equal(base.encode(picture), posterior.mean * scale)
    assert torch.allclose(deviation, posterior.std * scale)
    assert torch.equal(base.decode(mean), vae.decode(mean / scale).sample)
    draws = [base.encode(picture, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert ((draws[0] - mean).abs() < 6 * deviation).all()


def test_a_miniature_is_the_same_every_time_and_leaves_randomness_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = miniature(seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert first.hashes() == miniature(seed=1).hashes() != miniature(seed=2).hashes()


@pytest.mark.parametrize(
    ("name", "said"), [("gpu", "possible: cpu, cuda"), ("cuda:99", "GPU of NVIDIA"), ("mps", "of Apple"), ("", "cpu")]
)
def test_a_device_that_is_not_there_is_told_before_anything_is_read(name, said, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SemblantError, match=said):
        load("no such base", name)
    assert CliRunner().invoke(app, ["sample", "a dog", "--device", name]).exit_code == 2
