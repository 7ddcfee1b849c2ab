"""What judges are told of a face beyond words: where freckles and moles are, and the numbers behind scales."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from semblant.backbones.faces import SIZE, crops, features, frames_of
from semblant.embedded import judge_bank, judge_steps
from semblant.world.scene import draw_scene, person_of


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return judge_bank.fill(tmp_path_factory.mktemp("bank"), "train", 24, marks=True)


def test_the_numbers_behind_words_show_where_nothing_hides_them(bank):
    hidden = 0
    for scene, row in zip(bank.scenes, bank.measures.tolist(), strict=True):
        told = dict(zip(judge_bank.MEASURED, row, strict=True))
        person = scene.people[0]
        assert told["skin"] == pytest.approx((person.identity.skin - 0.5) * 12**0.5) or scene.style == "sketch"
        assert math.isnan(told["gaze"]) == (
            person.glasses == "sunglasses" or scene.style == "pixel art" or scene.camera == "half body"
        )
        hidden += sum(map(math.isnan, row))
        if scene.camera != "close-up":
            assert told["build"] == pytest.approx((person.identity.build - 0.5) * 12**0.5)
    assert 0 < hidden < bank.measures.numel() / 2
    assert judge_bank.SIDED == ("gaze", "yaw", "tilt")


def test_numbers_are_judged_where_they_show_and_turn_with_the_picture(bank):
    rows, never = torch.arange(24), torch.zeros(24, dtype=torch.bool)
    true = bank.measures.nan_to_num(99.0)
    missed = lambda found, which=never: float(judge_steps.numbers_missed(found, bank, rows, which))
    assert missed(true) == 0 < missed(true + 0.1)
    turned = true.clone()
    for field in judge_bank.SIDED:
        turned[:, judge_bank.MEASURED.index(field)] *= -1
    assert missed(turned, ~never) == 0 < missed(true, ~never)


def marked(**changed):
    """Somebody with freckles and a mole on the cheek, neither hidden."""
    own = {"freckles": 0.9, "mole_size": 0.9, "mole_x": 0.2, "mole_y": 0.75} | changed
    scene = draw_scene(
        random.Random(0),
        replace(person_of("train", 0), **own),
        **{"style": "photo", "camera": "close-up", "glasses": "none", "hat": "none", "beard": "none", "yaw": 0.0},
    )
    return scene


def test_marks_are_where_freckles_and_the_mole_are_drawn():
    scenes = [marked(), marked(freckles=0.1), marked(mole_size=0.1), marked(mole_x=0.8)]
    images, _, landmarks = judge_bank.draw(scenes)
    marks = judge_bank.marks_of(scenes, images).float()
    assert marks.shape == (4, 2, 64, 64)
    assert [bool(m.any()) for m in marks[:, 0]] == [True, False, True, True]
    assert [bool(m.any()) for m in marks[:, 1]] == [True, True, False, True]
    columns = torch.arange(64.0)
    middle = lambda m: float((m.sum(0) * columns).sum() / m.sum())
    nose = landmarks[0, 2, 0] / 2
    assert middle(marks[0, 1]) < nose - 2 and middle(marks[3, 1]) > nose + 2  # one cheek, the other
    assert (marks[0, 0] > 60).sum() > 20 > (marks[0, 1] > 60).sum() > 0  # many freckles, one mole


def test_what_a_picture_does_not_show_has_no_marks():
    scene = marked()
    far = scene.change(camera="half body")
    images = judge_bank.draw([far])[0]
    assert not judge_bank.marks_of([far], images).any()


def test_a_map_of_marks_is_judged_where_they_are(bank):
    rows, frames = torch.arange(24), frames_of(bank.boxes, bank.landmarks, SIZE)
    never = torch.zeros(24, dtype=torch.bool)
    true = F.interpolate(bank.marks.float() / 255, scale_factor=2.0)
    true = F.avg_pool2d(crops(true, features(frames, 1.5)), 2)
    says = lambda there: torch.logit((2 * there).clamp(0.01, 0.99))
    missed = lambda found, which=never, frames=frames: float(
        judge_steps.marks_missed(found, bank, rows, frames, which, 1.5)
    )
    right = missed(says(true))
    assert right < 0.6 * min(missed(says(true.flip(-2))), missed(says(0 * true)))
    assert right < 0.6 * missed(says(true.flip(1)))  # freckles are no moles
    _, turned = judge_steps.mirror(bank.pictures(rows), frames, ~never)
    assert missed(says(true.flip(-1)), ~never, turned) == pytest.approx(right, rel=0.05)
    with pytest.raises(ValueError, match="knows where"):
        judge_steps.marks_missed(says(true), replace(bank, marks=None), rows, frames, never, 1.5)
