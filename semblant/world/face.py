"""The face: eyes, brows, nose, mouth, beard, what years and freckles leave on the skin."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world.shapes import CODE, Canvas, circle, ellipse, largest, length, ramp, segment, smallest, taper, turned
from semblant.world.traits import Traits


def head_frame(c: Canvas, t: Traits) -> tuple[Tensor, Tensor]:
    """Pixel coordinates in the tilted frame of the head, in head units."""
    dx, dy = (c.x - t.hx) / t.unit, (c.y - t.hy) / t.unit
    return dx * t.cos + dy * t.sin, dy * t.cos - dx * t.sin


def body_frame(c: Canvas, t: Traits) -> tuple[Tensor, Tensor]:
    """Pixel coordinates in the upright frame of the body, in head units; together they broadcast to a field."""
    return (c.x - t.cx) / t.unit, (c.y - t.cy) / t.unit


def skin_marks(c: Canvas, t: Traits, u: Tensor, v: Tensor, face: Tensor) -> None:
    """Blush, freckles, wrinkles and the mole."""
    inside = (0.5 - face * c.per * 0.5).clamp(0, 1)
    for side in "lr":
        x, k = getattr(t, "cheek_" + side), getattr(t, "cheek_k" + side).clamp(min=0.3)
        spot = ((u - x) / (0.27 * k)) ** 2 + ((v - 0.40 * t.tall) / 0.19) ** 2
        c.tint(
            (1 - spot).clamp_(min=0)
            * inside
            * (0.24 + 1.4 * (t.cheek + 0.04).clamp(min=0) + 0.7 * t.fresh + 0.25 * t.cheer - 0.2 * t.wrinkle),
            t.ink("blush"),
        )
        # Young cheeks are plump and shine.
        shine = circle((u - x) / k + 0.06, v - 0.36 * t.tall, 0.09)
        c.tint((0.5 - shine / 0.11).clamp(0, 1) * inside * 0.75 * t.fresh, t.ink("glow"))
    some = [i for i, p in enumerate(t.people) if p.identity.freckles > 0.5]
    if some:
        rows = torch.tensor(some, device=u.device)
        piece, few = c.part(rows), t.take(rows, some)
        # A turned grid, every other row shifted: a straight one would show.
        cells_u, cells_v = (a * 8.5 for a in turned(u[rows] - few.nose_x * 0.8, v[rows], 0.6))
        cells_u = cells_u + 0.5 * (cells_v.floor() % 2)
        cell_u, cell_v = cells_u.floor(), cells_v.floor()
        luck = torch.sin(cell_u * 12.9898 + cell_v * 78.233) * 43.7585
        luck = luck - luck.floor()
        off = length(cells_u - cell_u - 0.25 - 0.5 * luck, cells_v - cell_v - 0.7 + 0.4 * luck) - (0.24 + 0.14 * luck)
        zone = ((u[rows] - few.nose_x * 0.7) / (0.80 * few.w)) ** 2 + ((v[rows] - 0.34) / 0.25) ** 2
        shown = (luck < 0.35 + 0.45 * few.freckles).float() * (1 - zone.clamp(0, 1) ** 3)
        piece.image.lerp_(few.ink("crease"), (0.5 - off / 8.5 * piece.per).clamp(0, 1) * shown * 0.9)
        c.merge(piece)
    aged = [i for i, p in enumerate(t.people) if p.age > 0.45]
    if aged:
        rows = torch.tensor(aged, device=u.device)
        piece, old = c.part(rows), t.take(rows, aged)
        wrinkles(piece, old, u[rows], v[rows])
        c.merge(piece)
    moles = [i for i, p in enumerate(t.people) if p.identity.mole_size >= 0.5]
    if moles:
        rows = torch.tensor(moles, device=u.device)
        piece, few = c.part(rows), t.take(rows, moles)
        d = circle(u[rows] - few.mole_x, v[rows] - few.mole_y, few.mole)
        piece.paint(
            torch.maximum(d, face[rows] + 0.02), few.ink("lash") * 0.75 + few.ink("crease") * 0.25, line=0, fill=0.9
        )
        c.merge(piece)


def wrinkles(c: Canvas, t: Traits, u: Tensor, v: Tensor) -> None:
    """Lines on the forehead, beside the eyes and mouth, bags under the eyes: deeper with age."""
    depth, tone = t.wrinkle, t.ink("crease")
    x = u - t.bridge_x
    thin = 0.013 + 0.010 * depth
    for height, wide in ((-0.60, 0.40), (-0.49, 0.46), (-0.385, 0.40)):
        y = v - height * (0.9 + 0.1 * t.tall) - 0.05 * torch.cos(x * 9) * 0.35 + 0.10 * x * x
        c.paint(torch.maximum(y.abs() - thin, x.abs() - wide), tone, line=0, fill=0.45, alpha=0.75 * depth)
    for side, sign in (("l", -1.0), ("r", 1.0)):
        ex, k = getattr(t, "eye_" + side), getattr(t, "eye_k" + side)
        p, q = (u - ex) / k.clamp(min=0.35), v - t.eye_y
        bag = torch.maximum((q - t.lower - 0.075 + 0.9 * p * p).abs() - thin, p.abs() - t.eye * 0.9)
        c.paint(bag, tone, line=0, fill=0.4, alpha=0.7 * depth)
        feet = [
            segment(p * sign, q, t.eye * 1.22, 0.02 + 0.03 * i, t.eye * 1.22 + 0.15, 0.02 + 0.10 * i, thin * 0.9)
            for i in (-1, 0, 1)
        ]
        c.paint(smallest(*feet), tone, line=0, fill=0.4, alpha=0.7 * depth)
        fold = taper(
            (u - t.mouth_x) * sign / t.mouth_k,
            v,
            t.nose * 1.15,
            t.nose_y + 0.02,
            0.33 + 0.06 * t.cheer,
            t.mouth_y + 0.03,
            thin * 0.7,
            thin * 1.5,
        )
        c.paint(fold, tone, line=0, fill=0.5, alpha=0.8 * depth)


def eye(c: Canvas, t: Traits, side: str, sign: float) -> None:
    """One eye and its lid; `sign` is -1 for the picture's left eye."""
    u, v = head_frame(c, t)
    k = getattr(t, "eye_k" + side).clamp(min=0.35)
    x, y = (u - getattr(t, "eye_" + side)) / k, v - t.eye_y
    outward = x * sign
    y = y + t.slant * outward
    s = outward / t.eye
    bend = (1 - s * s).clamp(min=-1.0)
    inner_lid = t.lid * (1 - s) * 0.5 * t.eye
    top = -t.upper * torch.where(bend > 0, bend.clamp(min=1e-6) ** 0.72, bend) + inner_lid * (bend > 0)
    low = t.lower * bend
    white = torch.maximum(top - y, y - low) * 0.8
    socket = (1 - (s / 1.5) ** 2 - (y / (1.5 * t.upper + 0.05)) ** 2).clamp(min=0)
    c.tint(socket * 0.30, t.ink("shadow"))
    c.paint(white, t.ink("white"), CODE["r_eye" if side == "l" else "l_eye"], line=0.75)
    shade = (1 - (y - top) / (0.55 * t.eye)).clamp(0, 1)
    c.tint(shade * (white * -30).clamp(0, 1) * 0.35, t.ink("lash") + 0.25)
    ix, iy = x - t.look - 0.10 * t.eye * torch.sign(t.yaw) * t.yaw.abs().sqrt(), y + 0.06 * t.eye
    r = length(ix, iy)
    edge = torch.maximum(r - t.iris, white)
    glow = (0.55 + 0.45 * (iy / t.iris)).clamp(0, 1)
    c.paint(edge, t.ink("iris") * (0.86 + 0.34 * glow), line=0.9, fill=0.25)
    c.paint(
        torch.maximum((r - t.iris * 0.93).abs() - t.iris * 0.10, white), t.ink("iris_dark"), line=0, fill=0.6, alpha=0.8
    )
    c.paint(torch.maximum(r - t.iris * 0.46, white), t.ink("pupil"), line=0, fill=1.0)
    spark = circle(ix + 0.34 * t.iris, iy + 0.36 * t.iris, t.iris * 0.26)
    c.paint(torch.maximum(spark, white), t.ink("white"), line=0)
    lash = (
        torch.maximum((y - top + 0.012).abs() - (0.022 + 0.012 * (s + 1).clamp(0, 2)), s.abs() * t.eye - t.eye * 1.08)
        * 0.9
    )
    c.paint(lash, t.ink("lash"), line=0, fill=1.0)
    crease = torch.maximum((y - top * 1.22 + 0.050).abs() - 0.010, (s.abs() - 0.85) * t.eye)
    c.paint(crease, t.ink("crease"), line=0, fill=0.3, alpha=0.6)
    c.paint(
        torch.maximum((y - low).abs() - 0.008, (s.abs() - 0.9) * t.eye), t.ink("crease"), line=0, fill=0.2, alpha=0.55
    )


