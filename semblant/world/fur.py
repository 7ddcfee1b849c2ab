"""Fur: ragged outlines, spots, stripes and pale chests, wherever on an animal or a thing they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world.being_traits import SPOTS
from semblant.world.beings import Being
from semblant.world.shapes import Canvas, ellipse, largest, ramp
from semblant.world.traits import Measured


def frame(c: Canvas, t: Measured[Being]) -> tuple[Tensor, Tensor]:
    """Coordinates of a being: p to where it faces, q down from the ground under it, in units of its size."""
    return (c.x - t.fx) / t.unit * t.mirror, (c.y - t.fy) / t.unit + 0 * c.x


def ragged(p: Tensor, q: Tensor, t: Measured[Being]) -> Tensor:
    """How far tufts stand out from an outline: waves of two lengths."""
    return t.fluff * (torch.sin(p * 96 + q * 61) + 0.7 * torch.sin(q * 127 - p * 53))


def tufts(c: Canvas, p: Tensor, q: Tensor, d: Tensor, t: Measured[Being]) -> None:
    """Faint strokes of fur inside a shape."""
    strokes = torch.sin(p * 46 + 5 * torch.sin(q * 13)) * torch.sin(q * 33 + p * 9)
    inside = (-d * c.per * 0.3).clamp(0, 1)
    c.tint(((strokes - 0.45) * 2).clamp(0, 1) * inside * (0.10 + 22 * t.fluff), t.ink("dark"))


def spots(c: Canvas, p: Tensor, q: Tensor, d: Tensor, t: Measured[Being], ink: str = "second") -> None:
    """Patches of the identity's own inside the shape `d`."""
    found = None
    for i in range(SPOTS):
        x, y, r = (getattr(t, f"spot_{n}{i}") for n in "xyr")
        one = ellipse(p - x, q - y, r * 1.12, r * 0.92)
        found = one if found is None else torch.minimum(found, one)
    assert found is not None
    c.paint(torch.maximum(found, d + 0.008), t.ink(ink), line=0.45)


def stripes(c: Canvas, across: Tensor, along: Tensor, d: Tensor, t: Measured[Being]) -> None:
    """Tapering stripes inside the shape `d`; `across` counts over them, `along` runs down each, 0 thick .. 1 gone."""
    wave = across * t.often + 0.30 * torch.sin(along * 5 + t.phase)
    wide = 0.24 * (1 - ramp(along, 0.35, 1.0))
    band = ((wave - wave.round()).abs() - wide) / t.often
    c.paint(torch.maximum(band, d + 0.006), t.ink("second"), line=0.45)


def pattern(c: Canvas, p: Tensor, q: Tensor, d: Tensor, t: Measured[Being], back: Tensor, ahead: bool) -> None:
    """What the identity's pattern puts on a body; `back` is the height of the spine."""
    kind = t.people[0].identity.pattern
    if kind == "spotted":
        spots(c, p, q, d, t)
    elif kind == "striped" and ahead:
        stripes(c, q, (0.24 - p.abs()) / 0.24, d, t)
    elif kind == "striped":
        stripes(c, p, (q - back) / (2.6 * t.bulk), d, t)


def bib(c: Canvas, x: Tensor, y: Tensor, d: Tensor, t: Measured[Being]) -> None:
    """A pale chest around the origin of (x, y)."""
    patch = ellipse(x, y, 0.05 + 0.07 * t.bib.clamp(min=0), 0.08 + 0.14 * t.bib.clamp(min=0)) + ragged(y, x, t)
    c.paint(torch.where(t.bib >= 0, largest(patch, d + 0.004), 1.0), t.ink("pale"), line=0.3, soft=1.5)


def shadow(c: Canvas, p: Tensor, q: Tensor, reach: float, middle: float = 0.0) -> None:
    """The dim ground under a being."""
    d = ellipse(p - middle, q + 0.01, reach, 0.055)
    c.tint((0.5 - d / 0.05).clamp(0, 1) * 0.42, torch.zeros(3, 1, 1, 1, device=p.device))
