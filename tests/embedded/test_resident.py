"""Pictures that stay on a device, and what is done there: at a tiny size and on the CPU, or with shapes alone."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semblant.backbones.blueprint import Blueprint, Tokenizer
from semblant.backbones.loading import load
from semblant.embedded import autoencoder, decoder, diffusion, latents, train
from semblant.embedded.presentations import CAPTIONS_EACH, Resident, Words, often, settle
from semblant.embedded.processes import company
from semblant.embedded.twins import picture_of
from semblant.world.captions import read
from semblant.world.company import draw_whole_world_scene
from semblant.world.facts import contradictions
from semblant.world.renderer import render
from semblant.world.scene import draw_training_scene

PLAN = Blueprint(size=32, unet=(16, 32), heads=2, width=32, text_layers=1, autoencoder=(8, 8, 16))


@pytest.fixture(scope="module")
def settled(tokenizer: Tokenizer) -> Resident:
    return settle(24, lambda x: x.mean(1, keepdim=True)[..., ::4, ::4].repeat(1, 4, 1, 1), Words(tokenizer), "cpu",
                  size=32, block=16)  # fmt: skip


@pytest.mark.slow
def test_the_renderer_stays_on_its_device_and_never_waits_for_it() -> None:
    # The meta device has shapes but no numbers: a tensor of another device, or a number asked for, is an error there.
    with pytest.raises(RuntimeError):
        _ = torch.ones(3, device="meta") + torch.ones(3)
    # One drawing covers scenes of one camera with as many people and things.
    alone = [scene for scene in map(draw_training_scene, range(80)) if scene.camera == "half body"]
    pairs = [scene for scene in map(draw_whole_world_scene, range(200)) if len(scene.people) == 2 and scene.others]
    for scenes in (alone, [scene for scene in pairs if scene.camera == pairs[0].camera]):
        drawn = render(scenes, 32, "meta")
        assert all(getattr(drawn, field.name).device.type == "meta" for field in fields(drawn))
        assert latents.cell_weights(drawn).shape == (len(scenes), 1, 8, 8)


def test_settled_pictures_are_those_of_the_training_set_under_their_captions(
    settled: Resident, tokenizer: Tokenizer
) -> None:
    scenes = [picture_of(i) for i in range(24)]
    seen = render(scenes, 32).image.mean(1)[..., ::4, ::4] * 2 - 1
    assert torch.allclose(settled.latents[:, 0].float(), seen, atol=2e-3)
    assert settled.ids.shape == (24, CAPTIONS_EACH, 77)
    spelled = {number: piece for piece, number in Words(tokenizer).known.items()}
    text = lambda ids: " ".join(spelled[k] for k in ids.tolist() if k in spelled).replace(" - ", "-")
    told = [[read(text(ids)).facts for ids in settled.ids[i]] for i in range(24)]
    alone = [i for i in range(24) if len(scenes[i].people) == 1]
    assert not any(contradictions(said, scenes[i]) for i in alone for said in told[i])
    others = [(said, scenes[alone[k - 2]]) for k, i in enumerate(alone) for said in told[i]]
    assert sum(bool(contradictions(said, scene)) for said, scene in others) > 0.6 * len(others)
    assert len({tuple(row.tolist()) for row in settled.ids.flatten(0, 1)}) > 80


def test_draws_follow_from_what_was_seen_and_some_captions_are_empty(settled: Resident) -> None:
    one, same, next_one = settled.draw(400, 0), settled.draw(400, 0), settled.draw(400, 400)
    assert all(torch.equal(getattr(one, f.name), getattr(same, f.name)) for f in fields(one))
    assert not torch.equal(one.latents, next_one.latents)
    silent = (one.ids == settled.empty).all(1)
    assert 0.05 < float(silent.float().mean()) < 0.16
    assert len({tuple(ids.tolist()) for ids in one.ids[~silent]}) > 60
    rows = [row_of(settled, x) for x in one.latents[::2]]
    assert len(set(rows)) == 12
    for k, row in enumerate(rows):
        for twin in (0, 1):
            ids = one.ids[2 * k + twin]
            assert torch.equal(one.latents[2 * k + twin], settled.latents[row + twin].float())
            assert (ids == settled.empty).all() or (settled.ids[row + twin] == ids).all(1).any()


def test_twins_are_told_in_the_same_sentence(settled: Resident) -> None:
    ids = settled.draw(400, 0).ids
    pairs = [pair for pair in ids.view(200, 2, -1) if not (pair == settled.empty).all(1).any()]
    rows = [settled.ids[k : k + 2].long() for k in range(0, 24, 2)]
    assert all(any((row == pair[:, None]).all(-1).all(0).any() for row in rows) for pair in pairs)


def row_of(settled: Resident, latents: Tensor) -> int:
    """Which first twin this is."""
    return 2 * int((settled.latents[::2].float() == latents).flatten(1).all(1).nonzero()[0])


def test_seven_in_ten_of_all_that_is_shown_has_one_person_in_it() -> None:
    often_one = [(often(scene), len(scene.people) == 1) for scene in map(draw_whole_world_scene, range(1500))]
    assert 0.66 < sum(often for often, one in often_one if one) / sum(often for often, _ in often_one) < 0.76


def test_near_cameras_are_shown_more_often(settled: Resident) -> None:
    chance = torch.tensor([often(picture_of(2 * i)) for i in range(12)])
    rows = torch.tensor([row_of(settled, x) for x in settled.draw(6000, 0).latents[::2]])
    share = torch.bincount(rows // 2, minlength=12) / 3000
    assert len(set(chance.tolist())) > 1
    assert torch.allclose(share, chance / chance.sum(), atol=0.03)


def test_a_base_learns_from_settled_pictures(settled: Resident, tokenizer: Tokenizer, tmp_path: Path) -> None:
    run = diffusion.train_base(tmp_path, PLAN, tokenizer, minutes=0.02, batch=4, rows=settled)
    assert run.seen == 4 * run.steps > 0
    assert (tmp_path / "base.safetensors").is_file()


def test_other_processes_answer_in_order_and_need_not_be_asked_to_the_end() -> None:
    def endless():  # type: ignore[no-untyped-def]
        k = 0
        while True:
            yield [k, k + 1]
            k += 1

    for workers in (0, 1):
        with company(workers) as share:
            answers = share(sum, endless())
            assert [next(answers) for _ in range(9)] == [2 * k + 1 for k in range(9)]


def test_the_autoencoder_learns_from_pictures_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "SHARD", 6)
    monkeypatch.setattr(autoencoder, "CROP", 16)
    monkeypatch.setattr(autoencoder, "latent_scale", lambda network: 1.0)
    generator = torch.Generator().manual_seed(0)
    some = next(autoencoder.kept(6, 4, 32, torch.device("cpu"), generator))
    assert some.images.shape == (4, 3, 32, 32) and some.boxes.shape == (4, 1, 4) and some.images.min() >= -1
    drawn = render(some.scenes, 32).image * 2 - 1
    assert float((drawn - some.images).abs().max()) < 0.01
    network = autoencoder.train_autoencoder(tmp_path, PLAN, minutes=0.01, batch=2, stay=6)
    assert next(network.parameters()).device.type == "cpu" and (tmp_path / "autoencoder.safetensors").is_file()


def test_a_gpu_that_is_not_there_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        train.main(["--work", str(tmp_path), "--device", "cuda", "--stage", "base"])
    assert "no GPU" in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.mark.parametrize("given", [("--batch", "33"), ("--batch", "0"), ("--resident", "7"), ("--resident", "-2")])
def test_twins_are_not_parted(given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--work", str(tmp_path), "--stage", "base", *given])
    assert f"{given[0]} is an even number" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_steps_of_more_pictures_go_further() -> None:
    from semblant.embedded.learners import LEARNING_RATE, learning_rate

    assert learning_rate(32) == LEARNING_RATE and learning_rate(128) == 2 * LEARNING_RATE
    assert learning_rate(10**6) == 4 * LEARNING_RATE


def test_a_run_with_pictures_that_stay_goes_from_nothing_to_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "Blueprint", lambda: PLAN)
    monkeypatch.setattr(autoencoder, "CROP", 16)
    monkeypatch.setattr(autoencoder, "latent_scale", lambda network: 1.0)
    monkeypatch.setattr(autoencoder, "face_psnr", lambda network: {"psnr": 1.0})
    monkeypatch.setattr(decoder, "decibels", lambda network, base: {"psnr_guessed": float(base.size)})
    monkeypatch.setattr(latents, "SHARD", 8)
    given = "--stage autoencoder text base decoder --resident 8 --batch 4 --compute float32"
    minutes = "--autoencoder-minutes .02 --decoder-minutes .02 --text-minutes .02 --hours .0005"
    train.main(["--work", str(tmp_path), *given.split(), *minutes.split()])
    base = load(tmp_path / "base")
    assert base.size == 32 and base.prediction == "v_prediction"
    assert json.loads((tmp_path / "autoencoder.jsonl").read_text().splitlines()[-1]) == {"psnr_guessed": 32.0}
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["presentations"] > 0 and not (tmp_path / "latents").exists()
