"""Heads of dogs, cats and bears, in units of half a head: u to where the animal faces, v down."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world.beings import Being
from semblant.world.shapes import (
    Canvas,
    circle,
    ellipse,
    largest,
    length,
    melt,
    ramp,
    segment,
    smallest,
    taper,
    triangle,
)
from semblant.world.traits import Measured

AWAY = 999.0
"""So far off that nothing is drawn."""
PRICKED = 0.22
"""A dog's ears stand up when they droop less than this."""


def tone(t: Measured[Being], r: float, g: float, b: float) -> Tensor:
    return torch.tensor((r, g, b), device=t.unit.device)[:, None, None, None]


def pricked(c: Canvas, t: Measured[Being], x: Tensor, v: Tensor, code: int, tall: float, cat: bool) -> None:
    """An ear that stands up, rooted at the origin's height; x to its outer side."""
    tip, root = -0.42 * t.hh - t.ear * tall, -0.34 * t.hh
    lean = -0.04 + 0.40 * t.droop if cat else 0.16 + 0 * t.droop

    def shape(k: float) -> Tensor:
        wide = t.ear_w * k
        return triangle(
            x - t.ear_x,
            v,
            ((lean + 0 * wide, tip + (1 - k) * 0.45 * t.ear), (wide, root + 0 * wide), (-wide * 1.1, root + 0 * wide)),
        )

    outer = shape(1.0) - 0.05
    c.paint(outer, t.ink("fur"), code, relief=0.40, width=0.20)
    c.paint(shape(0.52) - 0.03, t.ink("inner"), line=0.5)


def hanging(c: Canvas, t: Measured[Being], x: Tensor, v: Tensor, code: int) -> None:
    """An ear that falls from the crown down the side of the head."""
    bend = t.hw + 0.10
    down = -0.62 + 1.55 * t.ear * (0.45 + 0.75 * t.droop)
    upper = taper(x, v, t.ear_x * 0.80, -0.66 * t.hh, bend, -0.46, 0.14, t.ear_w * 0.66)
    lower = taper(x, v, bend, -0.46, bend + 0.14 - 0.20 * t.droop, down, t.ear_w * 0.66, t.ear_w * 0.82)
    c.paint(melt(upper, lower, 0.12), t.ink("dark"), code, relief=0.45, width=0.25)


def round_ear(c: Canvas, t: Measured[Being], x: Tensor, v: Tensor, code: int) -> None:
    """A bear's ear."""
    cx, cy = t.ear_x * 1.04, (-0.90 + 0.14 * t.droop) * t.hh
    c.paint(
        ellipse(x - cx, v - cy, t.ear * (0.48 + 1.0 * t.ear_w), t.ear * 0.78),
        t.ink("fur"),
        code,
        relief=0.40,
        width=0.20,
    )
    c.paint(circle(x - cx, v - cy - 0.03, t.ear * 0.46), t.ink("inner"), line=0.5)


def eye(c: Canvas, t: Measured[Being], x: Tensor, v: Tensor, cat: bool) -> None:
    """One eye around the origin."""
    r = t.eye
    slim = 0.86 if cat else 1.0
    c.paint(ellipse(x, v, r * 1.14, r * 1.14 * slim), t.ink("line"), line=0.8, fill=0.5)
    c.paint(ellipse(x, v, r * 0.94, r * 0.94 * slim), t.ink("eye"), line=0, fill=-1.0)
    if cat:
        c.paint(ellipse(x, v, r * 0.30, r * 0.74), tone(t, 0.04, 0.03, 0.04), line=0, fill=1.0)
    else:
        c.paint(circle(x, v, r * 0.62), tone(t, 0.04, 0.03, 0.04), line=0, fill=1.0)
    c.paint(circle(x * t.mirror + 0.30 * r, v + 0.34 * r, r * 0.26), tone(t, 1.0, 1.0, 1.0), line=0, fill=0)


def marks(c: Canvas, t: Measured[Being], u: Tensor, v: Tensor, d: Tensor, shift: Tensor) -> None:
    """Blaze, stripes on the forehead or a patch around one eye, inside the head `d`."""
    kind = t.people[0].identity.pattern
    blaze = (u - shift * 0.7).abs() - t.blaze * (0.75 + 0.5 * ramp(v, -0.6, 0.5))
    c.paint(largest(blaze, d + 0.02, v - 0.45), t.ink("pale"), line=0.3, soft=1.4)
    if kind == "striped":
        x = u - shift * 0.7
        bars = smallest(
            *(segment(x, v, at * 0.8, -0.46 - 0.05 * abs(at), at * 1.25, -1.0, 0.052) for at in (-0.34, 0.0, 0.34)),
            *(segment(x.abs(), v, 0.66, y, 1.2, y - 0.06, 0.050) for y in (0.12, 0.36)),
        )
        c.paint(largest(bars, d + 0.02), t.ink("second"), line=0.4)
    elif kind == "spotted":
        side = torch.where(torch.sin(t.phase) > 0, 1.0, -1.0)
        patch = ellipse(u - side * t.gap - shift, v + 0.10, t.eye * (1.5 + 8 * t.mark), t.eye * 2.3)
        c.paint(largest(patch, d + 0.02), t.ink("second"), line=0.4)


