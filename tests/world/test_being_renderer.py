"""Animals and things on pictures: each identity looks its own, every label agrees, one fact changes nothing else."""

from __future__ import annotations

import random
from dataclasses import fields, replace

import pytest
import torch
from torch.nn import functional as F

from semblant.errors import SemblantError
from semblant.world.beings import ANIMALS, FACINGS, KINDS, POSES, Animal, Being, Thing
from semblant.world.company import being_of, draw_mixed_scene, draw_pair_scene, draw_world_scene
from semblant.world.renderer import Render, render
from semblant.world.scene import CAMERAS, STYLES, Person, Scene, person_of


def being(kind: str, split: str = "tune", index: int = 0, **facts: str) -> Being:
    who = being_of(kind, split, index)  # type: ignore[arg-type]
    return (Animal if kind in ANIMALS else Thing)(who, **facts)  # type: ignore[arg-type]


def alone(other: Being, **facts: object) -> Scene:
    return Scene(people=(), others=(other,), **facts)  # type: ignore[arg-type]


def grown(mask: torch.Tensor, by: int) -> torch.Tensor:
    return F.max_pool2d(mask.float()[None], 2 * by + 1, stride=1, padding=by)[0] > 0


def shrunk(mask: torch.Tensor, by: int) -> torch.Tensor:
    return ~grown(~mask, by)


def company() -> list[Scene]:
    scenes = (draw_world_scene(index) for index in range(200))
    return [scene for scene in scenes if scene.others][:10] + [draw_world_scene(index) for index in range(4)]


def test_the_same_scenes_give_the_same_bits_alone_or_together():
    scenes = company()
    first, second = render(scenes, 64), render(scenes, 64)
    for f in fields(Render):
        assert torch.equal(getattr(first, f.name), getattr(second, f.name)), f.name
    for i in (0, 3, 6):
        single = render([scenes[i]], 64)
        assert (single.image[0] - first.image[i]).abs().max() <= 1e-5
        assert torch.equal(single.others[0], first.others[i, : single.others.shape[1]])


def test_without_labels_the_picture_is_the_same():
    bare = render(company(), 64, labels=False)
    assert torch.allclose(bare.image, render(company(), 64).image, atol=1e-6)
    assert bare.others.numel() == bare.others_amodal.numel() == bare.other_boxes.numel() == 0


def test_everything_draws_finite_in_range_and_is_seen():
    scenes = [
        alone(being(kind, facing=facing, **({"pose": pose} if kind in ANIMALS else {})), style=style, camera=camera)
        for i, kind in enumerate(KINDS)
        for j, (facing, style) in enumerate(
            [*zip(FACINGS, STYLES[:3], strict=True), *zip(FACINGS, STYLES[3:], strict=True)]
        )
        for pose, camera in [(POSES[(i + j) % 3], CAMERAS[j % 3])]
    ]
    drawn = render(scenes, 64)
    for image in (drawn.image, drawn.depth, drawn.sketch):
        assert image.isfinite().all() and image.min() >= 0 and image.max() <= 1
    share = drawn.others[:, 0].float().mean((1, 2))
    assert share.min() > 0.06 and share.max() < 0.85
    assert (drawn.parts == 0).all() and torch.equal(drawn.others, drawn.others_amodal)
    assert (drawn.depth[:, 0][drawn.others[:, 0]] < 0.2).all()


def test_a_background_leaves_the_animal_alone():
    for kind in ("cat", "teapot"):
        scene = alone(being(kind), background="beach")
        both = render([scene, scene.change(background="office")])
        where = (both.image[0] - both.image[1]).abs().amax(0) > 0
        assert not (where & shrunk(both.others[0], 2)[0]).any()
        assert where[~both.others[0, 0]].float().mean() > 0.7


@pytest.mark.parametrize(("fact", "value"), [("pose", "lying"), ("facing", "left")])
def test_what_an_animal_does_leaves_the_rest_alone(fact, value):
    scene = draw_mixed_scene(random.Random(2), person_of("tune", 1), being_of("dog", "tune", 0), style="photo")
    scene = scene.change_other(
        **{"pose": "sitting", "facing": "right", fact: "standing" if fact == "pose" else "right"}
    )
    both = render([scene, scene.change_other(**{fact: value})])
    where = (both.image[0] - both.image[1]).abs().amax(0) > 0
    near = grown(both.others_amodal[0] | both.others_amodal[1], 10)[0]
    assert where.sum() > 100 and not (where & ~near).any()
    assert torch.equal(both.amodal[0], both.amodal[1]) and torch.equal(both.landmarks[0], both.landmarks[1])


