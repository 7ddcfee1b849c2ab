"""Which words does a base hear? For every fact, how much worse it predicts under a caption that names a wrong value.

Facts obeyed in samples say whether a word works; this says earlier, and without a judge, whether it has begun to.
`python -m semblant.embedded.hearing` prints, per fact and timestep, by how many per cent the error on people rises, and
how much of the error the fact could explain at most: half the squared change of the latents when it changes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import load
from semblant.backbones.moment import Moment
from semblant.embedded.latents import cell_weights
from semblant.embedded.twins import OF_IDENTITY, OF_THE_MOMENT, change
from semblant.world.captions import compose
from semblant.world.facts import IDENTITY_SCALES, PERSON_SCALES, VALUES, shown
from semblant.world.renderer import render
from semblant.world.scene import Scene, draw_scene, person_of

TIMESTEPS = (200, 350, 500, 650, 800)
SAID = ("style", "background", "clothes", "hair style", "hair colour", "skin")
"""Facts that captions name beside the one in question."""
AT_ONCE = 32


@dataclass(frozen=True)
class Heard:
    """A fact on `count` pictures, at `TIMESTEPS`: rise of the error in per cent, and the most it could explain."""

    fact: str
    count: int
    rise: tuple[float, ...]
    most: tuple[float, ...] | None


@dataclass(frozen=True)
class Seen:
    """Pictures as the base sees them: scenes, latents [n, 4, h, w] and where its errors count [n, 1, h, w]."""

    scenes: list[Scene]
    latents: Tensor
    where: Tensor


@torch.no_grad()
def hearing(base: Base, facts: Sequence[str], pictures: int = 96) -> list[Heard]:
    """How well the base hears each fact, on people of `tune` whom it has not seen, near and drawn in every style."""
    rng = random.Random("semblant hearing")
    cameras = ("close-up", "portrait")
    scenes = [draw_scene(rng, person_of("tune", 500 + i), camera=cameras[i % 2]) for i in range(pictures)]
    seen = _seen(base, scenes)
    return [_heard(base, fact, seen) for fact in facts]


def _seen(base: Base, scenes: list[Scene]) -> Seen:
    latents, where = [], []
    for at in range(0, len(scenes), AT_ONCE):
        drawn = render(scenes[at : at + AT_ONCE])
        latents.append(base.encode(drawn.image * 2 - 1))
        where.append((cell_weights(drawn) > 1).float())
    return Seen(scenes, torch.cat(latents), torch.cat(where))


def _heard(base: Base, fact: str, seen: Seen) -> Heard:
    rng = random.Random(fact)
    rows: list[int] = []
    right: list[str] = []
    wrong: list[str] = []
    for row, scene in enumerate(seen.scenes):
        visible = shown(scene)
        others = [v for v in VALUES[fact] if v not in (visible.get(fact), "average", "none")]
        if visible.get(fact) in (None, "average") or not others:
            continue
        said = {name: visible[name] for name in SAID if name in visible} | {fact: visible[fact]}
        rows.append(row)
        for captions, told in ((right, said), (wrong, said | {fact: rng.choice(others)})):
            captions.append(compose(told, random.Random(row), camera=scene.camera, style=scene.style))
    if not rows:
        return Heard(fact, 0, (), None)
    part = Seen([seen.scenes[row] for row in rows], seen.latents[rows], seen.where[rows])
    errors = [(_error(base, part, right, t), _error(base, part, wrong, t)) for t in TIMESTEPS]
    rise = tuple(round(100 * (worse / own - 1), 2) for own, worse in errors)
    moved = _moved(base, fact, part)
    if moved is None:
        return Heard(fact, len(rows), rise, None)
    ratios = (1 / float(base.schedule.snr(torch.tensor(t))) for t in TIMESTEPS)
    most = tuple(round(100 * moved / (own * ratio), 1) for (own, _), ratio in zip(errors, ratios, strict=True))
    return Heard(fact, len(rows), rise, most)


def _error(base: Base, part: Seen, captions: Sequence[str], t: int) -> float:
    """Mean squared error of the predicted noise where it counts."""
    generator, total = torch.Generator().manual_seed(t), 0.0
    for at in range(0, len(captions), AT_ONCE):
        z, where = part.latents[at : at + AT_ONCE], part.where[at : at + AT_ONCE]
        noise = torch.randn(z.shape, generator=generator)
        count = len(z)
        times = torch.full((count,), t)
        moment = Moment.of(times, role=("target",) * count, picture=tuple(range(count)), step=None, steps=None)
        predicted = base.denoise(
            base.schedule.noised(z, noise, times), moment, base.text(list(captions[at : at + count]))
        )
        total += float(_on(predicted - noise, where).sum())
    return total / len(captions)


def _on(difference: Float[Tensor, "n 4 h w"], where: Tensor) -> Float[Tensor, " n"]:
    return (difference.square() * where).sum((1, 2, 3)) / (where.sum((1, 2, 3)).clamp_min(1) * difference.shape[1])


def _moved(base: Base, fact: str, part: Seen) -> float | None:
    """Half the squared change of latents when the fact is drawn again; None for a fact of the picture."""
    fields = next((group for group in (*OF_IDENTITY, *OF_THE_MOMENT) if FIELDS.get(fact) in group), None)
    if fields is None:
        return None
    rng = random.Random(fact)
    other = _seen(base, [change(scene, fields, rng) for scene in part.scenes])
    return float(_on(other.latents - part.latents, part.where).mean()) / 2


FIELDS = {
    **{fact: scale.fields[0] for fact, scale in (*IDENTITY_SCALES.items(), *PERSON_SCALES.items())},
    **{"eyes": "eye_colour", "hair style": "hair_style", "hair colour": "hair_colour"},
    **{name: name for name in ("expression", "glasses", "hat", "beard", "clothes")},
}
"""Which field of a record a fact is told by."""
FACTS = (*FIELDS, "action", "background")


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or its records as JSON."""
    parser = argparse.ArgumentParser(prog="semblant.embedded.hearing", description=__doc__)
    parser.add_argument("--base", default="embedded", help="an embedded base's folder (default: %(default)s)")
    parser.add_argument("--facts", nargs="+", choices=FACTS, default=FACTS, metavar="FACT", help="(default: all)")
    parser.add_argument("--pictures", type=int, default=96, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    heard = hearing(load(given.base), given.facts, given.pictures)
    if given.json:
        print(json.dumps([vars(record) for record in heard]))
        return
    print("| fact | pictures |", " | ".join(f"t={t}" for t in TIMESTEPS), "|")
    print("|---|---|", "|".join("---" for _ in TIMESTEPS), "|")
    for record in heard:
        most = record.most or [None] * len(record.rise)
        cells = [f"{rise:.2f}" + (f" of {top:.0f}" if top else "") for rise, top in zip(record.rise, most, strict=True)]
        print(f"| {record.fact} | {record.count} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
