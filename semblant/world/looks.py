"""How a picture is made: a photo, a sketch, an oil painting, a watercolour, pixel art or a cartoon."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from semblant.world.scene import Scene
from semblant.world.shapes import Canvas, ramp
from semblant.world.traits import draws

RELIEF = {"photo": 1.0, "sketch": 0.6, "oil painting": 1.15, "watercolour": 0.75, "pixel art": 0.8, "cartoon": 0.30}
"""How much of the soft shading each style keeps."""
LINE = {"photo": 0.9, "sketch": 1.15, "oil painting": 0.9, "watercolour": 1.0, "pixel art": 1.0, "cartoon": 1.7}
"""Width of outlines, in pixels of a 128 px picture."""
DRAWN = ("sketch", "watercolour", "cartoon")
"""Styles that show the line drawing."""


def noise(seeds: Sequence[int], purpose: str, cells: tuple[int, int], size: int, device: torch.device) -> Tensor:
    """Smooth noise in 0..1, (batch, size, size), from a grid of `cells` (down, across) keyed by seed and purpose."""
    down, across = cells
    grid = draws(seeds, purpose, down * across, device).view(down, across, len(seeds)).permute(2, 0, 1)[:, None]
    return F.interpolate(grid, size=(size, size), mode="bicubic", align_corners=False)[:, 0].clamp(0, 1)


def grey(image: Tensor) -> Tensor:
    """Luminance of (3, batch, h, w)."""
    return image[0] * 0.299 + image[1] * 0.587 + image[2] * 0.114


def blur(image: Tensor, radius: int) -> Tensor:
    """Mean over a square window, edges repeated."""
    if radius < 1:
        return image
    flat = image if image.dim() == 4 else image[None]
    padded = F.pad(flat, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1).view_as(image)


def warp(image: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Sample (3, batch, h, w) at positions moved by (dx, dy), in fractions of the side; nearest pixel."""
    _, batch, h, w = image.shape
    ys = (torch.arange(h, device=image.device)[None, :, None] + dy * h).round().long().clamp(0, h - 1)
    xs = (torch.arange(w, device=image.device)[None, None, :] + dx * w).round().long().clamp(0, w - 1)
    return image[:, torch.arange(batch, device=image.device)[:, None, None], ys, xs]


def saturate(image: Tensor, amount: float) -> Tensor:
    return (grey(image) + (image - grey(image)) * amount).clamp(0, 1)


