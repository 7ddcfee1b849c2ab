"""Beings: the animals and things of a scene, each with an identity of its own.

An `AnimalIdentity` or `ThingIdentity` is which dog or which teapot it is and never changes; every other field of
`Animal` and `Thing` is a fact of the moment that a caption may name and an edit may change. "left" and "right" are
those of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

ANIMALS = ("dog", "cat", "bear")
THINGS = ("backpack", "teapot", "toy car", "plush", "chair")
KINDS = (*ANIMALS, *THINGS)

FURS = ("brown", "black", "white", "grey", "golden", "orange")
PAINTS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black", "pink", "brown", "grey")
KIND_FURS = {"dog": FURS, "cat": FURS, "bear": FURS[:4]}
"""The furs each kind of animal comes in."""
FUR_PATTERNS = ("plain", "spotted", "striped")
PAINT_PATTERNS = ("plain", "spotted", "striped", "star")
ANIMAL_EYES = ("brown", "blue", "green", "hazel")
POSES = ("sitting", "standing", "lying")
FACINGS = ("left", "ahead", "right")
SIDED = ("teapot", "toy car")
"""Things that show a side, left or right; "ahead" is drawn as right."""
UNTURNED = ("backpack", "plush")
"""Things that are always seen from the front."""
PLACES = ("none", "left", "right", "on", "in")
"""Where a being is: alone, to the left or right of the person or the other being, on it, or in it."""

SEATS = ("chair",)
"""Things that something can be on."""
HOLDERS = ("backpack",)
"""Things that something can be in."""
SMALL = ("cat", "dog", "plush", "teapot")
"""What fits on a seat; all but teapots also look out of a holder."""
MOST_BEINGS = 2


@dataclass(frozen=True)
class AnimalIdentity:
    """Which animal: its kind, twenty-four numbers in [0, 1] and four more choices."""

    kind: str
    head_width: float
    head_height: float
    muzzle_length: float
    muzzle_width: float
    nose: float
    ear_size: float
    ear_width: float
    ear_set: float
    """0 close together on top .. 1 far apart at the sides."""
    ear_droop: float
    """0 pricked .. 1 hanging; cats and bears keep theirs up, only lower."""
    eye_size: float
    eye_spacing: float
    body_length: float
    bulk: float
    """0 slim .. 1 plump."""
    legs: float
    paws: float
    tail_length: float
    tail_width: float
    tail_curl: float
    fluff: float
    """How ragged the outline is."""
    shade: float
    """0 darker .. 1 lighter than the named fur."""
    mark_size: float
    mark_seed: float
    """Settles where spots lie and how stripes run."""
    bib: float
    """Under 0.4 none; above, how large the pale chest is."""
    blaze: float
    """Under 0.4 none; above, how wide the pale line down the face is."""
    fur: str
    second: str
    """The colour of spots or stripes; never the fur's own."""
    pattern: str
    eyes: str

    def numbers(self) -> tuple[float, ...]:
        """The continuous dimensions in field order, each in [0, 1]."""
        return _numbers(self)


@dataclass(frozen=True)
class ThingIdentity:
    """Which thing: its kind, twenty numbers in [0, 1] that each kind reads in its own way, and three more choices."""

    kind: str
    width: float
    height: float
    roundness: float
    flare: float
    """Whether the top or the foot is the wider."""
    crest: float
    """Handle of a backpack, knob of a teapot, cabin of a car, ears of a plush, back of a chair."""
    crest_width: float
    grip: float
    """Straps, handle, wheels, arms, or legs."""
    grip_width: float
    front: float
    """Pocket, spout, bonnet, muzzle, or seat."""
    front_width: float
    front_height: float
    trim: float
    """Width of bands, seams and rims."""
    parts: float
    """How many: buckles, rings, spokes, stitches, slats."""
    shade: float
    second_shade: float
    gloss: float
    mark_size: float
    mark_x: float
    mark_y: float
    mark_seed: float
    colour: str
    second: str
    """The colour of trims and patterns; never the thing's own."""
    pattern: str

    def numbers(self) -> tuple[float, ...]:
        """The continuous dimensions in field order, each in [0, 1]."""
        return _numbers(self)


BeingIdentity = AnimalIdentity | ThingIdentity


def _numbers(identity: BeingIdentity) -> tuple[float, ...]:
    return tuple(value for f in fields(identity) if not isinstance(value := getattr(identity, f.name), str))


@dataclass(frozen=True)
class Animal:
    """One animal in one moment; everything but `identity` is a fact."""

    identity: AnimalIdentity
    pose: str = "sitting"
    facing: str = "ahead"
    place: str = "none"
    """Where it is, seen from the person, or from the scene's first being when nobody is there."""
    shift_x: float = 0.0
    """Offset from its place, -1 .. 1."""
    shift_y: float = 0.0
    zoom: float = 0.5
    """Where inside its camera's range its size lies, 0 smaller .. 1 larger."""

    @property
    def kind(self) -> str:
        return self.identity.kind


@dataclass(frozen=True)
class Thing:
    """One thing in one moment; everything but `identity` is a fact."""

    identity: ThingIdentity
    facing: str = "ahead"
    place: str = "none"
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 0.5

    @property
    def kind(self) -> str:
        return self.identity.kind


Being = Animal | Thing

CHOICES: dict[type[BeingIdentity], dict[str, tuple[str, ...]]] = {
    AnimalIdentity: {"fur": FURS, "second": FURS, "pattern": FUR_PATTERNS, "eyes": ANIMAL_EYES},
    ThingIdentity: {"colour": PAINTS, "second": PAINTS, "pattern": PAINT_PATTERNS},
}
"""The categorical dimensions of an identity besides its kind, and their values."""


def being_from(record: Mapping[str, Any]) -> Being:
    """Read what `dataclasses.asdict` made of a being. Raises ValueError or TypeError when it is none."""
    try:
        identity = dict(record["identity"])
        animal = identity["kind"] in ANIMALS
        known = animal or identity["kind"] in THINGS
    except (KeyError, TypeError) as error:
        raise ValueError("an animal or a thing is a JSON object with an identity of some kind; this is none") from error
    if not known:
        raise ValueError(f"unknown kind {identity['kind']!r}; possible: {', '.join(KINDS)}")
    if animal:
        return Animal(**{**record, "identity": AnimalIdentity(**identity)})
    return Thing(**{**record, "identity": ThingIdentity(**identity)})
