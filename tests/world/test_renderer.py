"""The renderer: one scene, one picture; one fact changed, nothing else moves; every label agrees with the picture."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from semblant.errors import SemblantError
from semblant.world.facts import visible
from semblant.world.renderer import PARTS, Render, render
from semblant.world.scene import (
    ACTIONS,
    BACKGROUNDS,
    CAMERAS,
    CHOICES,
    CLOTHES,
    COLOURS,
    EXPRESSIONS,
    EYE_COLOURS,
    HAIR_COLOURS,
    HAIR_STYLES,
    HATS,
    LIGHTS,
    STYLES,
    Identity,
    Person,
    Scene,
    draw_scene,
    draw_training_scene,
    person_of,
)

NUMBERS = [f.name for f in fields(Identity) if f.name not in CHOICES]
MIDDLE = Identity(**dict.fromkeys(NUMBERS, 0.45), hair_style="short", hair_colour="brown", eye_colour="blue")
SOMEBODY = Scene(people=(Person(MIDDLE),))
CLASS = {name: i for i, name in enumerate(PARTS)}


def changed(before: Scene, after: Scene) -> tuple[torch.Tensor, Render]:
    """Where two scenes' pictures differ, and both renders."""
    both = render([before, after])
    return (both.image[0] - both.image[1]).abs().amax(0) > 0, both


