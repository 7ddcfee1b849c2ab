"""Scenes with animals and things: their identities, their moments, and who stands beside whom.

Like people, animals and things come from endless generators keyed by split, kind and index. `draw_world_scene` is a
training set of people, animals and things, `draw_whole_world_scene` one that also has two people together; where they
show one person alone, their pictures are those of `draw_training_scene`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from semblant.errors import SemblantError, closest
from semblant.world.beings import (
    ANIMAL_EYES,
    ANIMALS,
    FACINGS,
    FUR_PATTERNS,
    FURS,
    HOLDERS,
    KIND_FURS,
    KINDS,
    PAINT_PATTERNS,
    PAINTS,
    POSES,
    SEATS,
    SIDED,
    SMALL,
    THINGS,
    UNTURNED,
    Animal,
    AnimalIdentity,
    Being,
    BeingIdentity,
    Thing,
    ThingIdentity,
)
from semblant.world.names import name_of
from semblant.world.scene import (
    BACKGROUNDS,
    LIGHTS,
    NAMED_PEOPLE,
    SPLITS,
    STYLES,
    Identity,
    Person,
    Scene,
    Split,
    draw_person,
    draw_scene,
    draw_training_scene,
    named_person,
    person_of,
)
from semblant.world.stances import check

SHARES = {"person": 0.72, "animal": 0.08, "thing": 0.08, "pair": 0.05, "mixed": 0.07}
"""What the pictures of `draw_world_scene` show: one person, one animal, one thing, two beings, a person with one."""

WHOLE_SHARES = {"person": 0.72, "people": 0.1, "animal": 0.055, "thing": 0.055, "pair": 0.03, "mixed": 0.04}
"""What the pictures of `draw_whole_world_scene` show: as in `SHARES`, and two people."""
TOGETHER_SHARES = {
    "none": 0.16,
    "facing each other": 0.16,
    "shaking hands": 0.18,
    "hugging": 0.18,
    "talking": 0.16,
    "dancing": 0.16,
}
"""What two people do together."""


def draw_being_identity(rng: random.Random, kind: str) -> BeingIdentity:
    """One identity of a kind, every number uniform in [0, 1]. Raises SemblantError for an unknown kind."""
    if kind not in KINDS:
        raise SemblantError(f"unknown kind {kind!r}; did you mean {closest(kind, KINDS)}? Possible: {', '.join(KINDS)}")
    record: type[BeingIdentity] = AnimalIdentity if kind in ANIMALS else ThingIdentity
    numbers: dict[str, Any] = {f.name: round(rng.random(), 4) for f in fields(record) if f.type == "float"}
    if record is AnimalIdentity:
        fur = rng.choice(KIND_FURS[kind])
        second = rng.choice([colour for colour in FURS if colour != fur])
        pattern = rng.choices(FUR_PATTERNS, (8, 1, 1) if kind == "bear" else (5, 3, 3))[0]
        return AnimalIdentity(kind, **numbers, fur=fur, second=second, pattern=pattern, eyes=rng.choice(ANIMAL_EYES))
    colour, second = rng.sample(PAINTS, 2)
    pattern = rng.choices(PAINT_PATTERNS, (5, 2, 3, 2))[0]
    return ThingIdentity(kind, **numbers, colour=colour, second=second, pattern=pattern)


def being_of(kind: str, split: Split, index: int) -> BeingIdentity:
    """Animal or thing `index` of a kind and a split: each pair is its own endless generator.

    Raises ValueError for an unknown split, SemblantError for an unknown kind.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; possible: {', '.join(SPLITS)}")
    return draw_being_identity(random.Random(f"semblant {kind} {split} {index}"), kind)


def draw_being(rng: random.Random, identity: BeingIdentity, **fixed: Any) -> Being:
    """The identity in a random moment, alone; `fixed` facts are kept as given (they do not shift the other draws)."""
    pose = rng.choice(POSES)
    drawn: dict[str, Any] = dict(
        facing=rng.choice(FACINGS),
        shift_x=round(rng.uniform(-1, 1), 3),
        shift_y=round(rng.uniform(-1, 1), 3),
        zoom=round(rng.random(), 3),
    )
    if isinstance(identity, AnimalIdentity):
        return Animal(identity, **{"pose": pose, **drawn, **fixed})
    if identity.kind in UNTURNED:
        drawn["facing"] = "ahead"
    elif identity.kind in SIDED and drawn["facing"] == "ahead":
        drawn["facing"] = "right" if drawn["shift_x"] < 0 else "left"
    return Thing(identity, **{**drawn, **fixed})


