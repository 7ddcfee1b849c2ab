"""Animals and things on the canvas: in which order they are painted, and their masks, boxes and depths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semblant.world.animals import alike, draw_animal
from semblant.world.being_traits import measured
from semblant.world.beings import Animal, Being
from semblant.world.scene import Scene
from semblant.world.shapes import Canvas
from semblant.world.things import draw_thing

FIRST = 224
"""Layer codes from here on belong to animals and things."""
EACH = 8
"""Layer codes of each; code 0 of them is unused."""


def key(being: Being) -> str:
    """Beings with the same answer are drawn together."""
    return alike(being) if isinstance(being, Animal) else f"{being.kind}, {being.identity.pattern}"


def draw_some(c: Canvas, scenes: Sequence[Scene], which: int, rows: Sequence[int]) -> None:
    """Paint being `which` of the pictures in `rows`."""
    kinds: dict[str, list[int]] = {}
    for row in rows:
        kinds.setdefault(key(scenes[row].others[which]), []).append(row)
    for same in kinds.values():
        piece = c.part(torch.tensor(same, device=c.image.device))
        traits = measured([scenes[row] for row in same], which, c.image.device)
        piece.per = traits.unit * c.height
        (draw_animal if isinstance(traits.people[0], Animal) else draw_thing)(piece, traits)
        c.merge(piece)


def draw_others(c: Canvas, scenes: Sequence[Scene]) -> list[Tensor | None]:
    """Paint every animal and thing of scenes that have equally many. Returns what each covers, hidden or not.

    What is in something is painted before it, everything else in order.
    """
    count = len(scenes[0].others)
    blank = c.layer is not None
    covered = [torch.zeros_like(c.layer, dtype=torch.bool) if c.layer is not None else None for _ in range(count)]
    rows = range(len(scenes))
    inside = [r for r in rows if count > 1 and scenes[r].others[1].place == "in"]
    turns = [(1, inside), *((w, [r for r in rows if not (w == 1 and r in inside)]) for w in range(count))]
    for which, some in turns:
        if not some:
            continue
        layer = c.scaled(c.per)
        layer.owner = FIRST + EACH * which
        layer.touched = covered[which] if blank else None
        draw_some(layer, scenes, which, some)
    return covered


def depth_of(code: Tensor) -> Tensor:
    """Depth of layer codes of animals and things: nearer than people, a later one and a nearer part in front."""
    inner = code - FIRST
    return 0.13 - 0.03 * (inner // EACH) - 0.012 * (inner % EACH)


def seen(code: Tensor, which: int) -> Tensor:
    """Where being `which` is seen."""
    return (code >= FIRST) & ((code - FIRST) // EACH == which)


def extents(mask: Tensor) -> Tensor:
    """Boxes x0, y0, x1, y1 in pixels around masks (batch, n, h, w); zeros around nothing."""
    columns, rows = mask.any(-2), mask.any(-1)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        found = line.float()
        first = found.argmax(-1)
        last = line.shape[-1] - found.flip(-1).argmax(-1)
        return first * line.any(-1), last * line.any(-1)

    (x0, x1), (y0, y1) = ends(columns), ends(rows)
    return torch.stack([x0, y0, x1, y1], -1).float()
