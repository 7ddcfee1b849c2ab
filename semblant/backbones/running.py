"""Running the networks of a base: where, in which precision, and with whatever is attached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from semblant.backbones.attachments import together, weights_of
from semblant.backbones.offload import Offload
from semblant.backbones.patch import WeightsPatch
from semblant.backbones.rest import known
from semblant.backbones.twin import SPARING, Casts, Hook, sparing, twin
from semblant.errors import SemblantError


@dataclass(frozen=True)
class Networks:
    """Text encoders, U-Net and autoencoder by name, and how they are run."""

    parts: Mapping[str, Any]
    exact: frozenset[str] = frozenset()
    """Those that are always computed in float32: an autoencoder that says that less is not enough for it
    (`force_upcast`, in Stable Diffusion XL, whose activations grow beyond half precision)."""
    compute: torch.dtype = torch.float32
    """What the others are computed in, by autocast."""
    offload: Offload | None = None
    casts: Casts = field(default_factory=Casts)

    def computing(self, dtype: torch.dtype) -> Networks:
        """The same in another precision."""
        return replace(self, compute=dtype, casts=Casts())

    def sparing(self) -> Networks:
        """The same with a U-Net that is differentiated with less memory."""
        return replace(
            self, parts={**self.parts, "unet": sparing(self.parts["unet"])}, casts=self.casts.without("unet")
        )

    def offloaded(self, device: torch.device) -> Networks:
        """The same with networks that come to the device when they are called. Raises SemblantError where they do
        already, and as `require_own_memory` does."""
        if self.offload is not None:
            raise SemblantError(f"this base is offloaded from {self.device} already; load it again for another device")
        return replace(self, offload=Offload.of(self.parts, device), casts=Casts())

    def learning(self) -> AbstractContextManager[None]:
        """For as long as something is learned."""
        return nullcontext() if self.offload is None else self.offload.learning()

    def settle(self) -> None:
        """No gradient is on its way any more."""
        if self.offload is not None:
            self.offload.settle()

    def hashes(self) -> dict[str, str]:
        """Short hashes of the weights by network."""
        offload = self.offload
        return {name: known(part) if offload is None else offload.hash_of(name) for name, part in self.parts.items()}

    @property
    def device(self) -> torch.device:
        """Where they are computed."""
        return next(self.parts["unet"].parameters()).device if self.offload is None else self.offload.device

    @property
    def spares(self) -> bool:
        """Whether the U-Net is differentiated with less memory."""
        return any(getattr(module, SPARING, False) for module in self.parts["unet"].modules())

    def precision(self, part: str) -> torch.dtype:
        """What a network's inputs are given in: its weights' own type, that of a half-precision pipeline too."""
        return torch.float32 if part in self.exact else next(self.parts[part].parameters()).dtype

    def bring(self, part: str) -> None:
        """Have a network where it is computed."""
        if self.offload is not None:
            self.offload.bring(part)

    def run(
        self,
        part: str,
        patches: Sequence[WeightsPatch],
        hooks: Mapping[str, Sequence[Hook]],
        *args: Any,
        method: str = "",
        **kwargs: Any,
    ) -> Any:
        """Run one network, with hooks and whatever weights patches give it, in a twin of its own."""
        self.bring(part)
        weights, branches = weights_of(part, self.parts[part], patches)
        hooks, exact = together(branches, hooks), part in self.exact
        network = self.parts[part] if exact else self._running(part)
        if exact:
            halves = {name: w for name, w in network.named_parameters() if w.dtype != torch.float32}
            weights = {name: weight.float() for name, weight in {**halves, **weights}.items()}
        if weights or hooks:
            network = twin(network, weights, hooks)
        half = torch.bfloat16 if exact or self.compute == torch.float32 else self.compute
        with torch.autocast(self.device.type, half, enabled=half == self.compute and not exact):
            made = (getattr(network, method) if method else network)(*args, **kwargs)
        if self.offload is not None:
            self.offload.keep(part, made)
        return made

    def _running(self, part: str) -> Any:
        """A network with matrices in the type in which autocast runs them, which would else cast them every time. One
        that comes and goes has none: they would stay behind."""
        network = self.parts[part]
        plain = self.compute == torch.float32 or self.offload is not None
        return network if plain else self.casts.of(part, network, self.compute)
