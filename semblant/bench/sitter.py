"""The person who sits for the demo: a portrait, other pictures to measure by, and the right answer to every prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from semblant.backbones.base import Base
from semblant.bench.faces import finder
from semblant.data.pictures import to_image
from semblant.data.subject import Subject
from semblant.world.captions import read
from semblant.world.renderer import render
from semblant.world.scene import Identity, Person, Scene, Split, draw_scene, person_of

PLAIN: dict[str, Any] = {"hat": "none", "glasses": "none", "beard": "none", "dyed": "none"}
"""Nothing that hides who it is."""
AGES = {"young": 0.1, "adult": 0.4, "old": 0.9}
SAME = {"hat colour": "hat_colour", "clothes colour": "clothes_colour"}
"""Facts whose field has another name; the others are called alike."""
CHANGED = ("background", "style", "camera", "light", "expression", "glasses", "hat", "beard", "clothes", "action")


@dataclass(frozen=True)
class Sitter:
    """Unnamed person `index` of a split."""

    split: Split = "heldout"
    index: int = 20

    @property
    def identity(self) -> Identity:
        """Who it is."""
        return person_of(self.split, self.index)

    def portrait(self) -> Scene:
        """From the front, in plain light, nothing worn on the head."""
        person = Person(self.identity, clothes_colour="green", zoom=0.6, **PLAIN)
        return Scene((person,), background="room", seed=self.index)

    def others(self, count: int) -> list[Scene]:
        """Photos of other moments; no method sees them."""
        rngs = [random.Random(f"semblant demo {self.split} {self.index} {k}") for k in range(count)]
        return [draw_scene(rng, self.identity, style="photo", light="plain", **PLAIN) for rng in rngs]

    def truth(self, prompt: str) -> Scene:
        """The portrait with every fact that the prompt names: the right answer, as the world draws it."""
        facts = read(prompt).facts
        changes: dict[str, Any] = {fact: facts[fact] for fact in CHANGED if fact in facts}
        changes |= {field: facts[fact] for fact, field in SAME.items() if fact in facts}
        if "age" in facts:
            changes["age"] = AGES[facts["age"]]
        if facts.get("action", "none") != "none" and "camera" not in facts:
            changes["camera"] = "half body"
        return self.portrait().change(**changes)


def subject_of(sitter: Sitter, base: Base, word: str, camera: str = "close-up") -> Subject:
    """A sitter known from one picture: the portrait, from so near that the face fills it, as in the photographs that
    papers learn from (CelebA-HQ), and where the face is."""
    [picture] = draw([sitter.portrait().change(camera=camera)], base.size)
    faces = finder(base)(picture)[:1] or (None,)
    return Subject((picture,), word, "person", faces=tuple(faces), sources=(f"person {sitter.index}, drawn",))


def draw(scenes: Sequence[Scene], size: int = 128) -> list[Image.Image]:
    """Pictures of scenes, `size` pixels a side."""
    return [to_image(picture * 2 - 1) for picture in render(list(scenes), size, labels=False).image]
