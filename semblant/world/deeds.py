"""What a person does: hands and the thing in them, drawn in front of everything else of that person."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world.face import body_frame, head_frame
from semblant.world.hair import each
from semblant.world.shapes import (
    CODE,
    HAND,
    OBJECT,
    Canvas,
    box,
    circle,
    ellipse,
    largest,
    length,
    melt,
    segment,
    smallest,
    taper,
    triangle,
    turned,
)
from semblant.world.traits import Colour, Traits

WOOD: Colour = (0.80, 0.47, 0.20)
DARK_WOOD: Colour = (0.36, 0.19, 0.10)


def tone(t: Traits, colour: Colour) -> Tensor:
    """A fixed colour, shaped like a batch's."""
    return torch.tensor(colour, device=t.unit.device)[:, None, None, None]


def forearm(
    c: Canvas, t: Traits, a: Tensor, b: Tensor, elbow: tuple[Tensor | float, Tensor | float], wrist: tuple[float, float]
) -> None:
    """A sleeve from elbow to wrist."""
    d = taper(a, b, elbow[0], elbow[1], wrist[0], wrist[1], 0.30, 0.19)
    bare = [p.clothes == "dress" for p in t.people]
    c.paint(d, t.ink("sleeve"), HAND if all(bare) else CODE["cloth"], relief=0.45, width=0.22)


def hand(c: Canvas, t: Traits, x: Tensor, y: Tensor, angle: float, size: float = 0.20) -> None:
    """A fist around the origin whose four fingers wrap to the left of the turned frame."""
    p, q = turned(x, y, angle)
    palm = box(p, q, size * 0.95, size, size * 0.7)
    c.paint(palm, t.ink("skin"), HAND, relief=0.45, width=0.15)
    for i in range(1, 4):
        crease = segment(p, q, -size * 0.95, size * (0.5 * i - 1.0), size * 0.05, size * (0.5 * i - 1.0), 0.014)
        c.paint(crease, t.ink("shadow") * 0.85, line=0, fill=0.6)
    thumb = segment(p, q, size * 0.2, -size * 0.85, -size * 0.75, -size * 1.10, size * 0.27)
    c.paint(thumb, t.ink("skin"), HAND, relief=0.4, width=0.08, line=0.8)


def steam(c: Canvas, t: Traits, a: Tensor, b: Tensor, height: float, reach: float) -> None:
    """Wisps that rise from the origin."""
    for at in (-reach, 0.0, reach):
        sway = at + 0.06 * torch.sin(b * 8 + at * 9)
        thick = 0.022 + 0.02 * (b / -height).clamp(0, 1)
        d = largest((a - sway).abs() - thick, b + 0.02, -height - b)
        c.paint(d, tone(t, (1.0, 1.0, 1.0)), line=0, fill=0.3, alpha=0.75 * (1 + b / height).clamp(0, 1), soft=1.8)


def latte(c: Canvas, t: Traits) -> None:
    """A big cup of latte, a heart in its foam."""
    a, b = body_frame(c, t)
    forearm(c, t, a, b, (t.build - 0.2, 3.2), (0.98, 2.12))
    x, y = a - 0.52, b - 1.88
    white, coffee = tone(t, (0.97, 0.96, 0.93)), tone(t, (0.62, 0.38, 0.20))
    handle = (ellipse(x - 0.44, y - 0.05, 0.17, 0.20)).abs() - 0.052
    c.paint(handle, white, OBJECT, relief=0.4, width=0.06)
    half = 0.42 - 0.06 * ((y + 0.32) / 0.75).clamp(0, 1)
    cup = largest(box(x, y - 0.04, half, 0.40, 0.12), -0.33 - y)
    cup = smallest(cup, ellipse(x, y + 0.32, 0.42, 0.15))
    c.paint(cup, white, OBJECT, relief=0.45, width=0.22)
    c.paint(
        torch.maximum((y - 0.12 - 0.12 * (1 - (x / 0.42) ** 2)).abs() - 0.045, cup),
        tone(t, (0.20, 0.52, 0.55)),
        line=0.4,
    )
    c.paint(ellipse(x, y + 0.32, 0.36, 0.115), coffee, line=0.8)
    hx, hy = x.abs(), (y + 0.32) * 2.6
    heart = smallest(circle(hx - 0.085, hy + 0.05, 0.10), triangle(x, hy, ((-0.175, 0.0), (0.175, 0.0), (0.0, 0.22))))
    c.paint(heart * 0.6, tone(t, (0.98, 0.92, 0.80)), line=0.3)
    steam(c, t, x, y + 0.42, 0.42, 0.16)
    hand(c, t, x - 0.47, y - 0.10, 0.15)


