"""Attention maps as tensors: making, resizing and summing them."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Map = Float[Tensor, "rows heads queries keys"]


def attention_map(
    q: Float[Tensor, "rows heads queries dim"],
    k: Float[Tensor, "rows heads keys dim"],
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Map:
    """Softmax of scaled dot products: where each query looks. `bias` is added to the logits."""
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (logits if bias is None else logits + bias).softmax(-1)


def as_grid(maps: Map, height: int, width: int) -> Float[Tensor, "rows heads keys height width"]:
    """One picture per head and key: how much every place looks at it."""
    return maps.transpose(-1, -2).unflatten(-1, (height, width))


def resize_grid(maps: Float[Tensor, "rows heads keys h w"], size: int) -> Float[Tensor, "rows heads keys size size"]:
    """Bilinear resize without renormalising: an average of softmax vectors still sums to one over the keys."""
    if maps.shape[-2:] == (size, size):
        return maps
    flat = F.interpolate(maps.flatten(0, 1), size=(size, size), mode="bilinear", align_corners=False)
    return flat.unflatten(0, maps.shape[:2])


def mass_inside(
    grid: Float[Tensor, "rows height width"], mask: Float[Tensor, "rows height width"]
) -> Float[Tensor, " rows"]:
    """Share of a map that lies inside the mask, 0..1; a map of zeros counts as 0."""
    return (grid * mask).flatten(1).sum(1) / grid.flatten(1).sum(1).clamp_min(1e-12)
