"""Pairs of training pictures that differ in a few words.

The same noise is put on both and the same sentence describes both, but for what differs. What the two predictions get
wrong in common then cancels out of everything that tells the words apart. Learning from unrelated pictures, a word for
a few cells of the latents has to be found under the errors of all others (decision 0012).
"""

from __future__ import annotations

import random
from dataclasses import replace

from semblant.world.captions import write
from semblant.world.facts import shown
from semblant.world.names import name_of
from semblant.world.scene import (
    NAMED_PEOPLE,
    Person,
    Scene,
    draw_identity,
    draw_person,
    draw_training_scene,
    named_person,
    person_of,
)

RENAMED, REPLACED = 0.5, 0.3
"""How often the twin of a named person is another named one; how often, else, the twin is anybody else."""
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
    scene = draw_training_scene(index // 2, seed)
    return twin_of(scene, random.Random(f"semblant twin {seed} {index // 2}")) if index % 2 else scene


def twin_of(scene: Scene, rng: random.Random) -> Scene:
    """The same moment and place with somebody else in it, or with a few things changed about who is there."""
    person = scene.people[0]
    if person.name is not None and rng.random() < RENAMED:
        who = rng.randrange(NAMED_PEOPLE)
        return _with(scene, replace(person, identity=named_person(who), name=name_of(who)))
    if rng.random() < REPLACED:
        return _with(scene, replace(person, identity=person_of("train", rng.randrange(10**9)), name=None))
    moments = [group for group in OF_THE_MOMENT if group != ("action",) or scene.camera != "close-up"]
    for group in rng.sample([*OF_IDENTITY, *moments], rng.choice(CHANGES)):
        scene = change(scene, group, rng)
    return scene


def captions_of(first: Scene, second: Scene, rng: random.Random) -> tuple[str, str]:
    """Captions of twins in the same words but for what differs."""
    one, other = shown(first), shown(second)
    differing = sorted(fact for fact in one.keys() | other.keys() if one.get(fact) != other.get(fact))
    named = rng.sample(differing, min(len(differing), rng.randint(2, NAMED)))
    sentence = rng.getrandbits(64)
    return write(first, random.Random(sentence), stress=named), write(second, random.Random(sentence), stress=named)


def change(scene: Scene, group: tuple[str, ...], rng: random.Random) -> Scene:
    """The scene with some fields of its person drawn again, until the picture shows a difference that has a word."""
    person, changed = scene.people[0], scene
    for _ in range(TRIES):
        if group in OF_IDENTITY:
            fresh = draw_identity(rng)
            identity = replace(person.identity, **{field: getattr(fresh, field) for field in group})
            changed = _with(scene, replace(person, identity=identity, name=None))
        else:
            moment = draw_person(rng, person.identity)
            changed = _with(scene, replace(person, **{field: getattr(moment, field) for field in group}))
        if shown(changed) != shown(scene):
            break
    return changed


def _with(scene: Scene, person: Person) -> Scene:
    return replace(scene, people=(person, *scene.people[1:]))
