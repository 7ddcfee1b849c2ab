"""Captions say only what is true and can be seen, in words the vocabulary has, and are read back as what they say."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache

import pytest

from semblant.errors import SemblantError
from semblant.world.captions import (
    LONGEST,
    PUNCTUATION,
    RARE_TOKENS,
    Reading,
    compose,
    contradictions,
    read,
    words,
    write,
)
from semblant.world.facts import DEFAULTS, IDENTITY_FACTS, SCENE_FACTS, VALUES, facts, shown, visible
from semblant.world.names import FIRST, LAST
from semblant.world.phrases import can_say, phrase_table
from semblant.world.prompts import demo_prompts, evaluation_captions
from semblant.world.scene import Scene, draw_scene, draw_training_scene, person_of

COUNT = 2000


@cache
def captioned() -> tuple[tuple[Scene, str, Reading], ...]:
    scenes = [draw_training_scene(index) for index in range(COUNT)]
    texts = [write(scene, random.Random(index)) for index, scene in enumerate(scenes)]
    return tuple((scene, text, read(text)) for scene, text in zip(scenes, texts, strict=True))


def a_scene(**fixed: object) -> Scene:
    plain = {"hat": "none", "glasses": "none", "beard": "none", "dyed": "none", "age": 0.4, "action": "none"}
    picture = {"style": "photo", "camera": "portrait", "light": "plain"}
    return draw_scene(random.Random(3), person_of("tune", 5), **{**plain, **picture, **fixed})


def test_a_caption_is_read_back_as_visible_facts_of_its_scene():
    for scene, text, reading in captioned():
        assert reading.unknown == () and reading.placeholders == (), text
        assert reading.facts.items() <= shown(scene).items(), text
        assert contradictions(reading.facts, scene) == (), text


def test_every_fact_that_compose_is_given_is_in_its_caption():
    for index, (scene, _, _) in enumerate(captioned()[:500]):
        can = [fact for fact, value in shown(scene).items() if can_say(fact, value)]
        said = {fact: shown(scene)[fact] for fact in random.Random(index).sample(can, 8)}
        text = compose(said, random.Random(index), camera=scene.camera, style=scene.style)
        assert read(text).facts == said, text


def test_captions_are_lower_case_ascii_of_the_vocabulary_and_short_enough():
    vocabulary = {*words(), *PUNCTUATION}
    lengths = []
    for _, text, _ in captioned():
        tokens = text.replace(",", " ,").split()
        assert text.isascii() and text == text.lower()
        assert vocabulary.issuperset(tokens), text
        lengths.append(len(tokens))
    assert max(lengths) <= LONGEST
    assert 19 < sum(lengths) / COUNT < 26


def test_naming_everything_still_fits():
    for index, (scene, _, _) in enumerate(captioned()[:300]):
        text = write(scene, random.Random(index), drop=False)
        assert len(text.replace(",", " ,").split()) <= LONGEST
        assert read(text).facts.items() <= shown(scene).items(), text
        assert len(read(text).facts) >= 4


def test_the_same_generator_state_writes_the_same_caption():
    scene = draw_training_scene(1)
    assert write(scene, random.Random(5)) == write(scene, random.Random(5))
    assert len({write(scene, random.Random(seed)) for seed in range(50)}) > 45


def test_facts_are_named_about_as_often_as_meant():
    could, named = Counter(), Counter()
    for scene, _, reading in captioned():
        for fact, value in shown(scene).items():
            if not can_say(fact, value):
                continue
            default = value in (DEFAULTS.get(fact), "average")
            could[fact, default] += 1
            named[fact, default] += fact in reading.facts
    share = {key: named[key] / could[key] for key in could}
    for fact in IDENTITY_FACTS:
        assert 0.3 < share[fact, False] < 0.46, fact
    for fact in set(SCENE_FACTS) - {"style", "gaze", "turn", "tilt"}:
        assert 0.46 < share[fact, False] < 0.66, fact
    for fact in ("age", "expression", "light", "camera"):
        assert 0.1 < share[fact, True] < 0.27, fact
    assert share["style", False] == 1.0
    assert 0.05 < sum(len(reading.facts) <= 2 for *_, reading in captioned()) / COUNT < 0.12


def test_named_people_are_often_called_by_name_and_others_never():
    named = [(scene.people[0].name, reading.names) for scene, _, reading in captioned()]
    called = [names == (name,) for name, names in named if name]
    assert 0.5 < sum(called) / len(called) < 0.7
    assert all(names == () for name, names in named if name is None)
    assert all(names in ((), (name,)) for name, names in named if name)


@pytest.mark.parametrize(
    "form",
    [
        "a photo of a person",
        "a photo of (a|the) face of",
        "a photo of a rendering of (a|the) (cool )?face of",
        "a photo of the cool face of",
        "a close-up photo of the face of",
        "a (rendition|depiction|rendering) of (a|the) face of",
        "an illustration of (a|the) face of",
        "the photo of a",
        "a good photo of",
        "a cropped photo of",
        "a (bright|dark) photo of",
        "a photo of my",
        "a photo of one",
        "a photo of a (cool|nice|clean|weird)",
        "an oil painting of",
        "a sketch of",
        "a (watercolour|watercolor) of",
        "pixel art of",
        "a cartoon of",
        "as a cartoon",
        "a portrait of",
        "someone",
    ],
)
def test_captions_have_the_sentence_forms_of_the_methods(form):
    assert re.search(rf"\b{form}\b", _form_sample())


@cache
def _form_sample() -> str:
    more = [write(draw_training_scene(index), random.Random(index)) for index in range(COUNT, 6000)]
    return "\n".join([text for _, text, _ in captioned()] + more)


def test_form_words_fit_the_picture():
    for scene, text, _ in captioned():
        if "face of" in text or "cropped" in text:
            assert scene.camera != "half body", text
        if re.search("illustration|artwork|^an? drawing", text):
            assert scene.style != "photo", text
        if re.search("photo|snapshot", text):
            assert scene.style == "photo", text


def test_rare_tokens_are_rare_and_mean_nothing():
    assert len(RARE_TOKENS) == len(set(RARE_TOKENS)) == 16
    elsewhere = {*FIRST, *LAST, *(word for phrase in phrase_table() for word in phrase)}
    assert elsewhere.isdisjoint(RARE_TOKENS)
    assert read("a photo of sks person") == Reading({"style": "photo"})
    assert sum(token in text.split() for _, text, _ in captioned() for token in RARE_TOKENS) <= 2


def test_the_vocabulary_is_fixed_and_has_what_prompts_and_later_scenes_need():
    assert len(words()) == len(set(words()))
    assert all(word.isascii() and word == word.lower() for word in words())
    needed = (
        "dog cat bear backpack teapot toy car plush chair on in next to "
        "left right under behind two people shaking hands"
    )
    assert set(words()).issuperset([*needed.split(), "hugging", "facing", *FIRST, *LAST, *RARE_TOKENS, *"0123456789"])
    assert set(words()).issuperset(word for phrase in phrase_table() for word in phrase)


def test_every_value_that_can_be_said_has_a_phrase():
    said = {item for named in phrase_table().values() for item in named.items()}
    assert said == {(fact, value) for fact, values in VALUES.items() for value in values if can_say(fact, value)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dark skin", {"skin": "dark"}),
        ("dark glasses", {"glasses": "sunglasses"}),
        ("a dark photo", {"style": "photo", "light": "dim"}),
        ("blue eyes", {"eyes": "blue"}),
        ("a blue hat", {"hat colour": "blue"}),
        ("blue hair", {"hair colour": "blue"}),
        ("a blue cowboy hat", {"hat": "cowboy hat", "hat colour": "blue"}),
        ("long hair", {"hair style": "long"}),
        ("a long nose", {"nose": "long"}),
        ("a long face", {"face": "long"}),
        ("on the phone", {"action": "on the phone"}),
        ("on the beach", {"background": "beach"}),
        ("on the phone on the beach", {"action": "on the phone", "background": "beach"}),
        ("long wavy red hair", {"hair style": "wavy", "hair colour": "red"}),
        ("a long dark road", {}),
        ("head turned left, looking right", {"turn": "left", "gaze": "right"}),
        ("smiling, then sad", {"expression": "smiling"}),
    ],
)
def test_words_that_mean_different_things_beside_different_words(text, named):
    assert read(text).facts == named


def test_prompts_that_users_type():
    assert read("A photo of <maya> playing guitar on the BEACH") == Reading(
        {"style": "photo", "action": "playing guitar", "background": "beach"}, placeholders=("<maya>",)
    )
    assert read("((a red cap:1.2), (<Maya>:0.7):1.5) V*, *") == Reading(
        {"hat": "cap", "hat colour": "red"}, placeholders=("<Maya>", "V*", "*")
    )
    assert read("Maya Okafor and hugo  kim, hugging").names == ("maya okafor", "hugo kim")
    assert read("a hydrogen person with a Zürich turban, hydrogen").unknown == ("hydrogen", "zurich", "turban")
    assert read("a person without glasses, smiling") == Reading({"expression": "smiling"}, unknown=("without",))
    assert read("") == Reading({})


def test_contradictions_are_what_the_picture_shows_to_be_false():
    scene = a_scene(expression="sad", background="beach", hat="helmet", hat_colour="red")
    said = {"expression": "smiling", "background": "beach", "hat colour": "blue", "hair style": "afro"}
    assert contradictions(said, scene) == ("expression", "hat colour")
    assert contradictions({"hat colour": "red"}, scene.change(hat="none")) == ("hat colour",)


def test_what_is_hidden():
    scene = a_scene()
    assert visible(scene, "eyes") and not visible(scene.change(glasses="sunglasses"), "eyes")
    assert not visible(scene.change(hat="helmet"), "hair style")
    assert not visible(scene.change(style="sketch"), "clothes colour")
    assert not visible(scene.change(style="sketch"), "freckles") and not visible(
        scene.change(camera="half body"), "freckles"
    )
    assert not visible(scene.change(camera="close-up"), "action")
    assert "hat colour" not in facts(scene) and not visible(scene, "hat colour")
    assert not visible(scene.change(age=0.75), "age") and visible(scene.change(age=0.9), "age")
    with pytest.raises(SemblantError, match="hat colour"):
        visible(scene, "hat color")
    with pytest.raises(SemblantError, match="1 people"):
        facts(scene, who=1)


def test_facts_are_values_of_the_table():
    assert set(VALUES) == {*IDENTITY_FACTS, *SCENE_FACTS}
    seen: dict[str, set[str]] = {fact: set() for fact in VALUES}
    for scene, _, _ in captioned():
        for fact, value in facts(scene).items():
            seen[fact].add(value)
    assert {fact: set(values) for fact, values in VALUES.items()} == seen


def test_two_people_are_described_by_the_picture_and_their_names():
    one, two = (draw_training_scene(i) for i in [i for i, (s, *_) in enumerate(captioned()) if s.people[0].name][:2])
    scene = Scene(people=(*one.people, *two.people), background="beach", style="cartoon")
    for seed in range(30):
        reading = read(write(scene, random.Random(seed)))
        assert reading.names == (one.people[0].name, two.people[0].name) and reading.unknown == ()
        assert (
            reading.facts.items()
            <= {"background": "beach", "style": "cartoon", "light": "plain", "camera": "portrait"}.items()
        )


def test_evaluation_captions_name_at_least_four_facts():
    captions = evaluation_captions()
    assert len(captions) == 512 and captions[:40] == evaluation_captions(40)
    assert len({text for text, _ in captions}) == 512
    named = Counter(fact for _, said in captions for fact in said)
    assert set(named) == set(VALUES) and min(named.values()) >= 20
    for text, said in captions:
        assert len(said) >= 4 and read(text) == Reading(said) and re.search(r"\bperson\b", text)


def test_demo_prompts_are_plain_facts_of_a_word():
    assert len(demo_prompts()) == 8
    for prompt in demo_prompts():
        reading = read(prompt.format("<maya>"))
        assert len(reading.facts) >= 2 and reading.placeholders == ("<maya>",) and reading.unknown == ()
