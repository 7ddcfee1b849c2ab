"""Training the embedded base, at a tiny size: captions as tokens, exact resume, and files a pipeline can load."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semblant.backbones.base import Base
from semblant.backbones.blueprint import (
    Blueprint,
    Tokenizer,
    new_autoencoder,
    plan_from,
    plan_record,
    read_tokenizer,
    write_frame,
    write_part,
)
from semblant.backbones.loading import load
from semblant.backbones.vocabulary import word_tokenizer
from semblant.embedded import autoencoder, decoder, diffusion, latents, learners, presentations, train, wording
from semblant.embedded.reader import Lessons
from semblant.errors import FileProblem
from semblant.ops.schedule import Schedule
from semblant.world.captions import write
from semblant.world.renderer import render
from semblant.world.scene import draw_scene, draw_training_scene, person_of

PLAN = Blueprint(size=32, unet=(16, 32), heads=2, width=32, text_layers=1, autoencoder=(8, 8, 16))


def test_fast_tokenising_is_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    fast = presentations.Words(tokenizer)
    captions = [write(draw_training_scene(i), random.Random(i)) for i in range(100)] + [""]
    slow = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(fast(captions), slow)


def steps(run: diffusion.Run, work: Path, tokenizer: Tokenizer, count: int) -> list[float]:
    rows = presentations.Presentations(work / "latents", presentations.Words(tokenizer))
    rows.refresh()
    schedule = Schedule.scaled_linear()
    return [float(diffusion._step(run, rows.draw(2, run.seen), schedule, 0, torch.float32)) for _ in range(count)]


def test_matrices_are_moved_as_torch_moves_them_in_either_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    start = {"wide": torch.randn(6, 20, generator=generator), "tall": torch.randn(20, 6, generator=generator)}
    start["bias"] = torch.zeros(3)
    moved = {}
    for exact in (False, True):
        both = learners.Learners({name: torch.nn.Parameter(weight.clone()) for name, weight in start.items()})
        both.muon.exact = exact
        gradients = torch.Generator().manual_seed(1)
        for _ in range(3):
            for weight in both.named.values():
                weight.grad = torch.randn(weight.shape, generator=gradients)
            both.step(0.1)
        moved[exact] = {name: weight.detach() - start[name] for name, weight in both.named.items()}
    assert torch.equal(moved[True].pop("bias"), moved[False].pop("bias"))
    for name, step in moved[False].items():
        # bfloat16 has three digits
        assert (moved[True][name] - step).norm() < 0.03 * step.norm()
        assert not torch.equal(moved[True][name], step)
    assert {p.dtype for p in both.muon.state[next(iter(both.matrices.values()))].values()} == {torch.float32}


def test_orthogonal_matrices_have_singular_values_about_one() -> None:
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    coefficients = learners.Muon([torch.nn.Parameter(matrix)]).param_groups[0]["ns_coefficients"]
    for turned in (matrix, matrix.T):
        values = torch.linalg.svdvals(learners.orthogonal(turned, coefficients, 5))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(bank: Path, tokenizer: Tokenizer) -> None:
    whole = diffusion.Run.fresh(PLAN, tokenizer)
    losses = steps(whole, bank, tokenizer, 4)
    first = diffusion.Run.fresh(PLAN, tokenizer)
    steps(first, bank, tokenizer, 2)
    first.save(bank / "base.safetensors")
    second = diffusion.Run.fresh(PLAN, tokenizer, seed=9)
    second.restore(bank / "base.safetensors")
    assert steps(second, bank, tokenizer, 2) == losses[2:]
    for name, weight in whole.named().items():
        assert torch.equal(weight, second.named()[name]), name
        assert torch.equal(whole.average[name], second.average[name]), name


def test_hidden_matrices_move_alike_in_every_direction(bank: Path, tokenizer: Tokenizer) -> None:
    run = diffusion.Run.fresh(PLAN, tokenizer)
    before = {name: weight.detach().clone() for name, weight in run.named().items()}
    steps(run, bank, tokenizer, 1)
    moved = {name: (weight.detach() - before[name]) for name, weight in run.named().items()}
    ends = [name for name in moved if any(part in name for part in learners.NO_MATRICES)]
    assert ends and not set(ends) & set(run.learners.matrices)
    lengths = torch.linalg.svdvals(learners.as_matrix(moved["unet.mid_block.resnets.0.conv1.weight"]))
    assert lengths.min() > 0.4 * lengths.max()
    lengths = torch.linalg.svdvals(learners.as_matrix(moved["unet.conv_in.weight"]))
    assert lengths.min() < 0.4 * lengths.max()


def test_half_of_the_timesteps_crowd_where_faces_take_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(share: float) -> float:
        monkeypatch.setattr(diffusion, "MIDDLE", share)
        generator = torch.Generator().manual_seed(0)
        t = torch.cat([diffusion._timesteps(32, 1000, generator) for _ in range(500)])
        assert int(t.min()) < 5 and int(t.max()) > 994
        return float(((t >= 150) & (t < 550)).float().mean())

    # The logit-normal around a third has two thirds of its mass there: the normal's share between -1.026 and .909.
    assert (diffusion.MIDDLE, diffusion.CENTRE) == (0.5, 0.33)
    assert abs(inside(0.5) - (0.4 + 0.666) / 2) < 0.01
    assert abs(inside(0.0) - 0.4) < 0.005


def test_a_compiled_run_trains_the_same_weights(
    bank: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    run = diffusion.train_base(bank, PLAN, tokenizer, minutes=0.02, batch=2, compiled=True)
    assert run.steps > 0 and run.predict is not None
    assert all(k in run.named() and not k.startswith("unet._orig") for k in run.average)
    fresh = diffusion.Run.fresh(PLAN, tokenizer).named()
    assert all(not torch.equal(w, fresh[name]) for name, w in run.named().items() if "to_out.0.weight" in name)


def test_what_is_shipped_loads_as_a_base_and_warm_starts_a_run(bank: Path, tokenizer: Tokenizer) -> None:
    run = diffusion.Run.fresh(PLAN, tokenizer)
    steps(run, bank, tokenizer, 1)
    folder = bank / "shipped"
    write_frame(folder, tokenizer)
    write_part(folder, "vae", new_autoencoder(PLAN))
    run.ship(folder)
    base = load(folder)
    context = base.text("a photo of a person")
    assert context.rows[0].positions["person"] == (5,)
    table = next(name for name in run.average if name.endswith("token_embedding.weight"))
    half = run.average[table].half().float()
    assert torch.equal(base.text_encoder.get_input_embeddings().weight, half)
    warm = diffusion.Run.fresh(PLAN, tokenizer, seed=5)
    warm.warm_start(folder)
    for name, average in run.average.items():
        # What only reads the text encoder in training is no part of a base.
        same = torch.equal(warm.named()[name], average.half().float())
        assert same == (not name.startswith("recall.")), name


def test_the_schedule_of_a_base_is_the_one_it_was_trained_on(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_frame(tmp_path, tokenizer, diffusion.PREDICTION, diffusion.NOISIER)
    write_part(tmp_path, "vae", new_autoencoder(PLAN))
    diffusion.Run.fresh(PLAN, tokenizer).ship(tmp_path)
    base, trained = load(tmp_path), Schedule.scaled_linear().noisier(diffusion.NOISIER)
    assert base.prediction == "v_prediction"
    assert torch.allclose(base.schedule.alphas, trained.alphas, atol=1e-6)


def test_plans_survive_json() -> None:
    assert plan_from(plan_record(PLAN)) == PLAN
    assert len(Blueprint.large().unet) == 3


def test_features_weigh_more_than_faces_and_faces_more_than_people_and_people_more_than_places() -> None:
    rng = random.Random(0)
    drawn = render([draw_scene(rng, person_of("train", 0), camera="close-up", style="photo", glasses="none")], 128)
    weight = latents.cell_weights(drawn)[0, 0]
    assert weight.shape == (32, 32)
    assert float(weight.min()) == 1.0
    mouth = (drawn.landmarks[0, 0, 3] + drawn.landmarks[0, 0, 4]) / 2 / 4
    assert float(weight[int(mouth[1]), int(mouth[0])]) == latents.WEIGHTS["feature"]
    counts = [float((weight >= latents.WEIGHTS[name]).sum()) for name in ("person", "hair", "face", "feature")]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 4
    # The features of a close-up carry between a quarter and a half of its loss.
    assert 1 / 4 < float(weight[weight > latents.WEIGHTS["held"]].sum() / weight.sum()) < 1 / 2


def test_what_is_held_weighs_more_than_the_clothes_behind_it() -> None:
    rng = random.Random(0)
    person = person_of("train", 0)
    book, nothing = (draw_scene(rng, person, camera="portrait", action=action) for action in ("reading a book", "none"))
    heavy = [
        int((latents.cell_weights(render([scene], 64)) == latents.WEIGHTS["held"]).sum()) for scene in (book, nothing)
    ]
    assert heavy[0] > 15 > 5 > heavy[1]


def test_near_cameras_are_shown_more_often_from_shards_too(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "SHARD", 24)
    monkeypatch.setattr(presentations, "SHARD", 24)
    latents.build_shard(tmp_path / "0.safetensors", 0, lambda images: images[:, :, ::4, ::4])
    rows = presentations.Presentations(tmp_path, presentations.Words(tokenizer))
    rows.refresh()
    shard = rows.shards["0.safetensors"]
    rng = random.Random(0)
    first = torch.tensor([rows._row(["0.safetensors"], rng)[1] for _ in range(3000)])
    chance = torch.tensor([presentations.often(scene) for scene in shard.scenes[::2]])
    assert not (first % 2).any()
    assert torch.allclose(torch.bincount(first // 2, minlength=12) / 3000, chance / chance.sum(), atol=0.03)


def test_a_shard_of_single_pictures_is_refused(tmp_path: Path) -> None:
    save_file({"latents": torch.zeros(1), "weights": torch.zeros(1)}, tmp_path / "0.safetensors", {"shard": "0"})
    with pytest.raises(FileProblem, match="of another training set"):
        latents.load_shard(tmp_path / "0.safetensors")


def test_weights_survive_their_packing() -> None:
    weights = torch.tensor([1.0, 1.5, 2.25, 4.0, 12.0])
    assert torch.equal(latents.unpacked(latents.packed(weights)), weights)


def test_reconstruction_error_is_zero_for_the_picture_itself_and_known_for_a_shift() -> None:
    picture = render([draw_training_scene(1)], 64).image * 2 - 1
    assert float(autoencoder.reconstruction_error(picture, picture)) == 0
    assert float(autoencoder.reconstruction_error(picture + 0.5, picture)) == pytest.approx(0.5 + 2 * 0.25)


def test_block_colours_tell_green_from_grey_and_purple_from_blue() -> None:
    named = {"green": (-1.0, 1.0, -1.0), "grey": (0.0, 0.0, 0.0), "purple": (1.0, -1.0, 1.0), "blue": (-1.0, -1.0, 1.0)}
    seen = {k: autoencoder.block_colours(torch.tensor(v).view(1, 3, 1, 1).expand(1, 3, 4, 4)) for k, v in named.items()}
    assert torch.allclose(seen["grey"], torch.zeros(1, 3, 1, 1))
    assert float((seen["green"] - seen["grey"]).norm()) > 1
    assert float((seen["purple"] - seen["blue"]).norm()) > 1


def test_the_autoencoder_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "latent_scale", lambda network: 1.0)
    first = autoencoder.train_autoencoder(tmp_path, PLAN, minutes=0.0)
    again = autoencoder.train_autoencoder(tmp_path, PLAN, minutes=0.0, seed=3)
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_going_on_from_the_shipped_weights_keeps_their_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, work = tmp_path / "weights", tmp_path / "work"
    write_part(shipped / "base", "vae", new_autoencoder(PLAN))
    write_frame(shipped / "base", word_tokenizer(["shipped", "words"]))
    write_frame(work / "base", word_tokenizer(["left", "over"]))
    ran: list[str] = []
    monkeypatch.setattr(train, "WEIGHTS", shipped)
    monkeypatch.setattr(autoencoder, "train_autoencoder", lambda *_, **__: ran.append("autoencoder"))
    monkeypatch.setattr(train, "build_latents", lambda *_: ran.append("latents"))
    monkeypatch.setattr(train, "write_card", lambda *_: ran.append("card"))
    monkeypatch.setattr(decoder, "steady_decoder", lambda *_, **__: ran.append("decoder"))
    monkeypatch.setattr(decoder, "decibels", lambda *_: {})
    monkeypatch.setattr(Lessons, "of_shards", lambda folder: ran.append("lessons"))
    monkeypatch.setattr(train, "train_reader", lambda *_, **__: ran.append("reader"))
    monkeypatch.setattr(diffusion, "begun", lambda *_, **__: diffusion.Run.fresh(PLAN, _[2]))
    monkeypatch.setattr(diffusion, "train_base", lambda *_, **__: diffusion.Run.fresh(PLAN, _[2]))
    monkeypatch.setattr(wording, "train_text", lambda *_, start, **__: ran.append("text" if start else "new text"))
    monkeypatch.setattr(diffusion.Run, "learn_words", lambda self, path: None)
    train.main(["--work", str(work), "--from", "shipped", "--hours", "0"])
    assert ran == ["latents", "text", "lessons", "reader", "decoder", "card"]
    (work / "reader.safetensors").touch()
    train.main(["--work", str(work), "--from", "shipped", "--stage", "reader"])
    assert len(ran) == 6
    own, theirs = (read_tokenizer(folder / "base").get_vocab() for folder in (work, shipped))
    assert own == theirs and "shipped</w>" in own
    (work / "base.safetensors").write_bytes(b"")
    write_frame(work / "base", word_tokenizer(["left", "over"]))
    assert "left</w>" in train.tokenizer_of(work, warm=True).get_vocab()
    assert "of</w>" in train.tokenizer_of(tmp_path / "new", warm=False).get_vocab()
    name = "base/vae/diffusion_pytorch_model.safetensors"
    assert (work / name).read_bytes() == (shipped / name).read_bytes()
    with pytest.raises(SystemExit):
        train.main(["--work", str(work), "--from", "shipped", "--stage", "autoencoder"])


def test_the_learning_curve_measures_every_snapshot_once(
    bank: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_frame(bank / "base", tokenizer)
    write_part(bank / "base", "vae", new_autoencoder(PLAN))
    diffusion.Run.fresh(PLAN, tokenizer).ship(bank / "marks" / "50")
    measured: list[int] = []

    def measure(base: Base, _: object, captions: int) -> dict[str, float]:
        measured.append(captions)
        return {**dict.fromkeys(train.CURVE, 0.5), "captions": captions}

    monkeypatch.setattr(train.quality, "measure_base", measure)
    curve = train.learning_curve(bank, None, 8, torch.float32)  # type: ignore[arg-type]
    half = dict.fromkeys(("macro", "macro_corrected", "faces"), 0.5)
    assert curve == [{"presentations": 50, "compute": "float32", "captions": 8, **half}]
    assert train.learning_curve(bank, None, 8, torch.float32) == curve and measured == [8]  # type: ignore[arg-type]
    assert train.learning_curve(bank, None, 16, torch.float32)[0]["captions"] == 16  # type: ignore[arg-type]