def test_company_leaves_the_person_alone_and_hides_what_it_covers():
    scene = draw_mixed_scene(random.Random(4), person_of("tune", 2), being_of("bear", "tune", 0), style="photo")
    both = render([scene, scene.change(others=())])
    where = (both.image[0] - both.image[1]).abs().amax(0) > 0
    assert not (where & ~grown(both.others[0], 10)[0]).any()
    assert torch.equal(both.amodal[0], both.amodal[1]) and torch.equal(both.boxes[0], both.boxes[1])
    assert not (both.instances[0, 0] & both.others[0, 0]).any()
    assert torch.equal(both.instances[0, 0], both.instances[1, 0] & ~both.others[0, 0])
    assert not both.others[1].any() and (both.other_boxes[1] == 0).all()


def test_what_is_in_something_is_hidden_by_it_and_what_is_on_it_is_not():
    cat = being_of("cat", "tune", 1)
    inside = draw_pair_scene(random.Random(0), being_of("backpack", "tune", 1), cat, place="in")
    above = draw_pair_scene(random.Random(0), being_of("chair", "tune", 1), cat, place="on")
    drawn = render([inside, above])
    seen, covered = drawn.others.sum((2, 3)), drawn.others_amodal.sum((2, 3))
    assert covered[0, 1] > seen[0, 1] + 200 and seen[0, 1] > 200 and covered[0, 0] == seen[0, 0]
    assert covered[1, 0] > seen[1, 0] + 200 and covered[1, 1] == seen[1, 1]
    assert not (drawn.others & ~drawn.others_amodal).any()


def test_boxes_hold_what_is_covered_and_sides_are_those_of_the_picture():
    for place in ("left", "right"):
        pair = draw_pair_scene(random.Random(1), being_of("teapot", "tune", 0), being_of("dog", "tune", 0), place=place)
        drawn = render([pair])
        for which in (0, 1):
            ys, xs = drawn.others_amodal[0, which].nonzero(as_tuple=True)
            expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert drawn.other_boxes[0, which].tolist() == [int(edge) for edge in expected]
        middle = drawn.other_boxes[0][:, [0, 2]].mean(1)
        assert (middle[1] < middle[0]) == (place == "left")
        mixed = draw_mixed_scene(random.Random(1), person_of("tune", 0), being_of("dog", "tune", 0)).change_other(
            place=place
        )
        drawn = render([mixed])
        assert (drawn.other_boxes[0, 0, [0, 2]].mean() < drawn.boxes[0, 0, [0, 2]].mean()) == (place == "left")


def test_every_animal_faces_where_it_should():
    for kind in ("dog", "toy car", "teapot"):
        left, right = render([alone(being(kind, facing=facing)) for facing in ("left", "right")]).others[:, 0]
        assert (left ^ right).sum() > 300 and (left ^ right.flip(-1)).float().mean() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_an_identity_shows(kind):
    animal = kind in ANIMALS
    who = being_of(kind, "tune", 0)
    colours = {"fur": "brown", "second": "white"} if animal else {"colour": "blue", "second": "yellow"}
    numbers = [f.name for f in fields(who) if not isinstance(getattr(who, f.name), str)]
    middle = replace(who, **dict.fromkeys(numbers, 0.45), **colours)  # type: ignore[arg-type]
    views = (("plain", "right"), ("spotted", "right"), ("plain", "ahead") if animal else ("star", "right"))
    moment = {"pose": "standing"} if animal else {}
    scenes = [
        alone((Animal if animal else Thing)(replace(middle, pattern=look, **{n: end}), facing=facing, **moment))  # type: ignore[arg-type]
        for n in numbers
        for look, facing in views
        for end in (0.1, 0.9)
    ]
    image = render(scenes, labels=False).image.unflatten(0, (len(numbers), len(views), 2))
    seen = ((image[:, :, 0] - image[:, :, 1]).abs().amax(2) > 0.08).sum((2, 3)).amax(1)
    assert {number: int(n) for number, n in zip(numbers, seen, strict=True) if n < 12} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_identities_look_different(kind):
    scenes = [alone(being(kind, split, i)) for split in ("train", "heldout") for i in range(4)]
    image = render(scenes, 96, labels=False).image
    for i in range(len(image)):
        for j in range(i):
            assert int(((image[i] - image[j]).abs().amax(0) > 0.1).sum()) > 150, (i, j)


def test_more_than_two_beings_are_refused():
    with pytest.raises(SemblantError, match="at most 2"):
        render([Scene(people=(Person(person_of("tune", 0)),), others=(being("dog"),) * 3)])
