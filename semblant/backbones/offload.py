"""For small GPUs: networks wait in ordinary memory, and come to the device while they are called.

Of text encoders, U-Net and autoencoder one kind is there at a time. What went through a network with gradients on its
way back keeps it there, since they will go through it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from semblant.backbones.networks import layout_on
from semblant.errors import SemblantError


@dataclass
class Offload:
    """Where the networks of a base are. For one thread at a time."""

    device: torch.device
    parts: Mapping[str, nn.Module]
    here: set[str] = field(default_factory=set)
    """Kinds that are on the device."""
    held: set[str] = field(default_factory=set)
    """Kinds that stay there until `release`."""

    @staticmethod
    def of(parts: Mapping[str, nn.Module], device: torch.device) -> Offload:
        """With all networks in ordinary memory. Raises SemblantError as `require_own_memory` does."""
        require_own_memory(device)
        for part in parts.values():
            part.to("cpu")
        return Offload(device, parts)

    def bring(self, part: str) -> None:
        """Have a network, and others of its kind, on the device; who is not held leaves first."""
        kind = _kind(part)
        leaving = self.here - self.held - {kind}
        for name, network in self.parts.items():
            if _kind(name) in leaving:
                network.to("cpu")
        self.here -= leaving
        if kind not in self.here:
            for name, network in self.parts.items():
                if _kind(name) == kind:
                    network.to(self.device, memory_format=layout_on(self.device))  # type: ignore[call-overload]
            self.here.add(kind)

    def keep(self, part: str, made: Any) -> None:
        """Hold a network through which gradients of what it `made` will go."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _tensors(made)):
            self.held.add(_kind(part))

    def release(self) -> None:
        """Nothing goes back through a network any more."""
        self.held.clear()


def require_own_memory(device: torch.device) -> None:
    """Raise SemblantError where a device computes in ordinary memory, so that nothing is spared by leaving it."""
    if device.type in ("cpu", "mps"):
        raise SemblantError(
            f"offloading spares the memory of a GPU, and {device.type} has none of its own; leave it out"
        )


def _kind(part: str) -> str:
    """Two text encoders are called by turns, so they come and go together."""
    return part.partition("_")[0]


def _tensors(made: Any) -> list[Tensor]:
    """Those in the answer of a network."""
    if (posterior := getattr(made, "latent_dist", None)) is not None:
        return [posterior.mean]
    return [value for value in made.values() if isinstance(value, Tensor)]