def sketch(image: Tensor, ink: Tensor, x: Tensor, y: Tensor, seeds: Sequence[int]) -> Tensor:
    """Pencil lines and hatching on white paper."""
    size = image.shape[-1]
    value = blur(grey(image), max(1, size // 128))
    grain = noise(seeds, "pencil", (24, 24), size, image.device)
    hatch = torch.sin((x + y) * 2 * 3.14159 * 30) * 0.5 + 0.5
    cross = torch.sin((x - y) * 2 * 3.14159 * 30) * 0.5 + 0.5
    tone = (0.62 - value).clamp(0, 1) * (0.35 + 0.65 * hatch) * 0.62 + (0.30 - value).clamp(0, 1) * cross * 0.8
    dark = torch.maximum(ink * (0.80 + 0.15 * grain), tone)
    page = 0.985 - 0.02 * grain - dark * 0.88
    return torch.stack([page, page * 0.997, page * 0.985])


def oil(image: Tensor, ink: Tensor, x: Tensor, y: Tensor, seeds: Sequence[int]) -> Tensor:
    """Flat daubs with ridges of paint: each pixel takes the calmest of the four windows that touch it (Kuwahara)."""
    size = image.shape[-1]
    step = max(1, size // 64)
    swirl, drift = (noise(seeds, f"brush {i}", (15, 15), size, image.device) - 0.5 for i in range(2))
    moved = warp(image, swirl * 0.013, drift * 0.013)
    k = step + 1
    padded = F.pad(moved, (step,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, k, stride=1)
    spread = (F.avg_pool2d(padded * padded, k, stride=1) - mean * mean).sum(0)
    best, least = None, None
    for oy in (0, step):
        for ox in (0, step):
            m, v = mean[..., oy : oy + size, ox : ox + size], spread[..., oy : oy + size, ox : ox + size]
            if best is None or least is None:
                best, least = m, v
            else:
                best, least = torch.where(v < least, m, best), torch.minimum(v, least)
    assert best is not None
    rich = saturate(best, 1.30)
    banded = torch.lerp(rich, (rich * 7).round() / 7, 0.35)
    across = noise(seeds, "across", (52, 10), size, image.device)
    down = noise(seeds, "down", (10, 52), size, image.device)
    bristle = torch.lerp(across, down, ramp(noise(seeds, "way", (6, 6), size, image.device), 0.42, 0.58)) - 0.5
    ridge = grey(banded) + 0.18 * bristle
    lift = torch.zeros_like(ridge)
    lift[..., 1:, 1:] = ridge[..., 1:, 1:] - ridge[..., :-1, :-1]
    return banded * (1 + 0.15 * bristle + 0.40 * lift.clamp(-0.25, 0.25)) + 0.03 * bristle


def watercolour(image: Tensor, ink: Tensor, x: Tensor, y: Tensor, seeds: Sequence[int]) -> Tensor:
    """Thin pigment that pools at its edges and leaves the paper's rim white."""
    size = image.shape[-1]
    wet = noise(seeds, "wet", (9, 9), size, image.device)
    drift = noise(seeds, "drift", (14, 14), size, image.device)
    paper = noise(seeds, "paper", (32, 32), size, image.device)
    moved = warp(image, (wet - 0.5) * 0.014, (drift - 0.5) * 0.014)
    soft = blur(moved, max(1, size // 128))
    pools = (soft - blur(soft, max(1, size // 40))).mean(0).clamp(-0.2, 0.05)
    pale = 1 - (1 - saturate(soft, 1.40)) * (0.76 + 0.42 * (wet - 0.5) + 0.14 * (paper - 0.5))
    pale = pale + pools * 0.9
    pale = pale * (1 - 0.30 * blur(ink, max(1, size // 128)) * (0.6 + 0.8 * drift))
    rim = torch.minimum(torch.minimum(x, 1 - x), torch.minimum(y, 1 - y)) + (drift - 0.5) * 0.10
    bare = 1 - ramp(rim, 0.0, 0.045)
    page = torch.tensor((0.99, 0.98, 0.955), device=image.device)[:, None, None, None] - 0.035 * (paper - 0.5)
    return torch.lerp(pale, page.expand_as(pale), bare)


def pixels(image: Tensor, ink: Tensor, x: Tensor, y: Tensor, seeds: Sequence[int]) -> Tensor:
    """Thirty-two blocks a side in a small palette."""
    size = image.shape[-1]
    block = max(1, size // 32)
    small = F.avg_pool2d(image * (1 - 0.25 * ink), block)
    small = small + 0.35 * (small - blur(small, 1))
    value = grey(small)
    few = (value * 9).round() / 9 + ((small - value) * 1.25 * 9).round() / 9
    large = few.repeat_interleave(block, -1).repeat_interleave(block, -2)
    pad = size - large.shape[-1]
    return F.pad(large, (0, pad, 0, pad), mode="replicate") if pad else large


def cartoon(image: Tensor, ink: Tensor, x: Tensor, y: Tensor, seeds: Sequence[int]) -> Tensor:
    """Flat, strong colours behind bold outlines."""
    flat = saturate(image, 1.38) * 1.04
    return flat * (1 - 0.92 * ink)


MAKERS = {"sketch": sketch, "oil painting": oil, "watercolour": watercolour, "pixel art": pixels, "cartoon": cartoon}


def style(c: Canvas, scenes: Sequence[Scene]) -> Tensor:
    """The picture of every scene in its style; photos stay as they are."""
    image = c.image
    for name, maker in MAKERS.items():
        which = [i for i, s in enumerate(scenes) if s.style == name]
        if not which:
            continue
        rows = torch.tensor(which, device=image.device)
        ink = c.ink[rows] if c.ink is not None else torch.zeros_like(image[0, rows])
        image[:, rows] = maker(image[:, rows], ink, c.x, c.y, [scenes[i].seed for i in which])
    return image.clamp_(0, 1)