def rows_and_columns(box: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """The mask of a box grown by a share of its size."""
    x0, y0, x1, y1 = box.tolist()
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    at = torch.arange(128) + 0.5
    return ((at > y0 - dy) & (at < y1 + dy))[:, None] & ((at > x0 - dx) & (at < x1 + dx))[None]


def test_the_same_scenes_give_the_same_bits():
    scenes = [draw_training_scene(i) for i in range(6)]
    first, second = render(scenes), render(scenes)
    for f in fields(Render):
        assert torch.equal(getattr(first, f.name), getattr(second, f.name)), f.name


def test_a_scene_alone_equals_the_scene_in_a_batch():
    scenes = [draw_training_scene(i) for i in range(14)]
    together = render(scenes)
    for i in (0, 5, 13):
        alone = render([scenes[i]])
        for f in fields(Render):
            difference = (getattr(alone, f.name)[0].float() - getattr(together, f.name)[i].float()).abs()
            assert (difference <= 1e-5).all(), (f.name, i)


def test_pictures_come_in_the_order_asked_for():
    scenes = [SOMEBODY.change(camera=c, background=b) for c in CAMERAS for b in ("beach", "office")]
    forward, backward = render(scenes, labels=False).image, render(scenes[::-1], labels=False).image
    assert torch.allclose(forward, backward.flip(0), atol=1e-5)


def test_without_labels_the_picture_is_the_same():
    scenes = [draw_training_scene(i) for i in range(6)]
    bare = render(scenes, labels=False)
    assert torch.allclose(bare.image, render(scenes).image, atol=1e-6)
    assert bare.parts.numel() == bare.instances.numel() == bare.depth.numel() == 0


def test_everything_draws_finite_in_range():
    kinds = [
        *(SOMEBODY.change(style=s, camera=c) for s in STYLES for c in CAMERAS),
        *(SOMEBODY.change(background=b) for b in BACKGROUNDS),
        *(SOMEBODY.change(light=light) for light in LIGHTS),
        *(SOMEBODY.change(action=a, clothes=c) for a in ACTIONS for c in CLOTHES),
        *(SOMEBODY.change(hat=h, identity=replace(MIDDLE, hair_style=s)) for h in HATS[:2] for s in HAIR_STYLES),
        *(
            SOMEBODY.change(yaw=y, tilt=t, age=1.0, glasses="glasses", beard="beard")
            for y in (-1.0, 1.0)
            for t in (-1.0, 1.0)
        ),
    ]
    drawn = render(kinds, 64)
    assert drawn.image.isfinite().all() and drawn.image.min() >= 0 and drawn.image.max() <= 1
    assert drawn.depth.min() >= 0 and drawn.depth.max() <= 1
    assert drawn.sketch.isfinite().all() and drawn.sketch.min() >= 0 and drawn.sketch.max() <= 1
    assert drawn.parts.max() < len(PARTS)


@pytest.mark.parametrize("expression", EXPRESSIONS[1:])
def test_an_expression_stays_inside_the_head(expression):
    where, both = changed(SOMEBODY, SOMEBODY.change(expression=expression))
    assert where.sum() > 60
    assert not (where & ~rows_and_columns(both.boxes[0, 0], 0.08)).any()


def test_a_stronger_expression_is_a_larger_change():
    sizes = [
        float((r[0] - r[1]).abs().sum())
        for s in (0.3, 0.6, 1.0)
        for r in [render([SOMEBODY, SOMEBODY.change(expression="smiling", intensity=s)], labels=False).image]
    ]
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_background_leaves_the_person_alone():
    before = SOMEBODY.change(background="beach")
    where, both = changed(before, before.change(background="office"))
    person = both.instances[0, 0].float()
    inside = -F.max_pool2d(-person[None, None], 5, stride=1, padding=2)[0, 0] > 0
    assert not (where & inside).any()
    assert where[person == 0].float().mean() > 0.8


@pytest.mark.parametrize("kind", ["glasses", "sunglasses"])
def test_glasses_touch_only_the_region_of_the_eyes(kind):
    where, both = changed(SOMEBODY, SOMEBODY.change(glasses=kind))
    x0, y0, x1, y1 = both.boxes[0, 0].tolist()
    eyes = both.landmarks[0, 0, :2, 1].mean()
    ys = where.any(1).nonzero()[:, 0].float() + 0.5
    assert where.sum() > 60
    assert (ys - eyes).abs().max() < 0.20 * (y1 - y0)
    assert (both.parts[1] == CLASS["eye_g"]).sum() > 40 and not (both.parts[0] == CLASS["eye_g"]).any()


def test_clothes_and_their_colour_leave_the_face_alone():
    for facts in ({"clothes_colour": "red"}, {"clothes": "suit"}, {"clothes": "hoodie"}, {"clothes": "dress"}):
        where, both = changed(SOMEBODY, SOMEBODY.change(0, **facts))
        face = torch.isin(
            both.parts[0], torch.tensor([CLASS[n] for n in ("skin", "nose", "l_eye", "r_eye", "hair", "u_lip")])
        )
        inside = -F.max_pool2d(-face.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
        assert where.any() and not (where & inside).any(), facts


def test_the_gaze_moves_only_the_eyes():
    where, both = changed(SOMEBODY, SOMEBODY.change(gaze=0.7))
    eyes = torch.isin(both.parts[0], torch.tensor([CLASS["l_eye"], CLASS["r_eye"]]))
    near = F.max_pool2d(eyes.float()[None, None], 5, stride=1, padding=2)[0, 0] > 0
    assert where.any() and not (where & ~near).any()


def test_the_seed_settles_only_the_background():
    where, both = changed(SOMEBODY.change(background="city"), SOMEBODY.change(background="city", seed=7))
    inside = -F.max_pool2d(-both.instances[0].float()[None], 5, stride=1, padding=2)[0, 0] > 0
    assert where.any() and not (where & inside).any()


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_of_an_identity_shows(number):
    base = replace(MIDDLE, mole_size=0.9) if number.startswith("mole_") else MIDDLE
    ends: list[dict[str, Any]] = [{number: 0.1}, {number: 0.9}]
    pair = [Scene(people=(Person(replace(base, **end)),)) for end in ends]
    r = render(pair, labels=False).image
    # Two levels that no eye misses: enough pixels, each by enough.
    assert ((r[0] - r[1]).abs().amax(0) > 0.08).sum() >= 12


def test_every_choice_of_an_identity_and_every_colour_shows():
    hair = render([SOMEBODY.change(identity=replace(MIDDLE, hair_colour=c)) for c in HAIR_COLOURS], labels=False).image
    eyes = render(
        [SOMEBODY.change(camera="close-up", identity=replace(MIDDLE, eye_colour=c)) for c in EYE_COLOURS], labels=False
    ).image
    hats = render([SOMEBODY.change(hat="cap", hat_colour=c) for c in COLOURS], labels=False).image
    for family, least in ((hair, 400), (eyes, 30), (hats, 300)):
        for i in range(len(family)):
            for j in range(i):
                assert ((family[i] - family[j]).abs().amax(0) > 0.10).sum() >= least, (i, j)


def test_dyed_hair_wins_over_age_and_identity():
    dyed = render(
        [
            SOMEBODY.change(dyed="blue", age=a, identity=replace(MIDDLE, hair_colour=c))
            for a, c in ((0.3, "red"), (1.0, "black"))
        ]
    )
    for i in range(2):
        r, g, b = dyed.image[i][:, dyed.parts[i] == CLASS["hair"]].mean(1)
        assert b > 1.5 * r and b > 1.3 * g


def test_boxes_hold_landmarks_and_landmarks_lie_on_their_parts():
    people = [
        Person(person_of("train", i), yaw=y, tilt=t)
        for i, (y, t) in enumerate(((0, 0), (-1, 0.5), (1, -0.5), (0.5, 1), (0, -1)))
    ]
    scenes = [Scene(people=(p,), camera=c) for p in people for c in CAMERAS]
    drawn = render(scenes)
    assert ((drawn.boxes[..., :2] >= -20) & (drawn.boxes[..., 2:] <= 148)).all()
    for i in range(len(scenes)):
        x0, y0, x1, y1 = drawn.boxes[i, 0].tolist()
        points = drawn.landmarks[i, 0]
        assert (
            (points[:, 0] > x0).all()
            and (points[:, 0] < x1).all()
            and (points[:, 1] > y0).all()
            and (points[:, 1] < y1).all()
        )
        for point, names in zip(points, (("r_eye",), ("l_eye",), ("nose",)), strict=False):
            x, y = point.round().long().tolist()
            patch = drawn.parts[i, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            assert any((patch == CLASS[n]).any() for n in names), (i, names)


def test_faces_are_as_tall_as_the_camera_says():
    for camera, share in (("close-up", 0.60), ("portrait", 0.45), ("half body", 0.32)):
        box = render([SOMEBODY.change(camera=camera)]).boxes[0, 0]
        assert abs(float(box[3] - box[1]) / 128 - share) < 0.04


def test_parts_agree_with_masks():
    drawn = render([draw_training_scene(i) for i in range(8)])
    named = drawn.parts > 0
    assert not (named & ~drawn.instances[:, 0]).any()
    assert not (drawn.instances & ~drawn.amodal).any()
    hold = render([SOMEBODY.change(action="holding a basketball"), SOMEBODY])
    assert hold.amodal[0, 0].sum() > hold.instances[0, 0].sum() + 300
    assert hold.amodal[1, 0].sum() == hold.instances[1, 0].sum()
    assert (drawn.depth[:, 0][drawn.instances[:, 0]] < 0.45).all()


def test_two_people_stand_side_by_side_the_second_in_front():
    two = Scene(people=(Person(MIDDLE, clothes="dress"), Person(person_of("train", 3), hat="cap")), background="beach")
    drawn = render([two, SOMEBODY])
    assert (
        drawn.instances.shape == (2, 2, 128, 128) and not drawn.instances[1, 1].any() and (drawn.boxes[1, 1] == 0).all()
    )
    assert not (drawn.instances[0, 0] & drawn.instances[0, 1]).any()
    assert drawn.boxes[0, 0, 2] < drawn.boxes[0, 1, 0]
    assert torch.equal(drawn.instances[0, 1], drawn.amodal[0, 1])
    assert drawn.instances[0].sum((1, 2)).min() > 800


def test_sizes_share_one_layout():
    scenes = [SOMEBODY.change(style=s, action="reading a book") for s in ("photo", "cartoon", "watercolour")]
    small, large = render(scenes, 64), render(scenes, 256)
    assert (small.image - F.avg_pool2d(large.image, 4)).abs().mean() < 0.04
    assert torch.allclose(small.boxes * 4, large.boxes, atol=1e-2)
    assert (small.instances[:, 0] ^ large.instances[:, 0, 2::4, 2::4]).float().mean() < 0.02


def test_nobody_and_nothing():
    empty = render([Scene(people=(), background="snow")])
    assert empty.instances.shape == (1, 0, 128, 128) and (empty.parts == 0).all() and empty.boxes.shape == (1, 0, 4)
    assert render([]).image.shape == (0, 3, 128, 128)


def test_refusals_say_what_is_possible():
    with pytest.raises(SemblantError, match="at most 6"):
        render([Scene(people=(Person(MIDDLE),) * 7)])
    with pytest.raises(SemblantError, match="16 px or more"):
        render([SOMEBODY], 8)


def test_a_mole_that_may_be_told_is_seen_and_one_that_is_covered_is_not():
    moles = []
    for index in range(260):
        rng = random.Random(f"mole {index}")
        identity = replace(person_of("tune", index), mole_size=0.9, freckles=0.2)
        fixed = {"style": "photo", "light": "plain", "camera": "close-up", "beard": "none"}
        moles.append(draw_scene(rng, identity, **fixed))
    told = [visible(scene, "mole") for scene in moles]
    covered = [scene for scene, seen in zip(moles, told, strict=True) if not seen]
    some = [scene for scene, seen in zip(moles, told, strict=True) if seen][:60]
    assert 15 < len(covered) < 90
    without = [replace(s, people=(replace(s.people[0], identity=replace(s.people[0].identity, mole_size=0.2)),))
               for s in (*some, *covered)]  # fmt: skip
    changed = (render([*some, *covered], labels=False).image - render(without, labels=False).image).abs().sum(1)
    pixels = (changed > 0.12).flatten(1).sum(1)
    assert (pixels[: len(some)] >= 2).float().mean() > 0.95
    assert (pixels[len(some) :] < 2).float().mean() > 0.5


@pytest.mark.parametrize(
    ("here", "there", "pixels"),
    [
        ({"age": 0.13}, {"age": 0.27}, 25),
        ({"freckles": 0.6}, {"freckles": 0.4}, 30),
        ({"mole_size": 0.6}, {"mole_size": 0.4}, 13),
    ],
    ids=["young", "freckled", "with a mole"],
)
def test_what_has_a_word_shows_where_it_is_faintest(here, there, pixels):
    """Half of some people differ by that many pixels between the faintest that has the word and the nearest without."""
    found = []
    for index in range(8):
        bare = replace(person_of("tune", index), freckles=0.2, mole_size=0.2, mole_x=0.2, mole_y=0.6)
        pair = []
        for change in (here, there):
            age = change.get("age", 0.4)
            who = replace(bare, **{name: value for name, value in change.items() if name != "age"})
            pair.append(Scene(people=(Person(who, age=age),)))
        image = render(pair, labels=False).image
        found.append(int(((image[0] - image[1]).abs().amax(0) > 0.1).sum()))
    assert sorted(found)[4] >= pixels, found
