"""Prompts that measure and show a base: captions of random facts, and what the demo asks for."""

from __future__ import annotations

import random
from collections.abc import Callable

from semblant.world.beings import KINDS
from semblant.world.captions import Reading, compose, read, write
from semblant.world.company import draw_being_identity, draw_being_scene, draw_pair_of_people
from semblant.world.facts import DEFAULTS, shown
from semblant.world.phrases import can_say
from semblant.world.scene import HATS, LIGHTS, Scene, draw_identity, draw_scene


def evaluation_captions(count: int = 512) -> list[tuple[str, dict[str, str]]]:
    """`count` captions and the four to seven facts each names, drawn at random: nobody's, in combinations of their own.

    Deterministic, and the first n of more are the same n. The noun is always "person". Facts can be seen together:
    no hair colour under a helmet, no action in a close-up. Hats and lights are commoner than in training, so that
    each of their values is measured.
    """
    captions: list[tuple[str, dict[str, str]]] = []
    seen: set[str] = set()
    index = 0
    while len(captions) < count:
        rng = random.Random(f"semblant evaluation caption {index}")
        index += 1
        even = {"hat": rng.choices(HATS, (6, 1, 1, 1, 1))[0], "light": rng.choice(LIGHTS)}
        scene = draw_scene(rng, draw_identity(rng), **even)
        telling = {
            fact: value
            for fact, value in shown(scene).items()
            if can_say(fact, value) and value != "average" and DEFAULTS.get(fact) != value
        }
        size = rng.randint(4, 7)
        others = [fact for fact in telling if fact != "style"]
        chosen = rng.sample(others, min(size - 1, len(others)))
        said = {"style": scene.style} | {fact: telling[fact] for fact in chosen}
        caption = compose(said, rng, camera=scene.camera, style=scene.style)
        if len(said) >= 4 and caption not in seen:
            seen.add(caption)
            captions.append((caption, read(caption).facts))
    return captions


TOLD_APART = frozenset(
    ("glasses", "hat", "hat colour", "beard", "hair style", "hair colour", "expression", "clothes", "clothes colour")
)
"""Facts that tell two people of one picture apart from a distance."""


def captions_of_two(count: int = 128) -> list[tuple[str, Scene]]:
    """`count` captions of two people, nobody's, that name one to three facts of the left one and of the right one; each
    with the scene it was written of.

    Deterministic, and the first n of more are the same n.
    """
    draw = lambda rng, _: draw_pair_of_people(rng, draw_identity(rng), draw_identity(rng))
    telling = lambda told: all(0 < len(said) <= 3 and said.keys() <= TOLD_APART for said in (told.left, told.right))
    return _captions("pair", count, draw, telling)


def captions_of_beings(count: int = 64) -> list[tuple[str, Scene]]:
    """`count` captions of one animal or thing alone, nobody's, that name at least one fact beside its kind; each with
    the scene it was written of. Every kind comes in turn.

    Deterministic, and the first n of more are the same n.
    """
    draw = lambda rng, place: draw_being_scene(rng, draw_being_identity(rng, KINDS[place % len(KINDS)]))
    return _captions("being", count, draw, lambda told: len(told.others) == 1 and len(told.others[0]) > 1)


def _captions(
    what: str, count: int, draw: Callable[[random.Random, int], Scene], telling: Callable[[Reading], bool]
) -> list[tuple[str, Scene]]:
    """The first `count` captions that tell enough, each once, with their scenes; `draw` hears how many there are."""
    captions: dict[str, Scene] = {}
    index = 0
    while len(captions) < count:
        rng = random.Random(f"semblant evaluation {what} {index}")
        index += 1
        scene = draw(rng, len(captions))
        caption = write(scene, rng)
        if telling(read(caption)):
            captions.setdefault(caption, scene)
    return list(captions.items())


def demo_prompts() -> tuple[str, ...]:
    """Eight prompts of plain facts, with `{}` for the subject's word."""
    return (
        "a photo of {} playing guitar on the beach",
        "an oil painting of {} in the forest",
        "a photo of {} wearing a red cowboy hat in the desert",
        "a photo of {} holding a cup of latte in the kitchen",
        "a photo of {} smiling with sunglasses in the city",
        "a photo of an old {} in the snow",
        "a sketch of {} reading a book",
        "a cartoon of {} looking surprised in front of the eiffel tower",
    )
