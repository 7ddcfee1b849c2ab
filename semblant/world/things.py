"""A backpack, a teapot, a toy car, a plush, a chair, each drawn in its own frame (ground at q = 0, q down)."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world.being_traits import SEAT
from semblant.world.beings import Being
from semblant.world.fur import frame, shadow, spots
from semblant.world.shapes import (
    Canvas,
    box,
    circle,
    ellipse,
    largest,
    length,
    melt,
    ramp,
    segment,
    smallest,
    taper,
    trapezoid,
    turned,
)
from semblant.world.traits import Measured

MAIN, FRONT = 1, 2
"""Layer codes: the thing, and what stands out from it."""


def tone(t: Measured[Being], r: float, g: float, b: float) -> Tensor:
    return torch.tensor((r, g, b), device=t.unit.device)[:, None, None, None]


def between(low: float, high: float | Tensor, t: Tensor) -> Tensor:
    return low + (high - low) * t


def star(x: Tensor, y: Tensor, r: Tensor | float) -> Tensor:
    """Bound of the distance to a five-pointed star around the origin."""
    angle = torch.atan2(x, -y)
    fifth = 6.2831853 / 5
    a = (angle - (angle / fifth).round() * fifth).abs()
    d = length(x, y)
    px, py = d * torch.sin(a), d * torch.cos(a)
    # The edge from the tip (0, r) to the notch at 36 degrees and 0.45 r.
    ex, ey = 0.45 * r * 0.5878, 0.45 * r * 0.8090 - r
    norm = (ex * ex + ey * ey) ** 0.5
    return (-(px * ey - (py - r) * ex)) / norm


def decorate(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor, d: Tensor, cx: float, cy: Tensor | float) -> None:
    """The identity's pattern inside the shape `d`, whose middle is (cx, cy)."""
    kind = t.people[0].identity.pattern
    if kind == "spotted":
        spots(c, p, q, d, t)
    elif kind == "striped":
        slant = 0.9 * torch.sin(t.phase)
        wave = (q + slant * p) / (3.4 * t.mark) + t.phase
        band = ((wave - wave.round()).abs() - 0.24) * 3.4 * t.mark
        c.paint(torch.maximum(band, d + 0.006), t.ink("second"), line=0.5)
    elif kind == "star":
        x, y = turned(p - cx - t.mark_x * 0.4, q - cy - t.mark_y * 0.5, 0.5 * torch.sin(t.phase))
        shape = star(x * t.mirror, y, 0.085 + 1.0 * t.mark)
        c.paint(torch.maximum(shape, d + 0.004), t.ink("second"), line=0.8)


def gloss(
    c: Canvas, t: Measured[Being], p: Tensor, q: Tensor, x: float, y: Tensor | float, rx: float, ry: float
) -> None:
    """A highlight, to the left where the light comes from."""
    d = ellipse(p * t.mirror - x, q - y, rx, ry)
    c.tint((0.5 - d / 0.05).clamp(0, 1) * (0.12 + 0.55 * t.gloss), tone(t, 1.0, 1.0, 1.0))


