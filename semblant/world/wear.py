"""What a person wears: clothes, hats, glasses."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world.face import body_frame, head_frame
from semblant.world.hair import each
from semblant.world.shapes import (
    CODE,
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
    trapezoid,
    triangle,
)
from semblant.world.traits import Traits

CLOTH = CODE["cloth"]


def torso(a: Tensor, b: Tensor, t: Traits) -> Tensor:
    """Distance to shoulders, arms and chest."""
    y = b - t.base
    block = box(a, y - 2.68, t.build, 2.42, 0.52)
    slope = trapezoid(a, y - 0.30, t.neck + 0.02, t.build - 0.26, 0.20, 0.1)
    return melt(block, slope, 0.30)


def hood(c: Canvas, t: Traits) -> None:
    """The hood of a hoodie, lying behind the neck."""
    a, b = body_frame(c, t)
    d = ellipse(a, b - t.base - 0.02, t.neck + 0.42, 0.40)
    c.paint(d, t.ink("cloth_dark"), CLOTH, relief=0.4, width=0.2)


def clothes(c: Canvas, t: Traits) -> None:
    """Torso and arms in one kind of clothes."""
    a, b = body_frame(c, t)
    kind = t.people[0].clothes
    y = b - t.base
    d = torso(a, b, t)
    if kind == "dress":
        skin(c, t, d)
        d = dress(c, t, a, y, d)
    else:
        c.paint(d, t.ink("cloth"), CLOTH, relief=0.45, width=0.42)
    arm = (a.abs() - (t.build - 0.42)).abs()
    fold = torch.maximum(arm - 0.010, 0.95 - y)
    tone = t.ink("shadow" if kind == "dress" else "cloth_dark")
    c.tint(
        (1 - (a.abs() - (t.build - 0.40)).clamp(min=0) / 0.25).clamp(0, 1)
        * ramp(y, 0.8, 1.3)
        * (a.abs() > t.build - 0.40)
        * 0.4,
        tone,
    )
    c.paint(fold, tone, line=0, fill=0.6, alpha=0.8)
    {"shirt": shirt, "hoodie": hoodie, "suit": suit, "dress": jewel}[kind](c, t, a, y, d)


def skin(c: Canvas, t: Traits, d: Tensor) -> None:
    c.paint(d, t.ink("skin"), CODE["neck"], relief=0.35, width=0.35)


def dress(c: Canvas, t: Traits, a: Tensor, y: Tensor, body: Tensor) -> Tensor:
    """A bodice with a sweetheart neckline and straps, over bare shoulders."""
    x = a.abs()
    neckline = (
        0.80 - 0.16 * torch.sin((x / 0.55).clamp(0, 1.6) * 3.1416).clamp(min=-0.2) - 0.10 * (x - 0.7).clamp(min=0)
    )
    bodice = largest((neckline - y) * 0.8, x - t.build + 0.40, body)
    strap = torch.maximum((x - 0.60 - 0.06 * (0.8 - y)).abs() - 0.075, torch.maximum(y - 0.85, body))
    c.paint(strap, t.ink("cloth"), CLOTH, line=0.8)
    c.paint(bodice, t.ink("cloth"), CLOTH, relief=0.4, width=0.35)
    trim = torch.maximum((y - neckline - 0.05).abs() - 0.022, bodice)
    c.paint(trim, t.ink("cloth_light"), line=0)
    for at in (-0.45, 0.0, 0.45):
        pleat = largest((a - at * (0.6 + 0.5 * y)).abs() - 0.014, 1.45 - y, bodice)
        c.paint(pleat, t.ink("cloth_dark"), line=0, fill=0.4, alpha=0.7)
    return bodice


def jewel(c: Canvas, t: Traits, a: Tensor, y: Tensor, d: Tensor) -> None:
    """A thin necklace with a pendant."""
    curve = y - 0.44 + 0.9 * a * a
    chain = torch.maximum(curve.abs() * 0.8 - 0.016, a.abs() - t.neck - 0.06)
    c.paint(chain, t.ink("gold"), CODE["neck_l"], line=0, fill=0.7)
    c.paint(circle(a, y - 0.49, 0.055), t.ink("gold"), CODE["neck_l"], line=0.6, relief=0.5, width=0.05)


def shirt(c: Canvas, t: Traits, a: Tensor, y: Tensor, d: Tensor) -> None:
    """A collar of two flaps, a placket with buttons."""
    placket = torch.maximum(a.abs() - 0.10, 0.35 - y)
    c.paint(torch.maximum(placket, d), t.ink("cloth"), CLOTH, line=0.55)
    c.paint(torch.maximum((a.abs() - 0.10).abs() - 0.010, 0.4 - y), t.ink("cloth_dark"), line=0, alpha=0.9)
    rows = (y - 0.72) / 0.42
    button = torch.where((rows > -0.5) & (rows < 6), length(a, (rows - rows.round()) * 0.42), 9.0) - 0.042
    c.paint(button, t.ink("cloth_light"), line=0.5)
    c.paint(button + 0.022, t.ink("cloth_dark"), line=0)
    gap = triangle(a, y, ((-t.neck * 0.72, -0.06), (t.neck * 0.72, -0.06), (0.0, 0.44)))
    c.paint(gap, t.ink("skin") * 0.93, CODE["neck"], line=0.7)
    x, n = a.abs(), t.neck
    flap = triangle(x, y, ((n * 0.62, -0.10), (n + 0.16, 0.10), (n * 0.80 + 0.08, 0.52), (0.03, 0.40)))
    shade = (1 - (flap - 0.01) / 0.10).clamp(0, 1) * (flap > 0) * (d < 0)
    c.tint(shade * 0.45, t.ink("cloth_dark"))
    c.paint(flap - 0.015, t.ink("cloth_light"), CLOTH, relief=0.3, width=0.10)


def hoodie(c: Canvas, t: Traits, a: Tensor, y: Tensor, d: Tensor) -> None:
    """A thick rolled neckline, two strings, a pocket."""
    ring = ellipse(a, y + 0.06, t.neck + 0.20, 0.36)
    roll = torch.maximum((ring).abs() - 0.11, -0.10 - y)
    c.tint((1 - roll / 0.12).clamp(0, 1) * (d < 0) * 0.4, t.ink("cloth_dark"))
    inside = torch.maximum(ring, -0.05 - y)
    c.paint(inside, t.ink("skin") * 0.90, CODE["neck"], line=0)
    c.paint(roll, t.ink("cloth"), CLOTH, relief=0.55, width=0.11)
    for sign, end in ((-1.0, 0.98), (1.0, 0.90)):
        cord = segment(a * sign, y, 0.17, 0.34, 0.20, end, 0.030)
        c.paint(cord, t.ink("white"), CLOTH, line=0.7)
        c.paint(segment(a * sign, y, 0.20, end, 0.20, end + 0.06, 0.042), t.ink("gold"), CLOTH, line=0.7)
    pocket = trapezoid(a, y - 2.05, 0.45, 0.72, 0.36, 0.06)
    c.paint(pocket.abs() - 0.012, t.ink("cloth_dark"), line=0, fill=0.7, alpha=0.9)


def suit(c: Canvas, t: Traits, a: Tensor, y: Tensor, d: Tensor) -> None:
    """A white shirt and a tie between two lapels."""
    n = t.neck
    front = triangle(a, y, ((-n - 0.10, -0.05), (n + 0.10, -0.05), (0.0, 1.35)))
    c.paint(front, t.ink("white") * 0.98, CLOTH, line=0.8)
    x = a.abs()
    c.paint(
        triangle(a, y, ((-n * 0.7, -0.08), (n * 0.7, -0.08), (0.0, 0.30))), t.ink("skin") * 0.92, CODE["neck"], line=0.4
    )
    knot = trapezoid(a, y - 0.32, 0.10, 0.055, 0.07, 0.02)
    blade = triangle(a, y, ((-0.055, 0.38), (0.055, 0.38), (0.15, 1.05), (0.0, 1.22), (-0.15, 1.05)))
    tie = t.ink("tie") * (1 + 0.18 * torch.sign(torch.sin((a + y) * 26)))
    c.paint(torch.maximum(blade, front), tie, CLOTH, line=0.8)
    c.paint(knot, t.ink("tie"), CLOTH, line=0.8, relief=0.4, width=0.08)
    collar = triangle(x, y, ((n * 0.66, -0.10), (n + 0.08, 0.05), (n * 0.55 + 0.08, 0.36), (0.05, 0.26)))
    c.paint(collar, t.ink("white"), CLOTH, line=0.7)
    lapel = triangle(
        x, y, ((n + 0.04, -0.02), (n + 0.42, 0.34), (n + 0.26, 0.48), (n + 0.36, 0.60), (0.03, 1.38), (0.02, 1.28))
    )
    c.tint((1 - lapel / 0.10).clamp(0, 1) * (lapel > 0) * (d < 0) * 0.4, t.ink("cloth_dark"))
    c.paint(lapel, t.ink("cloth_dark"), CLOTH, relief=0.2, width=0.10)
    c.paint(torch.maximum(a.abs() - 0.010, 1.36 - y), t.ink("cloth_dark"), line=0, fill=0.8)
    for at in (1.60, 2.05):
        c.paint(circle(a - 0.08, y - at, 0.045), t.ink("cloth_dark") * 0.8, line=0.6)
    pocket = box(a - 0.62, y - 1.12, 0.16, 0.020)
    c.paint(pocket, t.ink("cloth_dark"), line=0, fill=0.7)
    c.paint(
        triangle(a - 0.62, y - 1.10, ((-0.11, 0.0), (-0.03, -0.14), (0.05, -0.05), (0.11, -0.10), (0.11, 0.0))),
        t.ink("white"),
        line=0.5,
    )


def hats(c: Canvas, t: Traits) -> None:
    """Hats of one kind."""
    u, v = head_frame(c, t)
    kind = t.people[0].hat
    x = u - t.skull_x
    fx = u - t.bridge_x * 0.6
    w = t.w + 0.06 + 0.10 * t.volume
    code, main, dark, light = CODE["hat"], t.ink("hat"), t.ink("hat_dark"), t.ink("hat_light")
    if kind == "cap":
        dome = largest(ellipse(x, v + 0.40, w + 0.03, 0.80), v + 0.40 - 0.10 * (x / w) ** 2)
        c.paint(dome, main, code, relief=0.45, width=0.40)
        seam = torch.maximum((x - 0.35 * t.yaw).abs() - 0.012, dome)
        c.paint(seam, dark, line=0, fill=0.7, alpha=0.8)
        side = torch.maximum((length((x - 0.3 * t.yaw) * 1.2, v + 0.40) - 0.62).abs() - 0.010, dome)
        c.paint(side, dark, line=0, fill=0.4, alpha=0.6)
        c.paint(ellipse(x, v + 1.21, 0.09, 0.05), dark, code, line=0.8)
        badge = ellipse(fx - 0.1 * t.yaw, v + 0.72, 0.19, 0.15)
        c.paint(badge, t.ink("white"), code, line=0.7)
        px = fx - 0.25 * t.yaw
        curve = 0.16 * (px / w) ** 2
        visor = ellipse(px, v + 0.43 - curve, w * 0.94, 0.185)
        c.paint(visor, dark, code, relief=0.6, width=0.14)
        c.paint(
            torch.maximum((v + 0.36 - curve - 0.09 * (px / w) ** 2).abs() - 0.010, visor + 0.03),
            light,
            line=0,
            alpha=0.7,
        )
    elif kind == "beanie":
        dome = largest(ellipse(x, v + 0.42, w + 0.05, 0.92), v + 0.40)
        knit = torch.sin(x * 34) * 0.5 + 0.5
        c.paint(
            circle(x, v + 1.38, 0.21) + 0.010 * torch.sin(torch.atan2(v + 1.38, x) * 13),
            light,
            code,
            relief=0.4,
            width=0.2,
        )
        c.paint(dome, main * (0.90 + 0.14 * knit), code, relief=0.45, width=0.40)
        band = box(x, v + 0.46 - 0.06 * (x / w) ** 2, w + 0.07, 0.17, 0.12)
        rib = torch.sin(x * 46)
        c.paint(band, dark * (1.06 + 0.14 * rib), code, relief=0.4, width=0.15)
    elif kind == "cowboy hat":
        crown = melt(
            trapezoid(x, v + 0.86, w * 0.58, w * 0.80, 0.34, 0.14),
            ellipse(x.abs() - w * 0.36, v + 1.20, w * 0.30, 0.20),
            0.12,
        )
        crown = torch.maximum(crown, -ellipse(x, v + 1.46, 0.20, 0.17))
        c.paint(crown, main, code, relief=0.45, width=0.35)
        c.paint(
            torch.maximum(ellipse(x, v + 1.12, 0.07, 0.26).abs() - 0.02, crown + 0.03),
            dark,
            line=0,
            fill=0.5,
            alpha=0.7,
        )
        band = torch.maximum((v + 0.62 - 0.05 * x * x).abs() - 0.085, crown)
        c.paint(band, dark * 0.75, code, line=0.8)
        lift = 0.42 * (x.abs() / (w + 0.5)) ** 2.4
        s = (x.abs() / (w + 0.62)).clamp(max=1.3)
        brim = torch.maximum((v + 0.46 + lift).abs() - 0.135 * (1.02 - s * s).clamp(min=-0.5) ** 1.0, (s - 1.0) * w)
        c.paint(brim, main * 0.94, code, relief=0.6, width=0.12)
    else:
        dome = largest(ellipse(x, v + 0.36, w + 0.08, 0.90), v + 0.38)
        for sign in (-1.0, 1.0):
            strap = segment(u, v, t.skull_x + sign * (w - 0.06), -0.35, t.chin_x + sign * 0.20, t.tall - 0.02, 0.030)
            c.paint(strap, t.ink("pupil") + 0.12, code, line=0.6)
        c.paint(dome, main, code, relief=0.55, width=0.45)
        for at, wide in ((0.0, 0.10), (-0.36, 0.05), (0.36, 0.05)):
            ridge = torch.maximum(
                (x - at * (1.3 + 0.9 * (v + 0.38)) - 0.35 * t.yaw * (1 - at * at)).abs() - wide, dome + 0.05
            )
            c.paint(ridge, light if at == 0.0 else dark, code, line=0.7, alpha=0.75)
        shine = ellipse(x + 0.38, v + 0.86, 0.16, 0.09)
        c.tint((0.5 - shine / 0.08).clamp(0, 1) * 0.8, t.ink("white"))
        rim = box(x, v + 0.40 - 0.08 * (x / w) ** 2, w + 0.16, 0.085, 0.08)
        c.paint(rim, dark, code, relief=0.5, width=0.10)


def hat_shadow(c: Canvas, t: Traits, face: Tensor) -> None:
    """What a hat throws on the forehead."""
    v = head_frame(c, t)[1]
    c.tint(ramp(v, t.hat_line + 0.34, t.hat_line) * (0.5 - face * c.per).clamp(0, 1) * 0.5, t.ink("shadow"))


def glasses(c: Canvas, t: Traits) -> None:
    """Clear round glasses, or dark ones."""
    u, v = head_frame(c, t)
    dark = t.people[0].glasses == "sunglasses"
    y = v - t.eye_y - 0.01
    frame = t.ink("pupil") + (0.03 if dark else 0.10)
    lenses = []
    for side in "lr":
        k = getattr(t, "eye_k" + side).clamp(min=0.35)
        x = (u - getattr(t, "eye_" + side)) / k
        if dark:
            lens = box(x, y - 0.02, t.lens, 0.225, 0.15)
            c.paint(lens - 0.03, frame, CODE["eye_g"], line=0.9, fill=0.9)
            tone = (0.16 + 0.20 * ((y + 0.22) / 0.45).clamp(0, 1)) * torch.ones_like(t.ink("white"))
            c.paint(lens + 0.015, tone, CODE["eye_g"], line=0, fill=0.92)
            streak = torch.maximum((x + 0.8 * y + 0.05).abs() - 0.05, lens + 0.05)
            c.paint(streak, t.ink("white"), line=0, alpha=0.42)
        else:
            lens = ellipse(x, y, t.lens, 0.265)
            c.paint(lens, t.ink("white"), line=0, alpha=0.10)
            streak = torch.maximum((x + 0.7 * y - 0.12).abs() - 0.025, lens + 0.05)
            c.paint(streak, t.ink("white"), line=0, alpha=0.40)
            c.paint(lens.abs() - 0.032, frame, CODE["eye_g"], line=0, fill=1.0)
        lenses.append(lens)
    left, right = t.eye_l + t.lens * t.eye_kl, t.eye_r - t.lens * t.eye_kr
    middle, half = (left + right) * 0.5, ((right - left) * 0.5).clamp(min=0.0)
    bridge = torch.maximum(
        (y + 0.06 - 2.2 * ((u - middle) ** 2 - half * half) * 0.3).abs() - 0.028, (u - middle).abs() - half
    )
    c.paint(torch.where(half > 0.005, bridge, 1.0), frame, CODE["eye_g"], line=0, fill=1.0)
    ears = [
        segment(
            u, y, t.eye_l - t.lens * t.eye_kl, -0.05, torch.minimum(t.ear_l, t.eye_l - t.lens * t.eye_kl), -0.08, 0.024
        ),
        segment(
            u, y, t.eye_r + t.lens * t.eye_kr, -0.05, torch.maximum(t.ear_r, t.eye_r + t.lens * t.eye_kr), -0.08, 0.024
        ),
    ]
    arms = torch.maximum(smallest(*ears), (u - t.skull_x).abs() - t.w)
    arms = torch.maximum(arms, -smallest(*lenses))
    c.paint(arms, frame, CODE["eye_g"], line=0, fill=1.0)


def draw_clothes(c: Canvas, t: Traits) -> None:
    """Clothes of every kind present."""
    each(c, t, lambda p: p.clothes, clothes)


def draw_hats(c: Canvas, t: Traits) -> None:
    """Hats of every kind present."""
    each(c, t, lambda p: p.hat if p.hat != "none" else None, hats)


def draw_glasses(c: Canvas, t: Traits) -> None:
    """Glasses of either kind."""
    each(c, t, lambda p: p.glasses if p.glasses != "none" else None, glasses)