def muzzle(c: Canvas, t: Measured[Being], u: Tensor, v: Tensor, kind: str, code: int) -> None:
    """Snout, nose and mouth."""
    reach = t.yaw * (0.30 + 0.62 * t.snout)
    tall = 0.22 + 0.26 * t.snout
    x = u - reach
    y = v - 0.38
    low = ellipse(x, y, t.snout_w + 0.10 * t.yaw * t.snout, tall)
    bridge = taper(u, v, t.yaw * 0.12, 0.18, reach + 0.06 * t.yaw, 0.30, t.snout_w * 0.80, t.snout_w * 0.62)
    d = torch.where(t.yaw > 0.5, melt(low, bridge, 0.15), low)
    c.paint(d, t.ink("muzzle"), code, relief=0.42, width=0.25, line=0.7)
    nx = x - t.yaw * (t.snout_w * 0.62 + 0.06 * t.snout)
    ny = y + tall * 0.62
    mx = x - t.yaw * t.snout_w * 0.38
    seam = segment(mx, y, 0.0, -tall * 0.35, 0.0, tall * 0.16, 0.018)
    wide = t.snout_w * 0.46
    arcs = largest((length(mx.abs() - wide * 0.62, y - tall * 0.12) - wide * 0.62).abs() - 0.022, tall * 0.16 - y)
    if kind == "dog":
        tongue = largest(ellipse(mx, y - tall * 0.62, wide * 0.46, tall * 0.46), tall * 0.34 - y)
        c.paint(tongue, t.ink("tongue"), line=0.8, relief=0.3, width=0.1)
    c.paint(smallest(seam, arcs), t.ink("line"), line=0, fill=0.9)
    tip = melt(
        ellipse(nx, ny, t.nose * 1.25, t.nose * 0.72), ellipse(nx, ny - t.nose * 0.5, t.nose * 0.6, t.nose * 0.6), 0.06
    )
    c.paint(tip, t.ink("nose"), code + 1 if code else 0, line=0.9, fill=0.5)
    shine = ellipse(nx * t.mirror + t.nose * 0.4, ny + t.nose * 0.28, t.nose * 0.40, t.nose * 0.18)
    c.paint(shine, tone(t, 1.0, 1.0, 1.0), line=0, alpha=0.65)
    if kind == "cat":
        hairs = smallest(
            *(
                segment(x.abs(), y, t.snout_w * 0.7, 0.0 + k * 0.05, t.snout_w + 0.62, k * 0.17 - 0.02, 0.013)
                for k in (-1, 0, 1)
            )
        )
        c.paint(hairs, t.ink("whisker"), line=0, fill=0.7, alpha=0.9)


def draw_head(c: Canvas, t: Measured[Being], u: Tensor, v: Tensor, code: int, nose_code: int) -> None:
    """The head of animals of one kind and one pattern."""
    kind = t.people[0].kind
    shift = 0.26 * t.yaw
    back = u + 0.10 * t.yaw
    up = torch.where(t.droop < PRICKED, 0.0, AWAY) if kind == "dog" else None
    for side in (-1.0, 1.0):
        if kind == "cat":
            pricked(c, t, back * side, v, code, 1.30, True)
        elif kind == "bear":
            round_ear(c, t, back * side, v, code)
        else:
            assert up is not None
            pricked(c, t, back * side + up, v, code, 1.05, False)
    skull = ellipse(u, v + 0.10, t.hw, t.hh)
    cheeks = ellipse(u - 0.10 * t.yaw, v - 0.30, t.jowl, 0.60 * t.hh)
    d = melt(skull, cheeks, 0.30) + 3.2 * t.fluff * torch.sin(torch.atan2(v, u) * 41)
    c.paint(d, t.ink("fur"), code, relief=0.44, width=0.55)
    marks(c, t, u, v, d, shift)
    for side in (-1.0, 1.0):
        narrow = torch.where(t.yaw * side > 0.5, 1.16, 1.0)
        eye(c, t, (u - shift - side * t.gap * (1 - 0.10 * t.yaw)) * narrow, v + 0.12, kind == "cat")
    muzzle(c, t, u, v, kind, code)
    if kind == "dog":
        down = torch.where(t.droop < PRICKED, AWAY, 0.0)
        for side in (-1.0, 1.0):
            hanging(c, t, back * side + down, v, code)