def brow(c: Canvas, t: Traits, u: Tensor, v: Tensor, side: str, sign: float) -> None:
    """One brow: raised, knit or level."""
    k = getattr(t, "brow_k" + side).clamp(min=0.35)
    outward = (u - getattr(t, "brow_" + side)) * sign / k
    half = t.eye * 1.28
    s = outward / half
    middle = t.brow_y + t.brow_slope * outward + t.brow_arch * (s * s - 0.35) * 0.28
    thick = t.brow * (1.0 - 0.45 * ((s + 0.2).clamp(min=0)) ** 2) + 0.006
    d = torch.maximum((v - middle).abs() - thick, outward.abs() - half) * 0.95
    c.paint(d, t.ink("brows"), CODE["r_brow" if side == "l" else "l_brow"], line=0, fill=1.0)


def nose(c: Canvas, t: Traits, u: Tensor, v: Tensor) -> None:
    """A soft bridge, a round tip, nostrils."""
    x, k = u - t.nose_x, t.nose_k.clamp(min=0.5)
    bridge = t.bridge_x + (t.nose_x - t.bridge_x) * ((v + 0.1) / (t.nose_y + 0.1)).clamp(0, 1)
    side = ramp(v, -0.12, t.nose_y) * (1 - ramp(v, t.nose_y, t.nose_y + 0.10))
    away = (u - bridge) - 0.35 * t.nose - 0.04
    c.tint(side * (1 - (away / (0.13 + 0.2 * t.nose)).abs()).clamp(min=0) * 0.50, t.ink("shadow"))
    c.tint(side * (1 - ((u - bridge + 0.02) / 0.07).abs()).clamp(min=0) * 0.40, t.ink("glow"))
    ball = t.nose * 0.62 + 0.012
    stem = taper(u, v, t.bridge_x, t.eye_y + 0.02, t.nose_x, t.nose_y - ball * 0.5, 0.04, ball * 0.72)
    tip = ellipse(x, v - t.nose_y + 0.35 * ball, ball, ball * 0.92)
    wings = ellipse(x.abs() - t.nose * 0.66 * k, v - t.nose_y + 0.02, t.nose * 0.40, t.nose * 0.40 + 0.012)
    low = smallest(tip, wings)
    under = ellipse(x - 0.03, v - t.nose_y - 0.06, t.nose * 1.05 + 0.03, 0.07)
    c.tint((0.5 - under / 0.09).clamp(0, 1) * 0.45, t.ink("shadow"))
    if c.layer is not None:
        both = smallest(stem, low)
        hit = (both < 0) & (v > t.eye_y)
        c.layer.masked_fill_(hit, CODE["nose"] + c.owner)
    c.paint(
        low,
        t.ink("nose"),
        CODE["nose"],
        line=0,
        relief=0.75,
        width=0.10,
        alpha=ramp(v, t.nose_y - 1.9 * ball, t.nose_y - 0.4 * ball),
    )
    if c.ink is not None:
        outline = (0.5 + c.line * 0.4 - (low * c.per).abs()).clamp(0, 1) * ramp(v, t.nose_y - 0.06, t.nose_y)
        torch.maximum(c.ink, outline, out=c.ink)
    holes = ellipse(x.abs() - t.nose * 0.42 * k, v - t.nose_y - 0.030, t.nose * 0.20 + 0.006, 0.026)
    c.paint(holes, t.ink("crease") * 0.75, line=0, fill=0.8, alpha=0.9)
    c.tint(
        (0.5 - circle(x + 0.28 * t.nose, v - t.nose_y + 0.5 * ball, ball * 0.22) / 0.05).clamp(0, 1) * 0.55,
        t.ink("glow"),
    )


