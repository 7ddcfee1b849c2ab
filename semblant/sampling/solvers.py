"""Solvers of the denoising equation as small pure functions.

Each steps a variance-preserving latent from timestep `t` to the next lower one. `eps_x0` gives the clean latent,
`eps_dir` the direction back to the noise; they are the same tensor unless a trajectory patch says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from semblant.errors import SemblantError, closest
from semblant.ops.schedule import Schedule


@dataclass(frozen=True)
class Point:
    """One step of a schedule: from timestep `t` with signal level `alpha` (alpha-bar) to level `alpha_next`."""

    t: int
    alpha: Tensor
    alpha_next: Tensor
    last: bool = False
    """Whether the schedule ends here."""

    def clean(self, x: Tensor, eps: Tensor) -> Tensor:
        """The clean latent implied at this point."""
        return (x - (1 - self.alpha).sqrt() * eps) / self.alpha.sqrt()


Step = Callable[[Point, Tensor, Tensor, Tensor, list[tuple[Point, Tensor]]], Tensor]
"""`step(point, x, eps_x0, eps_dir, history)`; history holds (point, clean latent) of the steps before, newest last."""


def points(schedule: Schedule, steps: int) -> list[Point]:
    """`steps` points spaced evenly with offset 1, as Stable Diffusion's schedulers place them.

    The last goes to alpha-bar of timestep 0. Raises SemblantError when there are more steps than timesteps above 0.
    """
    if not 1 <= steps < schedule.timesteps:
        raise SemblantError(f"steps must be 1 to {schedule.timesteps - 1}; got {steps}")
    stride = schedule.timesteps // steps
    alphas = schedule.alphas.double()
    made = []
    for i in reversed(range(steps)):
        t = i * stride + 1
        made.append(Point(t, alphas[t].float(), alphas[max(t - stride, 0)].float(), last=i == 0))
    return made


def ddim(point: Point, x: Tensor, eps_x0: Tensor, eps_dir: Tensor, history: list[tuple[Point, Tensor]]) -> Tensor:
    """DDIM with eta 0 (Song et al. 2020, arXiv 2010.02502, Eq. 12)."""
    return point.alpha_next.sqrt() * point.clean(x, eps_x0) + (1 - point.alpha_next).sqrt() * eps_dir


def euler(point: Point, x: Tensor, eps_x0: Tensor, eps_dir: Tensor, history: list[tuple[Point, Tensor]]) -> Tensor:
    """Euler's method in noise-level coordinates (Karras et al. 2022, arXiv 2206.00364, Alg. 1).

    In these coordinates the noise prediction is the slope. The last step goes to noise level 0.
    """
    if point.last:
        return point.clean(x, eps_x0)
    sigma_next = ((1 - point.alpha_next) / point.alpha_next).sqrt()
    stepped = point.clean(x, eps_x0) + sigma_next * eps_dir
    return stepped / (1 + sigma_next**2).sqrt()


def dpm_solver(point: Point, x: Tensor, eps_x0: Tensor, eps_dir: Tensor, history: list[tuple[Point, Tensor]]) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Alg. 2); first order for the first and the last step."""
    clean = point.clean(x, eps_x0)
    if point.last:
        return clean
    half_log_snr = lambda a: 0.5 * (a / (1 - a)).log()
    h = half_log_snr(point.alpha_next) - half_log_snr(point.alpha)
    slope = clean
    if history:
        before, earlier = history[-1]
        ratio = (half_log_snr(point.alpha) - half_log_snr(before.alpha)) / h
        slope = clean + (clean - earlier) / (2 * ratio)
    sigma_ratio = ((1 - point.alpha_next) / (1 - point.alpha)).sqrt()
    return sigma_ratio * x - point.alpha_next.sqrt() * torch.expm1(-h) * slope


SOLVERS: dict[str, Step] = {"ddim": ddim, "euler": euler, "dpm++": dpm_solver}


def solver(name: str) -> Step:
    """A solver by name. Raises SemblantError naming the possible ones."""
    if name not in SOLVERS:
        raise SemblantError(f"no solver {name!r}; possible: {closest(name, list(SOLVERS), 9)}")
    return SOLVERS[name]
