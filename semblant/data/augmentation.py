"""Showing one picture in many ways, so that a word learns the subject and not where and how it was photographed.

SeFi-IDE (Li et al., arXiv 2402.00631) names colour jitter, a flip with probability 0.5 and random scaling in 0.1-1.0.
The same three, with the ranges used here, are in the code of Celeb Basis (arXiv 2306.00926): flip, jitter, then paste
on a black canvas. Pictures are [3, size, size] in -1..1, masks [1, size, size] in 0..1; all draws come from the
generator, which may live on another device than the picture.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Range = tuple[float, float]
Canvas = Literal["black", "grey", "mean", "reflect"]


def augment(
    image: Float[Tensor, "3 size size"],
    mask: Float[Tensor, "1 size size"] | None,
    generator: torch.Generator,
    *,
    flip_probability: float = 0.5,
    scale: Range = (0.1, 1.0),
    aspect: Range = (0.9, 1.1),
    background: Canvas = "black",
) -> tuple[Float[Tensor, "3 size size"], Float[Tensor, "1 size size"] | None]:
    """Flip, jitter and paste, in the order of Celeb Basis: the canvas stays as black as it is."""
    image, mask = flip(image, mask, generator, flip_probability)
    return canvas(jitter(image, generator), mask, generator, scale, aspect, background)


def canvas(
    image: Float[Tensor, "3 size size"],
    mask: Float[Tensor, "1 size size"] | None,
    generator: torch.Generator,
    scale: Range = (0.1, 1.0),
    aspect: Range = (0.9, 1.1),
    canvas: Canvas = "black",
) -> tuple[Float[Tensor, "3 size size"], Float[Tensor, "1 size size"] | None]:
    """Shrink a picture and paste it at a random place: height U[scale], width that times U[aspect], at most the size.

    Around it `canvas` is black (-1), grey (0), the picture's mean colour, or its reflection. The mask moves along
    and is 0 outside the paste, in a reflection too. Raises ValueError for an unknown canvas or a scale outside (0, 1].
    """
    if canvas not in ("black", "grey", "mean", "reflect"):
        raise ValueError(f"canvas is black, grey, mean or reflect, not {canvas!r}")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale is a range within (0, 1], not {scale}")
    size = image.shape[-1]
    height = max(1, min(size, round(size * _uniform(scale, generator))))
    width = max(1, min(size, round(height * _uniform(aspect, generator))))
    top, left = (_integer(size - extent + 1, generator) for extent in (height, width))
    small = _resize(image, height, width)
    if canvas == "reflect":
        rows, columns = _reflected(size, top, height, image.device), _reflected(size, left, width, image.device)
        pasted = small[:, rows][:, :, columns]
    else:
        plain = torch.full_like(image[:, :1, :1], 0.0 if canvas == "grey" else -1.0)
        colour = image.mean((1, 2), keepdim=True) if canvas == "mean" else plain
        pasted = colour.expand_as(image).clone()
        pasted[:, top : top + height, left : left + width] = small
    if mask is None:
        return pasted, None
    moved = torch.zeros_like(mask)
    moved[:, top : top + height, left : left + width] = _resize(mask, height, width)
    return pasted, moved


def enlarge(
    image: Float[Tensor, "3 size size"],
    mask: Float[Tensor, "1 size size"] | None,
    generator: torch.Generator,
    scale: Range = (1.2, 1.4),
) -> tuple[Float[Tensor, "3 size size"], Float[Tensor, "1 size size"] | None]:
    """Enlarge a picture U[scale] times and cut a piece of the old size out of it at a random place, mask alike.

    Raises ValueError for a scale below 1.
    """
    if not 1 <= scale[0] <= scale[1]:
        raise ValueError(f"scale is a range from 1 on, not {scale}")
    size = image.shape[-1]
    large = max(size, round(size * _uniform(scale, generator)))
    top, left = (_integer(large - size + 1, generator) for _ in range(2))
    cut = lambda t: _resize(t, large, large)[:, top : top + size, left : left + size]
    return cut(image), None if mask is None else cut(mask)


def jitter(
    image: Float[Tensor, "3 size size"],
    generator: torch.Generator,
    brightness: Range = (0.8, 1.2),
    contrast: Range = (0.8, 1.2),
    saturation: Range = (0.8, 1.2),
    hue: float = 0.01,
) -> Float[Tensor, "3 size size"]:
    """Change the colours a little, in random order: factors U[range], and the hue by U[-hue, hue] of the circle."""
    by, to, of = (_uniform(r, generator) for r in (brightness, contrast, saturation))
    turn = _uniform((-hue, hue), generator)
    colours = (image + 1) / 2
    for step in torch.randperm(4, generator=generator, device=generator.device).tolist():
        if step == 0:
            colours = colours * by
        elif step == 1:
            grey = _luma(colours).mean()
            colours = grey + (colours - grey) * to
        elif step == 2:
            grey = _luma(colours)
            colours = grey + (colours - grey) * of
        else:
            colours = turn_hue(colours, turn)
        colours = colours.clamp(0, 1)
    return colours * 2 - 1


def flip(
    image: Float[Tensor, "3 size size"],
    mask: Float[Tensor, "1 size size"] | None,
    generator: torch.Generator,
    p: float = 0.5,
) -> tuple[Float[Tensor, "3 size size"], Float[Tensor, "1 size size"] | None]:
    """Mirror picture and mask left to right with probability `p`."""
    if _uniform((0.0, 1.0), generator) >= p:
        return image, mask
    return image.flip(-1), None if mask is None else mask.flip(-1)


def turn_hue(colours: Float[Tensor, "3 height width"], turn: float) -> Float[Tensor, "3 height width"]:
    """Turn the hue of colours in 0..1 by a share of the colour circle; saturation and value (HSV) stay."""
    red, green, blue = colours
    value, least = colours.amax(0), colours.amin(0)
    chroma = value - least
    safe = chroma.clamp_min(1e-8)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # Each channel is the value minus the chroma times a trapezoid over the hue, shifted by channel.
    shift = torch.tensor([5.0, 3.0, 1.0], device=colours.device, dtype=colours.dtype)[:, None, None]
    place = (shift + sixths + 6 * turn) % 6
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def _uniform(between: Range, generator: torch.Generator) -> float:
    low, high = between
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device).item()


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device))


def _luma(colours: Float[Tensor, "3 height width"]) -> Float[Tensor, "1 height width"]:
    """Brightness as the eye weighs it (ITU-R 601)."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=colours.device, dtype=colours.dtype)
    return (weights[:, None, None] * colours).sum(0, keepdim=True)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[-2:] == (height, width):
        return image
    # The weights of the filter add up to 1 only within rounding.
    return F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0].clamp(
        image.min(), image.max()
    )


def _reflected(size: int, start: int, extent: int, device: torch.device) -> Tensor:
    """For each of `size` places, which of `extent` pixels that begin at `start` it shows, back and forth."""
    period = max(2 * (extent - 1), 1)
    place = (torch.arange(size, device=device) - start) % period
    return torch.minimum(place, period - place).clamp_max(extent - 1)
