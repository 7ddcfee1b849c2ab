"""Clips: short films of a scene, frame by frame as scenes, so that every label comes with every frame.

Some numbers of each person move, each on its own slow wave; everything else, identity, clothes, background and its seed
among them, is that of the scene in every frame.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from semblant.errors import SemblantError, closest
from semblant.world.scene import Person, Scene

MOVABLE: Mapping[str, tuple[float, float]] = {
    "yaw": (-1.0, 1.0),
    "gaze": (-1.0, 1.0),
    "tilt": (-1.0, 1.0),
    "intensity": (0.0, 1.0),
    "shift_x": (-1.0, 1.0),
    "shift_y": (-1.0, 1.0),
    "zoom": (0.0, 1.0),
}
"""The numbers of a `Person` that may move, and their ranges."""
CYCLES = (0.4, 0.8)
"""Least and most swings, there and back, of a number in one clip."""
REACH = (0.45, 1.0)
"""Least and most of the room to the farther end of its range that a number moves over."""


def clip(
    scene: Scene,
    frames: int = 8,
    moving: Sequence[str] = ("yaw", "gaze", "tilt", "intensity", "shift_x"),
    seed: int = 0,
) -> list[Scene]:
    """`frames` scenes in which the numbers `moving` of every person change smoothly; the first is the scene itself.

    Each number swings from its own value v towards a drawn one w: v + (w - v) (1 - cos(2 pi c t)) / 2 with t from 0 to
    1 over the clip and c drawn in `CYCLES`. So it stays between the two, and its second difference from frame to frame
    is at most |w - v| (2 pi c / (frames - 1))^2 / 2. The draws are keyed by seed, person and number: one number more
    leaves the others' ways alone.

    Raises SemblantError for fewer than two frames or numbers that cannot move.
    """
    if frames < 2:
        raise SemblantError(f"a clip of {frames} frames does not move; ask for 2 or more (8 to 16 are usual)")
    for name in moving:
        if name not in MOVABLE:
            raise SemblantError(
                f"{name!r} cannot move; did you mean {closest(name, tuple(MOVABLE))}? Possible: {', '.join(MOVABLE)}"
            )
    film = [scene] * frames
    for who, person in enumerate(scene.people):
        ways = {name: _way(person, who, name, seed) for name in moving}
        for at in range(1, frames):
            t = at / (frames - 1)
            moved = {name: start + span * _swing(cycles * t) for name, (start, span, cycles) in ways.items()}
            film[at] = film[at].change(who, **moved)
    return film


def _swing(cycles: float) -> float:
    """0 at rest, 1 at the far end of a swing, there and back in one cycle."""
    return (1 - math.cos(2 * math.pi * cycles)) / 2


def _way(person: Person, who: int, name: str, seed: int) -> tuple[float, float, float]:
    """Where a number starts, how far it swings (either way), and how many cycles the clip lasts."""
    rng = random.Random(f"clip {seed} {who} {name}")
    low, high = MOVABLE[name]
    start = float(getattr(person, name))
    far = high if high - start > start - low else low
    return start, (far - start) * rng.uniform(*REACH), rng.uniform(*CYCLES)