def backpack(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """A backpack from the front: loop, straps, lid with buckles, pocket."""
    shadow(c, p, q, 0.40)
    w, h = between(0.25, 0.34, t.width), between(0.34, 0.42, t.height)
    top = -2 * h - 0.02
    loop = (
        box(p, q - top + 0.01, between(0.06, 0.11, t.crest_width), between(0.05, 0.10, t.crest), 0.05)
    ).abs() - 0.020
    c.paint(loop, t.ink("second_dark"), MAIN, relief=0.4, width=0.03)
    for side in (-1.0, 1.0):
        x = p * side
        strap = (ellipse(x - w * 0.86, q + h, between(0.09, 0.17, t.grip), h * 0.72)).abs() - between(
            0.022, 0.040, t.grip_width
        )
        c.paint(strap, t.ink("second_dark"), MAIN, relief=0.4, width=0.04)
        pouch = box(x - w, q + 0.18, 0.075, between(0.10, 0.16, t.grip), 0.05)
        c.paint(pouch, t.ink("dark"), MAIN, relief=0.4, width=0.08)
    slim = w * between(0.84, 1.0, t.flare)
    round_ = between(0.11, 0.22, t.roundness)
    y = q + h + 0.01
    d = melt(box(p, y + h * 0.3, slim, h * 0.7, round_), box(p, y - h * 0.35, w, h * 0.65, 0.10), 0.08)
    c.paint(d, t.ink("main"), MAIN, relief=0.48, width=0.16)
    decorate(c, t, p, q, d, 0.0, top + 0.22)
    flap = top + between(0.24, 0.36, t.front_height)
    edge = flap + 0.05 * (1 - (p / w) ** 2) * (0.3 + t.roundness)
    zip_ = torch.maximum((q - edge).abs() - between(0.010, 0.018, t.trim), d + 0.02)
    c.paint(zip_, t.ink("second_dark"), line=0.7)
    pw, ph = w * between(0.58, 0.80, t.front_width), between(0.11, 0.165, t.front)
    py = q + ph + 0.055
    pocket = box(p, py, pw, ph, 0.06)
    c.paint(pocket, t.ink("second"), FRONT, relief=0.45, width=0.10)
    c.paint(torch.maximum((py + ph * 0.45).abs() - 0.009, pocket + 0.02), t.ink("second_dark"), line=0.6)
    c.paint(
        segment(p, q, pw * 0.55, -2 * ph * 0.72 - 0.05, pw * 0.60, -2 * ph * 0.72 + 0.02, 0.012),
        tone(t, 0.9, 0.88, 0.80),
        line=0.6,
    )
    gloss(c, t, p, q, -0.12, top + 0.17, 0.05, 0.07)
    two = torch.where(t.parts > 0.5, 0.5, 0.0) * w
    band = torch.maximum((p.abs() - two).abs() - 0.022, (q - (top + flap) / 2 - 0.06).abs() - 0.10)
    c.paint(torch.where(t.parts > 0.25, band, 1.0), t.ink("second_dark"), FRONT, line=0.7)
    clasp = box(p.abs() - two, q - flap - 0.035, 0.032, 0.026, 0.008)
    c.paint(torch.where(t.parts > 0.25, clasp, 1.0), tone(t, 0.93, 0.80, 0.42), line=0.8)


def teapot(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """A teapot from the side: handle, spout, belly, lid and knob."""
    shadow(c, p, q, 0.44)
    w, h = between(0.26, 0.36, t.width), between(0.20, 0.33, t.height)
    cy = -h - 0.05
    x, y = p + w * 0.98, q - cy + 0.02
    hook = melt(
        ellipse(x, y, between(0.11, 0.19, t.grip), h * between(0.55, 0.78, t.grip_width)),
        circle(x - 0.05, y + 0.1, 0.03),
        0.05,
    )
    c.paint(hook.abs() - 0.032, t.ink("second"), MAIN, relief=0.45, width=0.04)
    rise, out = between(0.08, 0.34, t.front_height), between(0.13, 0.22, t.front)
    thick = between(0.045, 0.085, t.front_width)
    sx, sy = w + out, cy - rise
    low = taper(p, q, w * 0.72, cy + h * 0.30, w + out * 0.62, cy - 0.02, thick * 1.5, thick * 0.95)
    high = taper(p, q, w + out * 0.62, cy - 0.02, sx, sy, thick * 0.95, thick * 0.62)
    lip = segment(p, q, sx - 0.02, sy - 0.01, sx + 0.045, sy + 0.012, thick * 0.50)
    c.paint(melt(melt(low, high, 0.08), lip, 0.04), t.ink("main"), FRONT, relief=0.48, width=0.07)
    foot = box(p, q + 0.035, w * between(0.48, 0.74, t.flare), 0.040, 0.02)
    c.paint(foot, t.ink("second"), MAIN, relief=0.4, width=0.04)
    lid_w = w * between(0.44, 0.66, t.crest_width)
    belly = torch.where(
        t.roundness > 0.30, ellipse(p, q - cy, w, h), trapezoid(p, q - cy, w * 0.62, w * 0.90, h * 0.88, 0.06)
    )
    knob_r = between(0.032, 0.062, t.crest)
    dome = largest(ellipse(p, q - cy + h * 0.86, lid_w, between(0.09, 0.17, t.crest)), q - cy + h * 0.84)
    c.paint(
        circle(p, q - cy + h * 0.86 + between(0.10, 0.18, t.crest), knob_r),
        t.ink("second"),
        FRONT,
        relief=0.5,
        width=0.05,
    )
    c.paint(dome, t.ink("main"), MAIN, relief=0.48, width=0.10)
    c.paint(belly, t.ink("main"), MAIN, relief=0.52, width=0.26)
    decorate(c, t, p, q, belly, 0.0, cy)
    rim = torch.maximum((q - cy + h * 0.84).abs() - between(0.012, 0.026, t.trim), p.abs() - lid_w * 1.06)
    c.paint(rim, t.ink("second"), MAIN, line=0.8)
    bands = torch.maximum((q - cy - h * 0.62).abs() - between(0.008, 0.020, t.trim), belly + 0.006)
    c.paint(torch.where(t.parts > 0.5, bands, 1.0), t.ink("second"), line=0.5)
    gloss(c, t, p, q, -0.13, cy - h * 0.38, 0.055, 0.09)


def toy_car(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """A toy car from the side, a wind-up key at its back."""
    shadow(c, p, q, 0.52)
    half, r = between(0.40, 0.50, t.width), between(0.085, 0.135, t.grip)
    tall = between(0.10, 0.155, t.height)
    floor = -r * 0.85
    mid = floor - tall
    roof = between(0.14, 0.26, t.crest)
    back_x = between(-0.12, 0.02, t.front)
    cab_w = between(0.20, 0.30, t.crest_width)
    kx, ky = p + half + 0.06, q - mid + 0.02
    c.paint(segment(kx, ky, -0.02, 0.0, 0.08, 0.0, 0.016), tone(t, 0.80, 0.66, 0.30), MAIN, line=0.7)
    wings = circle(kx + 0.045, ky.abs() - 0.055, 0.050)
    c.paint(
        torch.maximum(wings, -circle(kx + 0.045, ky.abs() - 0.055, 0.020)),
        tone(t, 0.90, 0.75, 0.34),
        MAIN,
        relief=0.4,
        width=0.03,
    )
    cabin = trapezoid(
        p - back_x,
        q - mid + tall + roof / 2 - 0.03,
        cab_w * between(0.62, 0.95, t.flare) - 0.05,
        cab_w + 0.02,
        roof / 2,
        0.05,
    )
    bonnet = box(p, q - mid, half, tall, between(0.05, 0.10, t.roundness))
    hump = ellipse(p - half * 0.62, q - mid + tall * 0.55, half * 0.36, tall * between(0.5, 1.0, t.front_height))
    body = melt(melt(cabin, bonnet, 0.06), hump, 0.05)
    c.paint(body, t.ink("main"), MAIN, relief=0.50, width=0.13)
    decorate(c, t, p, q, body, 0.0, mid)
    pane = trapezoid(
        p - back_x,
        q - mid + tall + roof / 2 - 0.015,
        cab_w * between(0.62, 0.95, t.flare) - 0.075,
        cab_w - 0.03,
        roof / 2 - 0.035,
        0.02,
    )
    glass = torch.maximum(pane, 0.016 - (p - back_x - 0.01).abs())
    c.paint(glass, torch.lerp(tone(t, 0.60, 0.82, 0.96), tone(t, 0.86, 0.95, 1.0), ramp(p - q, -0.1, 0.5)), line=0.8)
    stripe = torch.maximum((q - mid - 0.25 * tall).abs() - between(0.012, 0.030, t.trim), bonnet + 0.004)
    c.paint(stripe, t.ink("second"), line=0.5)
    door = box(p - back_x + 0.0 * p, q - mid - 0.01, 0.13, tall * 0.82, 0.03).abs() - 0.006
    c.paint(torch.maximum(door, mid - tall - q), t.ink("deep"), line=0, fill=0.6, alpha=0.7)
    c.paint(
        segment(p, q, back_x - 0.09, mid - 0.02, back_x - 0.05, mid - 0.02, 0.011), tone(t, 0.92, 0.92, 0.92), line=0.5
    )
    c.paint(
        ellipse(
            p - half + 0.025,
            q - mid + tall * 0.15,
            between(0.026, 0.048, t.front_width),
            between(0.030, 0.058, t.front_width),
        ),
        tone(t, 1.0, 0.92, 0.55),
        FRONT,
        line=0.8,
    )
    c.paint(box(p + half - 0.012, q - mid + tall * 0.1, 0.018, 0.032, 0.01), tone(t, 0.85, 0.15, 0.15), line=0.6)
    bumper = box(p.abs() - half + 0.01, q - floor + 0.025, 0.045, 0.022, 0.02)
    c.paint(bumper, tone(t, 0.80, 0.81, 0.84), FRONT, relief=0.4, width=0.02)
    axle = half * between(0.54, 0.66, t.grip_width)
    x, y = p.abs() - axle, q + r
    c.paint(circle(x, y, r * 1.18), t.ink("deep"), MAIN, line=0.7)
    c.paint(circle(x, y, r), tone(t, 0.16, 0.16, 0.18), FRONT, relief=0.4, width=0.04)
    c.paint(circle(x, y, r * 0.58), t.ink("second"), line=0.8, relief=0.4, width=0.04)
    spokes = torch.where(t.parts > 0.5, 6.0, 4.0)
    arms = (torch.sin(torch.atan2(y, x) * spokes / 2).abs() * length(x, y)) - 0.010
    c.paint(torch.maximum(arms, circle(x, y, r * 0.50)), t.ink("second_dark"), line=0.3)
    c.paint(circle(x, y, r * 0.16), tone(t, 0.92, 0.92, 0.93), line=0.5)
    gloss(c, t, p, q, -0.10, mid - tall * 0.6, 0.16, 0.02)


def plush(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """A soft toy, sitting: seams, button eyes, a bow."""
    shadow(c, p, q, 0.38)
    w, h = between(0.17, 0.25, t.width), between(0.19, 0.26, t.height)
    r = between(0.19, 0.25, t.roundness)
    hy = -2 * h * 0.86 - r * 0.72
    long_ears = ramp(t.crest, 0.45, 1.0)
    for side in (-1.0, 1.0):
        x = p * side
        ew = between(0.055, 0.095, t.crest_width)
        ex, ey = r * (0.78 - 0.30 * long_ears), hy - r * 0.62
        ear = segment(x, q, ex, ey - 0.02, ex + 0.03 * long_ears, ey - 0.02 - 0.20 * long_ears, ew)
        c.paint(ear, t.ink("main"), MAIN, relief=0.45, width=0.08)
        c.paint(ear + ew * 0.45, t.ink("cream"), line=0.5)
        arm = taper(
            x,
            q,
            w * 0.80,
            -2 * h * 0.72,
            w + between(0.04, 0.15, t.grip),
            -h * 0.70,
            0.070,
            between(0.055, 0.080, t.grip_width),
        )
        c.paint(arm, t.ink("main"), MAIN, relief=0.45, width=0.08)
    belly = ellipse(p, q + h * 0.98, w, h)
    c.paint(belly, t.ink("main"), MAIN, relief=0.45, width=0.20)
    decorate(c, t, p, q, belly, 0.0, -h * 0.9)
    patch = ellipse(p, q + h * 0.84, w * between(0.42, 0.66, t.front_width), h * between(0.40, 0.60, t.front_height))
    plain = [b.identity.pattern == "plain" for b in t.people]
    if all(plain):
        c.paint(patch, t.ink("cream"), line=0.6)
    dash = torch.sin(q * between(80, 260, t.parts))
    c.paint(
        torch.where(dash > -0.1, torch.maximum(p.abs() - 0.009, belly + 0.03), 1.0), t.ink("deep"), line=0, fill=0.8
    )
    for side in (-1.0, 1.0):
        x = p * side
        foot = ellipse(x - w * 0.92, q + 0.085, between(0.085, 0.115, t.grip_width), 0.095)
        c.paint(foot, t.ink("main"), FRONT, relief=0.45, width=0.08)
        c.paint(foot + 0.035, t.ink("cream"), line=0.6)
    head = ellipse(p, q - hy, r * between(1.0, 1.18, t.flare), r * 0.92)
    c.paint(head, t.ink("main"), FRONT, relief=0.45, width=0.20)
    muzzle_y = hy + r * 0.34
    c.paint(
        ellipse(p, q - muzzle_y, r * between(0.36, 0.54, t.front), r * 0.33),
        t.ink("cream"),
        line=0.7,
        relief=0.3,
        width=0.08,
    )
    c.paint(ellipse(p, q - muzzle_y + r * 0.15, r * 0.16, r * 0.11), tone(t, 0.25, 0.16, 0.14), line=0.7, fill=0.5)
    c.paint(
        segment(p, q, 0.0, muzzle_y - r * 0.05, 0.0, muzzle_y + r * 0.13, 0.008),
        tone(t, 0.25, 0.16, 0.14),
        line=0,
        fill=0.8,
    )
    smile = largest((circle(p, q - muzzle_y - r * 0.02, r * 0.17)).abs() - 0.008, muzzle_y + r * 0.08 - q)
    c.paint(smile, tone(t, 0.25, 0.16, 0.14), line=0, fill=0.8)
    for side in (-1.0, 1.0):
        x, y = p - side * r * 0.42, q - hy + r * 0.12
        c.paint(circle(x, y, r * 0.155), tone(t, 0.10, 0.09, 0.10), line=0.8, fill=0.7)
        c.paint(circle(x * t.mirror + r * 0.05, y + r * 0.05, r * 0.045), tone(t, 1.0, 1.0, 1.0), line=0)
    gloss(c, t, p, q, -0.07, hy - r * 0.5, 0.05, 0.04)
    x, y = p, q - hy - r * 0.98
    bow = ellipse(x.abs() - 0.075, y, between(0.055, 0.085, t.trim), between(0.042, 0.075, t.trim))
    c.paint(bow, t.ink("second"), FRONT, relief=0.45, width=0.05)
    c.paint(circle(x, y, 0.026), t.ink("second_dark"), FRONT, line=0.8)


def chair(c: Canvas, t: Measured[Being], p: Tensor, q: Tensor) -> None:
    """A chair: two posts and slats, a cushioned seat, four legs. Turned, it shows its seat from the side."""
    shadow(c, p, q, 0.40)
    w, top = between(0.23, 0.31, t.width), -between(0.88, 1.04, t.height)
    skew = 0.10 * t.turn
    thick = between(0.020, 0.034, t.grip)
    deep = 0.085
    seat_top, seat = SEAT - deep / 2, SEAT + deep / 2
    for side in (-1.0, 1.0):
        c.paint(
            segment(p, q, side * w * 0.92 - skew, seat_top, side * w * 0.92 - skew, -0.07, thick * 0.9),
            t.ink("dark"),
            MAIN,
            relief=0.4,
            width=0.03,
        )
    lean = between(-0.02, 0.05, t.flare)
    x = p + skew + lean * ((SEAT - q) / 0.5).clamp(0, 1) * t.turn
    y = q - (top + seat_top) / 2
    high = (seat_top - top) / 2
    crest = between(0.045, 0.095, t.crest)
    slats = torch.where(t.parts < 0.34, 2.0, torch.where(t.parts < 0.67, 3.0, 4.0))
    wave = x / (2 * w) * (slats + 1)
    bars = torch.maximum(
        (wave - wave.round()).abs() / (slats + 1) * 2 * w - between(0.014, 0.026, t.crest_width), x.abs() - w + 0.02
    )
    panel = torch.where(
        t.roundness > 0.6, box(x, y + 0.02, w * 0.9, high - 0.06, 0.06), torch.maximum(bars, y.abs() - high)
    )
    c.paint(panel, t.ink("main"), MAIN, relief=0.4, width=0.05)
    rail = box(x, q - top - crest, w + 0.02, crest, between(0.02, crest_round(t), t.flare))
    posts = torch.maximum((x.abs() - w).abs() - thick, y.abs() - high)
    c.paint(posts, t.ink("main"), MAIN, relief=0.4, width=0.03)
    c.paint(rail, t.ink("main"), MAIN, relief=0.42, width=0.05)
    back = torch.where(t.roundness > 0.6, smallest(panel, rail), rail)
    decorate(c, t, p, q, back, 0.0, top + 0.14)
    gloss(c, t, p, q, -0.10, top + 0.065, 0.11, 0.030)
    along = ((q - seat_top) / deep).clamp(0, 1)
    plank = largest(
        (p + skew * (1 - 2 * along)).abs() - w * between(1.0, 1.12, t.front) - 0.02 * along, seat_top - q, q - seat
    )
    edge = box(p - skew, q - seat - 0.018, w * between(1.0, 1.12, t.front) + 0.02, 0.024, 0.01)
    for side in (-1.0, 1.0):
        c.paint(
            segment(
                p, q, side * w + skew, seat, side * w * between(0.94, 1.08, t.grip_width) + skew, -0.015, thick * 1.15
            ),
            t.ink("main"),
            MAIN,
            relief=0.4,
            width=0.03,
        )
    rung = torch.maximum((q + between(0.12, 0.24, t.front_height)).abs() - 0.014, (p - skew).abs() - w)
    c.paint(rung, t.ink("dark"), MAIN, line=0.8)
    c.paint(plank, t.ink("light"), MAIN, relief=0.3, width=0.06)
    c.paint(edge, t.ink("main"), FRONT, relief=0.4, width=0.03)
    cushion = ellipse(
        p + skew * (1 - 2 * along) * 0.7,
        q - SEAT + 0.012,
        w * between(0.72, 0.95, t.front_width),
        between(0.034, 0.060, t.trim),
    )
    c.paint(cushion, t.ink("second"), FRONT, relief=0.42, width=0.05)


def crest_round(t: Measured[Being]) -> Tensor:
    """How round the corners of a chair's top rail may be."""
    return between(0.045, 0.095, t.crest) * 0.95


THINGS = {"backpack": backpack, "teapot": teapot, "toy car": toy_car, "plush": plush, "chair": chair}


def draw_thing(c: Canvas, t: Measured[Being]) -> None:
    """Paint things of one kind and one pattern over what is there."""
    p, q = frame(c, t)
    THINGS[t.people[0].kind](c, t, p, q)
