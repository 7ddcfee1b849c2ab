"""Scenes: frozen, JSON-serialisable records of who is where, doing what, drawn how.

An `Identity` is who somebody is and never changes; every other field of `Person` and `Scene` is a fact that a caption
may name and an edit may change. One record with one field replaced re-renders everything else identically. Animals and
things are records of `semblant.world.beings`; scenes that have them are drawn by `semblant.world.company`.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from semblant.world.beings import Being, being_from
from semblant.world.names import FIRST, LAST, name_of

Split = Literal["train", "tune", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)

HAIR_STYLES = ("bald", "buzz", "short", "curly", "afro", "bob", "long", "wavy", "bun", "ponytail", "mohawk")
HAIR_COLOURS = ("black", "brown", "blond", "red", "grey", "blue", "pink")
EYE_COLOURS = ("brown", "blue", "green", "grey", "hazel")
EXPRESSIONS = ("neutral", "smiling", "sad", "angry", "surprised")
GLASSES = ("none", "glasses", "sunglasses")
HATS = ("none", "cap", "beanie", "cowboy hat", "helmet")
BEARDS = ("none", "beard", "moustache")
CLOTHES = ("shirt", "hoodie", "suit", "dress")
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "white", "black")
ACTIONS = (
    "none",
    "holding a cup of latte",
    "playing guitar",
    "holding a basketball",
    "reading a book",
    "cooking",
    "on the phone",
)
BACKGROUNDS = (
    "beach",
    "city",
    "forest",
    "desert",
    "snow",
    "room",
    "night sky",
    "office",
    "kitchen",
    "eiffel tower",
)
LIGHTS = ("plain", "sunset", "dim", "bright")
CAMERAS = ("close-up", "portrait", "half body")
STYLES = ("photo", "sketch", "oil painting", "watercolour", "pixel art", "cartoon")
TOGETHER = ("none", "facing each other", "shaking hands", "hugging", "talking", "dancing")

NAMED_PEOPLE = len(FIRST) * len(LAST)


@dataclass(frozen=True)
class Identity:
    """Who: twenty-four numbers in [0, 1] and three choices that no caption, light or year changes."""

    skin: float
    """0 very pale .. 1 very dark."""
    undertone: float
    """0 cool (pinkish) .. 1 warm (yellowish)."""
    face_width: float
    face_length: float
    jaw: float
    """0 pointed .. 1 square."""
    cheeks: float
    ears: float
    eye_spacing: float
    eye_size: float
    eye_slant: float
    """0 outer corners down .. 1 outer corners up."""
    brow_thickness: float
    brow_angle: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lips: float
    """Fullness, 0 thin .. 1 full."""
    freckles: float
    """Under 0.5 none; above, their density."""
    mole_x: float
    mole_y: float
    mole_size: float
    """Under 0.5 none; above, its size."""
    hair_volume: float
    hair_shade: float
    """0 darker .. 1 lighter than the named colour."""
    build: float
    """0 slim .. 1 broad shoulders."""
    neck: float
    hair_style: str
    hair_colour: str
    eye_colour: str

    def numbers(self) -> tuple[float, ...]:
        """The continuous dimensions in field order, each in [0, 1]."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name not in CHOICES)


CHOICES = {"hair_style": HAIR_STYLES, "hair_colour": HAIR_COLOURS, "eye_colour": EYE_COLOURS}
"""The categorical dimensions of an identity and their values."""

FAMILY = (
    *("skin", "undertone", "freckles", "face_width", "face_length", "jaw", "cheeks", "ears"),
    *("nose_length", "nose_width", "hair_colour", "hair_shade", "eye_colour"),
)
"""What named people of one last name share; all else goes with the first name (decision 0017)."""


