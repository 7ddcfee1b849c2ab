"""Hair: eleven styles, each a mass behind the body, a mass around the face, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from semblant.world.face import head_frame
from semblant.world.scene import Person
from semblant.world.shapes import (
    BACK_HAIR,
    CODE,
    Canvas,
    box,
    circle,
    ellipse,
    largest,
    melt,
    ramp,
    smallest,
    taper,
    trapezoid,
)
from semblant.world.traits import Traits

Draw = Callable[..., None]

HANGING = ("long", "wavy", "bob", "ponytail")
"""Styles with hair behind the neck."""


def some(c: Canvas, t: Traits, pick: Callable[[Person], bool], draw: Draw, *fields: Tensor) -> None:
    """Draw on the pictures whose person fits; the others cost nothing. `fields` are cut to the same rows."""
    which: Sequence[int] = [i for i, p in enumerate(t.people) if pick(p)]
    if len(which) == len(t.people):
        draw(c, t, *fields)
    elif which:
        rows = torch.tensor(which, device=c.image.device)
        piece = c.part(rows)
        draw(piece, t.take(rows, which), *(f[rows] for f in fields))
        c.merge(piece)


def each(c: Canvas, t: Traits, kind: Callable[[Person], str | None], draw: Draw, *fields: Tensor) -> None:
    """Draw on the people of each kind in turn, so that everybody `draw` sees is alike; None is left out."""
    kinds = sorted({k for p in t.people if (k := kind(p)) is not None})
    for one in kinds:
        some(c, t, partial(_is, kind, one), draw, *fields)


def _is(kind: Callable[[Person], str | None], one: str, person: Person) -> bool:
    return kind(person) == one


def coat(c: Canvas, t: Traits, d: Tensor, strand: Tensor, shine: Tensor, code: int, line: float = 1.0) -> None:
    """Paint a mass of hair: `strand` (-1..1) parts it into locks, `shine` (0..1) is where it catches the light."""
    d = torch.maximum(d, (t.hat_line - head_frame(c, t)[1]))
    colour = t.ink("hair") * (1 + 0.15 * strand)
    colour = torch.lerp(colour, t.ink("hair_light"), (0.62 * shine).clamp(0, 1) * (0.8 + 0.2 * strand))
    c.paint(d, colour, code, line=line, relief=0.42, width=0.30)
    if c.ink is not None:
        lines = (d * c.per * -0.5).clamp(0, 1) * ramp(strand, 0.86, 1.0) * (0.75 - shine)
        torch.maximum(c.ink, lines * 0.55, out=c.ink)


def gloss(u: Tensor, v: Tensor, t: Traits, height: float = -0.80, drop: float = 0.42) -> Tensor:
    """A bright arc across the crown, stronger on the left where the light comes from."""
    x = u - t.skull_x + 0.10
    arc = (v - height - drop * x * x) / 0.11
    return torch.exp(-arc * arc) * (0.95 - 0.5 * x).clamp(0.15, 1)


def behind(c: Canvas, t: Traits) -> None:
    """The mass of hair behind neck and body."""
    u, v = head_frame(c, t)
    x = u - t.skull_x * 1.6
    style = t.people[0].identity.hair_style
    dark = t.ink("hair_dark")
    if style in ("long", "wavy"):
        wave = 0.06 * torch.sin(v * 7.0) if style == "wavy" else 0.0
        wide = t.w + 0.12 + 0.20 * t.volume
        d = trapezoid(x + wave, v - 0.55, wide - 0.25, wide - 0.12, 1.0, 0.2)
    elif style == "bob":
        d = box(x, v - 0.25, t.w + 0.14 + 0.14 * t.volume, 0.80, 0.4)
    elif style == "ponytail":
        sway = 0.10 * torch.sin(v * 4.5)
        d = taper(
            x + sway,
            v,
            t.w + 0.10,
            -0.45,
            t.w + 0.34 + 0.1 * t.volume,
            1.15,
            0.16 + 0.10 * t.volume,
            0.10 + 0.10 * t.volume,
        )
        d = smallest(d, circle(x - t.w + 0.02, v + 0.55, 0.24 + 0.06 * t.volume))
        strand = torch.sin(x * 30 + v * 4)
        c.paint(d, t.ink("hair") * (1 + 0.14 * strand), BACK_HAIR, relief=0.4, width=0.2)
        band = box(x - t.w - 0.07, v + 0.40, 0.16, 0.05, 0.04)
        c.paint(band, t.ink("hair_dark") * 0.6, BACK_HAIR)
        return
    else:
        return
    c.paint(d, dark * (1 + 0.12 * torch.sin(x * 34)), BACK_HAIR)


def curtains(c: Canvas, t: Traits, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Two sides of long hair falling over the shoulders, and the strands in it."""
    wavy = t.people[0].identity.hair_style == "wavy"
    side = torch.sign(u - t.skull_x)
    x = (u - t.skull_x * (1.4 - 0.5 * v.clamp(0, 1))).abs()
    wave = 0.055 * torch.sin(v * 8.0 + 0.6 * side) if wavy else 0.015 * torch.sin(v * 3)
    outer = t.w + 0.13 + 0.20 * t.volume + (0.16 if wavy else 0.05) * v.clamp(0, 1.6) * 0.6
    inner = 0.86 * t.w + 0.05 - 0.12 * v.clamp(0, 1.4)
    end = (
        1.62 + (0.06 * torch.sin(x * 21) if wavy else 0.03 * torch.sin(x * 17)) - 0.35 * (x - outer + 0.25).clamp(min=0)
    )
    body = largest(x + wave - outer, inner - x - wave, v - end, -0.25 - v)
    return body, torch.sin((x + wave) * 36)