def mouth(c: Canvas, t: Traits, u: Tensor, v: Tensor) -> None:
    """Lips as two bands around an opening; corners rise and fall with the mood."""
    x, y = (u - t.mouth_x) / t.mouth_k.clamp(min=0.4), v - t.mouth_y
    s = x / t.mouth
    ss = s * s
    bend = (1 - ss).clamp(min=0)
    arc = bend.sqrt() * t.round + bend * (1 - t.round)
    middle = t.corners * (0.42 - ss)
    slope = 1 / torch.sqrt(1 + (2.2 * t.corners * s / t.mouth) ** 2)
    gap_top = middle - t.open * 0.32 * arc * (1 + 0.9 * t.round)
    gap_low = middle + t.open * 0.85 * arc
    bow = 1 - 0.35 * torch.exp(-(s * s) * 26)
    lip_top = gap_top - t.lip * 0.95 * bow * bend.clamp(min=1e-6) ** 0.8 - 0.012 * (ss < 1)
    lip_low = gap_low + t.lip * 1.25 * bend.clamp(min=1e-6) ** 0.6 + 0.012 * (ss < 1)
    width = (s.abs() - 1.0) * t.mouth
    upper = largest((lip_top - y) * slope, (y - (gap_top + gap_low) * 0.5) * slope, width)
    lower = largest((y - lip_low) * slope, ((gap_top + gap_low) * 0.5 - y) * slope, width)
    below = 1 - ((x / (0.75 * t.mouth)) ** 2 + ((y - (lip_low - middle).abs() - t.corners * 0.4 - 0.09) / 0.06) ** 2)
    c.tint(below.clamp(min=0) * 0.35, t.ink("shadow"))
    c.paint(upper, t.ink("lips") * 0.86, CODE["u_lip"], line=0.35)
    c.paint(lower, t.ink("lips"), CODE["l_lip"], line=0.35)
    shine = ((x + 0.15 * t.mouth) / (0.5 * t.mouth)) ** 2 + (
        (y - (gap_low + lip_low) * 0.5 + 0.005) / (0.35 * t.lip + 0.006)
    ) ** 2
    c.tint((1 - shine).clamp(min=0) * 0.5, t.ink("glow"))
    opened = torch.maximum(torch.maximum(gap_top - y, y - gap_low) * slope, width + 0.01)
    wide = t.open > 0.012
    c.paint(torch.where(wide, opened, 1.0), t.ink("cavity"), CODE["mouth"], line=0.5, fill=0.55)
    teeth = torch.maximum(opened + 0.012, y - gap_top - t.open * (0.52 + 0.6 * t.grit) * (0.35 + 0.65 * bend))
    c.paint(torch.where(wide & (t.teeth > 0), teeth, 1.0), t.ink("teeth"), line=0, fill=-1)
    bars = largest((torch.sin(x * 42).abs() - 0.25) * 0.024, teeth)
    c.paint(torch.where(t.grit > 0.2, bars, 1.0), t.ink("cavity"), line=0, fill=0.4, alpha=0.5)
    grit = torch.maximum((y - (gap_top + gap_low) * 0.5).abs() - 0.011, opened)
    c.paint(torch.where(t.grit > 0.2, grit, 1.0), t.ink("cavity"), line=0, fill=0.8, alpha=0.8)
    tongue = torch.maximum(ellipse(x, y - gap_low + 0.005, t.mouth * 0.62, t.open * 0.42 + 0.01), opened + 0.012)
    c.paint(torch.where(wide & (t.grit < 0.2), tongue, 1.0), t.ink("tongue"), line=0)
    seam = torch.maximum((y - (gap_top + gap_low) * 0.5).abs() * slope - 0.014, width - 0.02)
    c.paint(torch.where(wide, 1.0, seam), t.ink("seam"), line=0, fill=1.0)
    for sign in (-1.0, 1.0):
        corner = circle(x - sign * t.mouth, y - t.corners * (0.42 - 1.0), 0.022)
        c.paint(corner, t.ink("crease"), line=0, fill=0.7, alpha=0.75)


