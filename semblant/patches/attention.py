"""Attention patches that many methods share."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch
from semblant.backbones.site import Site


class Recorder(AttentionPatch):
    """Records the attention maps of chosen sites as "map"; it changes nothing."""

    def __init__(self, wanted: Callable[[Site], bool] = lambda site: site.kind == "cross") -> None:
        self.wanted = wanted

    def reads(self, site: Site, moment: Moment) -> bool:
        """Only the chosen sites pay for explicit maps."""
        return self.wanted(site)

    def reweight(self, site: Site, moment: Moment, map: Tensor) -> Tensor:
        """Keep the map, pass it on."""
        moment.record("map", site, map)
        return map


class Branch(AttentionPatch):
    """A second attention beside a site's own: the same queries read other keys and values (decoupled cross-attention).

    `keys_values(site, moment)` gives k, v [rows, heads, tokens, dim], or None where there is no branch. The result is
    added `strength` times (Ye et al. 2023, arXiv 2308.06721, Eq. 5).
    """

    def __init__(
        self, keys_values: Callable[[Site, Moment], tuple[Tensor, Tensor] | None], strength: float = 1.0
    ) -> None:
        self.keys_values, self.strength = keys_values, strength

    def add(self, site: Site, moment: Moment, q: Tensor, out: Tensor) -> Tensor:
        """The attended values plus the branch's."""
        found = self.keys_values(site, moment)
        if found is None:
            return out
        k, v = found
        return out + self.strength * F.scaled_dot_product_attention(q, k, v, scale=site.module.scale)