def guitar(c: Canvas, t: Traits) -> None:
    """An acoustic guitar across the chest."""
    a, b = body_frame(c, t)
    angle = -0.42
    p, q = turned(a + 0.42, b - 2.02, angle)
    wood, dark = tone(t, WOOD), tone(t, DARK_WOOD)
    shade = t.ink("cloth_dark")
    forearm(c, t, a, b, (t.build * 0.9, 2.9), (1.18, 1.52))
    body = melt(circle(p + 0.28, q, 0.56), circle(p - 0.36, q, 0.42), 0.30)
    c.tint((1 - (body - 0.02) / 0.20).clamp(0, 1) * (body > 0) * 0.25, shade)
    c.paint(box(p - 1.45, q, 0.95, 0.075, 0.02), dark, OBJECT, relief=0.3, width=0.06)
    c.paint(box(p - 2.52, q, 0.20, 0.125, 0.05), dark, OBJECT, relief=0.3, width=0.06)
    pegs = circle(((p - 2.52).abs() - 0.10), q.abs() - 0.15, 0.045)
    c.paint(pegs, tone(t, (0.88, 0.86, 0.80)), OBJECT, line=0.5)
    c.paint(body, wood, OBJECT, relief=0.5, width=0.30)
    c.paint((body + 0.045).abs() - 0.018, dark, line=0, fill=0.5)
    c.paint(circle(p - 0.24, q, 0.19), dark * 0.6, line=0.8)
    c.paint(circle(p - 0.24, q, 0.215).abs() - 0.016, tone(t, (0.95, 0.85, 0.60)), line=0)
    c.paint(box(p + 0.40, q, 0.045, 0.20, 0.02), dark, line=0.5)
    c.paint(box(p - 0.60, q, 0.24, 0.075), dark, line=0)
    frets = torch.where((p > 0.75) & (p < 2.3), ((p / 0.22) - (p / 0.22).round()).abs() * 0.22 - 0.012, 1.0)
    c.paint(torch.maximum(frets, q.abs() - 0.07), tone(t, (0.80, 0.72, 0.55)), line=0, alpha=0.8)
    strings = largest((q.abs() - 0.032).abs() - 0.009, (p - 0.98).abs() - 1.38)
    c.paint(strings, tone(t, (0.95, 0.92, 0.85)), line=0, alpha=0.85)
    hand(c, t, a - 1.10, b - 1.36, -0.42 + 1.57, 0.19)
    forearm(c, t, a, b, (-t.build * 0.95, 2.75), (-0.68, 2.36))
    hand(c, t, a + 0.52, b - 2.20, 0.5, 0.19)


def basketball(c: Canvas, t: Traits) -> None:
    """A basketball held before the chest in both hands."""
    a, b = body_frame(c, t)
    for sign in (-1.0, 1.0):
        forearm(c, t, a * sign, b, (t.build * 0.95, 2.85), (0.66, 2.10))
    x, y = a, b - 1.86
    d = circle(x, y, 0.56)
    c.paint(d, tone(t, (0.91, 0.46, 0.13)), OBJECT, relief=0.55, width=0.45)
    p, q = turned(x, y, 0.35)
    lines = smallest(
        p.abs() - 0.020, (q + 0.25 * p * p).abs() - 0.020, (length(p.abs() - 0.74, q) - 0.50).abs() - 0.020
    )
    c.paint(torch.maximum(lines, d + 0.01), tone(t, (0.16, 0.09, 0.06)), line=0, fill=1.0)
    c.tint((0.5 - ellipse(x + 0.20, y + 0.25, 0.16, 0.12) / 0.14).clamp(0, 1) * 0.45, tone(t, (1.0, 0.85, 0.65)))
    for sign in (-1.0, 1.0):
        hand(c, t, x * sign - 0.52, y - 0.14, -0.25, 0.21)


def book(c: Canvas, t: Traits) -> None:
    """An open book, its pages towards us."""
    a, b = body_frame(c, t)
    for sign in (-1.0, 1.0):
        forearm(c, t, a * sign, b, (t.build * 0.98, 2.9), (0.86, 2.30))
    x, y = a.abs(), b - 1.88
    rise = -0.14 * (x / 0.8) + 0.13 * torch.sin((x / 0.80).clamp(0, 1) * 3.1416) * -0.6
    page_y = y - rise
    cover = largest(page_y.abs() - 0.50, x - 0.90)
    c.paint(cover * 0.95, tone(t, (0.70, 0.16, 0.20)), OBJECT, relief=0.3, width=0.10)
    pages = largest((page_y + 0.03).abs() - 0.43, x - 0.83)
    paper = tone(t, (0.98, 0.96, 0.90)) * (0.78 + 0.22 * (x / 0.22).clamp(0, 1))
    c.paint(pages * 0.95, paper, OBJECT, line=0.8)
    lines = ((page_y + 0.03) / 0.115 - ((page_y + 0.03) / 0.115).round()).abs() * 0.115 - 0.020
    text = largest(lines, (page_y + 0.03).abs() - 0.34, (x - 0.44).abs() - 0.29)
    c.paint(text, tone(t, (0.36, 0.36, 0.42)), line=0, fill=0.5, alpha=0.85)
    c.paint(torch.maximum(x - 0.016, pages), tone(t, (0.45, 0.40, 0.36)), line=0, fill=0.9)
    for sign in (-1.0, 1.0):
        hand(c, t, a * sign - 0.86, y - 0.26, 0.1, 0.19)


