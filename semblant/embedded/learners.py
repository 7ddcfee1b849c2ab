"""What moves the weights of the embedded base: Muon for hidden matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

LEARNING_RATE = 8e-4
"""For steps of 32; at 2e-3 and 16 a step the error rose."""
MOMENTUM = 0.98
"""Of the orthogonalised updates (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks")."""
NO_MATRICES = ("conv_in", "conv_out", "embedding", "recall")
"""Weights with these in their names are learned by AdamW, whatever their shape: tables of words, the two ends,
and what only reads the text encoder."""


def learning_rate(batch: int) -> float:
    """The learning rate for steps of `batch` presentations: it grows with the square root of their number (Malladi et
    al. 2022, arXiv 2205.10287), to four times at most."""
    return LEARNING_RATE * min(4.0, (batch / 32) ** 0.5)


class Muon(torch.optim.Muon):
    """torch's Muon, with the type in which matrices are made orthogonal to choose. Torch's own computes that in
    bfloat16, for which a processor without such arithmetic takes many times as long as for float32."""

    exact = False
    """Whether it computes in float32."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; `closure` is not asked. Lengths are matched to AdamW's."""
        if not self.exact:
            super().step()
            return
        for group in self.param_groups:
            for matrix in (m for m in group["params"] if m.grad is not None):
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                moved = state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
                moved = matrix.grad.lerp(moved, group["momentum"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                moved = orthogonal(moved, group["ns_coefficients"], group["ns_steps"])
                matrix.add_(moved, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(
    matrix: Float[Tensor, "outputs inputs"], coefficients: Sequence[float], steps: int
) -> Float[Tensor, "outputs inputs"]:
    """The nearest matrix with orthogonal rows or columns, roughly: Newton-Schulz steps of the fifth degree (Jordan et
    al. 2024), after which singular values lie about one."""
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp_min(1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Learners:
    """Two optimisers over one set of weights: hidden matrices and convolutions are moved along orthogonalised momentum
    (Muon), at the size that AdamW's steps have (Liu et al. 2025, arXiv 2502.16982, Sec. 2.2); the rest by AdamW.

    Going on for 4,800 presentations from the same weights, Muon took the error further than AdamW (decision 0010).
    """

    def __init__(self, named: dict[str, Tensor]) -> None:
        self.named = named
        self.matrices = {
            name: nn.Parameter(as_matrix(weight.detach()))
            for name, weight in named.items()
            if weight.ndim > 1 and not any(part in name for part in NO_MATRICES)
        }
        self.rest = {name: weight for name, weight in named.items() if name not in self.matrices}
        self.muon = Muon(
            self.matrices.values(),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=0.01,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adam = torch.optim.AdamW(
            self.rest.values(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )

    def step(self, rate: float) -> None:
        """One update with the gradients that lie at the weights, which are taken off."""
        for group in (*self.muon.param_groups, *self.adam.param_groups):
            group["lr"] = rate
        for name, matrix in self.matrices.items():
            gradient = self.named[name].grad
            matrix.grad = None if gradient is None else as_matrix(gradient)
        self.muon.step()
        self.adam.step()
        for weight in self.named.values():
            weight.grad = None

    def forget(self, prefix: str) -> None:
        """Let go of the moments of the weights whose names start so: they were replaced."""
        for optimiser, weights in ((self.muon, self.matrices), (self.adam, self.rest)):
            for name, weight in weights.items():
                if name.startswith(prefix):
                    optimiser.state.pop(weight, None)

    def state(self) -> dict[str, Tensor]:
        """Moments of both, as `key.name of the weight`."""
        found: dict[str, Tensor] = {}
        for optimiser, weights in ((self.muon, self.matrices), (self.adam, self.rest)):
            states = optimiser.state_dict()["state"]
            for i, name in enumerate(weights):
                found |= {f"{key}.{name}": value for key, value in states.get(i, {}).items()}
        return found

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Take the moments that `state` gave."""
        both: tuple[tuple[torch.optim.Optimizer, dict[str, Any]], ...]
        both = ((self.muon, self.matrices), (self.adam, self.rest))
        for optimiser, weights in both:
            packed = optimiser.state_dict()
            for i, (name, weight) in enumerate(weights.items()):
                stored = {k.split(".", 1)[0]: v for k, v in moments.items() if k.split(".", 1)[1] == name}
                # The fused update walks memory, not indices: moments must lie in memory as their weight does.
                packed["state"][i] = {
                    key: value if key == "step" else torch.empty_like(weight).copy_(value)
                    for key, value in stored.items()
                }
            optimiser.load_state_dict(packed)


def as_matrix(weight: Tensor) -> Tensor:
    """A weight as [outputs, everything else], in the same memory where a convolution's channels come last."""
    return (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1)
