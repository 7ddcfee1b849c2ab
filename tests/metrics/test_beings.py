"""Animals and things in pictures: what they are, and whether they are the subject."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from semblant.backbones.being_judge import NONE
from semblant.backbones.judges import Judges, load_judges
from semblant.metrics.beings import being_gain, being_likeness, being_vectors, beings_held, beings_shown
from semblant.metrics.report import measure
from semblant.world.company import being_of, draw_being_scene
from semblant.world.renderer import render
from semblant.world.scene import draw_scene, person_of

SIZE = 128
PICTURES = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
VALUES = {"kind": ("dog", "cat", NONE), "colour": ("brown", "white"), "pose": ("sitting", "lying")}
READ = [
    {"kind": "dog", "colour": "brown", "pose": "sitting"},
    {"kind": "dog", "colour": "white", "pose": "sitting"},
    {"kind": "cat", "colour": "brown", "pose": "sitting"},
    {"kind": NONE, "colour": "brown", "pose": "sitting"},
]
VECTORS = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [1.0, 0, 0], [1.0, 0, 0]])


class Known:
    """A judge that knows these four pictures."""

    values = VALUES

    def row(self, image: Tensor) -> int:
        return int((PICTURES - image).abs().mean((1, 2, 3)).argmin())

    def read(self, images: Tensor) -> list[dict[str, str]]:
        return [READ[self.row(image)] for image in images]

    def __call__(self, images: Tensor) -> Tensor:
        return VECTORS[[self.row(image) for image in images]]


@pytest.fixture
def judges() -> Judges:
    strangers = torch.tensor([[[0.0, 1, 0], [0, 0, 1]], [[0.0, 0, 1]] * 2])
    return replace(load_judges("B"), beings=Known(), being_strangers=strangers)  # type: ignore[arg-type]


def test_what_is_said_of_another_kind_does_not_hold(judges: Judges) -> None:
    assert beings_shown(PICTURES, judges) == READ
    prompts = ["a photo of a brown dog lying on the beach", "a brown dog", "a brown dog", "a photo of a person"]
    assert beings_held(PICTURES, prompts, judges) == [
        {"kind": True, "colour": True, "pose": False},
        {"kind": True, "colour": False},
        {"kind": False, "colour": False},
        {},
    ]


def test_likeness_is_to_the_kind_that_most_references_show(judges: Judges) -> None:
    kind, vectors = being_vectors(PICTURES[:3], judges)
    assert kind == "dog" and torch.equal(vectors, VECTORS[:2])
    alike = being_likeness(PICTURES, kind, vectors, judges)
    assert alike[:2] == pytest.approx([0.8, 0.8]) and alike[2:] == [None, None]
    nothing, none = being_vectors(PICTURES[3:], judges)
    assert nothing == NONE and len(none) == 0


def test_gain_is_one_for_the_subject_and_zero_for_others_of_its_kind(judges: Judges) -> None:
    kind, vectors = being_vectors(PICTURES[:2], judges)
    nobody = float((vectors @ judges.being_strangers[0].T).mean())
    assert being_gain([0.6], kind, vectors, judges) == pytest.approx(1)
    assert being_gain([nobody], kind, vectors, judges) == pytest.approx(0)
    assert being_gain([0.6, None], kind, vectors, judges) == pytest.approx(0.5)
    assert being_gain([0.5], kind, judges.being_strangers[0], judges) is None
    alone = replace(judges, card={**judges.card, "same_being": 0.9})
    assert being_gain([0.9], kind, vectors[:1], alone) == pytest.approx(1)


def test_a_report_measures_an_animal_where_the_references_show_no_face(judges: Judges) -> None:
    detect: Any = SimpleNamespace(detect=lambda images: [[] for _ in images])
    faceless = replace(judges, detector=detect)
    scores = measure(PICTURES, subject=PICTURES[:2], prompt="a photo of a brown dog", judges=faceless)
    nobody = float((VECTORS[:2] @ judges.being_strangers[0].T).mean())
    assert scores.identity == pytest.approx(0.8)
    assert scores.identity_gain == pytest.approx(((0.8 * 2 + nobody * 2) / 4 - nobody) / (0.6 - nobody))
    assert scores.facts_by_name["being kind"] == 0.5 and scores.facts_by_name["being colour"] == 0.25


CONFUSED = pytest.mark.xfail(reason="dogs and cats are not told apart yet: the gate of kinds says so", strict=True)


@pytest.mark.parametrize("kind", [pytest.param("dog", marks=CONFUSED), "bear", "teapot", "toy car"])
def test_the_shipped_judge_knows_kinds_and_tells_one_from_another(kind: str) -> None:
    judges = load_judges("B")
    rng = random.Random(kind)
    plain: dict[str, Any] = {"style": "photo", "light": "plain", "camera": "portrait"}
    drawn = lambda index, times: (
        render([draw_being_scene(rng, being_of(kind, "tune", 900 + index), **plain) for _ in range(times)]).image
    )
    own, others = drawn(0, 8), torch.cat([drawn(1 + i, 1) for i in range(8)])
    shown = beings_shown(torch.cat([own, others]), judges)
    assert sum(reading["kind"] == kind for reading in shown) >= 14
    seen, vectors = being_vectors(own[:4], judges)
    assert seen == kind
    gain = lambda images: being_gain(being_likeness(images, kind, vectors, judges), kind, vectors, judges)
    same, different = gain(own[4:]), gain(others)
    assert same is not None and different is not None and same > 0.6 > 0.5 > different


def test_the_shipped_judge_mostly_sees_nothing_beside_a_person_alone() -> None:
    rng = random.Random(0)
    people = render([draw_scene(rng, person_of("tune", 700 + i)) for i in range(16)]).image
    assert sum(reading["kind"] == NONE for reading in beings_shown(people, load_judges("B"))) >= 12