def pan(c: Canvas, t: Traits) -> None:
    """A frying pan with an egg and vegetables, steaming."""
    a, b = body_frame(c, t)
    x, y = a + 0.30, b - 1.98
    forearm(c, t, a, b, (t.build * 0.95, 2.95), (1.16, 2.16))
    grip = segment(x, y, 0.70, 0.02, 1.55, 0.06, 0.075)
    c.paint(grip, tone(t, (0.22, 0.14, 0.10)), OBJECT, relief=0.5, width=0.08)
    hand(c, t, a - 1.02, b - 2.02, 1.45, 0.19)
    side = smallest(ellipse(x, y, 0.82, 0.34), ellipse(x, y - 0.14, 0.70, 0.30))
    c.paint(side, tone(t, (0.20, 0.21, 0.24)), OBJECT, relief=0.6, width=0.12)
    c.paint(ellipse(x, y, 0.72, 0.265), tone(t, (0.36, 0.37, 0.41)), OBJECT, line=0.7)
    egg = ellipse(x + 0.24, y - 0.02, 0.34, 0.15) + 0.02 * torch.sin(torch.atan2(y, x + 0.24) * 5)
    c.paint(egg, tone(t, (0.99, 0.98, 0.94)), OBJECT, line=0.8)
    c.paint(ellipse(x + 0.24, y + 0.02, 0.135, 0.085), tone(t, (0.99, 0.72, 0.10)), line=0.7, relief=0.4, width=0.1)
    for px, py, colour in (
        (0.26, -0.08, (0.86, 0.17, 0.13)),
        (0.46, 0.03, (0.86, 0.17, 0.13)),
        (0.22, 0.12, (0.25, 0.62, 0.22)),
        (0.42, -0.12, (0.25, 0.62, 0.22)),
        (0.05, -0.16, (0.25, 0.62, 0.22)),
    ):
        c.paint(ellipse(x - px, y - py, 0.095, 0.068), tone(t, colour), line=0.6, relief=0.4, width=0.08)
    steam(c, t, x, y + 0.22, 0.60, 0.30)
    forearm(c, t, a, b, (-t.build * 0.98, 2.9), (-1.06, 2.28))


def phone(c: Canvas, t: Traits) -> None:
    """A phone at the ear on the right of the picture."""
    u, v = head_frame(c, t)
    ear = t.ear_r + 0.02
    x, y = u - ear, v - 0.20
    d = taper(x, y, 0.62, 1.95, 0.18, 0.62, 0.29, 0.19)
    bare = all(p.clothes == "dress" for p in t.people)
    c.paint(d, t.ink("sleeve"), HAND if bare else CODE["cloth"], relief=0.45, width=0.22)
    p, q = turned(x - 0.06, y - 0.02, 0.12)
    c.paint(box(p, q, 0.17, 0.52, 0.07), tone(t, (0.10, 0.10, 0.13)), OBJECT, relief=0.4, width=0.06)
    c.paint(box(p - 0.03, q, 0.115, 0.44, 0.04), tone(t, (0.30, 0.62, 0.95)), OBJECT, line=0.6)
    c.paint(circle(p + 0.10, q + 0.42, 0.03), tone(t, (0.8, 0.8, 0.85)), line=0)
    hand(c, t, x - 0.14, y - 0.30, 0.15, 0.22)


ACTS = {
    "holding a cup of latte": latte,
    "playing guitar": guitar,
    "holding a basketball": basketball,
    "reading a book": book,
    "cooking": pan,
    "on the phone": phone,
}


def draw_action(c: Canvas, t: Traits) -> None:
    """Hands and things of every action present; bare arms are drawn apart from sleeves, for their labels differ."""

    def act(piece: Canvas, few: Traits) -> None:
        ACTS[few.people[0].action](piece, few)

    each(c, t, lambda p: f"{p.action}, {p.clothes == 'dress'}" if p.action != "none" else None, act)