def beard(c: Canvas, t: Traits, u: Tensor, v: Tensor, face: Tensor) -> None:
    """A full beard from ear to ear, around a moustache."""
    x = u - t.mouth_x * 0.75
    edge = 0.50 * t.tall - 0.62 * (x.abs() / t.w) ** 2.2
    edge = edge + 0.014 * torch.sin(x * 46)
    d = torch.maximum(face - 0.10 * ramp(v, 0.35, 1.0), (edge - v) * 0.8)
    strand = 0.5 + 0.5 * torch.sin(x * 40 + 2.2 * torch.sin(v * 9))
    colour = t.ink("hair") * (0.80 + 0.26 * strand)
    c.paint(d, colour, CODE["hair"], line=0.9, fill=0.10, relief=0.30, width=0.25)
    if c.ink is not None:
        torch.maximum(c.ink, (0.5 - d * c.per).clamp(0, 1) * ramp(strand, 0.80, 1.0) * 0.5, out=c.ink)


def moustache(c: Canvas, t: Traits, u: Tensor, v: Tensor) -> None:
    """Two swept lobes between nose and lip."""
    x = (u - t.mouth_x) / t.mouth_k.clamp(min=0.4)
    top = t.nose_y + 0.055
    low = t.mouth_y - t.lip - 0.02 - t.open * 0.32
    middle = (top + low) * 0.5 + 0.02
    half = 0.30 + 0.22 * t.mouth
    s = x.abs() / half
    line = middle + 0.22 * s * s - 0.07 * s - 0.12 * (s - 0.75).clamp(min=0)
    d = torch.maximum((v - line).abs() - (0.052 + 0.045 * (1 - s) * (s + 0.35)).clamp(min=0.0), (s - 1.0) * half)
    colour = t.ink("hair") * (0.84 + 0.2 * torch.sin(x * 44).abs())
    c.paint(d, colour, CODE["hair"], line=0.8, fill=0.5, relief=0.30, width=0.10)
