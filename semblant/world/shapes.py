"""Signed distances and the canvas they are painted on.

A distance is negative inside a shape and positive outside. Fields have shape (batch, height, width), colours and
pictures (3, batch, height, width): channels come first so that one field weighs all three channels without reshaping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Field = Float[Tensor, "batch height width"]
Number = Tensor | float

LIT = 0.35355339
"""Half of the reciprocal of sqrt 2: the step between two diagonal neighbours, seen from the light above left."""


def length(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean length of the vector (x, y)."""
    return torch.sqrt(x * x + y * y + 1e-9)


def circle(x: Tensor, y: Tensor, radius: Number) -> Tensor:
    """Distance to a circle around the origin."""
    return length(x, y) - radius


def ellipse(x: Tensor, y: Tensor, rx: Number, ry: Number) -> Tensor:
    """First-order distance to an axis-aligned ellipse around the origin: exact on the edge, good near it."""
    xx, yy = (x / rx) ** 2, (y / ry) ** 2
    steepness = (xx / (rx * rx) + yy / (ry * ry) + 1e-6 / (rx * ry)).rsqrt_()
    unit = (xx + yy + 1e-6).sqrt_()
    return (unit * (unit - 1)).mul_(steepness)


def box(x: Tensor, y: Tensor, half_width: Number, half_height: Number, radius: Number = 0.0) -> Tensor:
    """Distance to a box around the origin whose corners are rounded by `radius` (the box keeps its outer size)."""
    qx = x.abs() - (half_width - radius)
    qy = y.abs() - (half_height - radius)
    return length(qx.clamp(min=0), qy.clamp(min=0)) + torch.maximum(qx, qy).clamp(max=0) - radius


def segment(x: Tensor, y: Tensor, ax: Number, ay: Number, bx: Number, by: Number, radius: Number) -> Tensor:
    """Distance to a stroke with round ends from (ax, ay) to (bx, by)."""
    px, py, dx, dy = x - ax, y - ay, bx - ax, by - ay
    along = ((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9)).clamp(0, 1)
    return length(px - along * dx, py - along * dy) - radius


def taper(x: Tensor, y: Tensor, ax: Number, ay: Number, bx: Number, by: Number, ra: Number, rb: Number) -> Tensor:
    """Like `segment`, the radius going from `ra` to `rb` along the stroke."""
    px, py, dx, dy = x - ax, y - ay, bx - ax, by - ay
    along = ((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9)).clamp(0, 1)
    return length(px - along * dx, py - along * dy) - (ra + along * (rb - ra))


