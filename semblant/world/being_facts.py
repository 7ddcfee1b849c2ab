"""What a picture shows of animals and things, in words: `facts_of(scene, 0)["colour"] == "brown"`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semblant.errors import SemblantError, closest
from semblant.world.beings import (
    ANIMAL_EYES,
    FACINGS,
    FURS,
    KINDS,
    PAINT_PATTERNS,
    PAINTS,
    POSES,
    SIDED,
    Animal,
    Being,
)
from semblant.world.facts import Scale, steps
from semblant.world.scene import Scene

VALUES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": tuple(dict.fromkeys((*FURS, *PAINTS))),
    "pattern": PAINT_PATTERNS,
    "second colour": tuple(dict.fromkeys((*FURS, *PAINTS))),
    "eyes": ANIMAL_EYES,
    "ears": ("small", "average", "big"),
    "tail": ("short", "average", "long"),
    "body": ("slim", "average", "plump"),
    "shape": ("tall", "average", "wide"),
    "pose": POSES,
    "facing": FACINGS,
    "relation": ("next to", "on", "in"),
    "side": ("left", "right"),
}
"""Every fact and its possible values, identity first. "left" and "right" are those of the picture.

"relation" is towards the person or the other being; "on" and "in" are facts of what is on or in something.
"""

IDENTITY_FACTS = ("kind", "colour", "pattern", "second colour", "eyes", "ears", "tail", "body", "shape")

UNSAID = ("plain", "average")
"""Values that no phrase says."""


def _shape(width: float, height: float) -> str:
    return "tall" if height - width >= 0.3 else "wide" if width - height >= 0.3 else "average"


SCALES: Mapping[str, Scale] = {
    "ears": Scale(("ear_size",), steps("small", 0.3, "average", 0.7, "big"), 0.07),
    "tail": Scale(("tail_length",), steps("short", 0.3, "average", 0.7, "long"), 0.07),
    "body": Scale(("bulk",), steps("slim", 0.3, "average", 0.7, "plump"), 0.07),
    "shape": Scale(("width", "height"), _shape, 0.07),
}
"""Facts that put the numbers of an identity into words."""


def _being(scene: Scene, which: int) -> Being:
    if not 0 <= which < len(scene.others):
        raise SemblantError(
            f"the scene has {len(scene.others)} animals and things, numbered from 0; got number {which}"
        )
    return scene.others[which]


def _numbers(being: Being, fact: str) -> tuple[float, ...] | None:
    """The numbers behind a fact, or None when this kind of being has no such fact."""
    numbers = tuple(getattr(being.identity, field, None) for field in SCALES[fact].fields)
    return None if None in numbers else numbers  # type: ignore[return-value]


def facts_of(scene: Scene, which: int = 0) -> dict[str, str]:
    """Every fact of animal or thing `which`, in the order of `VALUES`; ask `visible_of` whether it can be seen.

    "second colour" is absent of plain animals. Raises SemblantError when there is no such being.
    """
    being = _being(scene, which)
    who = being.identity
    found = {"kind": being.kind, "pattern": who.pattern, "second colour": who.second}
    found |= {fact: SCALES[fact].word(*numbers) for fact in SCALES if (numbers := _numbers(being, fact))}
    if isinstance(being, Animal):
        found |= {"colour": being.identity.fur, "eyes": being.identity.eyes, "pose": being.pose}
        found["facing"] = being.facing
        if who.pattern == "plain":
            del found["second colour"]
    else:
        found["colour"] = being.identity.colour
        if being.kind in SIDED:
            found["facing"] = "left" if being.facing == "left" else "right"
    return {fact: value for fact, value in (found | _place(scene, which)).items() if fact in VALUES}


def _place(scene: Scene, which: int) -> dict[str, str]:
    """Where a being is, as facts: seen from the person, or from the other being when nobody is there."""
    if scene.people:
        place = scene.others[which].place
    elif len(scene.others) < 2:
        return {}
    else:
        place = scene.others[1].place
        if place in ("on", "in"):
            return {"relation": place} if which == 1 else {}
        if which == 0:
            place = {"left": "right", "right": "left"}.get(place, place)
    return {"relation": "next to", "side": place} if place in ("left", "right") else {}


def visible_of(scene: Scene, fact: str, which: int = 0) -> bool:
    """Whether the picture shows this fact of animal or thing `which`. Raises SemblantError for an unknown fact."""
    if fact not in VALUES:
        raise SemblantError(f"unknown fact {fact!r}; did you mean {closest(fact, tuple(VALUES))}?")
    being, true = _being(scene, which), facts_of(scene, which)
    if fact not in true:
        return False
    if fact in SCALES and not SCALES[fact].clear(_numbers(being, fact) or ()):
        return False
    return not (_hidden_by_the_picture(scene, fact, being) or _hidden_by_others(scene, fact, which))


def _hidden_by_the_picture(scene: Scene, fact: str, being: Being) -> bool:
    if scene.style == "sketch" and fact in ("colour", "second colour", "eyes"):
        return True
    if scene.style == "pixel art" and fact in ("pattern", "second colour", "eyes", "ears", "tail"):
        return True
    close = scene.camera == "close-up" and not scene.people and len(scene.others) == 1
    if fact == "eyes":
        return not close
    if fact == "tail" and (being.facing == "ahead" or being.kind == "bear"):
        return True
    return close and isinstance(being, Animal) and fact in ("pose", "tail", "body")


def _hidden_by_others(scene: Scene, fact: str, which: int) -> bool:
    if scene.people or len(scene.others) < 2:
        return False
    place = scene.others[1].place
    if place == "in" and which == 1:
        return fact in ("pose", "tail", "body", "shape", "facing", "pattern", "second colour")
    return place == "on" and which == 0 and fact in ("pattern", "second colour")


def shown_of(scene: Scene, which: int = 0) -> dict[str, str]:
    """The facts of `facts_of` that are visible."""
    return {fact: value for fact, value in facts_of(scene, which).items() if visible_of(scene, fact, which)}


def picture(scene: Scene) -> dict[str, str]:
    """What the picture shows besides people, animals and things.

    Cameras are told by how much of a person they show: of animals and things only a close-up can be said.
    """
    seen = {"background": scene.background, "light": scene.light, "style": scene.style, "camera": scene.camera}
    if scene.style == "sketch":
        del seen["light"]
    if not scene.people and scene.camera != "close-up":
        del seen["camera"]
    return seen


def being_contradictions(named: Sequence[Mapping[str, str]], scene: Scene) -> tuple[str, ...]:
    """What a caption says of animals and things that the picture contradicts: "dog: colour", or "dog" if there is none.

    Each one named is held against the likest of its kind; what the picture hides contradicts nothing.
    """
    left = list(range(len(scene.others)))
    found: list[str] = []
    for being in named:
        kind = being.get("kind", "")
        alike = {
            which: [
                fact
                for fact, value in being.items()
                if (true := facts_of(scene, which)).get(fact) != value
                and (fact not in true or visible_of(scene, fact, which))
            ]
            for which in left
            if scene.others[which].kind == kind
        }
        if not alike:
            found.append(kind)
            continue
        best = min(alike, key=lambda which: len(alike[which]))
        left.remove(best)
        found.extend(f"{kind}: {fact}" for fact in alike[best])
    return tuple(found)
