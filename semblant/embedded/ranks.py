"""How well likeness tells who is who."""

from __future__ import annotations

import torch
from torch import Tensor


def auc(same: Tensor, different: Tensor) -> float:
    """Chance that a pair of one person is more alike than a pair of two; ties count half."""
    order = torch.cat([same, different])
    ranks = _ranks(order)
    count = len(same)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(different)))


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation."""
    return float(torch.corrcoef(torch.stack([_ranks(a), _ranks(b)]))[0, 1])


def _ranks(x: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing their mean."""
    _, inverse, counts = x.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


def pairs_of(owners: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of the pairs (i < j) of one person and of two people."""
    upper = torch.ones(len(owners), len(owners), dtype=torch.bool).triu(1)
    same = owners[:, None] == owners[None]
    return upper & same, upper & ~same
