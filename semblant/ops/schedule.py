"""The noise schedule of a diffusion model and the conversions between what its networks predict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Cumulative signal levels alpha-bar of a variance-preserving diffusion (Ho et al. 2020, arXiv 2006.11239, Eq. 4).

    `alphas` has one entry per training timestep, falling from nearly 1 to nearly 0.
    """

    alphas: Float[Tensor, " timesteps"]

    @staticmethod
    def scaled_linear(timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Schedule:
        """The schedule of Stable Diffusion, betas linear in their square root (Rombach et al. 2022, as released)."""
        betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float32) ** 2
        return Schedule((1 - betas).cumprod(0))

    @property
    def timesteps(self) -> int:
        """How many training timesteps there are."""
        return len(self.alphas)

    def noisier(self, times: float) -> Schedule:
        """The schedule with a last signal-to-noise ratio `times` squared smaller, and a first one that stays.

        The logarithm of the ratio falls by a share that grows evenly with the timestep (for larger pictures Hoogeboom
        et al. 2023, arXiv 2301.11093, Sec. 3.1, lower it everywhere alike).
        """
        share = torch.linspace(0, 1, self.timesteps, dtype=torch.float64)
        ratio = self.alphas.double() / (1 - self.alphas.double()) * times ** (-2 * share)
        return Schedule((ratio / (1 + ratio)).float())

    def levels(self, t: Int[Tensor, " rows"], like: Tensor) -> tuple[Tensor, Tensor]:
        """Square roots of alpha-bar and 1 - alpha-bar at `t`, shaped to multiply `like`."""
        a = self.alphas.to(like.device)[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))
        return a.sqrt(), (1 - a).sqrt()

    def noised(self, x0: Tensor, noise: Tensor, t: Int[Tensor, " rows"]) -> Tensor:
        """The latent at timestep `t` on the way from `x0` to `noise`."""
        signal, sigma = self.levels(t, x0)
        return signal * x0 + sigma * noise

    def clean(self, x: Tensor, eps: Tensor, t: Int[Tensor, " rows"]) -> Tensor:
        """The clean latent implied by latent `x` and noise prediction `eps` at `t`."""
        signal, sigma = self.levels(t, x)
        return (x - sigma * eps) / signal

    def velocity(self, x0: Tensor, noise: Tensor, t: Int[Tensor, " rows"]) -> Tensor:
        """What a v-prediction aims at (Salimans & Ho 2022, arXiv 2202.00512, Sec. 4)."""
        signal, sigma = self.levels(t, x0)
        return signal * noise - sigma * x0

    def epsilon_of_v(self, x: Tensor, v: Tensor, t: Int[Tensor, " rows"]) -> Tensor:
        """Noise prediction from a v-prediction (Salimans & Ho 2022, arXiv 2202.00512, Appendix D)."""
        signal, sigma = self.levels(t, x)
        return signal * v + sigma * x

    def snr(self, t: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Signal-to-noise ratio alpha-bar / (1 - alpha-bar)."""
        a = self.alphas.to(t.device)[t]
        return a / (1 - a)


def stage_of_timestep(stages: int, timesteps: int = 1000) -> Int[Tensor, " timesteps"]:
    """Which of `stages` equal parts a timestep falls into, counted in the order of generation.

    Stage 0 holds the highest noise, so a sampler passes stages 0, 1, 2, ...
    """
    t = torch.arange(timesteps)
    return stages - 1 - t * stages // timesteps
