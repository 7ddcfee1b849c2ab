"""Captions of animals and things say what the picture shows, in words of the fixed vocabulary, and are read back."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from functools import cache

import pytest

from semblant.world.being_captions import phrase
from semblant.world.being_facts import VALUES, being_contradictions, facts_of, picture, shown_of
from semblant.world.beings import KINDS, Animal
from semblant.world.captions import LONGEST, PUNCTUATION, Reading, read, words, write
from semblant.world.company import being_of, draw_being_scene, draw_mixed_scene, draw_pair
from semblant.world.facts import shown
from semblant.world.scene import Scene, draw_training_scene, person_of


@cache
def captioned() -> tuple[tuple[Scene, str, Reading], ...]:
    scenes = []
    for index in range(150):
        rng = random.Random(f"captions of beings {index}")
        kind = KINDS[index % len(KINDS)]
        being = being_of(kind, "train", index)
        scenes += [draw_being_scene(rng, being), draw_pair(rng, "train")]
        scenes.append(draw_mixed_scene(rng, person_of("train", index), being))
    texts = [write(scene, random.Random(index), drop=index % 5 > 0) for index, scene in enumerate(scenes)]
    return tuple((scene, text, read(text)) for scene, text in zip(scenes, texts, strict=True))


def test_the_vocabulary_is_what_trained_weights_know():
    assert len(words()) == 497
    digest = hashlib.sha256("\n".join(words()).encode()).hexdigest()
    assert digest == "d2dc30ecb43b5477b359f24d73d700225a57d66ab42c794d5fa760dfd6776ed1"


def test_captions_of_people_are_what_they_were():
    digest = hashlib.sha256()
    for index in range(300):
        digest.update(write(draw_training_scene(index), random.Random(index)).encode())
    assert digest.hexdigest() == "d967f20b63ca65ad6109df41e1276a1c785a620d6bd72ad838f011f317b7cf20"


def test_a_caption_is_read_back_as_visible_facts_of_its_scene():
    for scene, text, reading in captioned():
        assert reading.unknown == () and reading.placeholders == (), text
        assert len(reading.others) == len(scene.others), text
        assert being_contradictions(reading.others, scene) == (), text
        visible = shown(scene) if scene.people else picture(scene)
        assert reading.facts.items() <= visible.items(), text
        for being in reading.others:
            assert any(being.items() <= shown_of(scene, which).items() for which in range(len(scene.others))), text


def test_captions_are_short_and_of_the_vocabulary():
    vocabulary = {*words(), *PUNCTUATION}
    for _, text, _ in captioned():
        tokens = text.replace(",", " ,").split()
        assert len(tokens) <= LONGEST and vocabulary.issuperset(tokens), text


def test_every_fact_given_to_a_phrase_is_read_back():
    tried = 0
    for index, (scene, _, _) in enumerate(captioned()):
        for which in range(len(scene.others)):
            said = {f: v for f, v in facts_of(scene, which).items() if v not in ("plain", "average")}
            said.pop("relation", None)
            rng = random.Random(index)
            text = phrase(said, rng)
            assert read(f"a photo of {text}").others == (said,), text
            tried += 1
    assert tried > 500


def test_every_value_is_said_by_some_caption():
    named = Counter(item for _, _, reading in captioned() for being in reading.others for item in being.items())
    unsaid = {(f, v) for f, vs in VALUES.items() for v in vs if v not in ("plain", "average")} - set(named)
    assert {fact for fact, _ in unsaid} <= {"eyes", "second colour"}, unsaid


@pytest.mark.parametrize(
    ("text", "others", "facts"),
    [
        ("a photo of a dog", ({"kind": "dog"},), {"style": "photo"}),
        (
            "a brown and white spotted puppy sitting on a red chair on the beach",
            (
                {"kind": "dog", "colour": "brown", "second colour": "white"}
                | {"pattern": "spotted", "pose": "sitting", "relation": "on"},
                {"kind": "chair", "colour": "red"},
            ),
            {"background": "beach"},
        ),
        (
            "a smiling person with green eyes and a black cat with green eyes, looking left",
            ({"kind": "cat", "colour": "black", "eyes": "green", "facing": "left"},),
            {"expression": "smiling", "eyes": "green"},
        ),
        (
            "a teapot to the left of a toy car",
            (
                {"kind": "teapot", "relation": "next to", "side": "left"},
                {"kind": "toy car", "relation": "next to", "side": "right"},
            ),
            {},
        ),
        (
            "a dog next to an old person with a red hat",
            ({"kind": "dog", "relation": "next to"},),
            {"age": "old", "hat colour": "red"},
        ),
        (
            "an old person beside a dog in the city",
            ({"kind": "dog", "relation": "next to"},),
            {"age": "old", "background": "city"},
        ),
        ("a person without a dog, smiling", (), {"expression": "smiling"}),
        ("a person in a red car", (), {}),
        ("a person looking left", (), {"gaze": "left"}),
    ],
)
def test_prompts_that_users_type(text, others, facts):
    reading = read(text)
    assert reading.others == others and reading.facts == facts


def test_placeholders_before_a_noun_are_kept():
    reading = read("a photo of a <rex> dog and S* backpack")
    assert reading.placeholders == ("<rex>", "S*") and [b["kind"] for b in reading.others] == ["dog", "backpack"]


def test_contradictions_are_what_the_picture_shows_to_be_false():
    dog = being_of("dog", "tune", 0)
    scene = Scene(people=(), others=(Animal(dog, "sitting", "left"),))  # type: ignore[arg-type]
    true = facts_of(scene)
    wrong = next(c for c in VALUES["colour"] if c != true["colour"])
    assert being_contradictions([{"kind": "dog", "colour": wrong, "pose": "sitting"}], scene) == ("dog: colour",)
    assert being_contradictions([{"kind": "cat"}], scene) == ("cat",)
    assert being_contradictions([{"kind": "dog"}, {"kind": "dog"}], scene) == ("dog",)
    assert being_contradictions([{"kind": "dog", "colour": wrong}], scene.change(style="sketch")) == ()
