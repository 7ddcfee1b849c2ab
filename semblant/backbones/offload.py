"""For small GPUs: networks wait in ordinary memory, and come to the device while they are called.

Of text encoders, U-Net and autoencoder one kind is there at a time; while something is learned the first two are there
together. What went through a network with gradients on its way back keeps it there, since they will go through it
again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from semblant.backbones.networks import layout_on
from semblant.backbones.rest import known
from semblant.errors import SemblantError

AUTOENCODER = "autoencoder"


@dataclass
class Offload:
    """Where the networks of a base are. For one thread at a time."""

    device: torch.device
    parts: Mapping[str, nn.Module]
    here: set[str] = field(default_factory=set)
    """Kinds that are on the device."""
    held: set[str] = field(default_factory=set)
    """Kinds that stay there until `settle`."""
    together: bool = False
    """Whether only the autoencoder makes text encoders and U-Net leave."""
    hashes: dict[str, tuple[Hashable, str]] = field(default_factory=dict)

    @staticmethod
    def of(parts: Mapping[str, nn.Module], device: torch.device) -> Offload:
        """With all networks in ordinary memory. Raises SemblantError as `require_own_memory` does."""
        require_own_memory(device)
        made = Offload(device, parts)
        for kind in {_kind(name) for name in parts}:
            made._move(kind, torch.device("cpu"))
        return made

    def bring(self, part: str) -> None:
        """Have a network, and others of its kind, on the device; who is not held leaves first. Where that is
        interrupted, or memory runs out, what was on its way goes back."""
        kind = _kind(part)
        leaving = self.here - self.held - {kind}
        if self.together and kind != AUTOENCODER:
            leaving &= {AUTOENCODER}
        for other in leaving:
            self.here.discard(other)
            self._move(other, torch.device("cpu"))
        if kind in self.here:
            return
        try:
            self._move(kind, self.device)
        except BaseException:
            self._move(kind, torch.device("cpu"))
            raise
        self.here.add(kind)

    def keep(self, part: str, made: Any) -> None:
        """Hold a network through which gradients of what it `made` will go."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _tensors(made)):
            self.held.add(_kind(part))

    def settle(self) -> None:
        """Nothing goes back through a network any more."""
        self.held.clear()

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Meanwhile text encoders and U-Net do not make room for each other, since every step calls both."""
        self.together = True
        try:
            yield
        finally:
            self.together = False
            self.settle()

    def hash_of(self, part: str) -> str:
        """The hash of a network, which a move does not change: computed anew where torch counted a change."""
        state = self._state(part)
        if part not in self.hashes or self.hashes[part][0] != state:
            self.hashes[part] = state, known(self.parts[part])
        return self.hashes[part][1]

    def _state(self, part: str) -> Hashable:
        weights = sorted(self.parts[part].state_dict().items())
        return tuple((name, 0 if weight.is_inference() else weight._version) for name, weight in weights)

    def _move(self, kind: str, device: torch.device) -> None:
        for name, network in self.parts.items():
            if _kind(name) != kind:
                continue
            hashed = name in self.hashes and self.hashes[name][0] == self._state(name)
            # Coming, weights are laid out as the device likes them; leaving, they stay as they are.
            layout: dict[str, Any] = {"memory_format": layout_on(device)} if device == self.device else {}
            # In inference mode weights would become tensors of that mode, which nothing can be learned through.
            with torch.inference_mode(False), torch.no_grad():
                network.to(device, **layout)
            if hashed:
                self.hashes[name] = self._state(name), self.hashes[name][1]


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
