"""A dog, a cat or a bear: sitting, standing or lying, seen from its side or from the front.

Every shape is drawn in the animal's own frame: p to where it faces, q down, the ground at q = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world.animal_heads import draw_head
from semblant.world.beings import Animal, Being
from semblant.world.fur import bib, frame, pattern, ragged, shadow, tufts
from semblant.world.shapes import Canvas, ellipse, melt, taper
from semblant.world.traits import Measured

BODY, HEAD, NOSE = 1, 2, 3
"""Layer codes of an animal's parts; nearer parts have higher ones."""


def tail(
    c: Canvas, t: Measured[Being], p: Tensor, q: Tensor, x: Tensor | float, y: Tensor | float, rise: float
) -> None:
    """A tail from (x, y), curling up from the direction `rise` (0 along the ground .. 1 straight up)."""
    angle = torch.zeros_like(t.curl) + 1.45 * rise
    d = None
    step = t.tail / 5
    for i in range(5):
        nx, ny = x - step * torch.cos(angle), y - step * torch.sin(angle)
        piece = taper(p, q, x, y, nx, ny, t.tail_w * (1.0 - 0.07 * i), t.tail_w * (0.93 - 0.07 * i))
        d = piece if d is None else torch.minimum(d, piece)
        x, y, angle = nx, ny, angle + t.curl * 0.42
    assert d is not None
    d = d + 1.4 * ragged(p, q, t)
    c.paint(d, t.ink("fur"), BODY, relief=0.40, width=0.06)
    if t.people[0].identity.pattern == "striped":
        rings = torch.sin((p + q) * 58)
        c.paint(torch.maximum((0.35 - rings) / 58, d + 0.004), t.ink("second"), line=0.3)
    elif t.people[0].identity.pattern == "spotted":
        tip = torch.maximum(ellipse(p - x, q - y, 0.09, 0.09), d + 0.004)
        c.paint(tip, t.ink("second"), line=0.3)


def leg(
    c: Canvas,
    t: Measured[Being],
    p: Tensor,
    q: Tensor,
    top: tuple[Tensor | float, Tensor | float],
    foot: Tensor | float,
    ground: float = 0.0,
    ink: str = "fur",
    ahead: bool = False,
) -> None:
    """One leg down to its paw."""
    low = ground - 0.042
    d = taper(p, q, top[0], top[1], foot, low, t.leg * 1.30, t.leg * 0.92)
    c.paint(d + 0.5 * ragged(p, q, t), t.ink(ink), BODY, relief=0.40, width=0.08)
    paw(c, t, p - foot - (0.0 if ahead else 0.03), q - low - 0.006, ink, ahead)


def paw(c: Canvas, t: Measured[Being], x: Tensor, y: Tensor, ink: str = "fur", ahead: bool = False) -> None:
    """A paw around the origin, with its toes."""
    wide = t.leg * (1.18 if ahead else 1.42)
    c.paint(ellipse(x, y, wide, t.leg * 0.80), t.ink("pale" if ink == "fur" else ink), BODY, relief=0.40, width=0.05)
    for side in (-0.34, 0.34):
        toe = torch.maximum((x - side * wide - (0.0 if ahead else 0.02)).abs() - 0.006, (y - 0.02).abs() - 0.020)
        c.paint(toe, t.ink("deep"), line=0, fill=0.6)


def trunk(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor, d: Tensor, back: Tensor, ahead: bool) -> Tensor:
    """Paint a body, its fur and its pattern. Returns its ragged outline."""
    d = d + ragged(p, q, t)
    c.paint(d, t.ink("fur"), BODY, relief=0.42, width=0.20)
    tufts(c, p, q, d, t)
    pattern(c, p, q, d, t, back, ahead)
    return d


