"""Stances: how two people stand when they do something together, as records before anything is drawn.

What two people do together turns their heads and gazes towards each other and takes their hands, so it decides some
facts of each. `posed` is the person that the picture shows; facts are told of it and it is what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from semblant.errors import SemblantError, closest
from semblant.world.scene import TOGETHER, Person, Scene


@dataclass(frozen=True)
class Stance:
    """What one thing that two people do together asks of each of them."""

    apart: float
    """How far each stands from the middle of the picture, in head units."""
    sway: float = 0.6
    """Share of their own `shift_x` that is left to them."""
    lean: float | None = None
    """How far heads lean towards each other, or None where they lean as they like."""
    busy: bool = True
    """Whether it takes their hands, so that they can do nothing else."""


STANCES: Mapping[str, Stance] = {
    "facing each other": Stance(apart=1.75, busy=False),
    "shaking hands": Stance(apart=1.88),
    "hugging": Stance(apart=1.20, sway=0.15, lean=0.62),
    "talking": Stance(apart=1.95),
    "dancing": Stance(apart=1.75, sway=0.3),
}
"""The stance of everything in `TOGETHER` but "none"."""


def check(scene: Scene) -> None:
    """Raises SemblantError unless what the people do together is known and there are two of them to do it."""
    if scene.together == "none":
        return
    if scene.together not in STANCES:
        raise SemblantError(
            f"unknown together {scene.together!r}; did you mean {closest(scene.together, TOGETHER)}? "
            f"Possible: {', '.join(TOGETHER)}"
        )
    if len(scene.people) != 2:
        raise SemblantError(
            f"{scene.together} takes two people; the scene has {len(scene.people)}. "
            'Give it two, or set together to "none".'
        )


def stance(scene: Scene) -> Stance | None:
    """The stance of the two people of a scene, or None when they do nothing together. Raises like `check`."""
    check(scene)
    return STANCES.get(scene.together)


def posed(scene: Scene, who: int) -> Person:
    """Person `who` as the picture shows them: turned to the other and with free hands where the stance asks for it.

    Their own numbers still tell within the range that the stance leaves. Raises like `check`.
    """
    person, asked = scene.people[who], stance(scene)
    if asked is None:
        return person
    side = 1.0 if who == 0 else -1.0
    return replace(
        person,
        yaw=side * (0.75 + 0.25 * side * person.yaw),
        gaze=side * (0.65 + 0.25 * side * person.gaze),
        tilt=person.tilt if asked.lean is None else side * (asked.lean + 0.15 * side * person.tilt),
        action="none" if asked.busy else person.action,
    )
