"""Pairs of training pictures that differ in a few words.

The same noise is put on both and the same sentence describes both, but for what differs. What the two predictions get
wrong in common then cancels out of everything that tells the words apart. Learning from unrelated pictures, a word for
a few cells of the latents has to be found under the errors of all others (decision 0012).
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from semblant.world.being_captions import OTHER_SIDE
from semblant.world.captions import read, write
from semblant.world.company import TOGETHER_SHARES, being_of, draw_being, draw_whole_world_scene
from semblant.world.facts import shown
from semblant.world.names import FIRST, LAST, index_of, name_of
from semblant.world.pair_facts import pair_contradictions
from semblant.world.scene import (
    Person,
    Scene,
    draw_identity,
    draw_person,
    named_person,
    person_of,
)

RENAMED, REPLACED = 0.5, 0.3
"""How often the twin of a named person is another one of the same first or last name, so that one word of it differs;
how often, else, the twin is anybody else."""
CHANGES = (2, 3, 4)
"""How many things differ otherwise."""
OF_IDENTITY = (
    ("skin", "undertone"),
    ("face_width", "face_length", "jaw"),
    ("eye_size",),
    ("eye_colour",),
    ("brow_thickness", "brow_angle"),
    ("nose_length", "nose_width"),
    ("lips", "mouth_width"),
    ("freckles",),
    ("mole_size",),
    ("build",),
    ("hair_style", "hair_volume"),
    ("hair_colour", "hair_shade"),
)
OF_THE_MOMENT = (
    ("expression", "intensity"),
    ("age",),
    ("glasses",),
    ("hat", "hat_colour"),
    ("beard",),
    ("clothes",),
    ("clothes_colour",),
    ("gaze",),
    ("yaw",),
    ("tilt",),
    ("action",),
)
NAMED = 6
"""Differences that captions name at most; of the rest they tell little, for what is told and does not differ brings the
errors back in."""
TRIES = 8


def picture_of(index: int, seed: int = 0) -> Scene:
    """Picture `index` of the endless training set of pairs: 2k and 2k + 1 are twins."""
    scene = draw_whole_world_scene(index // 2, seed)
    return twin_of(scene, random.Random(f"semblant twin {seed} {index // 2}")) if index % 2 else scene


def twin_of(scene: Scene, rng: random.Random) -> Scene:
    """The same moment and place with somebody else in it, or with a few things changed about who is there.

    Two people are as often exchanged as not: which words belong to whom is what there is to learn about them.
    """
    if len(scene.people) == 2:
        return _other_pair(scene, rng)
    if not scene.people or (scene.others and rng.random() < 0.5):
        return _other_being(scene, rng)
    person = scene.people[0]
    if person.name is not None and rng.random() < RENAMED:
        who = _relative(person.name, rng)
        return _with(scene, replace(person, identity=named_person(who), name=name_of(who)))
    if rng.random() < REPLACED:
        return _with(scene, replace(person, identity=person_of("train", rng.randrange(10**9)), name=None))
    moments = [group for group in OF_THE_MOMENT if group != ("action",) or scene.camera != "close-up"]
    for group in rng.sample([*OF_IDENTITY, *moments], rng.choice(CHANGES)):
        scene = change(scene, group, rng)
    return scene


def _relative(name: str, rng: random.Random) -> int:
    """Somebody else with the same first or the same last name."""
    first, last = name.split()
    if rng.random() < 0.5:
        return index_of(f"{rng.choice([other for other in FIRST if other != first])} {last}")
    return index_of(f"{first} {rng.choice([other for other in LAST if other != last])}")


def _other_pair(scene: Scene, rng: random.Random) -> Scene:
    """Two people exchanged, or doing something else together, or one of them replaced."""
    left, right = scene.people
    if rng.random() < 0.5:
        return replace(scene, people=(right, left))
    if rng.random() < 0.5:
        others = {act: share for act, share in TOGETHER_SHARES.items() if act != scene.together}
        if any(person.hat == "cowboy hat" for person in scene.people):
            others.pop("hugging", None)
        return replace(scene, together=rng.choices(list(others), list(others.values()))[0])
    who = rng.randrange(2)
    people = list(scene.people)
    people[who] = replace(people[who], identity=person_of("train", rng.randrange(10**9)), name=None)
    return replace(scene, people=tuple(people))


def _other_being(scene: Scene, rng: random.Random) -> Scene:
    """Another of its kind in the place of one of the animals and things, or, where it is alone, sometimes the same in a
    pose and turn drawn again, which for what has neither is the same picture twice."""
    which = rng.randrange(len(scene.others))
    identity = scene.others[which].identity
    if not scene.people and len(scene.others) == 1 and rng.random() < 0.4:
        moved = draw_being(rng, identity)
        return scene.change_other(which, **{f: getattr(moved, f) for f in ("pose", "facing") if hasattr(moved, f)})
    return scene.change_other(which, identity=being_of(identity.kind, "train", rng.randrange(10**9)))


def captions_of(first: Scene, second: Scene, rng: random.Random) -> tuple[str, str]:
    """Captions of twins in the same words but for what differs."""
    if len(first.people) != 1:
        sentence = rng.getrandbits(64)
        told = write(first, random.Random(sentence))
        if len(first.people) == 2 and second.people == first.people[::-1]:
            turned = _the_other_way(told)
            if not pair_contradictions(read(turned), second):
                return told, turned
        return told, write(second, random.Random(sentence))
    one, other = shown(first), shown(second)
    differing = sorted(fact for fact in one.keys() | other.keys() if one.get(fact) != other.get(fact))
    named = rng.sample(differing, min(len(differing), rng.randint(2, NAMED)))
    sentence = rng.getrandbits(64)
    return write(first, random.Random(sentence), stress=named), write(second, random.Random(sentence), stress=named)


def _the_other_way(caption: str) -> str:
    """The same words with left and right exchanged, which is true of two people who have been, as far as neither is
    named and nobody looks to a side."""
    return re.sub(r"\b(left|right)\b", lambda side: OTHER_SIDE[side[0]], caption)


def change(scene: Scene, group: tuple[str, ...], rng: random.Random) -> Scene:
    """The scene with some fields of its person drawn again, until the picture shows something new that has a word."""
    person, changed, before = scene.people[0], scene, shown(scene)
    for _ in range(TRIES):
        if group in OF_IDENTITY:
            fresh = draw_identity(rng)
            identity = replace(person.identity, **{field: getattr(fresh, field) for field in group})
            changed = _with(scene, replace(person, identity=identity, name=None))
        else:
            moment = draw_person(rng, person.identity)
            changed = _with(scene, replace(person, **{field: getattr(moment, field) for field in group}))
        if any(before.get(fact) != value for fact, value in shown(changed).items()):
            break
    return changed


def _with(scene: Scene, person: Person) -> Scene:
    return replace(scene, people=(person, *scene.people[1:]))
