"""Weight changes that hold only while a call runs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from semblant.backbones.patch import WeightsPatch


class Offsets(WeightsPatch):
    """Adds a tensor to each named parameter, `strength` times; full fine-tuning is an offset for every weight."""

    def __init__(self, offsets: Mapping[str, Tensor], strength: float = 1.0) -> None:
        self.offsets, self.strength = dict(offsets), strength

    def select(self, name: str) -> bool:
        """Parameters it has an offset for."""
        return name in self.offsets

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """The weight plus its offset."""
        return weight + self.strength * self.offsets[name].to(weight)


class LowRank(WeightsPatch):
    """Adds `strength * up @ down` to each named matrix or convolution (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, factors: Mapping[str, tuple[Tensor, Tensor]], strength: float = 1.0) -> None:
        self.factors, self.strength = dict(factors), strength

    def select(self, name: str) -> bool:
        """Parameters it has factors for."""
        return name in self.factors

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """The weight plus the product of its factors [out, rank] and [rank, in]."""
        up, down = self.factors[name]
        return weight + self.strength * (up @ down).view_as(weight).to(weight)
