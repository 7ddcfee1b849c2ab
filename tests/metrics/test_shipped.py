"""The shipped judges on people drawn for nothing else."""

from __future__ import annotations

import random

import pytest
import torch

from semblant.backbones.judges import load_judges, weights_folder
from semblant.embedded.judge_bank import jpeg
from semblant.metrics.report import measure
from semblant.world.captions import write
from semblant.world.renderer import render
from semblant.world.scene import draw_scene, person_of

pytestmark = pytest.mark.skipif(not (weights_folder() / "card.json").exists(), reason="no judges are shipped yet")

PEOPLE, EACH = 4, 6


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random("semblant test of shipped judges")
    people = [person_of("heldout", 5000 + index) for index in range(PEOPLE)]
    return [[draw_scene(rng, person, style="photo", camera="portrait") for _ in range(EACH)] for person in people]


@pytest.fixture(scope="module")
def pictures(scenes):
    """Pictures of four people, six of each."""
    return render([scene for one in scenes for scene in one], labels=False).image.unflatten(0, (PEOPLE, EACH))


def test_own_pictures_gain_and_those_of_strangers_do_not(pictures):
    own, strange = [], []
    for who in range(PEOPLE):
        references, others = pictures[who, :3], pictures[who, 3:]
        own.append(measure(others, subject=references, prompt="a photo of a person").identity_gain)
        strange.append(measure(pictures[who - 1], subject=references, prompt="a photo of a person").identity_gain)
    assert min(own) > 0.6, own
    assert max(strange) < 0.45 and sum(strange) / PEOPLE < 0.2, strange


def test_what_is_true_holds_and_what_is_false_does_not(scenes, pictures):
    rng = random.Random(0)
    flat = [scene for one in scenes for scene in one]
    true = [write(scene, rng, drop=False) for scene in flat]
    right = measure(pictures.flatten(0, 1), prompt=true)
    wrong = measure(pictures.flatten(0, 1), prompt=true[7:] + true[:7])
    assert right.facts > 0.65 and right.facts > wrong.facts + 0.25  # details of a face are read less surely: the card
    assert min(right.facts_by_name[fact] for fact in ("background", "clothes colour", "light")) > 0.9
    assert right.prompt > wrong.prompt + 0.2


def test_most_of_what_is_true_is_seen_to_hold(scenes, pictures):
    rng = random.Random(0)
    true = [write(scene, rng, drop=False) for one in scenes for scene in one]
    assert measure(pictures.flatten(0, 1), prompt=true).facts > 0.8


def test_giving_the_picture_back_is_copying_and_another_picture_is_not(pictures):
    scores = measure(pictures[0], subject=pictures[0], prompt="a photo", trained_on=pictures[0])
    assert scores.copy_rate == 1 and scores.detect == 1
    worse = jpeg(pictures[0], 80)
    assert measure(worse, prompt="a photo", trained_on=pictures[0]).copy_rate == 1
    # chance alone makes some pictures alike, before one background in one light: the bar is a percentile
    others = measure(pictures[1:].flatten(0, 1), prompt="a photo", trained_on=pictures[0])
    assert others.copy_rate < 0.1


def test_there_is_no_face_in_noise_nor_in_nothing():
    noise = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    flat = torch.linspace(0, 1, 4)[:, None, None, None].expand(-1, 3, 128, 128)
    assert measure(torch.cat([noise, flat]), prompt="a photo").detect == 0


def test_two_people_are_two_faces(pictures):
    side_by_side = torch.cat([pictures[0, 0, :, :, 28:100], pictures[1, 0, :, :, 28:100]], -1)
    square = torch.nn.functional.pad(side_by_side, (0, 0, 8, 8), mode="replicate")
    faces = load_judges("B").detector.detect(torch.nn.functional.interpolate(square[None], 128))[0]
    assert len(faces) == 2 and {face.box[0] < 60 for face in faces} == {True, False}
