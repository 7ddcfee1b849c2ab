"""Bases in folders: what is read, in which files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semblant.backbones import networks
from semblant.backbones.folder import weights_of
from semblant.backbones.loading import load
from semblant.backbones.moment import Moment
from semblant.errors import FileProblem, SemblantError
from semblant.training.inspection import inspect

AT = Moment.of(torch.tensor([500]))


@pytest.fixture
def folder(base, layouts, tmp_path):
    return layouts.write_folder(base, tmp_path / "base")


def change(path: Path, **entries) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "100KB"}], ids=["fp16", "sharded"])
def test_variants_and_shards_are_read(base, layouts, tmp_path, options):
    written = layouts.write_folder(base, tmp_path, **options)
    files = weights_of(written, "unet")
    assert files.variant == options.get("variant") and (len(files.files) > 1) == ("max_shard_size" in options)
    assert load(written).hashes() == base.hashes()


def test_sharded_variants_are_read(base, layouts, tmp_path):
    written = layouts.write_folder(base, tmp_path, variant="fp16", max_shard_size="100KB")
    (plain,) = (written / "text_encoder").glob("*index*")
    index = json.loads(plain.read_text())
    index["weight_map"] = {n: f.replace(".safetensors", ".fp16.safetensors") for n, f in index["weight_map"].items()}
    plain.with_name("model.safetensors.index.fp16.json").write_text(json.dumps(index))
    plain.unlink()
    assert len(weights_of(written, "unet").files) > 1 and weights_of(written, "unet").variant == "fp16"
    assert load(written).hashes() == base.hashes()


def test_full_precision_goes_before_a_variant(base, folder):
    for name, weights in (("fp16", base.unet.state_dict()), ("non_ema", base.unet.state_dict())):
        halves = {key: torch.zeros_like(weight) for key, weight in weights.items()}
        save_file(halves, folder / "unet" / f"diffusion_pytorch_model.{name}.safetensors")
    assert weights_of(folder, "unet").variant is None
    assert load(folder).hashes() == base.hashes()


@pytest.mark.parametrize(
    ("form", "prediction", "channels", "name", "size"),
    [
        ("sd-1", "epsilon", 4, "sd-1", 128),
        ("sd-1", "epsilon", 9, "sd-1-inpainting", 128),
        ("sd-2", "epsilon", 4, "sd-2", 128),
        ("sd-2", "v_prediction", 4, "sd-2", 192),
        ("sd-2", "epsilon", 9, "sd-2-inpainting", 128),
        ("sd-1", "epsilon", 8, "sd-1-plus-4", 128),
    ],
)
@torch.no_grad()
def test_published_forms_load_and_are_named(layouts, tmp_path, form, prediction, channels, name, size):
    made = layouts.base_like(form, prediction, channels)
    loaded = load(layouts.write_folder(made, tmp_path))
    # Two levels of the autoencoder make a factor of 2, where the published ones have 8.
    assert (loaded.architecture, loaded.prediction, loaded.size) == (name, prediction, size)
    assert loaded.extra_channels == channels - 4 and loaded.hashes() == made.hashes()
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    if channels == 4:
        noise = loaded.denoise(x, AT, loaded.text("a photo of a dog"))
        assert torch.equal(noise, made.denoise(x, AT, made.text("a photo of a dog")))
    else:
        with pytest.raises(SemblantError, match=f"takes {channels - 4} channels beside"):
            loaded.denoise(x, AT, loaded.text("a dog"))


@torch.no_grad()
def test_v_is_turned_into_noise(sd2, layouts, tmp_path):
    folder = layouts.write_folder(sd2, tmp_path)
    x, context = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), sd2.text("a dog")
    v_as_noise = load(folder).denoise(x, AT, context)
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    v = load(folder).denoise(x, AT, context)
    alpha = sd2.schedule.alphas[500]
    assert torch.allclose(v_as_noise, alpha.sqrt() * v + (1 - alpha).sqrt() * x, atol=1e-5)


REFUSED = {
    "pipeline": (lambda f: change(f / "model_index.json", _class_name="FluxPipeline"), "FluxPipeline"),
    "upscaler": (
        lambda f: change(f / "model_index.json", _class_name="StableDiffusionUpscalePipeline"),
        "made for StableDiffusionUpscalePipeline",
    ),
    "index class": (lambda f: change(f / "model_index.json", unet=["mine", "MyUNet"]), "MyUNet for unet"),
    "index part": (lambda f: change(f / "model_index.json", extra=["mine", "Extra"]), "Extra for extra"),
    "unet": (lambda f: change(f / "unet/config.json", _class_name="UNet3DConditionModel"), "UNet3DConditionModel"),
    "vae": (lambda f: change(f / "vae/config.json", _class_name="AsymmetricAutoencoderKL"), "AutoencoderKL"),
    "text": (lambda f: change(f / "text_encoder/config.json", architectures=["T5EncoderModel"]), "T5EncoderModel"),
    "tokenizer": (
        lambda f: change(f / "tokenizer/tokenizer_config.json", tokenizer_class="T5Tokenizer"),
        "T5Tokenizer",
    ),
    "scheduler": (
        lambda f: change(f / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "DDIMScheduler",
    ),
    "auto_map": (lambda f: change(f / "text_encoder/config.json", auto_map={"AutoModel": "m.M"}), "auto_map"),
    "code": (lambda f: (f / "unet" / "my_unet.py").write_text("print('run')"), "runs no code"),
    "code above": (lambda f: (f / "pipeline.py").write_text("print('run')"), "pipeline.py"),
    "class conditions": (lambda f: change(f / "unet/config.json", num_class_embeds=1000), "num_class_embeds"),
    "unknown setting": (lambda f: change(f / "unet/config.json", nonsense=True), "nonsense = True"),
    "distilled": (lambda f: change(f / "unet/config.json", time_cond_proj_dim=256), "time_cond_proj_dim = 256"),
    "unknown setting of the autoencoder": (lambda f: change(f / "vae/config.json", nonsense=1), "nonsense = 1"),
    "shifted latents": (lambda f: change(f / "vae/config.json", shift_factor=0.5), "shift_factor = 0.5"),
    "latents of another mean": (lambda f: change(f / "vae/config.json", latents_mean=[0.1]), "latents_mean = [0.1]"),
    "architectures": (
        lambda f: change(f / "text_encoder/config.json", architectures=5),
        "the class 5 for text_encoder",
    ),
    "xl by unet": (lambda f: change(f / "unet/config.json", addition_embed_type="text_time"), "lacks text_encoder_2"),
    "xl by part": (
        lambda f: change(f / "model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"]),
        "lacks text_encoder_2, tokenizer_2",
    ),
    "xl by name": (
        lambda f: change(f / "model_index.json", _class_name="StableDiffusionXLPipeline"),
        "lacks text_encoder_2, tokenizer_2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_in_one_sentence(folder, layouts, case):
    layouts.require_refusal(folder, *REFUSED[case])


UNET, VAE, NOISE = "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"
SENSELESS = [
    (UNET, "sample_size", "64"),
    (UNET, "sample_size", [64]),
    (UNET, "sample_size", 0),
    (UNET, "in_channels", None),
    (UNET, "cross_attention_dim", [768, 768]),
    (UNET, "cross_attention_dim", None),
    (UNET, "block_out_channels", 32),
    (UNET, "block_out_channels", []),
    (UNET, "block_out_channels", [32, True]),
    (VAE, "block_out_channels", "32"),
    (VAE, "latent_channels", None),
    (VAE, "latent_channels", 4.5),
    (VAE, "scaling_factor", None),
    (VAE, "scaling_factor", "0.18"),
    (VAE, "scaling_factor", 0),
    (VAE, "scaling_factor", float("nan")),
    (NOISE, "beta_schedule", "cosine"),
    (NOISE, "beta_schedule", None),
    (NOISE, "num_train_timesteps", "1000"),
    (NOISE, "num_train_timesteps", 0),
    (NOISE, "beta_start", None),
    (NOISE, "beta_end", 1.2),
    (NOISE, "beta_start", -0.1),
    (NOISE, "trained_betas", []),
    (NOISE, "trained_betas", [0.1, "0.2"]),
    (NOISE, "trained_betas", 0.5),
    (NOISE, "prediction_type", "sample"),
]


@pytest.mark.parametrize(("file", "key", "value"), SENSELESS, ids=[f"{key} {value}" for _, key, value in SENSELESS])
def test_settings_that_make_no_sense_are_refused_by_file_and_key_before_weights_are_read(
    folder, monkeypatch, file, key, value
):
    change(folder / file, **{key: value})
    monkeypatch.setattr(networks, "safe_open", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(FileProblem) as caught:
        load(folder)
    said = str(caught.value)
    assert str(folder) in said and file in said and f"{key} = {json.dumps(value)}" in said and "\n" not in said
    found = inspect(folder)
    assert not found["usable"] and found["why"] == said


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [(UNET, "layers_per_block", "2"), (UNET, "norm_num_groups", 7), (UNET, "act_fn", 3), (VAE, "act_fn", "swoosh")],
)
def test_what_makes_no_network_is_refused_by_file_before_weights_are_read(folder, monkeypatch, file, key, value):
    change(folder / file, **{key: value})
    monkeypatch.setattr(networks, "safe_open", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(FileProblem, match=f"cannot be loaded as a base: {file} describes no network") as caught:
        load(folder)
    assert "\n" not in str(caught.value) and inspect(folder)["why"] == str(caught.value)


def test_a_schedule_of_pure_noise_is_refused_by_file(folder):
    change(folder / NOISE, rescale_betas_zero_snr=True)
    with pytest.raises(FileProblem, match=f"{NOISE}.*rescale_betas_zero_snr"):
        load(folder)


@pytest.mark.parametrize("file", ["tokenizer/tokenizer.json", "text_encoder/config.json"])
@pytest.mark.parametrize("content", ['{"model": 5}', '{"hidden_size": "many", "vocab_size": []}'])
def test_what_a_library_cannot_read_is_no_bug(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(FileProblem, match="cannot be loaded as a base") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_is_not_blamed_on_the_folder(folder, monkeypatch):
    def none_left(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("semblant.backbones.folder.read_weights", none_left)
    with pytest.raises(torch.OutOfMemoryError):
        load(folder)


def test_of_two_sides_the_larger_one_is_taken(base, folder):
    change(folder / UNET, sample_size=[8, 16])
    loaded = load(folder)
    assert loaded.size == 32 == inspect(folder)["size"] and inspect(folder)["usable"]
    change(folder / UNET, sample_size=None)
    assert inspect(folder)["usable"] and "size" not in {k for k, v in inspect(folder).items() if v is not None}
    with pytest.raises(SemblantError, match=r"does not say .*sample_size"):
        load(folder).size  # noqa: B018


OF_AN_AVERAGE = {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 37000, "power": 2 / 3}
OF_AN_AVERAGE |= {"update_after_step": 0, "use_ema_warmup": False}


@pytest.mark.parametrize("form", ["sd-1", "sd-2"])
def test_settings_of_all_releases_of_diffusers_are_read(layouts, tmp_path, form):
    """The first ones wrote few, the later ones all parameters, training scripts also how weights were averaged."""
    made = layouts.base_like(form)
    folder = layouts.write_folder(made, tmp_path)
    change(folder / UNET, **OF_AN_AVERAGE, only_cross_attention=False, center_input_sample=False, from_tomorrow=None)
    change(folder / UNET, _name_or_path="somewhere", _diffusers_version="0.6.0", upcast_attention=True)
    change(folder / VAE, shift_factor=0.0, force_upcast=True)
    assert load(folder).hashes() == made.hashes()
    first = (
        "act_fn attention_head_dim block_out_channels center_input_sample cross_attention_dim down_block_types "
        "downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block mid_block_scale_factor norm_eps "
        "norm_num_groups out_channels sample_size up_block_types use_linear_projection"
    ).split()
    config = json.loads((folder / UNET).read_text())
    (folder / UNET).write_text(json.dumps({key: config[key] for key in first}))
    first = "act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block norm_num_groups"
    config = json.loads((folder / VAE).read_text())
    (folder / VAE).write_text(json.dumps({key: config[key] for key in (*first.split(), "up_block_types")}))
    assert load(folder).hashes() == made.hashes()


@pytest.mark.parametrize("ending", ["bin", "ckpt", "pt", "pth"])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_pickled_weights_are_never_read(folder, part, ending):
    (weights,) = (folder / part).glob("*.safetensors")
    name = weights.stem.replace("diffusion_pytorch_model", "pytorch_model") + f".{ending}"
    torch.save(load_file(weights), folder / part / name)
    assert load(folder).sites, "beside safetensors a pickle does no harm, for nobody opens it"
    weights.unlink()
    with pytest.raises(FileProblem, match=rf"weights of {part} are pickled \({name}\).*get {part}/{weights.name}"):
        load(folder)


@pytest.mark.parametrize(
    "shard", ["pytorch_model.bin", "../vae/diffusion_pytorch_model.safetensors", "gone.safetensors"]
)
def test_an_index_names_only_safetensors_beside_it(folder, shard):
    unet = folder / "unet"
    whole = unet / "diffusion_pytorch_model.safetensors"
    names = list(load_file(whole))
    whole.rename(unet / "diffusion_pytorch_model-00001-of-00002.safetensors")
    torch.save({}, unet / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "diffusion_pytorch_model-00001-of-00002.safetensors")}
    index["weight_map"][names[0]] = shard
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileProblem, match="no safetensors file in unet"):
        load(folder)


def test_weights_that_lack_are_not_left_random(folder):
    for part, name in (("text_encoder", "model"), ("unet", "diffusion_pytorch_model")):
        file = folder / part / f"{name}.safetensors"
        weights = load_file(file)
        lost = sorted(weights)[-1]
        save_file({key: weight for key, weight in weights.items() if key != lost}, file, metadata={"format": "pt"})
        with pytest.raises(FileProblem, match=f"{part} lacks 1 weights.*, such as"):
            load(folder)
        save_file(weights, file, metadata={"format": "pt"})
    assert load(folder).sites


def test_weights_lie_in_memory_of_their_own_and_not_in_a_mapped_file(folder):
    for name, weight in load(folder).named_parameters():
        assert weight.data_ptr() % 64 == 0, name
        assert weight.untyped_storage().nbytes() == weight.nbytes, name


def test_names_of_older_releases_are_read(base, folder):
    """The published 1.x weights: other names in the autoencoder's attention, position numbers in the text encoder."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, weight in load_file(vae).items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        renamed[name] = weight
    assert any("proj_attn" in name for name in renamed)
    save_file(renamed, vae, metadata={"format": "pt"})
    text = folder / "text_encoder" / "model.safetensors"
    named = {f"text_model.{name.removeprefix('text_model.')}": weight for name, weight in load_file(text).items()}
    named["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(named, text, metadata={"format": "pt"})
    assert load(folder).hashes() == base.hashes()


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_tokenizers_are_read_as_they_were_published(base, folder, pad):
    """As `vocab.json` and `merges.txt`; 2.x pads with an exclamation mark."""
    tokenizer = folder / "tokenizer"
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    for file in tokenizer.iterdir():
        file.unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")

    def special(content):
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    start, end = special("<|startoftext|>"), special("<|endoftext|>")
    told = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    (tokenizer / "special_tokens_map.json").write_text(json.dumps(told))
    typed = {key: {"__type": "AddedToken", **value} for key, value in told.items() if isinstance(value, dict)}
    settings = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    settings |= {"name_or_path": "openai/clip-vit-large-patch14", "tokenizer_class": "CLIPTokenizer", "pad_token": pad}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({**settings, **typed}))
    loaded, prompt = load(folder), "a photo of a Dog, on the beach"
    expected = list(base.text(prompt).rows[0].ids)
    end_at = expected.index(base.tokenizer.eos_token_id)
    padding = model["vocab"][pad]
    assert list(loaded.text(prompt).rows[0].ids) == expected[: end_at + 1] + [padding] * (76 - end_at)
