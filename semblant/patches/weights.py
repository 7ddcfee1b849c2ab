"""Weight changes that hold only while a call runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.patch import Branch, WeightsPatch
from semblant.backbones.site import Kind
from semblant.errors import SemblantError, closest

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""The matrices of an attention layer of the U-Net: queries, keys, values, and what comes out."""
TEXT_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The same in a text encoder."""


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

    @staticmethod
    def of(tensors: Mapping[str, Tensor], strength: float = 1.0) -> LowRank:
        """From tensors called `NAME.up` and `NAME.down`, as `low_rank_start` makes them."""
        names = [name.removesuffix(".up") for name in tensors if name.endswith(".up")]
        return LowRank({name: (tensors[f"{name}.up"], tensors[f"{name}.down"]) for name in names}, strength)

    def select(self, name: str) -> bool:
        """Parameters it has factors for."""
        return name in self.factors

    def delta(self, name: str, weight: Tensor) -> Tensor:
        """The weight plus the product of its factors [out, rank] and [rank, in], or of a convolution's, whose first
        sides are these and whose others (height, width) are counted with `in`."""
        up, down = self.factors[name]
        return weight + self.strength * (up.flatten(1) @ down.flatten(1)).view_as(weight).to(weight)

    def branch(self, name: str) -> Branch | None:
        """Inputs through both factors: neither their product nor its gradient is ever as large as the matrix."""
        up, down = self.factors[name]
        if up.ndim > 2 or down.ndim > 2:
            return None
        return lambda x: self.strength * F.linear(F.linear(x, down.to(x)), up.to(x))


def low_rank_start(
    weights: Mapping[str, Float[Tensor, "out wide"]], rank: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Factors `NAME.up` [out, rank] of zeros, so that nothing is changed at first, and `NAME.down` [rank, in], normal
    with deviation 1 / rank (LoRA Sec. 4.1; the deviation is diffusers'), both in float32. Raises SemblantError for a
    rank below 1."""
    if rank < 1:
        raise SemblantError(f"the rank of a low-rank change is 1 or more; got {rank}")
    made: dict[str, Tensor] = {}
    for name, weight in weights.items():
        made[f"{name}.up"] = weight.new_zeros(len(weight), rank, dtype=torch.float32)
        made[f"{name}.down"] = torch.randn(rank, weight.shape[1], generator=generator).to(weight.device) / rank
    return made


def attention_weights(
    base: Base, projections: Sequence[str] = PROJECTIONS, kinds: Sequence[Kind] = ("self", "cross")
) -> dict[str, Float[Tensor, "out wide"]]:
    """Weights of the U-Net's attention layers by canonical name. Raises SemblantError for an unknown projection, and
    where a LoRA of PEFT lies around one."""
    _require_known(projections, PROJECTIONS)
    named = dict(base.named_parameters())
    wanted = [f"unet.{s.name}.{part}.weight" for s in base.sites if s.kind in kinds for part in projections]
    _require_bare(base, [name for name in wanted if name not in named])
    return {name: named[name] for name in wanted}


def text_attention_weights(base: Base) -> dict[str, Float[Tensor, "out wide"]]:
    """Weights of the text encoders' attention layers by canonical name, without those that have no part in what is
    read: of the first encoder of Stable Diffusion XL the last layer. Raises SemblantError where a LoRA of PEFT lies
    around one."""
    ends = tuple(f".{part}.weight" for part in TEXT_PROJECTIONS)
    covered = tuple(f".{part}.base_layer.weight" for part in TEXT_PROJECTIONS)
    _require_bare(base, [name for reader in base.readers for name in reader.names if name.endswith(covered)])
    return {
        f"{reader.part}.{name}": weight
        for reader in base.readers
        for name, weight in reader.encoder.named_parameters()
        if name.endswith(ends) and reader.reads(name)
    }


def _require_bare(base: Base, covered: Sequence[str]) -> None:
    if covered:
        raise SemblantError(
            f"{base.name} has a LoRA around {len(covered)} of its weights, such as {covered[0]}, which no other change "
            "can then reach; unload the LoRA first (pipeline.unload_lora_weights()) and call Base.wrap again"
        )


def _require_known(given: Sequence[str], known: Sequence[str]) -> None:
    if not given:
        raise SemblantError(f"no projection is given; possible: {', '.join(known)}")
    for name in given:
        if name not in known:
            raise SemblantError(f"attention has no projection {name!r}; possible: {closest(name, tuple(known))}")