@dataclass(frozen=True)
class Person:
    """One identity in one moment of its life; everything but `identity` and `name` is a fact."""

    identity: Identity
    name: str | None = None
    """First and last name of a named person; unnamed people have none."""
    expression: str = "neutral"
    intensity: float = 0.8
    """How strong the expression is, 0 none .. 1 full."""
    age: float = 0.4
    """0 young adult .. 1 very old: wrinkles and greying hair. "young" below 0.2, "old" above 0.75."""
    glasses: str = "none"
    hat: str = "none"
    hat_colour: str = "blue"
    beard: str = "none"
    dyed: str = "none"
    """A hair colour that replaces the identity's own, or "none"."""
    clothes: str = "shirt"
    clothes_colour: str = "blue"
    gaze: float = 0.0
    """-1 looks to the left of the picture .. 1 to the right."""
    yaw: float = 0.0
    """-1 head turned to the left of the picture .. 1 to the right (about 35 degrees)."""
    tilt: float = 0.0
    """-1 head leaning to the left of the picture .. 1 to the right (about 20 degrees)."""
    action: str = "none"
    shift_x: float = 0.0
    """Offset of the person from the middle, in tenths of the picture's width, -1 .. 1."""
    shift_y: float = 0.0
    zoom: float = 0.5
    """Where inside its camera's range the head's size lies, 0 smaller .. 1 larger."""

    @property
    def hair_colour(self) -> str:
        """The colour that is seen: dyed, or the identity's own."""
        return self.identity.hair_colour if self.dyed == "none" else self.dyed


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows. `seed` settles what no fact names: where clouds, books and trees stand."""

    people: tuple[Person, ...]
    background: str = "room"
    light: str = "plain"
    camera: str = "portrait"
    style: str = "photo"
    seed: int = 0
    others: tuple[Being, ...] = ()
    """Animals and things, the second with a place on, in or beside the first."""
    together: str = "none"
    """What two people do together, one of `TOGETHER`; "none" unless there are exactly two."""

    def to_json(self) -> str:
        """The record as JSON; `Scene.from_json` reads it back equal.

        It does not mention what a scene lacks: others, or anything done together.
        """
        record = asdict(self)
        if not self.others:
            del record["others"]
        if self.together == "none":
            del record["together"]
        return json.dumps(record)

    @staticmethod
    def from_json(text: str) -> Scene:
        """Read what `to_json` wrote. Raises ValueError or TypeError when the text is no scene."""
        record = json.loads(text)
        try:
            people = tuple(Person(**{**p, "identity": Identity(**p["identity"])}) for p in record.pop("people"))
            others = tuple(being_from(being) for being in record.pop("others", ()))
        except (AttributeError, KeyError) as error:
            raise ValueError("a scene is a JSON object with people who have an identity; this text is none") from error
        return Scene(people=people, others=others, **record)

    def change(self, who: int = 0, **facts: Any) -> Scene:
        """The same scene with some facts replaced, of person `who` or of the scene. Raises TypeError for others."""
        of_person = {k: v for k, v in facts.items() if k in {f.name for f in fields(Person)}}
        of_scene = {k: v for k, v in facts.items() if k not in of_person}
        people = tuple(replace(p, **of_person) if i == who else p for i, p in enumerate(self.people))
        return replace(self, people=people, **of_scene)

    def change_other(self, which: int = 0, **facts: Any) -> Scene:
        """The same scene with some facts of animal or thing `which` replaced. Raises TypeError for facts it has not."""
        return replace(self, others=tuple(replace(b, **facts) if i == which else b for i, b in enumerate(self.others)))


def draw_identity(rng: random.Random) -> Identity:
    """One identity, every number uniform in [0, 1], hair colours and styles weighted towards the common ones."""
    numbers = {f.name: round(rng.random(), 4) for f in fields(Identity) if f.name not in CHOICES}
    return Identity(
        **numbers,
        hair_style=rng.choice(HAIR_STYLES),
        hair_colour=rng.choices(HAIR_COLOURS, (4, 4, 3, 3, 2, 1, 1))[0],
        eye_colour=rng.choice(EYE_COLOURS),
    )


def person_of(split: Split, index: int) -> Identity:
    """Unnamed person `index` of a split: each split is its own endless generator, keyed by its name and the index."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; possible: {', '.join(SPLITS)}")
    return draw_identity(random.Random(f"semblant person {split} {index}"))