def trapezoid(x: Tensor, y: Tensor, top: Number, bottom: Number, half_height: Number, radius: Number) -> Tensor:
    """Distance to an upright trapezoid around the origin: half widths `top` and `bottom`, all grown by `radius`."""
    x = x.abs()
    dx, dy = bottom - top, 2 * half_height
    cap_x = (x - torch.where(y < 0, top, bottom)).clamp(min=0)
    cap_y = y.abs() - half_height
    along = (((x - top) * dx + (y + half_height) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    side_x, side_y = x - top - along * dx, y + half_height - along * dy
    inside = (side_x < 0) & (cap_y < 0)
    nearest = torch.minimum(cap_x * cap_x + cap_y * cap_y, side_x * side_x + side_y * side_y).sqrt()
    return torch.where(inside, -nearest, nearest) - radius


def triangle(x: Tensor, y: Tensor, corners: Sequence[tuple[Number, Number]]) -> Tensor:
    """Bound of the distance to a convex polygon, clockwise on screen (y down): the largest of its edges' distances."""
    edges = []
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        dx, dy = bx - ax, by - ay
        norm = (dx * dx + dy * dy + 1e-9) ** 0.5
        edges.append(((x - ax) * dy - (y - ay) * dx) / norm)
    return largest(*edges)


def largest(first: Tensor, *others: Tensor) -> Tensor:
    """Intersection of shapes."""
    for other in others:
        first = torch.maximum(first, other)
    return first


def smallest(first: Tensor, *others: Tensor) -> Tensor:
    """Union of shapes."""
    for other in others:
        first = torch.minimum(first, other)
    return first


def melt(a: Tensor, b: Tensor, width: Number) -> Tensor:
    """Union of two shapes whose seam is rounded over `width` (quadratic smooth minimum)."""
    h = (width - (a - b).abs()).clamp(min=0)
    return torch.minimum(a, b) - h * h / (4 * width)


def ramp(x: Tensor, low: Number, high: Number) -> Tensor:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def turned(x: Tensor, y: Tensor, angle: Number) -> tuple[Tensor, Tensor]:
    """Coordinates of (x, y) in a frame turned clockwise on screen by `angle` radians."""
    angle = torch.as_tensor(angle, dtype=x.dtype, device=x.device)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


@dataclass
class Canvas:
    """A batch of pictures under construction, and the labels that follow every stroke.

    `image` (3, batch, h, w). `ink` is the line drawing (1 = line), `layer` the code of the topmost shape and `touched`
    what the current person covers; each may be None when nobody asked for it. `x`, `y` are pixel centres as fractions
    of the whole picture's side, `per` how many pixels one unit of distance spans, `line` the width of outlines in
    pixels, `relief` how much of the soft shading a picture takes (1 full, 0 flat). A piece cut by `part` remembers its
    `source`.
    """

    image: Float[Tensor, "3 batch h w"]
    ink: Field | None
    layer: UInt8[Tensor, "batch h w"] | None
    touched: Bool[Tensor, "batch h w"] | None
    x: Field
    y: Field
    per: Field
    line: Field
    relief: Field
    owner: int = 0
    source: tuple[Tensor, ...] | None = None

    @property
    def height(self) -> int:
        return self.image.shape[-2]

    def scaled(self, per: Tensor) -> Canvas:
        """The same canvas, its distances counted in a unit that spans `per` pixels."""
        return Canvas(
            self.image, self.ink, self.layer, self.touched, self.x, self.y, per, self.line, self.relief, self.owner
        )

    def part(
        self, rows: Tensor, top: Tensor | None = None, left: Tensor | None = None, h: int = 0, w: int = 0
    ) -> Canvas:
        """A copy of some pictures, or of an `h` x `w` window at (`top`, `left`) of each; `merge` brings it back."""
        if top is None or left is None:
            where: tuple[Tensor, ...] = (rows,)
            x, y = (a[rows] if a.shape[0] > 1 else a for a in (self.x, self.y))
        else:
            ys = top[:, None, None] + torch.arange(h, device=rows.device)[None, :, None]
            xs = left[:, None, None] + torch.arange(w, device=rows.device)[None, None, :]
            where = (rows[:, None, None], ys, xs)
            x, y = self.x[0, 0][xs], self.y[0, :, 0][ys]
        ink, layer, touched = (None if a is None else a[where] for a in (self.ink, self.layer, self.touched))
        image = self.image[:, where[0]] if len(where) == 1 else self.image[:, where[0], where[1], where[2]]
        per, line, relief = self.per[rows], self.line[rows], self.relief[rows]
        return Canvas(image, ink, layer, touched, x, y, per, line, relief, self.owner, where)

    def merge(self, piece: Canvas) -> None:
        """Bring a piece made by `part` back."""
        assert piece.source is not None
        if len(piece.source) == 1:
            self.image[:, piece.source[0]] = piece.image
        else:
            self.image[:, piece.source[0], piece.source[1], piece.source[2]] = piece.image
        for mine, theirs in ((self.ink, piece.ink), (self.layer, piece.layer), (self.touched, piece.touched)):
            if mine is not None and theirs is not None:
                mine[piece.source] = theirs

    def paint(
        self,
        d: Tensor,
        colour: Tensor,
        code: int = 0,
        line: float = 1.0,
        fill: float = 0.0,
        relief: float = 0.0,
        width: Number = 0.3,
        soft: float = 1.0,
        alpha: Number = 1.0,
    ) -> None:
        """Paint the shape of distance `d` in a colour (3, batch, 1 or h, 1 or w).

        `code` names the layer; 0 paints over without relabelling. `line` is the strength of its outline in the drawing,
        `fill` how much of its inside is ink; negative, the inside is wiped clean. `relief` lights a band of `width`
        along the edge from above left. `soft` is the width of the edge in pixels; `alpha` is opacity.
        """
        pixels = d * self.per
        cover = (0.5 - (pixels / soft if soft != 1.0 else pixels)).clamp_(0, 1)
        if relief:
            slope = torch.empty_like(pixels)
            torch.sub(pixels[..., :-1, :-1], pixels[..., 1:, 1:], out=slope[..., :-1, :-1])
            slope[..., -1, :] = slope[..., -2, :]
            slope[..., :, -1] = slope[..., :, -2]
            band = (1 + d / width).clamp_(0, 1)
            colour = colour * (1 + slope.clamp_(-1.5, 1.5).mul_(band).mul_(band).mul_(self.relief * (2 * LIT * relief)))
        opaque = isinstance(alpha, float) and alpha == 1.0
        self.image.lerp_(colour, cover if opaque else cover * alpha)
        if self.ink is not None and (code or line or fill):
            if opaque:
                self.ink.mul_(1 - cover)
            if line:
                stroke = (0.5 + self.line * 0.5 - pixels.abs()).clamp_(0, 1)
                torch.maximum(self.ink, stroke.mul_(line), out=self.ink)
            if fill > 0:
                torch.maximum(self.ink, cover * fill, out=self.ink)
        if self.layer is not None and code:
            hit = cover > 0.5
            self.layer.masked_fill_(hit, code + self.owner)
            if self.touched is not None and code != OBJECT:
                self.touched |= hit

    def tint(self, weight: Tensor, colour: Tensor) -> None:
        """Blend towards a colour by a soft weight in 0..1; the picture's relief scales it. Labels and lines stay."""
        self.image.lerp_(colour, weight * self.relief)


PARTS = (
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "eye_g",
    "l_ear",
    "r_ear",
    "ear_r",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "neck_l",
    "cloth",
    "hair",
    "hat",
)
"""The classes of CelebAMask-HQ (arXiv 1907.11922); left and right are the person's own."""

CODE = {name: i for i, name in enumerate(PARTS)}
"""Layer code of each part."""

OBJECT, HAND, BACK_HAIR = 19, 20, 21
"""Layers that are no face part: things held, hands, and hair behind the neck."""

OWNER = 32
"""Layer codes of the next person start this much higher."""
