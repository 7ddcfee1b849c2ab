"""Two people of one picture: who is who, and who has what."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from semblant.backbones.faces import SIZE, Face, frames_of
from semblant.backbones.judges import Judges, load_judges
from semblant.metrics import pairs
from semblant.metrics.pairs import apart, binding, company, facts_of_two
from semblant.world.company import draw_pair_of_people
from semblant.world.facts import shown
from semblant.world.prompts import captions_of_two
from semblant.world.renderer import Render, render
from semblant.world.scene import Scene, person_of

PLAIN: dict[str, Any] = {"style": "photo", "light": "plain", "camera": "portrait", "together": "none", "yaw": 0.0,
                         "tilt": 0.0, "dyed": "none", "age": 0.4, "action": "none"}  # fmt: skip
PROMPT = "a photo of two people, the left one wearing a red hat, the right one wearing sunglasses and a blue hat"


def pair(seed: int) -> Scene:
    rng = random.Random(seed)
    left = {"hat": "cap", "hat_colour": "red", "glasses": "none"}
    right = {"hat": "cap", "hat_colour": "blue", "glasses": "sunglasses"}
    return draw_pair_of_people(
        rng, person_of("tune", seed), person_of("tune", 100 + seed), left=left, right=right, **PLAIN
    )


SCENES = [pair(seed) for seed in range(6)]
DRAWN = render(SCENES)


def true_faces(drawn: Render, row: int) -> list[Face]:
    places = zip(drawn.boxes[row], drawn.landmarks[row], strict=True)
    return [Face(tuple(box.tolist()), 1.0, tuple(map(tuple, marks.tolist()))) for box, marks in places]  # type: ignore[arg-type]


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> Judges:
    """Judges B with a detector that is never wrong about these renders, whatever their order."""
    faces = {DRAWN.image[row].sum().item(): true_faces(DRAWN, row) for row in range(len(SCENES))}
    right = load_judges("B")

    def detect(images: Tensor) -> list[list[Face]]:
        return [faces.get(image.sum().item(), []) for image in images]

    return replace(right, detector=SimpleNamespace(detect=detect))  # type: ignore[arg-type]


def test_each_has_what_was_said_of_them(judges: Judges) -> None:
    found = binding(DRAWN.image, [PROMPT] * len(SCENES), judges)
    assert found.n == len(SCENES) and found.two == 1
    assert found.facts is not None and found.both is not None and found.exchanged is not None
    assert found.facts > 0.9 and found.both > 0.6 and found.exchanged < 0.05


def test_facts_on_the_wrong_one_are_exchanged_not_held(judges: Judges) -> None:
    swapped = PROMPT.replace("left", "other").replace("right", "left").replace("other", "right")
    found = binding(DRAWN.image, [swapped] * len(SCENES), judges)
    assert found.both == 0 and found.facts is not None and found.facts < 0.1
    assert found.exchanged is not None and found.exchanged > 0.9


def test_pictures_without_two_faces_have_nothing_right(judges: Judges) -> None:
    found = binding(torch.rand(2, 3, SIZE, SIZE), [PROMPT] * 2, judges)
    assert (found.two, found.facts, found.both, found.exchanged) == (0, 0, 0, 0)
    assert facts_of_two(torch.rand(1, 3, SIZE, SIZE), judges) == [None]
    assert binding(DRAWN.image, ["two people"] * len(SCENES), judges).facts is None


def test_people_are_told_from_left_to_right_whatever_the_order_of_their_faces(judges: Judges) -> None:
    there = facts_of_two(DRAWN.image, judges)
    detect = judges.detector.detect
    backwards = replace(judges, detector=SimpleNamespace(detect=lambda x: [f[::-1] for f in detect(x)]))  # type: ignore[arg-type]
    assert facts_of_two(DRAWN.image, backwards) == there
    for reading, scene in zip(there, SCENES, strict=True):
        assert reading is not None
        assert [side["glasses"] for side in reading] == [shown(scene, who)["glasses"] for who in (0, 1)]


def test_a_crop_shows_its_face_where_the_frame_says() -> None:
    faces = true_faces(DRAWN, 0)
    alone, frames = apart(DRAWN.image[0], faces)
    assert alone.shape == (2, 3, SIZE, SIZE)
    for face, frame in zip(faces, frames, strict=True):
        whole = frames_of(torch.tensor([face.box]), torch.tensor([face.landmarks]), SIZE)[0]
        side = 2 * whole[2] / pairs.MARGIN / pairs.PORTRAIT
        corner = whole[:2] + torch.tensor([0, pairs.LOWER * side]) - side / 2
        assert torch.allclose(corner + frame[:2] * side, whole[:2], atol=1e-5)
        assert torch.allclose(frame[2] * side, whole[2], atol=1e-5) and frame[3] == whole[3]
        assert torch.allclose(frame[2] * 2 / pairs.MARGIN, torch.tensor(pairs.PORTRAIT), atol=1e-5)


def test_who_is_who(judges: Judges) -> None:
    row = DRAWN.image[:1]
    others = render([pair(0).change(background="beach", seed=9).change(who, expression="smiling") for who in (0, 1)])
    faces = {others.image[k].sum().item(): true_faces(others, k) for k in (0, 1)}
    known = replace(judges, detector=SimpleNamespace(detect=lambda x: [faces[image.sum().item()] for image in x]))  # type: ignore[arg-type]
    vectors = [torch.stack([found[who] for found in known.identities(others.image)[1]]) for who in (0, 1)]
    right = company(row, vectors, judges)
    assert (right.two, right.swapped, right.blended) == (1, 0, 0)
    assert right.left is not None and right.right is not None and min(right.left, right.right) > 0.6
    wrong = company(row, vectors[::-1], judges)
    assert (wrong.swapped, wrong.blended) == (1, 0) and wrong.left is not None and wrong.left < 0.5
    assert company(row, [vectors[0], -vectors[1]], judges).blended == 1
    nobody = company(torch.rand(1, 3, SIZE, SIZE), vectors, judges)
    assert (nobody.two, nobody.left, nobody.right) == (0, 0, 0)
    strangers = company(row, [judges.strangers[:8], vectors[1]], judges)
    assert strangers.left is None and strangers.right == right.right


def test_captions_of_two_say_something_of_each_and_their_scenes_agree() -> None:
    told = captions_of_two(6)
    assert told[:3] == captions_of_two(3)
    for caption, scene in told:
        left, right = pairs.sides(caption)
        assert left and right and set(left) | set(right) <= set(pairs.FACTS)
        for said, who in ((left, 0), (right, 1)):
            assert said.items() <= shown(scene, who).items()
