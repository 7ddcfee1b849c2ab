"""Where queries look under one prompt's words, compared with where they would look under another's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch
from semblant.backbones.site import Site
from semblant.errors import SemblantError
from semblant.ops.attention import attention_map
from semblant.ops.losses import Reduction, map_error

Space = Literal["softmax", "scores"]


class ComparedLooks(AttentionPatch):
    """Records "look error": how far the maps of a pass are from those under a reference encoding; it changes nothing.

    Both maps come from the queries of one pass, so no second pass is needed, and equal keys give exactly zero.
    `reference` is the encoding whose keys are looked at instead, without gradient; `compared` says whose maps count;
    maps are resized to `size`, or to the base's largest map where that is smaller.
    """

    def __init__(
        self,
        reference: Float[Tensor, "rows tokens dim"],
        compared: Bool[Tensor, "rows tokens"],
        sites: Sequence[Site],
        *,
        within: tuple[float, float] = (0.0, 1.0),
        size: int = 32,
        space: Space = "softmax",
        reduction: Reduction = "sum",
    ) -> None:
        self.reference, self.compared = reference, compared
        self.size, self.space, self.reduction = size, space, reduction
        first, last = within
        self.names = {site.name for site in sites if first <= (site.index + 0.5) / len(sites) < last}
        self.finest = min(site.factor for site in sites)
        if not self.names:
            raise SemblantError(f"attention_sites {first}, {last} holds none of {len(sites)} sites; all are 0, 1")

    def only(self, rows: Sequence[int]) -> ComparedLooks:
        """The comparison for some of its rows."""
        made = copy.copy(self)
        made.reference, made.compared = self.reference[list(rows)], self.compared[list(rows)]
        return made

    def rewrite(self, site: Site, moment: Moment, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Record the error per row; what the site computes stays as it was."""
        if site.name in self.names:
            assert moment.size is not None
            grid, finest = ([-(-side // factor) for side in moment.size] for factor in (site.factor, self.finest))
            with torch.no_grad():
                wanted = self.look(site, q, site.keys(self.reference))
            looks, size = self.look(site, q, k), min(self.size, *finest)
            moment.record("look error", site, map_error(looks, wanted, grid, size, self.compared, self.reduction))
        return q, k, v

    def look(self, site: Site, q: Tensor, k: Tensor) -> Tensor:
        """Where the queries look: the map, or the scores before the softmax."""
        q, k = q.float(), k.float()
        if self.space == "scores":
            return q @ k.mT * site.module.scale
        return attention_map(q, k, site.module.scale)
