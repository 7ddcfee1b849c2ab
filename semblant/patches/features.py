"""Feature patches that many methods share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from semblant.backbones.context import Context
from semblant.backbones.moment import Moment
from semblant.backbones.patch import FeaturesPatch


class ExtraChannels(FeaturesPatch):
    """Gives a base that takes more channels than the latent's own what it needs (masks, masked pictures)."""

    def __init__(self, channels: Tensor) -> None:
        self.channels = channels

    def extra(self, x: Tensor, moment: Moment) -> Tensor:
        """The channels [1 or pictures, n, h, w], one entry per row by its picture."""
        if len(self.channels) == 1:
            return self.channels.expand(len(x), -1, -1, -1).to(x)
        return self.channels[list(moment.picture)].to(x)


class Residuals(FeaturesPatch):
    """Adds to skip connections and middle block what `network(x, moment, context)` answers, `strength` times.

    That is how a ControlNet acts (Zhang et al. 2023, arXiv 2302.05543).
    """

    def __init__(
        self, network: Callable[[Tensor, Moment, Context], tuple[list[Tensor], Tensor]], strength: float = 1.0
    ) -> None:
        self.network, self.strength = network, strength

    def residuals(self, x: Tensor, moment: Moment, context: Context) -> tuple[list[Tensor], Tensor]:
        """The network's answer times the strength."""
        down, mid = self.network(x, moment, context)
        return [self.strength * level for level in down], self.strength * mid
