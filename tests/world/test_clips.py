"""Clips move smoothly and only in what may move."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from semblant.errors import SemblantError
from semblant.world.clips import CYCLES, MOVABLE, clip
from semblant.world.company import draw_whole_world_scene
from semblant.world.facts import facts
from semblant.world.renderer import render
from semblant.world.scene import Person, Scene, draw_training_scene

USUAL = ("yaw", "gaze", "tilt", "intensity", "shift_x")


def two_people() -> Scene:
    return next(s for i in range(200) if len((s := draw_whole_world_scene(i)).people) == 2)


@pytest.mark.parametrize("scene", [draw_training_scene(1), draw_training_scene(2), two_people()])
def test_only_the_moving_numbers_change(scene):
    film = clip(scene, 10, seed=3)
    assert len(film) == 10 and film[0] == scene
    for frame in film:
        assert replace(frame, people=scene.people) == scene
        for was, now in zip(scene.people, frame.people, strict=True):
            different = {f.name for f in fields(Person) if getattr(was, f.name) != getattr(now, f.name)}
            assert different <= set(USUAL) and now.identity is was.identity
    for who in range(len(scene.people)):
        for name in USUAL:
            values = [getattr(frame.people[who], name) for frame in film]
            assert max(values) - min(values) > 0.1, name


@pytest.mark.parametrize("frames", [8, 16])
def test_numbers_stay_in_range_and_move_smoothly(frames):
    for index in range(60):
        film = clip(draw_training_scene(index), frames, tuple(MOVABLE), seed=index)
        for name, (low, high) in MOVABLE.items():
            x = [getattr(frame.people[0], name) for frame in film]
            assert low <= min(x) and max(x) <= high
            bends = [abs(a - 2 * b + c) for a, b, c in zip(x, x[1:], x[2:], strict=False)]
            assert max(bends) <= (high - low) * (2 * math.pi * CYCLES[1] / (frames - 1)) ** 2 / 2 + 1e-9
            # Film run by a coin toss per frame would bend as much as it moves.
            assert max(bends) < 0.8 * (max(x) - min(x)) if frames == 8 else max(bends) < 0.25 * (max(x) - min(x))


def test_clips_are_seeded_and_one_number_more_leaves_the_others_alone():
    scene = draw_training_scene(4)
    assert clip(scene, seed=1) == clip(scene, seed=1) != clip(scene, seed=2)
    few, more = clip(scene, moving=("yaw",)), clip(scene, moving=("tilt", "yaw"))
    assert [f.people[0].yaw for f in few] == [f.people[0].yaw for f in more]
    assert {f.people[0].tilt for f in few} == {scene.people[0].tilt}
    assert clip(scene, 2, moving=()) == [scene, scene]


def test_labels_come_with_every_frame():
    scene = draw_training_scene(2).change(style="photo", camera="portrait", yaw=-0.9, glasses="none")
    film = clip(scene, 8, moving=("yaw",), seed=5)
    drawn = render(film, 48)
    noses = drawn.landmarks[:, 0, 2, 0] - drawn.boxes[:, 0, ::2].mean(-1)
    yaws = [frame.people[0].yaw for frame in film]
    assert sorted(range(8), key=lambda i: float(noses[i])) == sorted(range(8), key=lambda i: yaws[i])
    assert facts(film[0])["turn"] == "left" and len({facts(frame)["turn"] for frame in film}) > 1


def test_what_cannot_move_is_refused():
    with pytest.raises(SemblantError, match="did you mean yaw"):
        clip(draw_training_scene(0), moving=("yav",))
    with pytest.raises(SemblantError, match="2 or more"):
        clip(draw_training_scene(0), frames=1)
