"""Bringing several changes of one matrix together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def constrained_least_squares(
    weight: Float[Tensor, "out wide"],
    kept: Float[Tensor, "known wide"],
    inputs: Float[Tensor, "constraints wide"],
    outputs: Float[Tensor, "constraints out"],
) -> Float[Tensor, "out wide"]:
    """The matrix that maps `inputs` exactly to `outputs` and moves what `weight` makes of `kept` as little as possible.

    Custom Diffusion's merging in closed form (arXiv 2212.04488): with C the inputs, V the outputs, and G the Gram
    matrix of the kept, W + (V - C W^T)^T (C G^-1 C^T)^-1 C G^-1. Solved in float64. G gets a small ridge (1e-6 of its
    mean diagonal), since few kept inputs leave it singular; equal inputs count once, the first of them.
    """
    w, k, c, v = (t.double() for t in (weight, kept, inputs, outputs))
    first = [i for i in range(len(c)) if not any(torch.equal(c[i], c[j]) for j in range(i))]
    c, v = c[first], v[first]
    gram = k.T @ k
    gram = gram + 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    d = torch.linalg.solve(gram, c.T).T
    moved = torch.linalg.solve(d @ c.T, v - c @ w.T)
    return (w + moved.T @ d).to(weight)
