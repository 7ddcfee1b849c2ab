"""Where a scene takes place: ten backgrounds and what the light does to the finished picture.

Coordinates are fractions of the picture's side, x to the right and y down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semblant.world.scene import Scene
from semblant.world.shapes import Canvas, box, circle, ellipse, largest, length, ramp, segment, smallest, triangle
from semblant.world.traits import Colour, draws

SOFT = 1.6
"""Backgrounds are a little out of focus."""


class Place:
    """A canvas and the seeds of its pictures: what a background's painter needs."""

    def __init__(self, c: Canvas, seeds: Sequence[int]) -> None:
        self.c, self.seeds, self.device = c, seeds, c.image.device
        self.x = c.x.expand(len(seeds), c.height, -1) if c.x.shape[0] == 1 else c.x.expand(-1, c.height, -1)
        self.y = c.y.expand(len(seeds), -1, c.image.shape[-1])

    def draws(self, purpose: str, count: int) -> Tensor:
        return draws(self.seeds, purpose, count, self.device)

    def tone(self, r: float, g: float, b: float) -> Tensor:
        return torch.tensor((r, g, b), device=self.device)[:, None, None, None]

    def paint(self, d: Tensor, colour: Tensor, soft: float = SOFT, line: float = 0.7, **how: float | Tensor) -> None:
        self.c.paint(d, colour, soft=soft * self.c.height / 128, line=line, **how)  # type: ignore[arg-type]

    def fill(self, top: Colour, bottom: Colour, start: float = 0.0, end: float = 1.0) -> None:
        """A vertical gradient over the whole picture."""
        t = ramp(self.y, start, end)
        self.c.image.copy_(torch.lerp(self.tone(*top), self.tone(*bottom), t))

    def below(self, edge: Tensor | float, top: Colour, bottom: Colour, span: float = 0.5, **how: float) -> Tensor:
        """Everything under an edge, in a gradient that ends `span` lower. Returns its distance."""
        d = edge - self.y
        colour = torch.lerp(self.tone(*top), self.tone(*bottom), ((-d) / span).clamp(0, 1))
        self.paint(d, colour, **how)
        return d

    def clouds(self, count: int, low: float, colour: Colour = (1.0, 1.0, 1.0), alpha: float = 0.85) -> None:
        luck = self.draws("clouds", 3 * count)
        for i in range(count):
            cx, cy, size = (i + luck[3 * i]) / count, 0.06 + low * luck[3 * i + 1], 0.05 + 0.04 * luck[3 * i + 2]
            x, y = self.x - cx, self.y - cy
            puff = smallest(
                ellipse(x, y, size * 1.9, size * 0.42),
                circle(x + 0.5 * size, y + 0.22 * size, size * 0.55),
                circle(x - 0.4 * size, y + 0.34 * size, size * 0.68),
            )
            self.paint(torch.maximum(puff, y - 0.32 * size), self.tone(*colour), soft=3.0, alpha=alpha)


def beach(s: Place) -> None:
    """Sea, sand, sun and a palm."""
    luck = s.draws("beach", 6)
    s.fill((0.30, 0.63, 0.95), (0.80, 0.93, 0.99), 0.0, 0.5)
    s.paint(circle(s.x - 0.12 - 0.76 * luck[0], s.y - 0.13, 0.065), s.tone(1.0, 0.95, 0.62))
    s.clouds(3, 0.20)
    s.below(0.48, (0.10, 0.52, 0.74), (0.35, 0.80, 0.83), 0.20)
    glints = torch.sin(s.y * 260 + 3 * torch.sin(s.x * 30)) * (s.y > 0.49)
    s.c.tint(((glints - 0.75) * 2).clamp(0, 1) * 0.35, s.tone(1.0, 1.0, 1.0))
    shore = 0.66 + 0.018 * torch.sin(s.x * 9 + 6 * luck[1])
    s.below(shore - 0.018, (0.97, 0.99, 0.98), (0.97, 0.99, 0.98))
    s.below(shore, (0.87, 0.75, 0.53), (0.97, 0.87, 0.66), 0.3)
    side = torch.where(luck[2] < 0.5, 1.0, -1.0)
    x = (s.x - 0.5) * side + 0.5
    top = 0.22 + 0.08 * luck[3]
    trunk = (x - 0.90 + 0.10 * (0.85 - s.y).clamp(0, 1) ** 2).abs() - 0.014 - 0.012 * s.y
    s.paint(largest(trunk, top - s.y, s.y - 0.80), s.tone(0.50, 0.34, 0.20))
    px, py = x - 0.90 + 0.10 * (0.85 - top) ** 2, s.y - top
    for i, (dx, droop) in enumerate(
        ((-0.26, 0.10), (-0.20, -0.03), (-0.10, -0.12), (0.08, -0.10), (0.16, 0.02), (0.12, 0.12))
    ):
        bend = py - droop * (px / dx).clamp(0, 1.1) ** 1 - 0.10 * (px / dx).clamp(0, 1.1) ** 2
        leaf = largest(
            bend.abs() - 0.030 * (px / dx * 3).clamp(0.2, 1) * (1.05 - px / dx).clamp(0, 1), -px / dx, px / dx - 1.0
        )
        s.paint(leaf, s.tone(0.15 + 0.03 * i, 0.50 + 0.03 * (i % 3), 0.24))


