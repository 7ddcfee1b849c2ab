"""Errors between tensors that training minimises, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from semblant.ops.attention import Map, as_grid, resize_grid

Reduction = Literal["sum", "mean"]


def map_error(
    target: Map,
    reference: Map,
    grid: Sequence[int],
    size: int,
    tokens: Bool[Tensor, "rows keys"] | None = None,
    reduction: Reduction = "sum",
) -> Float[Tensor, " rows"]:
    """Squared difference of two attention maps after resizing them to `size` x `size`, one number per row.

    `grid` is the height and width of the queries, `tokens` the keys that count (all when None). "sum" is the squared
    norm over heads, places and counted keys; "mean" divides it by how many there are.
    """
    # Resizing is linear, so the difference is resized once instead of both maps.
    difference = resize_grid(as_grid((target - reference).float(), grid[0], grid[1]), size)
    squared = difference.square().sum((1, 3, 4))
    counted = squared if tokens is None else squared * tokens
    total = counted.sum(1)
    if reduction == "sum":
        return total
    number = squared.shape[1] if tokens is None else tokens.sum(1).clamp_min(1)
    return total / (number * target.shape[1] * size * size)


def distance_to_start(rows: Float[Tensor, "... dim"], start: Float[Tensor, "... dim"]) -> Float[Tensor, ""]:
    """Mean over the rows of the squared distance to where they started."""
    return (rows - start).square().sum(-1).mean()
