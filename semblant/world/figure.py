"""One person, from the hair behind the neck to the hands in front."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.world import face as faces
from semblant.world import hair, wear
from semblant.world.deeds import draw_action
from semblant.world.face import body_frame, head_frame
from semblant.world.hair import some
from semblant.world.shapes import CODE, Canvas, ellipse, melt, ramp, trapezoid
from semblant.world.traits import Traits


def face_distance(u: Tensor, v: Tensor, t: Traits) -> Tensor:
    """Distance to the outline of the head, hair aside: a cranium and a jaw that cheeks and chin shape."""
    low = ((v + 0.6) / 1.4).clamp(0, 1)
    x = u - t.skull_x * (1 - low) - t.chin_x * low
    cranium = ellipse(x, v + 0.17, t.w, 0.85)
    round_ = 0.27
    bottom = t.tall - round_
    jaw = trapezoid(x, v - (bottom + 0.06) / 2, t.w - round_ + t.cheek - 0.03, t.jaw, (bottom - 0.06) / 2, round_)
    return melt(cranium, jaw, 0.22)


def neck(c: Canvas, t: Traits) -> None:
    """The neck, from under the chin to the collar, in the shadow of the head."""
    a, b = body_frame(c, t)
    lean = (t.hx - t.cx) / t.unit * ((t.base - b) / (t.base - 0.5)).clamp(0, 1)
    x = a - lean - 0.5 * t.chin_x * (b < t.base)
    d = trapezoid(x, b - (0.55 + t.base + 0.35) / 2, t.neck, t.neck + 0.06, (t.base - 0.55 + 0.35) / 2, 0.03)
    c.paint(d, t.ink("skin"), CODE["neck"], relief=0.3, width=0.25)
    shade = ramp(b, t.tall + 0.36, t.tall - 0.02) * (0.5 - d * c.per).clamp(0, 1)
    c.tint(shade * 0.85, t.ink("shadow"))


def ears(c: Canvas, t: Traits, u: Tensor, v: Tensor) -> None:
    """Both ears, each with its fold."""
    for side, sign, name in (("l", -1.0, "r_ear"), ("r", 1.0, "l_ear")):
        x = (u - getattr(t, "ear_" + side)) * sign
        y = v - 0.16
        d = ellipse(x - 0.02 + 0.12 * y, y, t.ear * 0.62, t.ear * 1.02)
        c.paint(d, t.ink("skin") * 0.97, CODE[name], relief=0.5, width=0.12)
        c.paint(ellipse(x - 0.02, y, t.ear * 0.30, t.ear * 0.62), t.ink("shadow"), line=0.4, alpha=0.75)


def head(c: Canvas, t: Traits, u: Tensor, v: Tensor, d: Tensor) -> None:
    """The bare head, lit from above left."""
    c.paint(d, t.ink("skin"), CODE["skin"], relief=0.42, width=0.50)
    inside = (0.5 - d * c.per).clamp(0, 1)
    far = ramp(u * 0.9 + v * 0.25, 0.28, 0.95)
    c.tint(far * inside * 0.42, t.ink("shadow"))
    near = 1 - ((u + 0.30 * t.w) / 0.50) ** 2 - ((v + 0.55) / 0.42) ** 2
    c.tint(near.clamp(min=0) * inside * 0.38, t.ink("glow"))


def window(c: Canvas, t: Traits, box: tuple[float, float, float, float], largest_unit: float) -> Canvas:
    """A window of one size onto each picture, around the head-frame box (left, top, right, bottom)."""
    size = c.height
    left, top, right, bottom = box
    middle_u, middle_v = (left + right) / 2, (top + bottom) / 2
    x = t.hx + t.unit * (middle_u * t.cos - middle_v * t.sin)
    y = t.hy + t.unit * (middle_u * t.sin + middle_v * t.cos)
    wide, high = right - left, bottom - top
    w = min(size, int((0.94 * wide + 0.30 * high) * largest_unit * size) + 3)
    h = min(size, int((0.94 * high + 0.30 * wide) * largest_unit * size) + 3)
    corner_x = (x[:, 0, 0] * size - w / 2).round().long().clamp(0, size - w)
    corner_y = (y[:, 0, 0] * size - h / 2).round().long().clamp(0, size - h)
    return c.part(torch.arange(len(t.people), device=x.device), corner_y, corner_x, h, w)


def features(c: Canvas, t: Traits, largest_unit: float) -> None:
    """Everything on the face, drawn in a window around it."""
    u, v = head_frame(c, t)
    d = face_distance(u, v, t)
    faces.skin_marks(c, t, u, v, d)
    some(c, t, lambda p: p.beard == "beard", faces.beard, u, v, d)
    faces.mouth(c, t, u, v)
    faces.nose(c, t, u, v)
    some(c, t, lambda p: p.beard == "moustache", faces.moustache, u, v)
    some(c, t, lambda p: p.beard == "beard", faces.moustache, u, v)
    for side, sign in (("l", -1.0), ("r", 1.0)):
        faces.brow(c, t, u, v, side, sign)
    frown = torch.maximum(
        ((u - t.bridge_x).abs() - 0.07 - 0.04 * (v - t.brow_y)).abs() - 0.014, (v - t.brow_y - 0.03).abs() - 0.10
    )
    c.paint(torch.where(t.frown > 0.1, frown, 1.0), t.ink("crease"), line=0, fill=0.7, alpha=0.8 * t.frown.clamp(0, 1))


def draw_person(c: Canvas, t: Traits, largest_unit: float) -> None:
    """Paint one person of every picture over what is there."""
    hair.draw_behind(c, t)
    some(c, t, lambda p: p.clothes == "hoodie", wear.hood)
    neck(c, t)
    wear.draw_clothes(c, t)
    whole = window(c, t, (-1.72, -1.78, 1.72, 1.80), largest_unit)
    u, v = head_frame(whole, t)
    d = face_distance(u, v, t)
    ears(whole, t, u, v)
    head(whole, t, u, v, d)
    some(whole, t, lambda p: p.hat != "none", wear.hat_shadow, d)
    c.merge(whole)
    piece = window(c, t, (-0.98, -0.80, 0.98, 1.22), largest_unit)
    features(piece, t, largest_unit)
    for side, sign in (("l", -1.0), ("r", 1.0)):
        faces.eye(piece, t, side, sign)
    c.merge(piece)
    whole = window(c, t, (-1.72, -1.78, 1.72, 1.80), largest_unit)
    u, v = head_frame(whole, t)
    d = face_distance(u, v, t)
    hair.draw_front(whole, t, d)
    wear.draw_glasses(whole, t)
    wear.draw_hats(whole, t)
    c.merge(whole)
    draw_action(c, t)


def outline(t: Traits) -> tuple[Tensor, Tensor]:
    """Face boxes (batch, 4) and landmarks (batch, 5, 2) as fractions of the picture's side."""
    flat = {n: getattr(t, n)[:, 0, 0] for n in ("hx", "hy", "unit", "cos", "sin", "w", "tall", "ear", "yaw")}

    def place(u: Tensor, v: Tensor) -> Tensor:
        x = flat["hx"] + flat["unit"] * (u * flat["cos"] - v * flat["sin"])
        y = flat["hy"] + flat["unit"] * (u * flat["sin"] + v * flat["cos"])
        return torch.stack([x, y], -1)

    def at(name: str) -> Tensor:
        return getattr(t, name)[:, 0, 0]

    corner = at("corners") * (0.42 - 1.0) + at("mouth_y")
    reach = at("mouth") * at("mouth_k")
    landmarks = torch.stack(
        [
            place(at("eye_l"), at("eye_y")),
            place(at("eye_r"), at("eye_y")),
            place(at("nose_x"), at("nose_y")),
            place(at("mouth_x") - reach, corner),
            place(at("mouth_x") + reach, corner),
        ],
        1,
    )
    half_u = torch.maximum(at("ear_r"), -at("ear_l")) + 0.35 * flat["ear"]
    top, bottom = torch.full_like(half_u, -0.88), flat["tall"]
    middle = place(torch.zeros_like(half_u), (top + bottom) / 2)
    half_v = (bottom - top) / 2
    # The box around the tilted ellipse that fills the head's own box.
    x = torch.sqrt((half_u * flat["cos"]) ** 2 + (half_v * flat["sin"]) ** 2) * flat["unit"]
    y = torch.sqrt((half_u * flat["sin"]) ** 2 + (half_v * flat["cos"]) ** 2) * flat["unit"]
    extent = torch.stack([x, y], -1)
    return torch.cat([middle - extent, middle + extent], -1), landmarks
