"""Twins: pairs of training pictures that differ in a few words."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from semblant.embedded import diffusion
from semblant.embedded.presentations import Shown
from semblant.embedded.twins import OF_IDENTITY, OF_THE_MOMENT, _the_other_way, captions_of, change, picture_of, twin_of
from semblant.embedded.wording import Recall
from semblant.ops.schedule import Schedule
from semblant.world.captions import contradictions, read, write
from semblant.world.company import draw_whole_world_scene
from semblant.world.facts import shown
from semblant.world.names import name_of
from semblant.world.pair_facts import pair_contradictions
from semblant.world.scene import NAMED_PEOPLE, Scene, draw_scene, draw_training_scene, named_person, person_of

WHOLE = [(picture_of(2 * k), picture_of(2 * k + 1)) for k in range(270)]
PAIRS = [pair for pair in WHOLE if len(pair[0].people) == 1 and not pair[0].others]
BESIDE = [pair for pair in WHOLE if pair[0].others]
TWO = [pair for pair in WHOLE if len(pair[0].people) == 2]


def test_the_first_of_twins_is_a_picture_of_the_training_set_and_both_follow_from_their_number() -> None:
    assert [first for first, _ in WHOLE] == [draw_whole_world_scene(k) for k in range(270)]
    assert picture_of(77) == picture_of(77) != picture_of(77, seed=1)


def test_twins_are_in_one_place_and_differ_in_what_can_be_said() -> None:
    for first, second in PAIRS:
        for kept in ("background", "light", "camera", "style", "seed"):
            assert getattr(first, kept) == getattr(second, kept)
        assert first.people[0].zoom == second.people[0].zoom and first.people[0].shift_x == second.people[0].shift_x
    assert sum(shown(first) != shown(second) for first, second in PAIRS) >= len(PAIRS) - 2


def test_two_people_are_exchanged_or_do_something_else_or_one_is_another() -> None:
    ways: Counter[str] = Counter()
    for first, second in TWO:
        assert replace(second, people=first.people, together=first.together) == first
        if second.people == first.people[::-1]:
            ways["exchanged"] += 1
        elif second.people == first.people:
            ways["together"] += second.together != first.together
        else:
            ways["replaced"] += sum(a == b for a, b in zip(first.people, second.people, strict=True))
            assert all(b.name is None for a, b in zip(first.people, second.people, strict=True) if a != b)
    assert set(ways) == {"exchanged", "together", "replaced"} and ways.total() == len(TWO) > 20
    assert ways["exchanged"] > 0.3 * len(TWO)


def test_twins_of_animals_and_things_are_of_one_kind_and_stand_where_they_stood() -> None:
    ways: Counter[str] = Counter()
    for first, second in BESIDE:
        assert [b.place for b in first.others] == [b.place for b in second.others]
        assert [b.identity.kind for b in first.others] == [b.identity.kind for b in second.others]
        assert replace(second, people=first.people, others=first.others) == first
        ways["somebody"] += first.people != second.people
        ways["another"] += [b.identity for b in first.others] != [b.identity for b in second.others]
        ways["moved"] += first.people == second.people and [b.identity for b in first.others] == [
            b.identity for b in second.others
        ]
    assert min(ways[way] for way in ("somebody", "another", "moved")) >= 3


def test_left_and_right_are_exchanged_wherever_they_stand() -> None:
    assert _the_other_way("the one on the left, and the right one") == "the one on the right, and the left one"


def test_people_who_are_exchanged_are_told_in_the_same_words() -> None:
    rng, same = random.Random(0), 0
    exchanged = [pair for pair in TWO if pair[0].people == pair[1].people[::-1] and pair[0] != pair[1]]
    for first, second in exchanged:
        one, other = captions_of(first, second, rng)
        same += _the_other_way(one) == other
        assert not pair_contradictions(read(other), second)
    assert same > 0.4 * len(exchanged)


def test_captions_of_two_people_and_of_others_are_true_of_each_twin() -> None:
    rng = random.Random(0)
    for first, second in (*TWO, *BESIDE):
        for scene, caption in zip((first, second), captions_of(first, second, rng), strict=True):
            reading = read(caption)
            assert not reading.unknown
            if len(scene.people) == 2:
                assert not pair_contradictions(reading, scene)
            elif scene.people:
                assert not contradictions(reading.facts, scene)


def test_everything_a_twin_can_differ_in_does_differ_somewhere() -> None:
    scene = draw_scene(random.Random(3), person_of("train", 1), camera="portrait", style="photo")
    changed: Counter[str] = Counter()
    for seed in range(300):
        other = twin_of(scene, random.Random(seed)).people[0]
        own = scene.people[0]
        changed.update(f for group in OF_THE_MOMENT for f in group if getattr(own, f) != getattr(other, f))
        changed.update(
            f for group in OF_IDENTITY for f in group if getattr(own.identity, f) != getattr(other.identity, f)
        )
    assert set(changed) == {field for group in (*OF_IDENTITY, *OF_THE_MOMENT) for field in group}


def test_what_is_changed_shows_something_new_that_has_a_word() -> None:
    """Not only that a word is no longer fair, of which no caption could tell."""
    rng, new = random.Random(0), []
    for index in range(60):
        scene = draw_training_scene(index)
        after = shown(
            change(scene, rng.choice([("nose_length", "nose_width"), ("lips", "mouth_width"), ("age",)]), rng)
        )
        new.append(any(shown(scene).get(fact) != value for fact, value in after.items()))
    assert sum(new) >= 57


def test_a_twin_keeps_a_name_only_with_the_face_that_bears_it() -> None:
    faces = {name_of(i): named_person(i) for i in range(NAMED_PEOPLE)}
    names = [second.people[0].name for _, second in PAIRS]
    assert all(faces[s.people[0].name] == s.people[0].identity for pair in PAIRS for s in pair if s.people[0].name)
    assert 20 < sum(name is not None for name in names) < 80
    renamed = [(a.people[0].name.split(), b.people[0].name.split()) for a, b in PAIRS if b.people[0].name]
    assert all(sum(x != y for x, y in zip(*both, strict=True)) <= 1 for both in renamed)
    assert {tuple(x != y for x, y in zip(*both, strict=True)) for both in renamed} >= {(True, False), (False, True)}
    assert sum(one != other for one, other in renamed) > 15


def test_nobody_in_a_close_up_is_given_something_to_do() -> None:
    for seed in range(60):
        scene = draw_scene(random.Random(seed), person_of("train", seed), camera="close-up", action="none")
        assert twin_of(scene, random.Random(seed)).people[0].action == "none"


def test_captions_of_twins_are_true_and_name_the_difference() -> None:
    told, rng = 0, random.Random(0)
    for first, second in PAIRS:
        pair = captions_of(first, second, rng)
        for scene, caption in zip((first, second), pair, strict=True):
            assert not contradictions(read(caption).facts, scene)
        told += read(pair[0]).facts != read(pair[1]).facts
    assert told > 150


@pytest.mark.parametrize("stress", [(), ("expression", "lips")])
def test_what_is_stressed_is_named(stress: tuple[str, ...]) -> None:
    scene = one_with(expression="smiling", lips="full")
    captions = [write(scene, random.Random(seed), stress=stress) for seed in range(200)]
    share = sum({"expression", "lips"} <= set(read(caption).facts) for caption in captions) / 200
    assert share > 0.85 if stress else share < 0.5


def test_twins_are_shown_under_the_same_noise_at_the_same_timestep() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
            seen.append((x, t))
            return SimpleNamespace(sample=x * 0 + self.weight.sum() + self.bias.sum())

    class Silent(nn.Module):
        def forward(self, input_ids: Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=torch.zeros(len(input_ids), 77, 4))

    unet = Spy()
    named: dict[str, Tensor] = {f"unet.{name}": weight for name, weight in unet.named_parameters()}
    average = {name: weight.detach().clone() for name, weight in named.items()}
    run = diffusion.Run(unet, Silent(), Recall(4), average, diffusion.Learners(named))
    ids, frames = torch.zeros(8, 77, dtype=torch.long), torch.zeros(8, 4)
    rows = Shown(torch.zeros(8, 4, 8, 8), torch.ones(8, 1, 8, 8), ids, ids[:, :28], frames)
    diffusion._step(run, rows, Schedule.scaled_linear(), 0, torch.float32)
    x, t = seen[0]
    assert torch.equal(x[::2], x[1::2]) and torch.equal(t[::2], t[1::2])
    assert len({float(row.sum()) for row in x}) == 4 and len(set(t.tolist())) == 4


def one_with(**facts: str) -> Scene:
    """A near scene that shows these values."""
    for seed in range(10_000):
        scene = draw_scene(random.Random(seed), person_of("train", seed), camera="close-up", style="photo")
        if all(shown(scene).get(fact) == value for fact, value in facts.items()):
            return scene
    raise AssertionError("no such scene")
