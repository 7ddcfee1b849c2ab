"""What a picture of two people shows of them together, and whether a caption says anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from semblant.world.facts import PICTURE_FACTS, contradictions, shown
from semblant.world.scene import Scene
from semblant.world.stances import check

SIDES = ("left", "right")
"""The two people of a picture, in their order in a scene."""
SMALL_ACTS = ("shaking hands", "talking")
"""What hands of a few blocks in pixel art cannot tell."""


class Claims(Protocol):
    """What a text says of two people; `captions.Reading` is one."""

    @property
    def facts(self) -> dict[str, str]: ...
    @property
    def together(self) -> str: ...
    @property
    def left(self) -> dict[str, str]: ...
    @property
    def right(self) -> dict[str, str]: ...


def together_visible(scene: Scene) -> bool:
    """Whether the picture shows what its people do together. Raises SemblantError when they cannot do it."""
    check(scene)
    if scene.camera == "close-up" and scene.together == "shaking hands":
        return False
    return not (scene.style == "pixel art" and scene.together in SMALL_ACTS)


def facing(scene: Scene) -> bool:
    """Whether two people are clearly turned to each other, whatever else they do."""
    return len(scene.people) == 2 and (shown(scene, 0).get("turn"), shown(scene, 1).get("turn")) == ("right", "left")


def doing(together: str, scene: Scene) -> bool:
    """Whether it may be said of the scene's people that they do this together."""
    return together in ("none", scene.together) or (together == "facing each other" and facing(scene))


def pair_contradictions(named: Claims, scene: Scene) -> tuple[str, ...]:
    """What a caption says of two people that the picture contradicts: "together", "left: hat", "background".

    A fact said of both must hold of each. What the picture hides contradicts nothing. Of a picture that does not show
    exactly two people every claim about one of two, or about both together, is false.
    """
    claims: dict[str, Mapping[str, str]] = dict(zip(SIDES, (named.left, named.right), strict=True))
    if len(scene.people) != 2:
        found = [f"{side}: {fact}" for side, said in claims.items() for fact in said]
        return (*(["together"] if named.together != "none" else []), *found)
    of_picture = {fact: value for fact, value in named.facts.items() if fact in PICTURE_FACTS}
    of_both = {fact: value for fact, value in named.facts.items() if fact not in PICTURE_FACTS}
    wrong = list(contradictions(of_picture, scene))
    if together_visible(scene) and not doing(named.together, scene):
        wrong.append("together")
    for who, side in enumerate(SIDES):
        wrong += [f"{side}: {fact}" for fact in contradictions({**of_both, **claims[side]}, scene, who)]
    return tuple(wrong)
