"""Two people together: what they do is drawn, told in each one's facts, said in captions and read back."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from functools import cache

import pytest
import torch

from semblant.errors import SemblantError
from semblant.world.captions import LONGEST, PUNCTUATION, Reading, read, words, write
from semblant.world.company import (
    TOGETHER_SHARES,
    WHOLE_SHARES,
    draw_pair_of_people,
    draw_whole_world_scene,
    draw_world_scene,
)
from semblant.world.facts import PICTURE_FACTS, facts, shown
from semblant.world.names import name_of
from semblant.world.pair_captions import TOGETHER as PHRASES
from semblant.world.pair_facts import doing, pair_contradictions, together_visible
from semblant.world.renderer import PARTS, render
from semblant.world.scene import TOGETHER, Person, Scene, draw_training_scene, named_person, person_of
from semblant.world.stances import STANCES, posed

ACTS = TOGETHER[1:]
HANDS = tuple(act for act in ACTS if act != "facing each other")
COUNT = 400


def a_pair(together: str = "none", **fixed: object) -> Scene:
    plain = {"hat": "none", "glasses": "none", "action": "none", "tilt": 0.0, "yaw": 0.0, "clothes": "shirt"}
    picture = {"style": "photo", "camera": "half body", "light": "plain", "background": "room"}
    people = (person_of("tune", 1), person_of("tune", 2))
    return draw_pair_of_people(random.Random(4), *people, **{**plain, **picture, "together": together, **fixed})


@cache
def captioned() -> tuple[tuple[Scene, str, Reading], ...]:
    scenes = []
    for index in range(COUNT):
        rng = random.Random(f"pair {index}")
        known = ((True, True), (False, False), (True, False), (False, False))[index % 4]
        numbered = tuple(zip((index, (index + 7) % 512), known, strict=True))
        first, second = (named_person(i) if is_named else person_of("tune", i) for i, is_named in numbered)
        names = [name_of(i) if is_named else None for i, is_named in numbered]
        scenes.append(draw_pair_of_people(rng, first, second, (names[0], names[1])))
    texts = [write(scene, random.Random(index), drop=index % 8 > 0) for index, scene in enumerate(scenes)]
    return tuple((scene, text, read(text)) for scene, text in zip(scenes, texts, strict=True))


def test_a_scene_says_what_is_done_together_only_when_something_is():
    for together in TOGETHER:
        scene = a_pair(together)
        assert Scene.from_json(scene.to_json()) == scene
        assert json.loads(scene.to_json()).get("together", "none") == together
    assert "together" not in json.loads(a_pair().to_json())


def test_scenes_of_the_earlier_generators_are_what_they_were():
    digest = hashlib.sha256()
    for index in range(600):
        digest.update(draw_world_scene(index).to_json().encode())
    assert digest.hexdigest()[:16] == "4022028816659cf1"


def test_every_act_has_a_stance_a_share_and_phrases():
    assert set(STANCES) == set(PHRASES) == set(ACTS) and set(TOGETHER_SHARES) == set(TOGETHER)
    assert sum(TOGETHER_SHARES.values()) == pytest.approx(1) and sum(WHOLE_SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("people", [0, 1, 3])
def test_it_takes_two(people):
    scene = Scene(people=tuple(Person(person_of("tune", i)) for i in range(people)), together="hugging")
    with pytest.raises(SemblantError, match=f"two people; the scene has {people}"):
        render([scene], 32)


def test_unknown_acts_are_refused_with_the_closest():
    with pytest.raises(SemblantError, match="did you mean hugging"):
        a_pair("huging")
    with pytest.raises(SemblantError, match="did you mean dancing"):
        render([a_pair().change(together="dancin")], 32)


@pytest.mark.parametrize("together", ACTS)
def test_people_who_do_something_together_turn_to_each_other_with_free_hands(together):
    for yaw in (-1.0, 0.0, 1.0):
        scene = a_pair(together, yaw=yaw, gaze=-yaw, action="cooking")
        assert [shown(scene, who)["turn"] for who in (0, 1)] == ["right", "left"]
        assert [facts(scene, who)["gaze"] for who in (0, 1)] == ["right", "left"]
        assert facts(scene)["action"] == ("none" if together in HANDS else "cooking")
        assert all(abs(getattr(posed(scene, who), f)) <= 1 for who in (0, 1) for f in ("yaw", "gaze", "tilt"))
    apart = a_pair(yaw=0.9, action="cooking")
    assert posed(apart, 0) is apart.people[0] and facts(apart, 1)["turn"] == "right"


def test_each_act_is_seen_and_none_looks_like_another():
    drawn = render([a_pair(together) for together in TOGETHER])
    for i in range(len(TOGETHER)):
        for j in range(i):
            assert ((drawn.image[i] - drawn.image[j]).abs().amax(0) > 0.1).sum() > 250, (TOGETHER[i], TOGETHER[j])


@pytest.mark.parametrize("together", HANDS)
def test_hands_are_their_owners_and_meet_or_cross_between_the_two(together):
    scene = a_pair(together).change(0, clothes_colour="red").change(1, clothes_colour="blue")
    drawn = render([scene])
    left, right = drawn.instances[0]
    assert not (left & right).any() and not (drawn.instances & ~drawn.amodal).any()
    image, cloth = drawn.image[0], drawn.parts[0] == PARTS.index("cloth")
    assert (image[0] > image[2])[left & cloth].float().mean() > 0.97
    assert (image[2] > image[0])[right & cloth].float().mean() > 0.97
    columns = torch.arange(128)
    if together == "hugging":
        assert columns[left.any(0)].max() > 74 and columns[right.any(0)].min() < 54
        assert drawn.boxes[0, 0, 2] - drawn.boxes[0, 1, 0] < 4
    else:
        gap = columns[right.any(0)].min() - columns[left.any(0)].max()
        assert (gap < 2) if together != "talking" else (0 < gap < 14)
    # The hands lie over both: who is farther back hides part of who is in front, and the other way round.
    if together in ("hugging", "shaking hands"):
        assert (drawn.amodal[0, 0] & right).sum() > 3 and (drawn.amodal[0, 1] & left).sum() > 3


def test_pictures_of_pairs_are_the_same_alone_and_without_labels():
    scenes = [a_pair(together, clothes=c) for together in TOGETHER for c in ("dress", "suit")]
    together = render(scenes, 64)
    assert together.image.isfinite().all() and together.parts.max() < len(PARTS)
    assert (render(scenes, 64, labels=False).image - together.image).abs().max() <= 1e-5
    for i in (2, 7):
        assert (render([scenes[i]], 64).image[0] - together.image[i]).abs().max() <= 1e-5


def test_a_fact_of_one_leaves_the_other_as_drawn():
    before = a_pair("shaking hands").change(0, clothes_colour="red")
    both = render([before, before.change(0, clothes_colour="green", expression="smiling")])
    inside = -torch.nn.functional.max_pool2d(-both.instances[:1, 1].float(), 5, stride=1, padding=2)[0] > 0
    differs = (both.image[0] - both.image[1]).abs().amax(0) > 0
    assert differs.sum() > 200 and not (differs & inside).any()


def test_a_caption_of_two_people_is_read_back_as_what_each_shows():
    for scene, text, reading in captioned():
        assert reading.unknown == () and reading.placeholders == (), text
        assert reading.facts.items() <= {f: v for f, v in shown(scene).items() if f in PICTURE_FACTS}.items(), text
        assert reading.left.items() <= shown(scene, 0).items(), text
        assert reading.right.items() <= shown(scene, 1).items(), text
        assert doing(reading.together, scene), text
        assert together_visible(scene) or reading.together in ("none", "facing each other"), text
        assert pair_contradictions(reading, scene) == (), text
        told = [person.name for person in scene.people if person.name]
        assert set(reading.names) <= set(told) and len(reading.names) in ({0, 1} if len(told) < 2 else {2}), text


def test_captions_of_two_people_are_short_varied_and_of_the_vocabulary():
    vocabulary = {*words(), *PUNCTUATION}
    for _, text, _ in captioned():
        tokens = text.replace(",", " ,").split()
        assert vocabulary.issuperset(tokens) and len(tokens) <= LONGEST, text
    said = Counter(reading.together for *_, reading in captioned())
    assert min(said[act] for act in ACTS) > 0.05 * COUNT
    named = [len(r.left) + len(r.right) for *_, r in captioned()]
    assert 3 < sum(named) / COUNT < 6 and {fact for *_, r in captioned() for fact in r.right} >= {"hat", "age", "eyes"}
    assert any(r.left and r.names and text.count(r.names[0]) == 2 for _, text, r in captioned())


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (
            "two people shaking hands, the left one with red hair wearing a blue shirt, the right one with a cap",
            Reading(
                {},
                together="shaking hands",
                left={"hair colour": "red", "clothes": "shirt", "clothes colour": "blue"},
                right={"hat": "cap"},
            ),
        ),
        (
            "Maya Okafor and Omar Kim hugging on the beach, omar kim smiling in the snow",
            Reading(
                {"background": "beach"},
                names=("maya okafor", "omar kim"),
                together="hugging",
                right={"expression": "smiling"},
            ),
        ),
        (
            "a photo of <maya> and <omar> dancing, <omar> with glasses",
            Reading(
                {"style": "photo"}, placeholders=("<maya>", "<omar>"), together="dancing", right={"glasses": "glasses"}
            ),
        ),
        (
            "a couple, the old person on the right and the bald one on the left",
            Reading({}, left={"hair style": "bald"}, right={"age": "old"}),
        ),
        ("two smiling people", Reading({"expression": "smiling"})),
        ("two people not hugging", Reading({}, unknown=("not",))),
        ("a person and someone talking on the phone", Reading({"action": "on the phone"})),
        ("a person dancing, the left one with a cap", Reading({"hat": "cap"})),
        (
            "two friends talking next to a brown dog, the left one with the turban",
            Reading(
                {}, unknown=("turban",), others=({"kind": "dog", "colour": "brown", "relation": "next to"},),
                together="talking",
            ),
        ),
    ],
)  # fmt: skip
def test_what_users_say_of_two_people(text, reading):
    assert read(text) == reading


def test_contradictions_name_the_person_and_the_act():
    scene = a_pair("hugging").change(0, hat="cap").change(1, hat="none", expression="sad", intensity=1.0)
    assert pair_contradictions(read("two people hugging, the left one with a cap"), scene) == ()
    assert pair_contradictions(read("two people facing each other"), scene) == ()
    wrong = read("two people dancing in the snow, the right one smiling with a cap, the left one with a cap")
    assert pair_contradictions(wrong, scene) == ("background", "together", "right: expression", "right: hat")
    assert pair_contradictions(read("two people wearing a cap"), scene) == ("right: hat",)
    assert pair_contradictions(read("two people hugging, the left one smiling"), draw_training_scene(0)) == (
        "together",
        "left: expression",
    )
    hidden = scene.change(together="shaking hands", camera="close-up")
    assert not together_visible(hidden) and pair_contradictions(read("two people hugging"), hidden) == ()


def test_more_people_are_counted():
    crowd = Scene(people=tuple(Person(person_of("tune", i)) for i in range(4)))
    assert "four people" in write(crowd, random.Random(0)) and read("four people").together == "none"


def test_drawing_a_pair_keeps_what_is_fixed():
    scene = a_pair("talking", hat="beanie", left={"hat": "cap"}, right={"age": 0.9})
    assert [person.hat for person in scene.people] == ["cap", "beanie"] and scene.people[1].age == 0.9
    free, fixed = (
        draw_pair_of_people(random.Random(3), person_of("tune", 1), person_of("tune", 2), **f, background="snow")
        for f in ({"together": "talking"}, {"together": "talking", "hat": "helmet"})
    )
    assert fixed == free.change(0, hat="helmet").change(1, hat="helmet")


def test_the_whole_world_mostly_shows_one_person_and_sometimes_two():
    scenes = [draw_whole_world_scene(index) for index in range(1500)]
    shows = Counter((len(scene.people), len(scene.others)) for scene in scenes)
    assert shows[1, 0] / 1500 > 0.69 and 0.07 < shows[2, 0] / 1500 < 0.13
    assert shows[0, 1] > 60 and shows[0, 2] > 20 and shows[1, 1] > 30
    assert all(s == draw_training_scene(i) for i, s in enumerate(scenes) if (len(s.people), len(s.others)) == (1, 0))
    pairs = [scene for scene in scenes if len(scene.people) == 2]
    assert {scene.together for scene in pairs} == set(TOGETHER)
    assert all(scene.together == "none" for scene in scenes if len(scene.people) != 2)
    assert 0.2 < sum(bool(person.name) for scene in pairs for person in scene.people) / (2 * len(pairs)) < 0.5
    assert draw_whole_world_scene(5) == draw_whole_world_scene(5) != draw_whole_world_scene(5, seed=1)
