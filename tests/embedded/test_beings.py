"""What the judge of animals and things learns from, and how it is measured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semblant.backbones.being_judge import NONE, Beings, square_of
from semblant.backbones.faces import shaken
from semblant.embedded import being_bank
from semblant.embedded import judges as recipe
from semblant.embedded.being_bank import (
    FACTS,
    MIRRORED,
    NOBODY,
    PER_BEING,
    VALUES,
    BeingBank,
    being_scene_of,
    beings_step,
    fill_beings,
    labels,
    look_at_beings,
    parameters,
    projection,
    strange_beings,
)
from semblant.embedded.judge_steps import mirrored_labels
from semblant.world.being_facts import facts_of
from semblant.world.beings import KINDS, Animal
from semblant.world.company import being_of
from semblant.world.renderer import render


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> BeingBank:
    return fill_beings(tmp_path_factory.mktemp("beings"), "train", 36)


def small() -> Beings:
    torch.manual_seed(0)
    return Beings(dict(VALUES), (4, 8, 8, 12), (8, 12, 16), hidden=24, dim=being_bank.DIM)


def test_a_bank_holds_every_kind_in_two_moments_and_people_alone(bank: BeingBank) -> None:
    alone = [k for k in range(36) if k % NOBODY == NOBODY - 1]
    for k, scene in enumerate(bank.scenes):
        assert (not scene.others) == (k in alone)
        if scene.others:
            assert scene.others[0].identity == being_of(KINDS[k // 2 % 8], "train", k // 2 // 8)
    assert {scene.others[0].kind for scene in bank.scenes if scene.others} == set(KINDS)
    assert any(scene.people and scene.others for scene in bank.scenes) and PER_BEING == 2
    drawn = (render(bank.scenes[:8]).image * 255).round().to(torch.uint8)
    assert torch.equal(bank.images[:8], drawn)
    assert torch.equal(bank.beings[:, 0].isnan(), torch.tensor([k in alone for k in range(36)]))


def test_boxes_are_around_the_animal_or_thing(bank: BeingBank) -> None:
    drawn = render(bank.scenes)
    for scene, box, mask in zip(bank.scenes, bank.boxes, drawn.others_amodal[:, 0], strict=True):
        assert bool(box.any()) == bool(scene.others)
        if scene.others:
            where = mask.nonzero().float()
            assert box.tolist() == pytest.approx(
                [*where.amin(0).flip(0).tolist(), *where.amax(0).flip(0).add(1).tolist()], abs=1
            )


def test_places_and_squares_follow_their_boxes() -> None:
    boxes, there = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]]), torch.tensor([True, False])
    places = being_bank.places_in(boxes, there, 16)
    assert places[0].nonzero().amin(0).tolist() == [8, 4] and places[0].nonzero().amax(0).tolist() == [15, 7]
    assert not places[1].any()
    mirrored = being_bank.mirrored_boxes(boxes, torch.tensor([True, False]))
    assert mirrored.tolist() == [[0.5, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]]
    around = being_bank.squares_around(boxes)
    assert around[0].tolist() == pytest.approx([0.375, 0.75, 0.25 * being_bank.WIDER, 0.0])
    moved = shaken(around, being_bank.SHAKE, torch.Generator().manual_seed(0))
    assert not torch.equal(moved, around) and (moved - around).abs().max() < 0.3 and not moved[:, 3].any()
    assert torch.equal(shaken(around, (0.0, 0.0, 0.0, 0.0)), around)


def test_it_learns_where_to_look(bank: BeingBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(being_bank, "BATCH", 16)
    monkeypatch.setattr(being_bank, "STRANGERS", 4)
    monkeypatch.setattr(being_bank, "EMPTY", 0.0)
    judge = small().train()
    optimizer, step = torch.optim.AdamW(judge.parameters(), lr=1e-2), beings_step(bank, 0, "cpu")
    rows = bank.boxes.any(1)
    boxes = bank.boxes[rows] / 128

    def missed() -> float:
        with torch.no_grad():
            found = square_of(judge.eval().find(bank.images[rows].float() / 255)[1])
        return float((found - being_bank.squares_around(boxes))[:, :3].abs().mean())

    before = missed()
    for at in range(40):
        optimizer.zero_grad()
        step(judge.train(), torch.Generator().manual_seed(at)).backward()
        optimizer.step()
    assert missed() < 0.6 * before


def test_labels_are_the_facts_that_show(bank: BeingBank) -> None:
    for scene, row in zip(bank.scenes, bank.labels.tolist(), strict=True):
        told = {fact: VALUES[fact][place] for fact, place in zip(FACTS, row, strict=True) if place >= 0}
        if scene.others:
            assert told.items() <= facts_of(scene, 0).items() and told["kind"] == scene.others[0].kind
        else:
            assert told == {"kind": NONE}


def test_mirrored_labels_are_those_of_what_is_turned_the_other_way(bank: BeingBank) -> None:
    turned = {"left": "right", "right": "left", "ahead": "ahead"}
    animals = [s for s in bank.scenes if s.others and isinstance(s.others[0], Animal)]
    other = [s.change_other(0, facing=turned[s.others[0].facing]) for s in animals]
    own = torch.tensor([labels(s) for s in animals])
    every = torch.ones(len(own), dtype=torch.bool)
    seen = own[:, FACTS.index("facing")] >= 0
    wanted = torch.tensor([labels(s) for s in other])
    assert torch.equal(
        mirrored_labels(own, every, MIRRORED)[seen][:, FACTS.index("facing")], wanted[seen][:, FACTS.index("facing")]
    )
    assert torch.equal(mirrored_labels(own, ~every, MIRRORED), own) and not torch.equal(
        mirrored_labels(own, every, MIRRORED), own
    )


def test_nothing_is_learned_as_no_kind(bank: BeingBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(being_bank, "BATCH", 8)
    monkeypatch.setattr(being_bank, "STRANGERS", 4)
    monkeypatch.setattr(being_bank, "EMPTY", 1.0)
    judge = small().train()
    optimizer, step = torch.optim.AdamW(judge.parameters(), lr=3e-3), beings_step(bank, 0, "cpu")
    for at in range(20):
        optimizer.zero_grad()
        step(judge, torch.Generator().manual_seed(at)).backward()
        optimizer.step()
    empty = being_bank.nothing(torch.zeros(8, 3, 128, 128), torch.Generator().manual_seed(99))
    assert all(reading["kind"] == NONE for reading in judge.eval().read(empty))
    assert empty.min() >= 0 and empty.max() <= 1 and empty.unique(dim=0).shape[0] == 8


def test_distances_are_kept_and_kinds_lie_apart() -> None:
    dogs = torch.tensor([parameters(being_of("dog", "train", k)) for k in range(20)])
    teapots = torch.tensor([parameters(being_of("teapot", "train", k)) for k in range(20)])
    project = projection(3, dogs.shape[1])
    assert torch.allclose(torch.cdist(dogs @ project, teapots @ project), torch.cdist(dogs, teapots), atol=1e-4)
    assert torch.cdist(dogs, teapots).mean() > torch.cdist(dogs, dogs).mean()


def test_a_few_steps_lower_the_loss(bank: BeingBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(being_bank, "BATCH", 16)
    monkeypatch.setattr(being_bank, "STRANGERS", 8)
    judge, step = small().train(), beings_step(bank, 0, "cpu")
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = step(judge, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0], losses
    assert recipe._loss(judge, step, 0, 0, bf16=True).item() < losses[0]


class Knowing(Beings):
    """Right about everything, whatever it sees."""

    def __init__(self, scenes: list[int]) -> None:
        super().__init__(dict(VALUES), (4, 4, 4), (4, 4), hidden=4, dim=being_bank.DIM)
        self.asked = [being_scene_of("heldout", index) for index in scenes]
        self.at = [0, 0]

    def read(self, images: Tensor) -> list[dict[str, str]]:
        some = self.asked[self.at[0] : self.at[0] + len(images)]
        self.at[0] += len(images)
        rows = [labels(scene) for scene in some]
        return [{f: VALUES[f][max(0, p)] for f, p in zip(FACTS, row, strict=True)} for row in rows]

    def forward(self, images: Tensor) -> Tensor:
        beings = [scene for scene in self.asked if scene.others][self.at[1] : self.at[1] + len(images)]
        self.at[1] += len(images)
        numbers = torch.tensor([parameters(scene.others[0].identity) for scene in beings])
        return torch.nn.functional.normalize(numbers @ projection(0, numbers.shape[1]), dim=-1)


def test_who_knows_everything_has_full_marks_and_who_knows_nothing_has_not() -> None:
    told, likeness = look_at_beings(Knowing(list(range(60))), 20)
    assert set(told) == set(FACTS) and all(value == 1 for value in told.values()) and likeness == 1
    told, likeness = look_at_beings(small().eval(), 20)
    assert told["kind"] < 0.5 and likeness < 0.95


def test_strangers_come_by_kind() -> None:
    vectors, same = strange_beings(small().eval())
    assert vectors.shape == (len(KINDS), being_bank.OF_A_KIND, being_bank.DIM) and -1 <= same <= 1
