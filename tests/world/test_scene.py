"""Scenes are plain records: written, read, changed one fact at a time, and drawn the same by every machine."""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict, fields

import pytest

from semblant.world.facts import DEFAULTS, VALUES, facts
from semblant.world.names import index_of, name_of
from semblant.world.scene import (
    CHOICES,
    FAMILY,
    NAMED_PEOPLE,
    SPLITS,
    Identity,
    Person,
    Scene,
    draw_identity,
    draw_scene,
    draw_training_scene,
    named_person,
    person_of,
)


def test_a_scene_survives_json():
    for index in range(100):
        scene = draw_training_scene(index)
        assert Scene.from_json(scene.to_json()) == scene


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", '"x"', "{}", '{"people": [{}]}', '{"people": 3}', '{"people": [], "sky": 1}']
)
def test_what_is_no_scene_is_refused(text):
    with pytest.raises((ValueError, TypeError)):
        Scene.from_json(text)


def test_people_are_drawn_the_same_everywhere():
    people = repr([person_of(split, index) for split in SPLITS for index in range(50)])
    named = repr([named_person(index) for index in range(NAMED_PEOPLE)])
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (people, named)]
    assert digests == ["f3b8da25ac08abcb", "352c11314feacadc"]


def test_no_two_people_are_the_same_whatever_their_split():
    people = [person_of(split, index) for split in SPLITS for index in range(300)]
    people += [named_person(index) for index in range(NAMED_PEOPLE)]
    assert len(set(people)) == len(people)


def test_unknown_people_are_refused():
    with pytest.raises(ValueError, match="heldout"):
        person_of("test", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="512"):
        named_person(512)


def test_names_are_unique():
    assert len({name_of(index) for index in range(NAMED_PEOPLE)}) == NAMED_PEOPLE
    assert [index_of(name_of(index)) for index in range(NAMED_PEOPLE)] == list(range(NAMED_PEOPLE))


def test_people_of_one_last_name_are_a_family_and_those_of_one_first_name_share_the_rest():
    people = {name_of(index): named_person(index) for index in range(NAMED_PEOPLE)}
    every = {field.name for field in fields(Identity)}
    assert set(FAMILY) < every
    for first, last in (("maya", "silva"), ("anton", "bauer")):
        me, relative, namesake = (people[f"{a} {b}"] for a, b in ((first, last), ("leo", last), (first, "okafor")))
        alike = lambda other, me=me: {name for name in every if getattr(me, name) == getattr(other, name)}
        assert alike(relative) >= set(FAMILY) and alike(namesake) >= every - set(FAMILY)
        assert len(alike(relative)) < len(FAMILY) + 4 and len(alike(namesake)) < len(every) - len(FAMILY) + 4


def test_an_identity_is_numbers_between_zero_and_one_and_three_choices():
    for index in range(50):
        identity = person_of("train", index)
        assert len(identity.numbers()) == 24
        assert all(0 <= number <= 1 for number in identity.numbers())
        assert all(getattr(identity, name) in values for name, values in CHOICES.items())


CHANGES = {
    "expression": "surprised",
    "age": 0.95,
    "glasses": "sunglasses",
    "hat": "helmet",
    "hat_colour": "purple",
    "beard": "moustache",
    "dyed": "pink",
    "clothes": "dress",
    "clothes_colour": "orange",
    "gaze": -0.9,
    "yaw": 0.9,
    "tilt": -0.9,
    "action": "playing guitar",
    "background": "desert",
    "light": "dim",
    "camera": "half body",
    "style": "sketch",
}
NAMES = {"dyed": "hair colour", "yaw": "turn"}


@pytest.mark.parametrize("field", CHANGES)
def test_changing_one_fact_changes_only_that(field):
    scene = draw_scene(
        random.Random(1),
        person_of("tune", 1),
        hat="cap",
        hat_colour="blue",
        **{"expression": "sad", "age": 0.4, "glasses": "none", "beard": "none", "clothes": "shirt", "action": "none"},
        **{"clothes_colour": "red", "gaze": 0.0, "yaw": 0.0, "tilt": 0.0, "dyed": "blue", "background": "beach"},
        **{"light": "plain", "camera": "portrait", "style": "photo"},
    )
    changed = scene.change(**{field: CHANGES[field]})
    before, after = facts(scene), facts(changed)
    assert {fact for fact in before if before[fact] != after[fact]} == {NAMES.get(field, field.replace("_", " "))}
    flat = [{**asdict(s), **asdict(s.people[0]), "people": None} for s in (scene, changed)]
    assert {name for name in flat[0] if flat[0][name] != flat[1][name]} == {field}


def test_a_change_reaches_one_person_only_and_unknown_facts_are_refused():
    scene = Scene(people=(Person(person_of("tune", 1)), Person(person_of("tune", 2))))
    changed = scene.change(who=1, hat="cap")
    assert [person.hat for person in changed.people] == ["none", "cap"]
    with pytest.raises(TypeError):
        scene.change(shoes="red")


def test_fixing_a_fact_leaves_the_other_draws_alone():
    identity = person_of("tune", 3)
    free = draw_scene(random.Random(9), identity)
    fixed = draw_scene(random.Random(9), identity, hat="helmet", background="snow")
    assert fixed == free.change(hat="helmet", background="snow")


def test_a_close_up_shows_no_action():
    for seed in range(200):
        scene = draw_scene(random.Random(seed), draw_identity(random.Random(seed)))
        assert scene.camera != "close-up" or scene.people[0].action == "none"
    asked = draw_scene(random.Random(0), person_of("tune", 0), camera="close-up", action="cooking")
    assert (asked.camera, asked.people[0].action) == ("close-up", "none")


def test_training_pictures_show_named_people_a_third_of_the_time_and_half_are_photos():
    scenes = [draw_training_scene(index) for index in range(1500)]
    assert 0.28 < sum(scene.people[0].name is not None for scene in scenes) / 1500 < 0.39
    assert 0.45 < sum(scene.style == "photo" for scene in scenes) / 1500 < 0.55
    assert draw_training_scene(7) == draw_training_scene(7) != draw_training_scene(7, seed=1)


def test_defaults_are_values():
    assert all(value in VALUES[fact] for fact, value in DEFAULTS.items())
    assert len(fields(Identity)) == 27
