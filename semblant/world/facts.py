"""Facts: what a picture shows, in words: `facts(scene)["eyes"] == "blue"`.

An attribute reader has one head per fact; a caption names some of them. `visible` says which of them the picture shows:
nobody can see the hair under a helmet. Where a number lies so near the border between two words that neither is fair,
the fact counts as not visible, so that captions and judges never argue about a hair's breadth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semblant.errors import SemblantError, closest
from semblant.world.scene import (
    ACTIONS,
    BACKGROUNDS,
    BEARDS,
    CAMERAS,
    CLOTHES,
    COLOURS,
    EXPRESSIONS,
    EYE_COLOURS,
    GLASSES,
    HAIR_COLOURS,
    HAIR_STYLES,
    HATS,
    LIGHTS,
    STYLES,
    Identity,
    Person,
    Scene,
)
from semblant.world.stances import posed
from semblant.world.traits import measure, mole_covered

IDENTITY_FACTS = (
    "skin",
    "eyes",
    "eye size",
    "nose",
    "face",
    "lips",
    "brows",
    "freckles",
    "mole",
    "build",
    "hair colour",
    "hair style",
)
"""Facts that describe who somebody is. Hair colour is the colour seen: a dyed one, if any."""

SCENE_FACTS = (
    "background",
    "style",
    "camera",
    "light",
    "expression",
    "age",
    "glasses",
    "hat",
    "hat colour",
    "beard",
    "clothes",
    "clothes colour",
    "action",
    "gaze",
    "turn",
    "tilt",
)
"""Facts of the moment and of the picture. "left" and "right" are those of the picture."""

PICTURE_FACTS = frozenset(("background", "style", "camera", "light"))
"""Facts of the picture, the same for everybody in it."""

VALUES: dict[str, tuple[str, ...]] = {
    "skin": ("pale", "fair", "tan", "brown", "dark"),
    "eyes": EYE_COLOURS,
    "eye size": ("small", "average", "big"),
    "nose": ("small", "narrow", "average", "wide", "long"),
    "face": ("round", "oval", "long", "square", "heart-shaped"),
    "lips": ("thin", "average", "full"),
    "brows": ("thin", "average", "thick"),
    "freckles": ("none", "yes"),
    "mole": ("none", "yes"),
    "build": ("slim", "average", "broad"),
    "hair colour": HAIR_COLOURS,
    "hair style": HAIR_STYLES,
    "background": BACKGROUNDS,
    "style": STYLES,
    "camera": CAMERAS,
    "light": LIGHTS,
    "expression": EXPRESSIONS,
    "age": ("young", "adult", "old"),
    "glasses": GLASSES,
    "hat": HATS,
    "hat colour": COLOURS,
    "beard": BEARDS,
    "clothes": CLOTHES,
    "clothes colour": COLOURS,
    "action": ACTIONS,
    "gaze": ("left", "ahead", "right"),
    "turn": ("left", "ahead", "right"),
    "tilt": ("left", "upright", "right"),
}
"""Every fact and its possible values, identity first."""

DEFAULTS: dict[str, str] = {
    "style": "photo",
    "camera": "portrait",
    "light": "plain",
    "expression": "neutral",
    "age": "adult",
    "gaze": "ahead",
    "turn": "ahead",
    "tilt": "upright",
    "glasses": "none",
    "hat": "none",
    "beard": "none",
    "action": "none",
    "freckles": "none",
    "mole": "none",
}
"""Values that go without saying; "none" is never said, the others seldom."""


def steps(*parts: str | float) -> Callable[..., str]:
    """Words along one number: `steps("thin", 0.35, "average", 0.65, "full")`."""
    names, borders = [str(p) for p in parts[::2]], [float(p) for p in parts[1::2]]
    return lambda x: names[sum(x >= border for border in borders)]


def _nose(length: float, width: float) -> str:
    if length >= 0.66 and length >= width:
        return "long"
    if width >= 0.66:
        return "wide"
    if width < 0.33:
        return "small" if length < 0.4 else "narrow"
    return "average"


def _face(width: float, length: float, jaw: float) -> str:
    if length - width >= 0.4:
        return "long"
    if jaw >= 0.7:
        return "square"
    if jaw < 0.25:
        return "heart-shaped"
    return "round" if width - length >= 0.15 else "oval"


@dataclass(frozen=True)
class Scale:
    """A fact that is a word for numbers of a record: which fields, which word, how near a border no word is fair."""

    fields: tuple[str, ...]
    word: Callable[..., str]
    margin: float
    """Wide enough that whoever looks at two people beside this border would give them different words."""

    def clear(self, numbers: tuple[float, ...]) -> bool:
        """Whether the word stays the same when each number moves by the margin."""
        word = self.word(*numbers)
        return all(
            self.word(*(n + step if i == moved else n for i, n in enumerate(numbers))) == word
            for moved in range(len(numbers))
            for step in (-self.margin, self.margin)
        )


_THIRDS = (0.3, "average", 0.7)
IDENTITY_SCALES: Mapping[str, Scale] = {
    "skin": Scale(("skin",), steps("pale", 0.2, "fair", 0.4, "tan", 0.6, "brown", 0.8, "dark"), 0.07),
    "eye size": Scale(("eye_size",), steps("small", *_THIRDS, "big"), 0.1),
    "nose": Scale(("nose_length", "nose_width"), _nose, 0.08),
    "face": Scale(("face_width", "face_length", "jaw"), _face, 0.08),
    "lips": Scale(("lips",), steps("thin", *_THIRDS, "full"), 0.1),
    "brows": Scale(("brow_thickness",), steps("thin", *_THIRDS, "thick"), 0.1),
    "freckles": Scale(("freckles",), steps("none", 0.5, "yes"), 0.1),
    "mole": Scale(("mole_size",), steps("none", 0.5, "yes"), 0.1),
    "build": Scale(("build",), steps("slim", *_THIRDS, "broad"), 0.1),
}
"""Facts that put the numbers of an `Identity` into words."""

PERSON_SCALES: Mapping[str, Scale] = {
    "age": Scale(("age",), steps("young", 0.2, "adult", 0.75, "old"), 0.07),
    "gaze": Scale(("gaze",), steps("left", -0.3, "ahead", 0.3, "right"), 0.15),
    "turn": Scale(("yaw",), steps("left", -0.35, "ahead", 0.35, "right"), 0.14),
    "tilt": Scale(("tilt",), steps("left", -0.35, "upright", 0.35, "right"), 0.14),
}
"""Facts that put the numbers of a `Person` into words."""

COLOUR_FACTS = ("skin", "eyes", "hair colour", "hat colour", "clothes colour")
SMALL_FACTS = ("freckles", "mole", "gaze")
"""Details of a pixel or two, lost in pixel art and when the camera stands far away."""

BELOW_A_HAT = ("bob", "long", "wavy", "ponytail")
"""Hair that hangs below any hat but a helmet and so keeps its style; of curls and an afro the colour still shows."""

GREYING = 0.7
"""The age after which hair has no longer the colour its name says, unless that is grey."""


def _numbers(scale: Scale, owner: Identity | Person) -> tuple[float, ...]:
    return tuple(getattr(owner, field) for field in scale.fields)


def _person(scene: Scene, who: int) -> Person:
    if not 0 <= who < len(scene.people):
        raise SemblantError(f"the scene has {len(scene.people)} people, numbered from 0; got person {who}")
    return posed(scene, who)


def facts(scene: Scene, who: int = 0) -> dict[str, str]:
    """Every fact of person `who` and of the picture, in the order of `VALUES`; ask `visible` whether it can be seen.

    "hat colour" is absent when there is no hat. What two people do together shows in their turn, gaze and action.
    Raises `SemblantError` when the scene has no such person.
    """
    person = _person(scene, who)
    identity = person.identity
    found = {fact: scale.word(*_numbers(scale, identity)) for fact, scale in IDENTITY_SCALES.items()}
    found |= {fact: scale.word(*_numbers(scale, person)) for fact, scale in PERSON_SCALES.items()}
    found |= {"eyes": identity.eye_colour, "hair style": identity.hair_style, "hair colour": person.hair_colour}
    found |= {name: getattr(scene, name) for name in ("background", "style", "camera", "light")}
    found |= {name: getattr(person, name) for name in ("expression", "glasses", "hat", "beard", "clothes", "action")}
    found |= {"hat colour": person.hat_colour, "clothes colour": person.clothes_colour}
    if person.hat == "none":
        del found["hat colour"]
    return {fact: found[fact] for fact in VALUES if fact in found}


def visible(scene: Scene, fact: str, who: int = 0) -> bool:
    """Whether the picture shows this fact of person `who`: nothing hides it, and its word is clear.

    Raises `SemblantError` for an unknown fact.
    """
    if fact not in VALUES:
        raise SemblantError(f"unknown fact {fact!r}; did you mean {closest(fact, tuple(VALUES))}?")
    person = _person(scene, who)
    for scales, owner in ((IDENTITY_SCALES, person.identity), (PERSON_SCALES, person)):
        if fact in scales and not scales[fact].clear(_numbers(scales[fact], owner)):
            return False
    return _shows(scene, fact, person, who)


def measured(scene: Scene, who: int = 0) -> dict[str, float | None]:
    """The numbers behind the words that are on a scale, by field, also where they are so near to a border that no word
    is fair; None where something hides them."""
    person = _person(scene, who)
    found: dict[str, float | None] = {}
    for scales, owner in ((IDENTITY_SCALES, person.identity), (PERSON_SCALES, person)):
        for fact, scale in scales.items():
            shows = _shows(scene, fact, person, who)
            found |= {field: getattr(owner, field) if shows else None for field in scale.fields}
    return found


def _shows(scene: Scene, fact: str, person: Person, who: int) -> bool:
    """Whether nothing hides this fact."""
    if _hidden_by_the_picture(scene, fact) or _hidden_by_the_person(person, fact):
        return False
    return not (
        fact == "mole" and person.identity.mole_size >= 0.5 and mole_covered(person, measure(person, scene, who)[0])
    )


def _hidden_by_the_picture(scene: Scene, fact: str) -> bool:
    if scene.together == "hugging" and fact in ("build", "clothes"):
        return True
    if scene.style == "sketch" and (fact in COLOUR_FACTS or fact in ("light", "freckles")):
        return True
    if fact in SMALL_FACTS and (scene.style == "pixel art" or scene.camera == "half body"):
        return True
    if fact == "eyes" and scene.style == "pixel art":
        return scene.camera != "close-up"
    return scene.camera == "close-up" and fact in ("clothes", "clothes colour", "build", "action")


def _hidden_by_the_person(person: Person, fact: str) -> bool:
    style = person.identity.hair_style
    if fact == "hair colour":
        greyed = person.age > GREYING and person.hair_colour != "grey"
        covered = person.hat != "none" and style not in (*BELOW_A_HAT, "curly", "afro")
        return greyed or covered or style == "bald" or person.hat == "helmet"
    if fact == "hair style":
        return person.hat == "helmet" or (person.hat != "none" and style not in BELOW_A_HAT)
    if fact in ("eyes", "eye size", "gaze"):
        return person.glasses == "sunglasses"
    if fact == "expression":
        return person.expression != "neutral" and person.intensity < 0.3
    if fact == "mole":
        return person.beard != "none"
    return fact == "hat colour" and person.hat == "none"


def shown(scene: Scene, who: int = 0) -> dict[str, str]:
    """The facts of `facts` that are visible."""
    return {fact: value for fact, value in facts(scene, who).items() if visible(scene, fact, who)}


def contradictions(named: Mapping[str, str], scene: Scene, who: int = 0) -> tuple[str, ...]:
    """The facts of a caption that the picture contradicts; what the picture hides contradicts nothing."""
    true = facts(scene, who)
    return tuple(
        fact
        for fact, value in named.items()
        if true.get(fact) != value and (fact not in true or visible(scene, fact, who))
    )
