"""The speed comparison on tiny networks: our side, and that it repeats a recorded run of the plain libraries."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.speed import checkpoint, ours, parity, sampling, watch
from benchmarks.speed.job import OURS, THEIRS, Job
from benchmarks.speed.recipe import RECIPES
from benchmarks.speed.recording import Recorder
from benchmarks.speed.report import Summary, picture_difference
from benchmarks.speed.standin.torchvision import transforms
from benchmarks.speed.table import markdown


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Checkpoint, pictures and bank of tiny networks."""
    folder = tmp_path_factory.mktemp("speed") / "made"
    checkpoint.make(folder, "tiny", rows=2)
    return folder


@pytest.fixture
def unwatched(monkeypatch) -> None:
    """What is watched in a test is as it was afterwards."""
    for owner, name, _ in watch.called():
        monkeypatch.setattr(owner, name, getattr(owner, name))


def job_for(made: Path, part: str, **others: Any) -> Job:
    given: dict[str, Any] = {"side": OURS, "name": "float32", "steps": 2, "look_every": 2, "views": 2}
    return Job(part=part, made=str(made), **{**given, "result": str(made / f"{part}.json"), **others})


def test_the_checkpoint_is_a_base_with_the_words_of_the_task(made):
    tokenizer = CLIPTokenizer.from_pretrained(made / "checkpoint" / "tokenizer")
    for word in ("sks", "ktn", "person", "zoomed"):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
    large = checkpoint.tokenizer_of(replace(checkpoint.SHAPES["tiny"], vocabulary=5000))
    text = "a photo of sks person"
    assert len(large) == 5000 and large.eos_token_id == 4999
    assert large.convert_ids_to_tokens(large(text).input_ids) == tokenizer.convert_ids_to_tokens(
        tokenizer(text).input_ids
    )
    assert [Image.open(path).size for path in sorted((made / "pictures").iterdir())] == [(64, 64)] * 5


@pytest.mark.parametrize("part", list(RECIPES))
def test_ours_learns_and_is_watched(made, part, unwatched):
    told = ours.run(job_for(made, part), time.time())
    assert told["precision"] == "float32" and len(told["seconds"]) == 1 and told["peak_memory"] > 2**20
    assert {"text encoder", "U-Net", "backward", "optimiser"} <= set(told["parts"][0])
    assert set(told["bank"]) == {"0", "2"} and told["bank"]["0"] != told["bank"]["2"]
    summary = Summary.of(told, 1)
    shown: dict[str, Any] = {"plan": dict.fromkeys(("shape", "resolution", "batch", "steps", "warm_up"), 1)}
    shown |= {"machine": {"processor": "x", "threads": 1, "versions": {}}, "parity": {}}
    shown |= {"bars": [], "runs": [vars(summary)], "equal_seconds": []}
    assert f"| {part} | ours | float32 |" in markdown(shown)


def plain_inversion(made: Path, recorder: Recorder, steps: int) -> None:
    """Textual inversion by diffusers' and transformers' own parts alone, recorded."""
    folder = made / "checkpoint"
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    vae, unet = AutoencoderKL.from_pretrained(folder / "vae"), UNet2DConditionModel.from_pretrained(folder / "unet")
    for network in (text_encoder, vae, unet):
        network.requires_grad_(False)
    schedule = DDPMScheduler.from_pretrained(folder / "scheduler")
    tokenizer.add_tokens(["<new>"])
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table, place = text_encoder.get_input_embeddings().weight, len(tokenizer) - 1
    table.data[place] = table.data[tokenizer("person", add_special_tokens=False).input_ids[0]]
    table.requires_grad_()
    optimizer = torch.optim.AdamW([table], lr=5e-3)
    picture = transforms.Normalize([0.5], [0.5])(transforms.ToTensor()(Image.open(made / "pictures" / "0.png")))
    ids = tokenizer("a photo of a <new>", padding="max_length", max_length=77, return_tensors="pt").input_ids
    variables = {"vae": vae, "tokenizer": tokenizer, "text_encoder": text_encoder, "placeholder_token_ids": [place]}
    recorder.learned("start", variables)
    torch.manual_seed(0)
    for step in range(1, steps + 1):
        latents = vae.encode(picture[None]).latent_dist.sample() * vae.config.scaling_factor
        noise, timesteps = torch.randn_like(latents), torch.randint(1000, (1,))
        encoding = text_encoder(ids)[0]
        predicted = unet(schedule.add_noise(latents, noise, timesteps), timesteps, encoding).sample
        loss = F.mse_loss(predicted, noise)
        (table.grad,) = torch.autograd.grad(loss, table)
        others = torch.arange(len(tokenizer)) != place
        before = table.detach()[others].clone()
        optimizer.step()
        table.data[others] = before
        drawn = {"batch": {"pixel_values": picture[None], "input_ids": ids}, "latents": latents, "noise": noise}
        recorder.after(step, {**variables, **drawn, "timesteps": timesteps, "loss": loss})


def test_ours_repeats_a_recorded_run_of_the_plain_libraries(made, tmp_path):
    recorder = Recorder("textual-inversion", tmp_path / "record")
    plain_inversion(made, recorder, steps=3)
    recorder.write()
    job = job_for(made, "textual-inversion", steps=3, record=str(tmp_path / "record"))
    told = parity.replay(job)
    assert told["same"] and told["difference"] < 1e-5 and told["change"] < 1e-3
    assert told["theirs"] == recorder.losses and len(set(told["theirs"])) == 3


def test_a_prompt_of_other_tokens_is_refused(made):
    base = ours.load(made / "checkpoint")
    learner = ours.chosen(job_for(made, "textual-inversion")).learner(
        base, ours.subject_of(job_for(made, "textual-inversion")), torch.Generator().manual_seed(0)
    )
    learner.begin(torch.Generator().manual_seed(0))
    context = base.patched(*learner.patches()).text("a photo of a <new>")
    ids = list(context.rows[0].ids)
    parity.require_same_tokens(context, [[*ids[:5], 0, *ids[6:]]])
    with pytest.raises(ValueError, match=r"\[2\]"):
        parity.require_same_tokens(context, [[*ids[:2], ids[2] + 1, *ids[3:]]])


def test_both_sides_sample_the_same_picture(made, unwatched):
    results = [Path(made / f"{side}.json") for side in (OURS, THEIRS)]
    for path, side in zip(results, (OURS, THEIRS), strict=True):
        job = job_for(made, "sampling", side=side, result=str(path), steps=3)
        told = sampling.run(job, time.time())
        assert len(told["seconds"]) == 1 and Image.open(path.with_suffix(".png")).size == (64, 64)
    assert picture_difference(*(path.with_suffix(".png") for path in results))[0] <= 0.01