def _picture(rng: random.Random, cameras: dict[str, int]) -> dict[str, Any]:
    return dict(
        background=rng.choice(BACKGROUNDS),
        light=rng.choices(LIGHTS, (5, 1, 1, 1))[0],
        camera=rng.choices(list(cameras), list(cameras.values()))[0],
        style=rng.choices(STYLES, (5, 1, 1, 1, 1, 1))[0],
        seed=rng.randrange(2**31),
    )


def _split_facts(fixed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of the scene, and those of a being."""
    of_scene = {f.name for f in fields(Scene)}
    return {k: v for k, v in fixed.items() if k in of_scene}, {k: v for k, v in fixed.items() if k not in of_scene}


def draw_being_scene(rng: random.Random, identity: BeingIdentity, **fixed: Any) -> Scene:
    """One animal or thing in a random scene; `fixed` names facts of it or of the scene to keep as given."""
    picture = _picture(rng, {"close-up": 2, "portrait": 5, "half body": 3})
    of_scene, of_being = _split_facts(fixed)
    return Scene(people=(), **{**picture, "others": (draw_being(rng, identity, **of_being),), **of_scene})


def places_for(second: str, first: str) -> tuple[str, ...]:
    """Where a being of kind `second` can be, seen from one of kind `first`."""
    places = ["left", "right"]
    if first in SEATS and second in SMALL:
        places.append("on")
    if first in HOLDERS and second in SMALL and second != "teapot":
        places.append("in")
    return tuple(places)


def draw_pair_scene(rng: random.Random, first: BeingIdentity, second: BeingIdentity, **fixed: Any) -> Scene:
    """Two beings together, the second on, in or beside the first; `fixed` names facts of the second or of the scene.

    Raises SemblantError when the second cannot be at the place asked for.
    """
    picture = _picture(rng, {"portrait": 5, "half body": 3})
    of_scene, of_second = _split_facts(fixed)
    one, two = draw_being(rng, first), draw_being(rng, second)
    possible = places_for(second.kind, first.kind)
    place = rng.choices(possible, [4 if p in ("on", "in") else 1 for p in possible])[0]
    place = of_second.pop("place", place)
    if place not in possible:
        raise SemblantError(
            f"a {second.kind} cannot be {place!r}, seen from a {first.kind}; possible: {', '.join(possible)}"
        )
    if place == "in" and isinstance(two, Animal):
        two = replace(two, pose="sitting", facing="ahead")
    two = replace(two, **{"place": place, **of_second})
    if place in ("on", "in"):
        one = replace(one, facing="ahead")
    return Scene(people=(), **{**picture, "others": (one, two), **of_scene})


def draw_mixed_scene(
    rng: random.Random, person: Identity, identity: BeingIdentity, name: str | None = None, **fixed: Any
) -> Scene:
    """A person and an animal or thing at their side; `fixed` names facts of the person or of the scene.

    The person makes room, is seen from no nearer than a portrait, and has free hands or a phone at the ear, so that
    nothing they do is hidden.
    """
    camera = rng.choice(("portrait", "half body"))
    action = rng.choice(("none", "none", "none", "on the phone"))
    place = rng.choice(("left", "right"))
    room = round(rng.uniform(0.7, 1.0), 3)
    being = draw_being(rng, identity, place=place)
    facts = {"camera": camera, "action": action, "shift_x": room if place == "left" else -room}
    return draw_scene(rng, person, name, **{**facts, "others": (being,), **fixed})


def draw_pair_of_people(
    rng: random.Random,
    first: Identity,
    second: Identity,
    names: tuple[str | None, str | None] = (None, None),
    *,
    left: Mapping[str, Any] | None = None,
    right: Mapping[str, Any] | None = None,
    **fixed: Any,
) -> Scene:
    """Two people, the first on the left, usually doing something together.

    `fixed` names facts of the scene or of both people to keep as given, `left` and `right` facts of one. Cameras show
    what they do; nobody hides the other's face under a wide brim in a hug. Raises SemblantError for something that two
    people cannot do together.
    """
    picture = _picture(rng, {"portrait": 4, "half body": 6})
    picture["together"] = rng.choices(list(TOGETHER_SHARES), list(TOGETHER_SHARES.values()))[0]
    of_scene, of_both = _split_facts(fixed)
    picture |= of_scene
    if picture["style"] == "pixel art" and "camera" not in of_scene:
        picture["camera"] = "portrait"
    people: list[Person] = []
    for identity, name, own in zip((first, second), names, (left or {}, right or {}), strict=True):
        facts = {**of_both, **own}
        person = draw_person(rng, identity, name, **facts)
        if picture["together"] == "hugging" and person.hat == "cowboy hat" and "hat" not in facts:
            person = replace(person, hat="cap")
        if picture["camera"] == "close-up" and "action" not in facts:
            person = replace(person, action="none")
        people.append(person)
    scene = Scene(people=tuple(people), **picture)
    check(scene)
    return scene


def _some_kind(rng: random.Random, kinds: tuple[str, ...], split: Split) -> BeingIdentity:
    return being_of(rng.choice(kinds), split, rng.randrange(10**9))


def draw_pair(rng: random.Random, split: Split) -> Scene:
    """An animal or small thing with a thing: half the time on a chair or in a backpack."""
    if rng.random() < 0.5:
        first = rng.choice((*SEATS, *HOLDERS))
        second = rng.choice([k for k in SMALL if len(places_for(k, first)) > 2])
    else:
        first = rng.choice(THINGS)
        second = rng.choice([k for k in KINDS if k != first])
    return draw_pair_scene(rng, _some_kind(rng, (first,), split), _some_kind(rng, (second,), split))


def draw_world_scene(index: int, seed: int = 0) -> Scene:
    """Picture `index` of the endless training set of the whole world, mixed as `SHARES` says.

    Where it shows a person alone, it is `draw_training_scene(index, seed)`.
    """
    rng = random.Random(f"semblant world scene {seed} {index}")
    return _draw_shown(rng.choices(list(SHARES), list(SHARES.values()))[0], rng, index, seed)


def draw_whole_world_scene(index: int, seed: int = 0) -> Scene:
    """Picture `index` of the endless training set that also shows two people, mixed as `WHOLE_SHARES` says.

    Where it shows a person alone, it is `draw_training_scene(index, seed)`. A third of all people are named.
    """
    rng = random.Random(f"semblant whole world scene {seed} {index}")
    shows = rng.choices(list(WHOLE_SHARES), list(WHOLE_SHARES.values()))[0]
    if shows != "people":
        return _draw_shown(shows, rng, index, seed)
    named = rng.sample(range(NAMED_PEOPLE), 2)
    unnamed = [person_of("train", rng.randrange(10**9)) for _ in named]
    by_name = rng.choices(((True, True), (True, False), (False, True), (False, False)), (4, 1, 1, 9))[0]
    first, second = (named_person(n) if is_named else u for n, u, is_named in zip(named, unnamed, by_name, strict=True))
    names = tuple(name_of(n) if is_named else None for n, is_named in zip(named, by_name, strict=True))
    return draw_pair_of_people(rng, first, second, (names[0], names[1]))


def _draw_shown(shows: str, rng: random.Random, index: int, seed: int) -> Scene:
    """A training picture of one person, one animal, one thing, two beings, or a person with one."""
    if shows == "person":
        return draw_training_scene(index, seed)
    if shows == "pair":
        return draw_pair(rng, "train")
    kinds = {"animal": ANIMALS, "thing": THINGS, "mixed": KINDS}[shows]
    being = _some_kind(rng, kinds, "train")
    if shows != "mixed":
        return draw_being_scene(rng, being)
    if rng.random() < 1 / 3:
        who = rng.randrange(NAMED_PEOPLE)
        return draw_mixed_scene(rng, named_person(who), being, name_of(who))
    return draw_mixed_scene(rng, person_of("train", rng.randrange(10**9)), being)