def columns(
    s: Place, purpose: str, count: int, low: float, high: float, shift: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The picture's width in columns: each pixel's column luck, its place -1..1 within, a height in low..high."""
    luck = s.draws(purpose, 2 * count).squeeze(-1).squeeze(-1)
    place = s.x * (count - 1) + shift
    index = place.floor().long().clamp(0, count - 1)
    rows = torch.arange(len(s.seeds), device=s.device)[:, None, None]
    own = luck.T[rows, index]
    return luck.T[rows, index + count], (place - index) * 2 - 1, low + (high - low) * own


def city(s: Place) -> None:
    """Two rows of houses under a bright sky."""
    s.fill((0.48, 0.68, 0.92), (0.92, 0.91, 0.88), 0.0, 0.7)
    s.clouds(3, 0.16, alpha=0.7)
    _, place, top = columns(s, "far houses", 9, 0.18, 0.46, 0.4)
    s.paint(largest(top - s.y, (place.abs() - 1.0) / 16), s.tone(0.62, 0.69, 0.80))
    luck, place, top = columns(s, "near houses", 6, 0.22, 0.56)
    front = largest(top - s.y, (place.abs() - 0.93) / 10)
    colour = torch.lerp(s.tone(0.42, 0.44, 0.54), s.tone(0.72, 0.55, 0.46), luck)
    s.paint(front, colour)
    wx, wy = (place + 1) * 2.0, (s.y - top) * 17
    pane = torch.maximum((wx - wx.floor() - 0.5).abs() - 0.26, (wy - wy.floor() - 0.5).abs() - 0.28)
    lit = torch.sin(wx.floor() * 37.1 + wy.floor() * 71.7 + luck * 90)
    glass = torch.where(lit > 0.35, s.tone(1.0, 0.90, 0.62), s.tone(0.55, 0.68, 0.82))
    s.paint(largest(pane * 0.05, front + 0.008, -(wy - 0.1) * 0.05, s.y - 0.83), glass, soft=1.2, line=0.35)
    s.below(0.86, (0.42, 0.42, 0.46), (0.34, 0.34, 0.38), 0.2)
    s.paint(
        torch.maximum((s.y - 0.94).abs() - 0.010, (s.x * 5 - (s.x * 5).round()).abs() * 0.2 - 0.05),
        s.tone(0.92, 0.90, 0.80),
    )


def forest(s: Place) -> None:
    """Trunks and crowns, light between them."""
    s.fill((0.80, 0.92, 0.70), (0.45, 0.66, 0.40), 0.0, 0.8)
    _, place, top = columns(s, "far trees", 10, 0.05, 0.30, 0.3)
    far = largest((place.abs() - 0.9 * ((s.y - top) / 0.55).clamp(0, 1)) / 18, top - s.y)
    s.paint(far, s.tone(0.42, 0.62, 0.40))
    s.below(0.74, (0.38, 0.55, 0.26), (0.24, 0.38, 0.17), 0.3)
    luck = s.draws("trunks", 12)
    for i, at in enumerate((0.05, 0.24, 0.52, 0.77, 0.96)):
        cx, wide = at + 0.07 * (luck[2 * i] - 0.5), 0.020 + 0.016 * luck[2 * i + 1]
        trunk = largest((s.x - cx).abs() - wide - 0.03 * ramp(s.y, 0.70, 0.84), s.y - 0.83)
        bark = 0.85 + 0.3 * ramp(s.x - cx, wide * 0.8, -wide)
        s.paint(trunk, s.tone(0.42, 0.28, 0.18) * bark)
    crown = 0.17 + 0.05 * torch.sin(s.x * 13 + 9 * luck[10]) + 0.03 * torch.sin(s.x * 31 + 9 * luck[11]).abs()
    s.paint(s.y - crown - 0.05, s.tone(0.20, 0.44, 0.22))
    s.paint(s.y - crown + 0.05 * torch.sin(s.x * 40).abs(), s.tone(0.29, 0.56, 0.26))
    dapple = torch.sin(s.x * 44 + 5 * torch.sin(s.y * 40)) * torch.sin(s.y * 75)
    s.c.tint(((dapple - 0.6) * 3).clamp(0, 1) * (s.y > 0.75) * 0.35, s.tone(0.75, 0.85, 0.45))


def desert(s: Place) -> None:
    """Dunes and cactuses."""
    luck = s.draws("desert", 8)
    s.fill((0.42, 0.70, 0.93), (0.98, 0.87, 0.66), 0.0, 0.58)
    s.paint(circle(s.x - 0.14 - 0.72 * luck[0], s.y - 0.14, 0.07), s.tone(1.0, 0.93, 0.60))
    for i, (height, tone) in enumerate(
        ((0.50, (0.93, 0.70, 0.43)), (0.60, (0.90, 0.62, 0.33)), (0.73, (0.96, 0.74, 0.42)))
    ):
        ridge = (
            height
            + 0.045 * torch.sin(s.x * (6 - i) + 6.28 * luck[i + 1])
            + 0.02 * torch.sin(s.x * 11 + 6.28 * luck[i + 2])
        )
        r, g, b = tone
        s.below(ridge, (min(1.0, r * 1.05), g * 1.05, b * 1.05), (r * 0.84, g * 0.80, b * 0.78), 0.28)
    ripple = torch.sin(s.y * 120 + 6 * torch.sin(s.x * 7 + luck[2] * 6)) * (s.y > 0.80)
    s.c.tint(((ripple - 0.4) * 1.6).clamp(0, 1) * 0.25, s.tone(0.72, 0.46, 0.24))
    for sign, size, at in ((1.0, 1.0, 0.86), (-1.0, 0.75, 0.88)):
        cx, cy = 0.5 + sign * (at - 0.5 + 0.06 * luck[5]), 0.66
        x, y = (s.x - cx) / size, (s.y - cy) / size
        plant = smallest(
            segment(x, y, 0.0, 0.14, 0.0, -0.24, 0.036),
            segment(x, y, 0.0, -0.02, 0.09, -0.02, 0.024),
            segment(x, y, 0.09, -0.02, 0.09, -0.14, 0.024),
            segment(x, y, 0.0, -0.07, -0.085, -0.07, 0.022),
            segment(x, y, -0.085, -0.07, -0.085, -0.19, 0.022),
        )
        s.paint(plant * size, s.tone(0.24, 0.52, 0.28) * (1 + 0.10 * torch.sin(x * 190)), relief=0.4, width=0.03)


def snow(s: Place) -> None:
    """Mountains, firs, falling flakes."""
    luck = s.draws("snow", 8)
    s.fill((0.55, 0.70, 0.88), (0.90, 0.94, 0.98), 0.0, 0.6)
    for i in range(3):
        cx, top, wide = (i + 0.2 + 0.6 * luck[i]) / 3, 0.20 + 0.14 * luck[i + 3], 0.95
        x = s.x - cx
        ridge = top + x.abs() * wide + 0.012 * torch.sin(x * 60)
        s.paint(ridge - s.y, torch.lerp(s.tone(0.55, 0.63, 0.76), s.tone(0.46, 0.54, 0.68), ramp(x, -0.01, 0.02)))
        cap = torch.maximum(ridge - s.y, s.y - top - 0.10 - 0.025 * torch.sin(x * 70))
        s.paint(cap, torch.lerp(s.tone(1.0, 1.0, 1.0), s.tone(0.86, 0.90, 0.96), ramp(x, -0.01, 0.02)), line=0.3)
    s.below(0.64 + 0.02 * torch.sin(s.x * 8 + 6 * luck[6]), (0.97, 0.98, 1.0), (0.84, 0.89, 0.96), 0.36)
    trees = s.draws("firs", 8)
    for i, at in enumerate((0.07, 0.20, 0.82, 0.95)):
        cx, foot, size = at + 0.03 * (trees[2 * i] - 0.5), 0.70 + 0.04 * (i % 2), 0.85 + 0.4 * trees[2 * i + 1]
        x, y = (s.x - cx) / size, (s.y - foot) / size
        for j in range(3):
            at_y = -0.08 * j
            fir = triangle(x, y, ((0.0, at_y - 0.16), (0.085 - 0.018 * j, at_y), (-0.085 + 0.018 * j, at_y)))
            s.paint(fir * size, s.tone(0.16, 0.38, 0.32))
            frost = torch.maximum(fir, y - at_y + 0.095)
            s.paint(frost * size, s.tone(0.95, 0.97, 1.0), line=0)
    flakes(s, "flakes", 9, 0.011, (1.0, 1.0, 1.0), 0.85)


def flakes(s: Place, purpose: str, cells: int, radius: float, colour: Colour, share: float) -> None:
    """Small discs scattered over a jittered grid."""
    shift = s.draws(purpose, 2) * 40
    gx, gy = s.x * cells, s.y * cells
    kx, ky = gx.floor(), gy.floor()
    luck = torch.sin((kx + shift[0]) * 12.9898 + (ky + shift[1]) * 78.233) * 437.585
    luck = luck - luck.floor()
    more = luck * 97.0 - (luck * 97.0).floor()
    d = length(gx - kx - 0.2 - 0.6 * luck, gy - ky - 0.2 - 0.6 * more) / cells - radius * (0.4 + 0.6 * more)
    s.paint(torch.where(luck < share, d, 1.0), s.tone(*colour), soft=1.3, line=0.8)


def night(s: Place) -> None:
    """Stars and a moon over dark hills."""
    luck = s.draws("night", 4)
    s.fill((0.03, 0.04, 0.16), (0.20, 0.20, 0.46), 0.0, 0.9)
    band = (s.y - 0.38 + 0.5 * (s.x - 0.5)).abs()
    s.c.tint((1 - band / 0.22).clamp(0, 1) ** 2 * 0.30, s.tone(0.45, 0.40, 0.72))
    flakes(s, "stars", 11, 0.0085, (1.0, 0.98, 0.88), 0.75)
    mx = 0.15 + 0.70 * (luck[0] > 0.5)
    moon = circle(s.x - mx, s.y - 0.16, 0.085)
    s.c.tint((1 - moon / 0.16).clamp(0, 1) ** 2 * 0.35, s.tone(0.80, 0.82, 1.0))
    s.paint(moon, s.tone(0.98, 0.96, 0.84))
    for dx, dy, r in ((-0.03, -0.02, 0.018), (0.03, 0.025, 0.022), (0.02, -0.04, 0.012)):
        s.paint(circle(s.x - mx - dx, s.y - 0.16 - dy, r), s.tone(0.88, 0.86, 0.76), line=0.3)
    s.below(0.80 + 0.05 * torch.sin(s.x * 5 + 6 * luck[1]), (0.09, 0.12, 0.24), (0.05, 0.07, 0.15), 0.2)


def room(s: Place) -> None:
    """A painted wall, a window, a picture, a plant and a floor."""
    luck = s.draws("room", 8)
    wall = torch.stack([0.80 - 0.20 * luck[0], 0.76 + 0.06 * luck[1], 0.66 + 0.18 * luck[2]])
    s.c.image.copy_((wall * (1.05 - 0.14 * s.y)).expand_as(s.c.image))
    side = torch.where(luck[3] < 0.5, 1.0, -1.0)
    x = (s.x - 0.5) * side + 0.5
    frame = box(x - 0.16, s.y - 0.27, 0.135, 0.185)
    s.paint(frame, s.tone(0.97, 0.96, 0.94))
    pane = torch.maximum(((x - 0.16).abs() - 0.058).abs() - 0.050, ((s.y - 0.27).abs() - 0.082).abs() - 0.072)
    s.paint(pane, torch.lerp(s.tone(0.52, 0.77, 0.96), s.tone(0.86, 0.95, 1.0), (s.y / 0.5).clamp(0, 1)), line=0.5)
    s.paint(box(x - 0.84, s.y - 0.24, 0.105, 0.125), s.tone(0.45, 0.30, 0.20))
    s.paint(box(x - 0.84, s.y - 0.24, 0.083, 0.103), s.tone(0.95, 0.93, 0.86), line=0.5)
    hill = torch.maximum(
        box(x - 0.84, s.y - 0.24, 0.083, 0.103), 0.27 - 0.05 * torch.sin((x - 0.84) * 26 + 6 * luck[4]) - s.y
    )
    s.paint(hill, torch.stack([0.35 + 0.5 * luck[5], 0.55 - 0.1 * luck[6], 0.45 + 0.3 * luck[6]]), line=0.4)
    s.below(0.79, (0.94, 0.92, 0.89), (0.94, 0.92, 0.89))
    s.below(0.82, (0.64, 0.44, 0.27), (0.54, 0.36, 0.21), 0.2)
    plank = torch.maximum(((s.y - 0.82) / 0.06 - ((s.y - 0.82) / 0.06).round()).abs() * 0.06 - 0.003, 0.83 - s.y)
    s.paint(plank, s.tone(0.45, 0.29, 0.17), line=0.3)
    px, py = x - 0.90, s.y - 0.74
    for dx, dy in ((-0.09, -0.20), (0.0, -0.27), (0.08, -0.19), (-0.12, -0.10), (0.11, -0.08)):
        leaf = segment(px, py, 0.0, 0.0, dx, dy, 0.020)
        s.paint(leaf, s.tone(0.22, 0.52 + dx, 0.28))
    s.paint(triangle(px, py, ((-0.075, 0.0), (0.075, 0.0), (0.052, 0.14), (-0.052, 0.14))), s.tone(0.82, 0.46, 0.30))


def shelf_row(s: Place, y0: float, purpose: str) -> None:
    """One row of books standing on a board."""
    luck, place, top = columns(s, purpose, 22, y0 - 0.145, y0 - 0.09)
    hue = luck * 6.2832
    colour = torch.stack(
        [0.55 + 0.30 * torch.cos(hue), 0.48 + 0.25 * torch.cos(hue + 2.2), 0.50 + 0.28 * torch.cos(hue + 4.1)]
    )
    s.paint(largest(top - s.y, s.y - y0, (place.abs() - 0.86) / 42), colour, soft=1.2, line=0.5)
    s.paint(box(s.x - 0.5, s.y - y0 - 0.012, 0.6, 0.014), s.tone(0.48, 0.33, 0.22))


def office(s: Place) -> None:
    """Shelves of books and binders, a screen on a desk."""
    s.fill((0.90, 0.89, 0.86), (0.82, 0.81, 0.79))
    for i, y0 in enumerate((0.17, 0.36, 0.55)):
        shelf_row(s, y0, f"books {i}")
    luck = s.draws("office", 2)
    side = torch.where(luck[0] < 0.5, 1.0, -1.0)
    x = (s.x - 0.5) * side + 0.5
    s.below(0.74, (0.72, 0.55, 0.38), (0.60, 0.43, 0.28), 0.3)
    s.paint(box(x - 0.86, s.y - 0.72, 0.025, 0.05), s.tone(0.30, 0.30, 0.33))
    s.paint(box(x - 0.86, s.y - 0.60, 0.125, 0.095, 0.012), s.tone(0.17, 0.18, 0.21))
    s.paint(box(x - 0.86, s.y - 0.60, 0.110, 0.080), s.tone(0.42, 0.68, 0.90), line=0.5)
    for i, wide in enumerate((0.07, 0.05, 0.08)):
        s.paint(box(x - 0.79 - wide, s.y - 0.555 - 0.04 * i, wide, 0.007), s.tone(0.92, 0.97, 1.0), line=0.2)
    s.paint(box(x - 0.11, s.y - 0.66, 0.04, 0.075, 0.01), s.tone(0.94, 0.94, 0.92))
    for dx, tone in ((-0.02, (0.90, 0.55, 0.15)), (0.005, (0.20, 0.45, 0.75)), (0.025, (0.75, 0.20, 0.25))):
        s.paint(segment(x - 0.11, s.y - 0.60, dx, 0.0, dx * 1.8, -0.09, 0.008), s.tone(*tone), line=0.3)


def kitchen(s: Place) -> None:
    """Tiles, cupboards, hanging pans, a stove."""
    luck = s.draws("kitchen", 5)
    s.fill((0.93, 0.95, 0.93), (0.86, 0.89, 0.88))
    tx, ty = s.x * 9, s.y * 9
    grout = torch.minimum((tx - tx.round()).abs(), (ty - ty.round()).abs()) / 9 - 0.004
    s.paint(grout, s.tone(0.72, 0.78, 0.78), line=0.25)
    board = torch.stack([0.32 + 0.45 * luck[0], 0.50 + 0.10 * luck[1], 0.52 - 0.15 * luck[0]])
    s.paint(s.y - 0.20, board, line=0.8)
    cx = s.x * 4
    s.paint(torch.maximum((cx - cx.round()).abs() / 4 - 0.005, s.y - 0.20), board * 0.70, line=0.6)
    s.paint(circle((cx - cx.floor() - 0.5) / 4, s.y - 0.165, 0.011), s.tone(0.88, 0.80, 0.55), line=0.4)
    side = torch.where(luck[2] < 0.5, 1.0, -1.0)
    x = (s.x - 0.5) * side + 0.5
    s.paint(box(x - 0.14, s.y - 0.27, 0.15, 0.008), s.tone(0.45, 0.45, 0.48))
    for at, r, tone in ((0.06, 0.055, (0.75, 0.42, 0.26)), (0.20, 0.045, (0.38, 0.40, 0.44))):
        s.paint(segment(x, s.y, at, 0.28, at, 0.36, 0.010), s.tone(*tone), line=0.5)
        s.paint(circle(x - at, s.y - 0.36 - r, r), s.tone(*tone), relief=0.4, width=0.03)
    s.below(0.70, (0.93, 0.92, 0.90), (0.93, 0.92, 0.90))
    s.below(0.735, (0.60, 0.62, 0.63), (0.50, 0.52, 0.54), 0.25)
    s.paint(box(x - 0.88, s.y - 0.62, 0.075, 0.075, 0.02), s.tone(0.80, 0.22, 0.20), relief=0.4, width=0.04)
    s.paint(ellipse(x - 0.88, s.y - 0.545, 0.085, 0.014), s.tone(0.65, 0.16, 0.15), line=0.5)
    s.paint(circle(x - 0.88, s.y - 0.52, 0.014), s.tone(0.25, 0.22, 0.22), line=0.5)
    s.paint(box(x - 0.68, s.y - 0.64, 0.030, 0.062, 0.012), s.tone(0.55, 0.75, 0.45))


def eiffel(s: Place) -> None:
    """The Eiffel Tower over a park."""
    luck = s.draws("eiffel", 3)
    s.fill((0.45, 0.68, 0.93), (0.93, 0.94, 0.95), 0.0, 0.7)
    s.clouds(3, 0.22, alpha=0.8)
    side = torch.where(luck[0] < 0.5, 1.0, -1.0)
    x = ((s.x - 0.5) * side + 0.5) - 0.165
    h = ((s.y - 0.04) / 0.74).clamp(0, 1.05)
    half = 0.006 + 0.150 * h**2.3
    leg = 0.006 + 0.038 * h**1.3
    iron = torch.maximum(x.abs() - half, 0.04 - s.y) * 0.9
    hollow = torch.maximum(x.abs() - (half - leg), 0.50 - s.y)
    arch = ellipse(x, s.y - 0.80, 0.105, 0.15)
    iron = largest(iron, s.y - 0.79, -torch.minimum(hollow, arch))
    brown, dark = s.tone(0.52, 0.38, 0.28), s.tone(0.36, 0.26, 0.20)
    s.paint(iron, brown, soft=1.1)
    slope = torch.minimum(
        ((x + s.y) * 26 - ((x + s.y) * 26).round()).abs(), ((x - s.y) * 26 - ((x - s.y) * 26).round()).abs()
    )
    s.paint(torch.maximum(slope / 37 - 0.003, iron + 0.006), dark, soft=1.0, line=0.4)
    for y0, wide, tall in ((0.31, 0.040, 0.010), (0.50, 0.082, 0.013), (0.655, 0.128, 0.014)):
        s.paint(box(x, s.y - y0, wide, tall), dark, soft=1.1)
    s.paint(box(x, s.y - 0.03, 0.004, 0.035), dark, soft=1.1)
    edge = 0.75 + 0.018 * torch.sin(s.x * 34 + 6 * luck[1]) + 0.012 * torch.sin(s.x * 61)
    s.below(edge, (0.33, 0.56, 0.30), (0.24, 0.44, 0.23), 0.08)
    s.below(0.83, (0.56, 0.74, 0.38), (0.44, 0.62, 0.28), 0.2)


PLACES: dict[str, tuple[Callable[[Place], None], float]] = {
    "beach": (beach, 0.48),
    "city": (city, 0.86),
    "forest": (forest, 0.74),
    "desert": (desert, 0.52),
    "snow": (snow, 0.64),
    "room": (room, 0.82),
    "night sky": (night, 0.80),
    "office": (office, 0.74),
    "kitchen": (kitchen, 0.735),
    "eiffel tower": (eiffel, 0.78),
}
"""Each background's painter and the height where its ground begins."""


def draw_backgrounds(c: Canvas, scenes: Sequence[Scene]) -> None:
    """Paint the background of every scene."""
    for name, (painter, _) in PLACES.items():
        which = [i for i, s in enumerate(scenes) if s.background == name]
        if which:
            piece = c.part(torch.tensor(which, device=c.image.device))
            painter(Place(piece, [scenes[i].seed for i in which]))
            c.merge(piece)


def ground_depth(c: Canvas, scenes: Sequence[Scene]) -> Tensor:
    """Depth of the bare backgrounds, 1 above the horizon and nearing 0.5 at the picture's foot."""
    horizon = torch.tensor([PLACES[s.background][1] for s in scenes], device=c.image.device)[:, None, None]
    return (1 - 0.5 * ((c.y - horizon) / (1.02 - horizon)).clamp(0, 1)).expand(len(scenes), c.height, c.image.shape[-1])


def light(image: Tensor, scenes: Sequence[Scene], x: Tensor, y: Tensor) -> Tensor:
    """What the hour does to a picture: plain light changes nothing."""
    for name in ("sunset", "dim", "bright"):
        which = [i for i, s in enumerate(scenes) if s.light == name]
        if not which:
            continue
        rows = torch.tensor(which, device=image.device)
        lit = image[:, rows]

        def tone(r: float, g: float, b: float, like: Tensor = image) -> Tensor:
            return torch.tensor((r, g, b), device=like.device)[:, None, None, None]

        if name == "sunset":
            warm = torch.lerp(tone(1.04, 0.78, 0.55), tone(0.86, 0.64, 0.66), (0.65 * x + 0.35 * y).clamp(0, 1))
            lit = lit * warm + tone(0.16, 0.075, 0.01) * (1.15 - 0.9 * x)
        elif name == "dim":
            far = length((x - 0.5) * 1.1, (y - 0.45) * 1.05)
            lit = lit * tone(0.56, 0.57, 0.68) * (1.08 - 1.30 * (far - 0.24).clamp(min=0)).clamp(0.25, 1)
        else:
            lit = 1 - (1 - lit.clamp(0, 1)) ** 1.55 * tone(0.88, 0.89, 0.92)
        image[:, rows] = lit
    return image.clamp_(0, 1)