def standing(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """Seen from its side, all four legs on the ground."""
    high = t.legs + t.bulk * 0.80
    shadow(c, p, q, 0.46)
    tail(c, t, p, q, -t.long - t.bulk * 0.60, -high - 0.35 * t.bulk, 0.45)
    leg(c, t, p, q, (t.long + 0.03, -high + 0.02), t.long + 0.10, -0.025, "far")
    leg(c, t, p, q, (-t.long + 0.07, -high + 0.02), -t.long + 0.06, -0.025, "far")
    body = taper(p, q, -t.long, -high, t.long, -high - 0.02, t.bulk * 0.96, t.bulk * 1.08)
    neck = taper(p, q, t.long + 0.01, -high - 0.05, t.hx, t.hy + 0.06, t.bulk * 0.80, t.head * 0.62)
    hip = ellipse(p + t.long, q + high * 0.92, t.bulk * 0.98, t.bulk * 1.10)
    d = trunk(c, t, p, q, melt(melt(body, neck, 0.12), hip, 0.08), -high - t.bulk, False)
    bib(c, p - t.long - 0.09, q + high + 0.03, d, t)
    leg(c, t, p, q, (t.long - 0.01, -high + t.bulk * 0.45), t.long)
    leg(c, t, p, q, (-t.long - 0.02, -high + t.bulk * 0.40), -t.long - 0.03)


def sitting(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """Seen from its side, upright on its haunches."""
    shadow(c, p, q, 0.40)
    tail(c, t, p, q, -0.22 - t.bulk * 0.7, -0.07, 0.05)
    leg(c, t, p, q, (0.13, -0.44), 0.20, -0.02, "far")
    body = taper(p, q, -0.13 - 0.2 * t.long, -0.22, 0.08, -0.54, t.bulk * 1.28, t.bulk * 0.98)
    neck = taper(p, q, 0.07, -0.52, t.hx, t.hy + 0.05, t.bulk * 0.90, t.head * 0.70)
    d = trunk(c, t, p, q, melt(body, neck, 0.12), -0.62 + 0.9 * (0.1 - p).clamp(min=0), False)
    bib(c, p - 0.155, q + 0.47, d, t)
    leg(c, t, p, q, (0.09, -0.42), 0.11)
    haunch = ellipse(p + 0.16, q + 0.17, t.bulk * 1.12, t.bulk * 1.02).clamp(min=-1) + ragged(p, q, t)
    c.paint(haunch, t.ink("fur"), BODY, relief=0.45, width=0.14)
    pattern(c, p, q, haunch + 0.01, t, -0.34 + 0 * t.bulk, False)
    paw(c, t, p + 0.02, q + 0.040)


def lying(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """Seen from its side, flat on the ground with its head up."""
    shadow(c, p, q, 0.50)
    tail(c, t, p, q, -t.long - t.bulk * 0.85, -0.09, 0.02)
    leg(c, t, p, q, (0.20, -0.10), 0.47, -0.03, "far")
    body = taper(p, q, -t.long, -t.bulk * 0.98, 0.18, -t.bulk * 1.05 - 0.03, t.bulk * 1.0, t.bulk * 1.0)
    neck = taper(p, q, 0.17, -t.bulk - 0.05, t.hx, t.hy + 0.06, t.bulk * 0.90, t.head * 0.70)
    d = trunk(c, t, p, q, melt(body, neck, 0.12), -2.05 * t.bulk, False)
    bib(c, p - 0.27, q + 0.24, d, t)
    haunch = ellipse(p + t.long - 0.03, q + t.bulk * 0.88, t.bulk * 1.05, t.bulk * 0.90) + ragged(p, q, t)
    c.paint(haunch, t.ink("fur"), BODY, relief=0.45, width=0.14)
    pattern(c, p, q, haunch + 0.01, t, -1.8 * t.bulk, False)
    paw(c, t, p + t.long - 0.15, q + 0.040)
    leg(c, t, p, q, (0.16, -0.09), 0.36)


def standing_ahead(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """Standing, seen from the front."""
    wide = t.bulk * 1.08
    shadow(c, p, q, 0.34)
    tail(c, t, p, q, -wide * 0.55, -t.legs - t.bulk * 1.2, 0.75)
    for side in (-1.0, 1.0):
        leg(c, t, p * side, q, (wide * 0.80, -t.legs - 0.10), wide * 0.95, -0.035, "far", ahead=True)
    body = ellipse(p, q + t.legs + t.bulk * 1.05, wide * 1.05, t.bulk * 1.45)
    chest = taper(p, q, 0.0, -t.legs - t.bulk * 1.2, 0.0, t.hy + 0.05, wide * 0.92, t.head * 0.74)
    d = trunk(c, t, p, q, melt(body, chest, 0.10), t.hy, True)
    bib(c, p, q + t.legs + t.bulk * 1.35, d, t)
    for side in (-1.0, 1.0):
        leg(c, t, p * side, q, (wide * 0.52, -t.legs - 0.06), wide * 0.56, 0.0, ahead=True)


def sitting_ahead(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """Sitting, seen from the front."""
    wide = t.bulk * 1.15
    shadow(c, p, q, 0.38)
    tail(c, t, p, q, -wide - 0.06, -0.06, 0.05)
    for side in (-1.0, 1.0):
        x = p * side
        thigh = ellipse(x - wide * 0.92, q + 0.15, t.bulk * 0.78, 0.145) + ragged(p, q, t)
        c.paint(thigh, t.ink("far"), BODY, relief=0.45, width=0.12)
    base = ellipse(p, q + 0.24, wide * 1.08, 0.23)
    chest = taper(p, q, 0.0, -0.26, 0.0, t.hy + 0.06, wide * 0.98, t.head * 0.80)
    d = trunk(c, t, p, q, melt(base, chest, 0.12), t.hy, True)
    bib(c, p, q + 0.44, d, t)
    for side in (-1.0, 1.0):
        x = p * side
        paw(c, t, x - wide * 1.02 - 0.03, q + 0.038, ahead=True)
        leg(c, t, x, q, (wide * 0.44, -0.38), wide * 0.42, 0.0, ahead=True)


def lying_ahead(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """Lying, seen from the front, its forelegs stretched towards us."""
    wide = t.bulk * 1.75
    shadow(c, p, q, 0.44)
    tail(c, t, p, q, -wide * 0.95, -0.10, 0.15)
    body = ellipse(p, q + t.bulk * 1.05 + 0.02, wide, t.bulk * 1.12)
    chest = taper(p, q, 0.0, -0.16, 0.0, t.hy + 0.08, t.bulk * 1.1, t.head * 0.80)
    d = trunk(c, t, p, q, melt(body, chest, 0.10), t.hy, True)
    bib(c, p, q + 0.20, d, t)
    for side in (-1.0, 1.0):
        x = p * side
        thigh = ellipse(x - wide * 0.86, q + 0.11, t.bulk * 0.66, 0.11) + ragged(p, q, t)
        c.paint(thigh, t.ink("fur"), BODY, relief=0.45, width=0.10)
        paw(c, t, x - wide * 0.98, q + 0.036, ahead=True)
        fore = ellipse(x - t.bulk * 0.78, q + 0.060, t.leg * 1.45, 0.072)
        c.paint(fore, t.ink("fur"), BODY, relief=0.45, width=0.06)
        paw(c, t, x - t.bulk * 0.80, q + 0.034, ahead=True)


BODIES = {
    ("standing", False): standing,
    ("sitting", False): sitting,
    ("lying", False): lying,
    ("standing", True): standing_ahead,
    ("sitting", True): sitting_ahead,
    ("lying", True): lying_ahead,
}


def alike(being: Being) -> str:
    """Animals with the same answer are drawn together."""
    assert isinstance(being, Animal)
    return f"{being.kind}, {being.pose}, {being.facing == 'ahead'}, {being.identity.pattern}"


def draw_animal(c: Canvas, t: Measured[Being]) -> None:
    """Paint animals that are `alike` over what is there."""
    first = t.people[0]
    assert isinstance(first, Animal)
    p, q = frame(c, t)
    BODIES[first.pose, first.facing == "ahead"](c, t, p, q)
    draw_head(c.scaled(c.per * t.head), t, (p - t.hx) / t.head, (q - t.hy) / t.head, HEAD, NOSE)