def front(c: Canvas, t: Traits, face: Tensor) -> None:
    """The mass of hair around the face, for people of one style."""
    u, v = head_frame(c, t)
    style = t.people[0].identity.hair_style
    x = u - t.skull_x
    fx = u - t.bridge_x * 0.55
    vol = t.volume
    strand = torch.sin(x * 26 + 5 * v + 1.5 * torch.sin(x * 9))
    shine = gloss(u, v, t)
    code = CODE["hair"]
    skull = ellipse(x, v + 0.17, t.w + 0.04, 0.88)
    temple = ellipse(fx, v - 0.34, t.w * 0.90, 0.98)
    if style == "buzz":
        d = largest(skull - 0.015 - 0.03 * vol, -temple, v - 0.02)
        grain = torch.sin(u * 61) * torch.sin(v * 57)
        c.paint(
            torch.maximum(d, t.hat_line - v),
            t.ink("stubble") * (1 + 0.035 * grain),
            code,
            line=0.8,
            fill=0.12,
            relief=0.3,
            soft=1.6,
        )
        return
    if style == "mohawk":
        sides = largest(skull - 0.005, -temple, v - 0.02)
        c.paint(torch.maximum(sides, t.hat_line - v), t.ink("stubble"), code, line=0.4, soft=1.6, alpha=0.65)
        rise = (-0.60 - v).clamp(min=-0.1)
        mid = x - (0.55 * t.bridge_x - t.skull_x) * (1 - rise).clamp(0, 1)
        tips = -1.36 - 0.22 * vol + 0.16 * torch.sin(mid * 17).abs() + 0.5 * mid * mid
        d = largest(mid.abs() - 0.15 - (0.16 + 0.10 * vol) * rise, (tips - v) * 0.5, v + 0.56 - 0.3 * mid.abs())
        coat(c, t, d, torch.sin(mid / (0.5 + rise) * 24), gloss(u, v, t, -1.02, 1.2) * 0.8, code)
        return
    if style == "short":
        top = ellipse(x + 0.03, v + 0.20, t.w + 0.07 + 0.07 * vol, 0.92 + 0.17 * vol)
        top = top + 0.020 * torch.sin(x * 13 + 1.0)
        fringe = -0.53 + 0.22 * (fx + 0.10) + 0.035 * torch.sin(fx * 24)
        hole = torch.maximum(ellipse(fx, v - 0.36, t.w * 0.91, 1.02), fringe - v)
        d = largest(top, -hole, v - 0.06 - 0.2 * (x.abs() - t.w * 0.9))
        strand = torch.sin(v * 20 - x * 16 + torch.sin(x * 7))
    elif style == "curly":
        radius = 0.05 + 0.03 * vol
        bumps = radius * torch.sin(torch.atan2(v + 0.25, x) * 11)
        top = ellipse(x, v + 0.26, t.w + 0.13 + 0.15 * vol, 0.96 + 0.20 * vol) + bumps
        hole = ellipse(fx, v - 0.40, t.w * 0.89, 0.92) + 0.05 * torch.sin(fx * 15 + 0.5)
        d = largest(top, -hole, v - 0.10)
        strand = torch.sin(x * 19 + 2.2 * torch.sin(v * 17)) * torch.sin(v * 19 + 2.2 * torch.sin(x * 15)) * 1.3
        shine = shine * 0.6 + 0.4 * (strand > 0.7)
    elif style == "afro":
        top = circle(x, v + 0.40, t.w * 0.35 + 0.78 + 0.30 * vol) + 0.022 * torch.sin(torch.atan2(v + 0.40, x) * 28)
        hole = ellipse(fx, v - 0.38, t.w * 0.90, 0.90)
        d = torch.maximum(top, -torch.maximum(hole, -0.56 - v))
        strand = torch.sin(x * 33 + torch.sin(v * 21)) * torch.sin(v * 33 + torch.sin(x * 25))
        shine = torch.exp(-((x + 0.35) ** 2 + (v + 1.0) ** 2) * 6) * 0.55
    elif style == "bob":
        top = box(x, v + 0.14, t.w + 0.13 + 0.14 * vol, 0.92 + 0.10 * vol, 0.66)
        low = trapezoid(x, v - 0.30, t.w + 0.03 + 0.12 * vol, t.w + 0.10 + 0.16 * vol, 0.44, 0.08)
        hole = largest(
            box(fx, v - 0.45, t.w * 0.80, 0.90, 0.25), -0.37 + 0.025 * torch.sin(fx * 22) + 0.10 * fx * fx - v
        )
        d = torch.maximum(melt(top, low, 0.12), -hole)
        strand = torch.sin(x * 34 + 0.8 * torch.sin(v * 3))
    elif style in ("long", "wavy"):
        top = ellipse(x, v + 0.10, t.w + 0.12 + 0.18 * vol, 0.98 + 0.12 * vol)
        wavy = style == "wavy"
        part = fx + 0.28 if wavy else fx
        curve = part.abs()
        low = -0.74 + (0.62 if wavy else 0.98) * curve.clamp(min=1e-4) ** (1.0 if wavy else 1.25)
        hole = largest(ellipse(fx, v - 0.55, t.w * 0.88, 1.35), (low - v) * 0.75)
        hood = largest(top, -hole, v - 0.30)
        sides, strand = curtains(c, t, u, v)
        d = smallest(hood, sides)
        strand = torch.lerp(torch.sin(part * 22 + 3 * v * torch.sign(part)), strand, ramp(v, -0.4, 0.1))
    else:  # bun, ponytail: combed back
        top = ellipse(x, v + 0.19, t.w + 0.05 + 0.05 * vol, 0.90 + 0.07 * vol)
        hole = ellipse(fx, v - 0.36, t.w * 0.90, 0.98)
        d = largest(top, -hole, v - 0.03)
        strand = torch.sin(torch.atan2(v + 1.3, x) * 26)
        if style == "bun":
            size = 0.26 + 0.12 * vol
            ball = circle(x, v + 1.10 + size * 0.65, size) + 0.012 * torch.sin(torch.atan2(v + 1.3, x) * 9)
            coat(c, t, ball, torch.sin(x * 24 + 14 * (v + 1.2) ** 2), gloss(u, v, t, -1.45, 1.5) * 0.9, code)
    cast = (1 - (d - 0.02) / 0.13).clamp(0, 1) * (0.5 - face * c.per).clamp(0, 1) * (v > t.hat_line)
    c.tint(cast * 0.45, t.ink("shadow"))
    coat(c, t, d, strand, shine, code)


def draw_behind(c: Canvas, t: Traits) -> None:
    """Back hair of every style present."""
    each(c, t, lambda p: p.identity.hair_style if p.identity.hair_style in HANGING else None, behind)


def draw_front(c: Canvas, t: Traits, face: Tensor) -> None:
    """Front hair of every style present; `face` is the distance to the face."""
    each(c, t, lambda p: p.identity.hair_style if p.identity.hair_style != "bald" else None, front, face)
