"""Attention patches that act on some rows of a batch only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch
from semblant.backbones.site import Site


class Narrowed(AttentionPatch):
    """An attention patch that sees, and changes, only the rows that `select` names.

    What it records goes under `scope`, so that several narrowed patches in one call do not mix.
    """

    def __init__(self, inner: AttentionPatch, select: Callable[[Moment], Sequence[int]], scope: str) -> None:
        self.inner, self.select, self.scope = inner, select, scope

    def hooks(self) -> frozenset[str]:
        """The hooks of the inner patch."""
        return self.inner.hooks()

    def rewrite(self, site: Site, moment: Moment, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The inner patch on its rows. Raises ValueError when it changes how many keys there are."""
        rows = list(self.select(moment))
        if not rows or "rewrite" not in self.inner.hooks():
            return q, k, v
        given = (q, k, v)
        changed = self.inner.rewrite(site, moment.only(rows, self.scope), *(t[rows] for t in given))
        if any(new.shape[1:] != old.shape[1:] for new, old in zip(changed, given, strict=True)):
            raise ValueError(
                f"{type(self.inner).__name__} changes the number of tokens and cannot act on some rows only"
            )
        q, k, v = (_put(old, rows, new) for old, new in zip(given, changed, strict=True))
        return q, k, v

    def reads(self, site: Site, moment: Moment) -> bool:
        """Whether the inner patch reads maps here and has rows at all."""
        rows = list(self.select(moment))
        return bool(rows) and self.inner.reads(site, moment.only(rows, self.scope))

    def reweight(self, site: Site, moment: Moment, map: Tensor) -> Tensor:
        """The inner patch on its rows of the map."""
        rows = list(self.select(moment))
        return _put(map, rows, self.inner.reweight(site, moment.only(rows, self.scope), map[rows]))

    def bias(self, site: Site, moment: Moment) -> Tensor | None:
        """The inner patch's bias for its rows, zero for the others."""
        rows = list(self.select(moment))
        inner = self.inner.bias(site, moment.only(rows, self.scope)) if rows else None
        if inner is None:
            return None
        inner = inner[(None,) * (4 - inner.ndim)]
        full = inner.new_zeros(len(moment.role), *inner.shape[1:])
        return _put(full, rows, inner.expand(len(rows), *inner.shape[1:]))

    def add(self, site: Site, moment: Moment, q: Tensor, out: Tensor) -> Tensor:
        """The inner patch on its rows of the attended values."""
        rows = list(self.select(moment))
        if not rows or "add" not in self.inner.hooks():
            return out
        return _put(out, rows, self.inner.add(site, moment.only(rows, self.scope), q[rows], out[rows]))


def _put(whole: Tensor, rows: list[int], part: Tensor) -> Tensor:
    if rows == list(range(len(whole))):
        return part
    return whole.index_copy(0, torch.tensor(rows, device=whole.device), part.to(whole))
