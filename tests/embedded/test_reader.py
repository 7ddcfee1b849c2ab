"""The reader of latents that tells a base in training whether it paints what was named."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from semblant.backbones.faces import crops
from semblant.embedded import diffusion, latents, reader
from semblant.embedded.judge_bank import FACTS
from semblant.embedded.presentations import Shown
from semblant.embedded.reader import UNNAMED, UNSEEN, Lessons, Reader, frames_of, named_in
from semblant.embedded.wording import labels
from semblant.ops.schedule import Schedule
from semblant.world.captions import write
from semblant.world.company import being_of, draw_being_scene, draw_pair_of_people
from semblant.world.facts import IDENTITY_FACTS, VALUES, shown
from semblant.world.names import name_of
from semblant.world.renderer import PARTS, render
from semblant.world.scene import draw_scene, draw_training_scene, named_person, person_of

SOMEBODY = [draw_scene(random.Random(seed), person_of("train", seed)) for seed in range(6)]


def test_what_captions_name_is_read_as_the_place_of_each_value() -> None:
    named = named_in(["a photo of a person with a beard on the beach", ""], SOMEBODY[:2])
    assert named.shape == (2, len(FACTS))
    assert named[0, FACTS.index("beard")] == VALUES["beard"].index("beard")
    assert named[0, FACTS.index("background")] == VALUES["background"].index("beach")
    assert (named[1] == UNNAMED).all()


def test_a_name_names_all_that_shows_of_who_it_is_and_nothing_of_the_moment() -> None:
    scene = draw_scene(random.Random(0), named_person(3), name_of(3))
    said, silent = named_in([f"a photo of {name_of(3)}", "a photo of a person"], [scene, scene])
    told = {fact: VALUES[fact][value] for fact, value in zip(FACTS, said.tolist(), strict=True) if value >= 0}
    of_identity = {fact: value for fact, value in shown(scene).items() if fact in IDENTITY_FACTS}
    assert len(of_identity) > 3 and told == of_identity | {"style": "photo"}
    assert (silent != UNNAMED).sum() == 1


def test_what_a_name_names_is_what_the_text_encoder_is_taught_of_it() -> None:
    length, dyed = 77, 0
    for index in range(600):
        scene = draw_training_scene(index)
        caption = write(scene, random.Random(index))
        (named,) = named_in([caption], [scene]).tolist()
        taught, _ = labels(caption, length)
        assert all(place + 1 == own for place, own in zip(named, taught[-1], strict=True) if place != UNSEEN)
        person = scene.people[0]
        dyed += person.name in (caption if person.name else ()) and person.hair_colour != person.identity.hair_colour
    assert dyed > 3


def test_frames_are_told_without_drawing_and_hold_the_face_upright_in_the_middle() -> None:
    drawn = render(SOMEBODY)
    face = sum((drawn.parts == PARTS.index(name) for name in ("skin", "nose", "u_lip", "l_lip")), torch.zeros(1))
    frames = frames_of(SOMEBODY)
    seen = crops(face[:, None].float(), frames, 32)[:, 0]
    places = (torch.arange(32) + 0.5) / 32
    across, down = ((seen.sum(axis) * places).sum(1) / seen.sum((1, 2)) for axis in (1, 2))
    assert ((across - 0.5).abs() < 0.08).all() and ((down - 0.6).abs() < 0.12).all()
    assert (seen.sum((1, 2)) / face.sum((1, 2)) * (2 * frames[:, 2] * 128 / 32) ** 2 > 0.9).all()


def test_of_pictures_of_two_or_of_nobody_only_what_is_true_of_the_whole_is_asked() -> None:
    rng = random.Random(0)
    two = draw_pair_of_people(rng, person_of("train", 0), person_of("train", 1), background="snow", style="photo")
    nobody = draw_being_scene(rng, being_of("dog", "train", 0), background="desert", light="dim")
    captions = ["a photo of two people in the snow, the left one with a hat and a smile", "a dog in the desert"]
    for row, (place, value) in zip(named_in(captions, [two, nobody]), (("snow", 0), ("desert", 1)), strict=True):
        asked = {fact for at, fact in enumerate(FACTS) if row[at] != UNSEEN}
        assert asked == {"background", "light", "style"}
        told = {fact: int(row[at]) for at, fact in enumerate(FACTS) if row[at] >= 0}
        assert told["background"] == VALUES["background"].index(place)
        assert set(told) == ({"background", "style"} if value == 0 else {"background"})
    assert frames_of([nobody]).tolist() == [[0.5, 0.5, 0.5, 0.0]]
    for scene in (two, nobody):
        asked = {fact for fact, value in zip(FACTS, reader._answers(scene), strict=True) if value != UNNAMED}
        assert asked == {"background", "light", "style"}


def test_what_is_missed_is_summed_over_what_is_named() -> None:
    torch.manual_seed(0)
    told = Reader().eval()
    x, frames = torch.randn(3, 4, 32, 32), frames_of(SOMEBODY[:3])
    named = torch.full((3, len(FACTS)), UNNAMED)
    named[0, 0], named[1, 0], named[1, 3] = 1, 1, 0
    parts = told(x, frames).split(told.sizes, -1)
    nats = lambda row, fact, value: -parts[fact][row].log_softmax(-1)[value]
    wanted = torch.stack([nats(0, 0, 1), nats(1, 0, 1) + nats(1, 3, 0), torch.zeros(())])
    assert torch.allclose(told.missed(x, frames, named), wanted, atol=1e-5)


def test_a_reader_learns_what_latents_show_and_comes_back_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "SHARD", 48)
    monkeypatch.setattr(reader, "FACE", (8, 8))
    monkeypatch.setattr(reader, "PICTURE", (8, 16))
    monkeypatch.setattr(reader, "BATCH", 16)
    clock = count()
    monkeypatch.setattr(reader, "time", SimpleNamespace(monotonic=lambda: next(clock) * 0.02))
    (tmp_path / "latents").mkdir()
    for shard in range(2):
        encode = lambda images: torch.cat([images, images[:, :1]], 1)[:, :, ::4, ::4]
        latents.build_shard(tmp_path / "latents" / f"{shard:05d}.safetensors", shard, encode)
    lessons = Lessons.of_shards(tmp_path / "latents")
    torch.manual_seed(0)
    before = Reader().eval().missed(*parts_of(lessons)).mean()
    learned = reader.train_reader(tmp_path, lessons, 0.05)
    assert learned.missed(*parts_of(lessons)).mean() < 0.8 * before
    again = reader.load_reader(tmp_path / "reader.safetensors")
    x, frames, _ = parts_of(lessons)
    assert torch.equal(learned(x, frames), again(x, frames))
    assert not any(weight.requires_grad for weight in again.parameters())


def parts_of(lessons: Lessons) -> tuple[Tensor, Tensor, Tensor]:
    return lessons.latents.float(), lessons.frames, lessons.true


def test_what_is_missed_pulls_predictions_towards_what_is_named_where_there_is_something_to_see() -> None:
    schedule = Schedule.scaled_linear().noisier(diffusion.NOISIER)
    torch.manual_seed(0)
    run = diffusion.Run(nn.Identity(), nn.Identity(), None, {}, None, reader=Reader().eval().requires_grad_(False))  # type: ignore[arg-type]
    noise, clean, named = torch.randn(3, 4, 32, 32), torch.randn(3, 4, 32, 32), torch.zeros(3, len(FACTS)).long()
    rows = Shown(clean, clean[:, :1], named, named, frames_of(SOMEBODY[:3]))
    t = torch.tensor([20, 250, 900])
    x = schedule.noised(clean, noise, t)
    velocity = schedule.velocity(clean, noise, t).requires_grad_()
    missed = lambda: diffusion._missed(run, rows, x, velocity, t, schedule)
    before = missed()
    (pull,) = torch.autograd.grad(before, velocity)
    assert pull[0].any() and pull[1].any() and not pull[2].any()
    exact = run.reader.missed(clean, rows.frames, named)[:2].sum() / 3  # type: ignore[union-attr]
    assert torch.allclose(before, exact, atol=1e-4)
    velocity = (velocity - 2 * pull / pull.norm()).detach()
    assert missed() < before
    run.reader = None
    assert missed() == 0
