"""Every score against an answer worked out by hand: judges here read what a test wrote into the corner of a picture."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from semblant.backbones.being_judge import NONE
from semblant.backbones.faces import Face
from semblant.backbones.judges import Judges
from semblant.errors import SemblantError
from semblant.metrics import attributes, clip_score, copying, detection, identity, report

SIDE = 128


def picture(who: float | None = 0.0, fits: float = 1.0, hat: float = 0.0) -> torch.Tensor:
    """`who`: an angle in turns (None: no face), `fits`: cosine with any prompt, `hat`: 1 wears a cap."""
    image = torch.zeros(3, SIDE, SIDE)
    image[:, 0, 0] = torch.tensor([0.0 if who is None else 1.0, who or 0.0, (fits + 1) / 2])
    image[0, 0, 1] = hat
    return image


def turned(turns: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.cos(2 * torch.pi * turns), torch.sin(2 * torch.pi * turns)], -1)


class Corner(nn.Module):
    """Stands in for every judge."""

    values: ClassVar = {"hat": ("none", "cap"), "background": ("beach", "forest")}

    def detect(self, images: torch.Tensor) -> list[list[Face]]:
        face = Face(
            (40.0, 30.0, 80.0, 80.0), 0.9, ((50.0, 50.0), (70.0, 50.0), (60.0, 60.0), (52.0, 70.0), (68.0, 70.0))
        )
        return [[face] if image[0, 0, 0] > 0.5 else [] for image in images]

    def forward(self, images: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        return turned(images[:, 1, 0, 0])

    def read(self, images: torch.Tensor, frames: torch.Tensor) -> list[dict[str, str]]:
        return [{"hat": self.values["hat"][int(image[0, 0, 1])], "background": "beach"} for image in images]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, 0, :2].flatten(1)

    def images(self, images: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        cosine = images[:, 2, 0, 0] * 2 - 1
        return torch.stack([cosine, (1 - cosine.square()).clamp_min(0).sqrt()], -1)

    def texts(self, texts: list[str]) -> torch.Tensor:
        self.heard = texts
        return torch.tensor([[1.0, 0.0]]).expand(len(texts), -1)


class Nothing:
    """A judge that sees no animal or thing."""

    values: ClassVar = {"kind": ("dog", NONE)}

    def read(self, images: torch.Tensor) -> list[dict[str, str]]:
        return [{"kind": NONE} for _ in images]


@pytest.fixture
def judges() -> Judges:
    corner: Any = Corner()
    nothing: Any = Nothing()
    card = {"same_person": 0.8, "clip_threshold": 0.5, "copy_distance": 0.01}
    strangers = turned(torch.tensor([0.25, 0.75]))  # mean similarity 0 with everybody
    return Judges(corner, corner, corner, corner, card, strangers, nothing, torch.zeros(1, 2, 2))


def test_detect_is_the_share_with_a_face(judges):
    assert detection.detection([picture(), picture(None), picture(), picture()], judges) == [True, False, True, True]
    assert report.measure([picture(), picture(None)], prompt="a photo", judges=judges).detect == 0.5


def test_identity_counts_faces_and_identity_or_zero_counts_pictures(judges):
    scores = report.measure(
        [picture(0.0), picture(1 / 6), picture(None)], subject=[picture(0.0)], prompt="a photo", judges=judges
    )
    assert scores.identity == pytest.approx((1 + 0.5) / 2, abs=1e-5)
    assert scores.identity_or_zero == pytest.approx(1.5 / 3, abs=1e-5)


def test_no_face_at_all_has_no_identity_and_no_gain(judges):
    scores = report.measure([picture(None)], subject=[picture()], prompt="a photo", judges=judges)
    assert scores.identity is None and scores.identity_or_zero == 0 and scores.detect == 0
    assert scores.identity_gain == pytest.approx(0, abs=1e-6)


def test_gain_is_one_like_other_pictures_of_the_person_and_zero_like_strangers(judges):
    references = identity.reference_vectors([picture(0.0), picture(0.1)], judges)
    level = identity.same_person_level(references, otherwise=9.0)
    assert level == pytest.approx(torch.cos(torch.tensor(0.2 * torch.pi)).item(), abs=1e-5)
    # two references at 0 and .1 turns, a picture between them: cosine of .05 turns with each
    half_way = torch.cos(torch.tensor(0.1 * torch.pi)).item()
    gain = identity.identity_gain([picture(0.05)], references, judges)
    assert gain == pytest.approx(half_way / level, abs=1e-4)
    assert identity.identity_gain([picture(0.3), picture(None)], references, judges) == pytest.approx(0, abs=1e-4)
    assert identity.identity_gain([picture(0.05), picture(None)], references, judges) == pytest.approx(
        gain / 2, abs=1e-4
    )


def test_gain_moves_with_strangers_that_are_alike(judges):
    references = identity.reference_vectors([picture(0.0)], judges)
    strangers = turned(torch.tensor([1 / 6, 5 / 6]))  # similarity .5; the card says .8 for the person
    gain = identity.identity_gain([picture(0.0), picture(None)], references, judges, strangers)
    assert gain == pytest.approx((((1 + 0.5) / 2) - 0.5) / (0.8 - 0.5), abs=1e-4)


def test_references_as_far_apart_as_strangers_give_no_gain(judges):
    references = identity.reference_vectors([picture(0.0), picture(0.25)], judges)
    assert identity.identity_gain([picture(0.0)], references, judges) is None


def test_references_without_a_face_are_skipped_or_refused(judges):
    assert len(identity.reference_vectors([picture(), picture(None)], judges)) == 1
    with pytest.raises(SemblantError, match="2 reference pictures"):
        identity.reference_vectors([picture(None), picture(None)], judges)


def test_the_likest_of_several_faces_counts(judges, monkeypatch):
    seen = detection.look([picture(0.0)], judges)
    crowd = detection.Seen(seen.images, [seen.faces[0] * 2], seen.frames, [turned(torch.tensor([0.5, 1 / 6]))])
    references = turned(torch.tensor([0.0]))
    assert identity.similarities(crowd, references, judges) == [pytest.approx(0.5, abs=1e-5)]


def test_id_prompt_counts_identity_only_where_the_prompt_was_followed(judges):
    images = [picture(0.0, fits=0.9), picture(0.0, fits=0.2), picture(1 / 6, fits=0.9), picture(None, fits=0.9)]
    scores = report.measure(images, subject=[picture(0.0)], prompt="a photo", judges=judges)
    assert scores.id_prompt == pytest.approx((1 + 0 + 0.5 + 0) / 4, abs=1e-5)
    assert scores.prompt == pytest.approx((0.9 * 3 + 0.2) / 4, abs=1e-5)


def test_facts_are_those_the_prompt_names(judges):
    prompt = "a photo of <maya> wearing a cap on the beach"
    scores = report.measure([picture(hat=1.0), picture(hat=0.0)], prompt=prompt, judges=judges)
    # the stand-in reads hats and backgrounds; "photo" it does not know
    assert scores.facts == pytest.approx((1 + 0.5) / 2) and scores.facts_by_name == {"background": 1.0, "hat": 0.5}
    held = attributes.facts_held([picture()], ["a person in the forest"], judges)
    assert held == [{"background": False}]
    assert report.measure([picture()], prompt="a person", judges=judges).facts is None


def test_one_prompt_per_picture(judges):
    prompts = ["a person on the beach", "a person in the forest"]
    assert report.measure([picture(), picture()], prompt=prompts, judges=judges).facts == 0.5
    with pytest.raises(SemblantError, match="3 pictures and 2 prompts"):
        report.measure([picture()] * 3, prompt=prompts, judges=judges)


@pytest.mark.parametrize(
    ("prompt", "heard"),
    [
        ("a photo of <maya> playing guitar", "a photo of person playing guitar"),
        ("a photo of <maya> person", "a photo of person"),
        ("a photo of Maya  Okafor in the snow", "a photo of person in the snow"),
        ("a photo of a person", "a photo of a person"),
        ("a photo of (<maya>:0.7) (playing guitar:1.2)", "a photo of person playing guitar"),
        ("a photo of Maya (Okafor:1.2) in the snow", "a photo of person in the snow"),
    ],
)
def test_who_it_is_does_not_reach_the_text_tower(judges, prompt, heard):
    assert clip_score.without_subject(prompt) == heard
    clip_score.clip_scores([picture()], [prompt], judges)
    assert judges.clip.heard == [heard]


def test_a_copy_is_a_copy_and_another_picture_is_none(judges):
    learned_from = [picture(0.0), picture(0.5)]
    assert copying.copies([picture(0.5), picture(0.3)], learned_from, judges) == [True, False]
    distances = copying.perceptual_distances([picture(0.5)], learned_from, judges)
    assert distances.tolist() == [[pytest.approx(0.25), 0.0]]
    scores = report.measure([picture(0.5), picture(0.3)], prompt="a photo", trained_on=learned_from, judges=judges)
    assert scores.copy_rate == 0.5
    assert report.measure([picture()], prompt="a photo", judges=judges).copy_rate is None


def test_scores_are_plain_numbers(judges):
    scores = report.measure(
        [picture()], subject=[picture()], prompt="a person in a cap", trained_on=[picture()], judges=judges
    )
    assert json.loads(json.dumps(scores.to_dict())) == scores.to_dict()
    assert scores.n == 1 and scores.to_dict().keys() >= {
        "prompt",
        "identity_gain",
        "detect",
        "id_prompt",
        "facts",
        "copy_rate",
    }


def test_no_pictures_are_refused(judges):
    with pytest.raises(SemblantError, match="no pictures"):
        report.measure([], prompt="a photo", judges=judges)