def named_person(index: int) -> Identity:
    """Named person `index` in 0..511; their names are `names.name_of(index)`.

    Those of one last name are a family and share `FAMILY`; those of one first name are alike in everything else.
    """
    if not 0 <= index < NAMED_PEOPLE:
        raise ValueError(f"there are {NAMED_PEOPLE} named people; got index {index}")
    own = draw_identity(random.Random(f"semblant first name {FIRST[index % len(FIRST)]}"))
    family = draw_identity(random.Random(f"semblant family {LAST[index // len(FIRST)]}"))
    return replace(own, **{field: getattr(family, field) for field in FAMILY})


def draw_person(rng: random.Random, identity: Identity, name: str | None = None, **fixed: Any) -> Person:
    """The identity in a random moment; `fixed` facts are kept as given (they do not shift the other draws)."""
    drawn: dict[str, Any] = dict(
        expression=rng.choice(EXPRESSIONS),
        intensity=round(rng.uniform(0.55, 1.0), 3),
        age=round(rng.choices((rng.uniform(0, 0.2), rng.uniform(0.2, 0.75), rng.uniform(0.75, 1)), (2, 5, 2))[0], 3),
        glasses=rng.choices(GLASSES, (6, 2, 2))[0],
        hat=rng.choices(HATS, (8, 1, 1, 1, 1))[0],
        hat_colour=rng.choice(COLOURS),
        beard=rng.choices(BEARDS, (7, 2, 1))[0],
        dyed=rng.choice(HAIR_COLOURS) if rng.random() < 0.08 else "none",
        clothes=rng.choice(CLOTHES),
        clothes_colour=rng.choice(COLOURS),
        gaze=round(rng.uniform(-0.7, 0.7), 3),
        yaw=round(rng.triangular(-1, 1, 0), 3),
        tilt=round(rng.triangular(-1, 1, 0), 3),
        action=rng.choices(ACTIONS, (6, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2))[0],
        shift_x=round(rng.uniform(-1, 1), 3),
        shift_y=round(rng.uniform(-1, 1), 3),
        zoom=round(rng.random(), 3),
    )
    return Person(identity=identity, name=name, **{**drawn, **fixed})


def draw_scene(rng: random.Random, identity: Identity, name: str | None = None, **fixed: Any) -> Scene:
    """One person in a random scene; `fixed` names facts of the person or of the scene to keep as given.

    Cameras: an action wants hands, so close-ups show none. Half of all pictures are photos.
    """
    of_scene = {f.name for f in fields(Scene)}
    style = rng.choices(STYLES, (5, 1, 1, 1, 1, 1))[0]
    scene: dict[str, Any] = dict(
        background=rng.choice(BACKGROUNDS),
        light=rng.choices(LIGHTS, (5, 1, 1, 1))[0],
        camera=rng.choices(CAMERAS, (3, 4, 3))[0],
        style=style,
        seed=rng.randrange(2**31),
    )
    person = draw_person(rng, identity, name, **{k: v for k, v in fixed.items() if k not in of_scene})
    scene.update({k: v for k, v in fixed.items() if k in of_scene})
    if scene["camera"] == "close-up" and person.action != "none":
        if "camera" in fixed:
            person = replace(person, action="none")
        else:
            scene["camera"] = "portrait"
    return Scene(people=(person,), **scene)


def draw_training_scene(index: int, seed: int = 0) -> Scene:
    """Picture `index` of an endless training set: a third shows a named person, the rest unnamed people of `train`."""
    rng = random.Random(f"semblant training scene {seed} {index}")
    if rng.random() < 1 / 3:
        who = rng.randrange(NAMED_PEOPLE)
        return draw_scene(rng, named_person(who), name_of(who))
    return draw_scene(rng, person_of("train", rng.randrange(10**9)))
