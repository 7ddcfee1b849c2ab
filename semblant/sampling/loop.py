"""The one sampling loop, its guided denoiser, and DDIM inversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.context import Context
from semblant.backbones.moment import Moment
from semblant.backbones.patch import Denoise, TrajectoryPatch
from semblant.sampling.solvers import Point, points, solver


@dataclass(frozen=True)
class Branches:
    """What the rows of a batch are conditioned on, and their labels."""

    conditional: Context
    null: Context
    role: tuple[str, ...]
    picture: tuple[int, ...]

    @staticmethod
    def of(
        conditional: Context,
        null: Context,
        role: str | Sequence[str] = "target",
        picture: Sequence[int] | None = None,
    ) -> Branches:
        """Branches with one role for all rows or one per row; every row its own picture unless said otherwise.

        A null half that says nothing of sizes is told those of its rows' pictures.
        """
        rows = len(conditional)
        roles = (role,) * rows if isinstance(role, str) else tuple(role)
        null = null.repeat(rows) if len(null) == 1 else null
        return Branches(
            conditional,
            null if null.framings else replace(null, framings=conditional.framings),
            roles,
            tuple(range(rows)) if picture is None else tuple(picture),
        )

    def moment(self, t: int, step: int | None, steps: int | None, device: torch.device) -> Moment:
        """The moment of all rows at one timestep."""
        timestep = torch.full((len(self.role),), t, dtype=torch.long, device=device)
        return Moment.of(timestep, role=self.role, picture=self.picture, step=step, steps=steps)


def guided(base: Base, branches: Branches, guidance: float | Sequence[float] | Tensor) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) as one batched call of the base.

    With scale 1 everywhere only the conditional half runs. `guidance` may differ by row.
    """
    scale = torch.as_tensor(guidance, dtype=torch.float32)

    def denoise(x: Tensor, moment: Moment, contexts: Branches = branches) -> Tensor:
        if bool((scale == 1).all()):
            return base.denoise(x, moment, contexts.conditional)
        halves = base.denoise(torch.cat([x, x]), moment.both_halves(), contexts.null + contexts.conditional)
        null, conditional = halves.chunk(2)
        return null + scale.to(x).view(-1, 1, 1, 1) * (conditional - null)

    return denoise


@torch.no_grad()
def sample_latents(
    base: Base,
    x: Float[Tensor, "rows channels h w"],
    branches: Branches,
    *,
    steps: int = 50,
    guidance: float | Sequence[float] = 7.5,
    solve: str = "ddim",
    start: int = 0,
    progress: Callable[[int, int, Tensor], None] | None = None,
) -> Float[Tensor, "rows channels h w"]:
    """Denoise latents from step `start` on, through whatever is attached to the base.

    Defaults are Stable Diffusion's published sampling settings (50 steps, guidance 7.5; Rombach et al. 2022).
    `progress(step, steps, clean)` is called after every step with the predicted clean latents.
    """
    step_of = solver(solve)
    patches: tuple[TrajectoryPatch, ...] = base.attached(TrajectoryPatch)
    denoise = guided(base.remembering(), branches, guidance)
    for patch in patches:
        denoise = patch.wrap(denoise)
    history: list[tuple[Point, Tensor]] = []
    for index, point in list(enumerate(points(base.schedule, steps)))[start:]:
        moment = branches.moment(point.t, index, steps, x.device)
        for patch in patches:
            x = patch.before(x, moment)
        eps_x0 = eps_dir = denoise(x, moment)
        for patch in patches:
            eps_x0, eps_dir = patch.solve(eps_x0, eps_dir, moment)
        stepped = step_of(point, x, eps_x0, eps_dir, history)
        history = [*history[-1:], (point, point.clean(x, eps_x0))]
        for patch in patches:
            stepped = patch.after(x, stepped, moment)
        x = stepped
        if progress is not None:
            progress(index + 1, steps, history[-1][1])
    return x


@torch.no_grad()
def ddim_invert(
    base: Base,
    x0: Float[Tensor, "rows channels h w"],
    branches: Branches,
    *,
    steps: int = 50,
    guidance: float = 1.0,
) -> list[Float[Tensor, "rows channels h w"]]:
    """Run DDIM backwards from clean latents to noise; entry k is the latent at which sampling step k starts, the last
    entry the clean latent itself (Song et al. 2020, arXiv 2010.02502, Sec. 4.3)."""
    denoise = guided(base.remembering(), branches, guidance)
    path = [x0]
    x = x0
    for index, point in reversed(list(enumerate(points(base.schedule, steps)))):
        moment = branches.moment(point.t, index, steps, x.device)
        # The latent stands at alpha_next; the prediction is taken there, at the timestep it is going to.
        eps = denoise(x, moment)
        clean = (x - (1 - point.alpha_next).sqrt() * eps) / point.alpha_next.sqrt()
        x = point.alpha.sqrt() * clean + (1 - point.alpha).sqrt() * eps
        path.append(x)
    return path[::-1]


def optimise_step(
    value: Tensor, loss: Callable[[Tensor], Tensor], *, steps: int, lr: float, enough: float = 0.0
) -> Tensor:
    """Adjust a tensor by Adam until `loss` is below `enough` or `steps` are done: the inner loop of null-text
    optimisation (Mokady et al. 2022, arXiv 2211.09794, Alg. 1) and its kin. Returns the adjusted tensor, detached."""
    with torch.enable_grad():
        value = value.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([value], lr=lr)
        for _ in range(steps):
            error = loss(value)
            if float(error.detach()) < enough:
                break
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
    return value.detach()


def noise(base: Base, seeds: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "rows channels h w"]:
    """Starting noise, each picture from its own seed, so that picture k of n is picture k alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.randn(base.channels, *(side // base.factor for side in size), generator=generator))
    return torch.stack(rows).to(base.device)
