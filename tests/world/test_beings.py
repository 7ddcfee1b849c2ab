"""Animals and things are plain records of their own identities, and scenes of people alone know nothing of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import asdict, replace

import pytest

from semblant.errors import SemblantError
from semblant.world.being_facts import VALUES, facts_of, visible_of
from semblant.world.beings import ANIMALS, CHOICES, KINDS, POSES, UNTURNED, Animal, Thing
from semblant.world.company import (
    SHARES,
    being_of,
    draw_being_scene,
    draw_mixed_scene,
    draw_pair_scene,
    draw_world_scene,
    places_for,
)
from semblant.world.scene import SPLITS, Person, Scene, draw_training_scene, person_of


def test_scenes_of_people_alone_are_what_they_were():
    digest = hashlib.sha256()
    for index in range(200):
        digest.update(draw_training_scene(index).to_json().encode())
    assert digest.hexdigest() == "466c3cac43201caa322c53058d4407c3ec196598abcf4e1a88341efbb5a784a4"


def test_a_scene_with_others_survives_json():
    scenes = [draw_world_scene(index) for index in range(400)]
    assert all(Scene.from_json(scene.to_json()) == scene for scene in scenes)
    assert any(scene.others for scene in scenes)
    assert all(("others" in json.loads(scene.to_json())) == bool(scene.others) for scene in scenes)
    assert all(Scene.from_json(json.dumps(asdict(scene))) == scene for scene in scenes[:50])


@pytest.mark.parametrize("other", ["3", "{}", '{"identity": {"kind": "zebra"}}', '{"identity": {"kind": "dog"}}'])
def test_what_is_no_animal_is_refused(other):
    with pytest.raises((ValueError, TypeError)):
        Scene.from_json(f'{{"people": [], "others": [{other}]}}')


def test_an_identity_is_numbers_and_choices():
    for kind in KINDS:
        for index in range(20):
            who = being_of(kind, "train", index)
            assert who.kind == kind and len(who.numbers()) >= 16
            assert all(0 <= number <= 1 for number in who.numbers())
            assert all(getattr(who, name) in values for name, values in CHOICES[type(who)].items())
            assert who.second != getattr(who, "fur" if kind in ANIMALS else "colour")


def test_identities_are_the_same_everywhere_and_no_two_are_alike():
    drawn = [being_of(kind, split, index) for kind in KINDS for split in SPLITS for index in range(40)]
    assert drawn == [being_of(kind, split, index) for kind in KINDS for split in SPLITS for index in range(40)]
    assert len({who.numbers() for who in drawn}) == len(drawn)
    assert hashlib.sha256(repr(drawn).encode()).hexdigest()[:16] == "3cb5592c03a04315"


def test_unknown_kinds_and_splits_are_refused():
    with pytest.raises(SemblantError, match="teapot"):
        being_of("teapod", "train", 0)
    with pytest.raises(ValueError, match="heldout"):
        being_of("dog", "test", 0)  # type: ignore[arg-type]


def test_fixing_a_fact_leaves_the_other_draws_alone():
    dog = being_of("dog", "tune", 3)
    free = draw_being_scene(random.Random(9), dog)
    other = next(pose for pose in POSES if pose != free.others[0].pose)  # type: ignore[union-attr]
    assert draw_being_scene(random.Random(9), dog, pose=other, background="snow") == free.change_other(
        pose=other
    ).change(background="snow")


def test_changing_one_fact_changes_only_that():
    dog = replace(being_of("dog", "tune", 1), tail_length=0.95)  # type: ignore[call-arg]
    scene = Scene(people=(), others=(Animal(dog, "sitting", "left"),))  # type: ignore[arg-type]
    for field, value in (("pose", "lying"), ("facing", "right"), ("shift_x", 0.4), ("zoom", 0.1)):
        before, after = facts_of(scene), facts_of(scene.change_other(**{field: value}))
        assert {fact for fact in before if before[fact] != after[fact]} == ({field} & set(VALUES))
    with pytest.raises(TypeError):
        scene.change_other(hat="red")


def test_where_beings_are():
    chair, cat = (being_of(kind, "tune", 0) for kind in ("chair", "cat"))
    assert places_for("cat", "chair") == ("left", "right", "on") and "in" in places_for("plush", "backpack")
    assert places_for("bear", "chair") == ("left", "right")
    pair = draw_pair_scene(random.Random(0), chair, cat, place="on", camera="portrait")
    assert facts_of(pair, 1)["relation"] == "on" and "relation" not in facts_of(pair, 0)
    beside = pair.change_other(1, place="left")
    assert [facts_of(beside, which)["side"] for which in (0, 1)] == ["right", "left"]
    with pytest.raises(SemblantError, match="left, right"):
        draw_pair_scene(random.Random(0), chair, being_of("bear", "tune", 0), place="on")
    with_person = draw_mixed_scene(random.Random(0), person_of("tune", 0), cat)
    assert facts_of(with_person)["side"] == with_person.others[0].place
    assert with_person.people[0].action in ("none", "on the phone") and with_person.camera != "close-up"
    assert "side" not in facts_of(draw_being_scene(random.Random(0), cat))


def test_what_is_hidden():
    cat = replace(being_of("cat", "tune", 0), tail_length=0.9, bulk=0.95, pattern="spotted")  # type: ignore[call-arg]
    scene = Scene(people=(), others=(Animal(cat, "standing", "left"),))  # type: ignore[arg-type]
    assert visible_of(scene, "tail") and not visible_of(scene.change_other(facing="ahead"), "tail")
    assert visible_of(scene, "colour") and not visible_of(scene.change(style="sketch"), "colour")
    assert visible_of(scene, "pose") and not visible_of(scene.change(camera="close-up"), "pose")
    assert not visible_of(scene, "eyes") and visible_of(scene.change(camera="close-up"), "eyes")
    assert not visible_of(scene, "side")
    with pytest.raises(SemblantError, match="colour"):
        visible_of(scene, "color")
    with pytest.raises(SemblantError, match="1 animals"):
        facts_of(scene, 1)


def test_the_world_is_mostly_people_and_those_are_the_training_people():
    scenes = [draw_world_scene(index) for index in range(1500)]
    kinds = Counter("person" if not s.others else "mixed" if s.people else str(len(s.others)) for s in scenes)
    assert 0.69 < kinds["person"] / 1500 < 0.75 and SHARES["person"] >= 0.7
    assert kinds["mixed"] > 75 and kinds["1"] > 180 and kinds["2"] > 50
    assert all(scene == draw_training_scene(index) for index, scene in enumerate(scenes) if not scene.others)
    assert {being.kind for scene in scenes for being in scene.others} == set(KINDS)
    assert {being.place for scene in scenes for being in scene.others} == {"none", "left", "right", "on", "in"}
    for scene in scenes:
        for being in scene.others:
            if isinstance(being, Thing):
                assert being.facing == "ahead" or being.kind not in UNTURNED
    assert draw_world_scene(7, seed=1) != draw_world_scene(7)
    assert Scene(people=(Person(person_of("tune", 0)),)).others == ()
