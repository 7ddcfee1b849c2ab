"""Solvers against diffusers' schedulers, on whole trajectories."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.errors import SemblantError
from semblant.ops.schedule import Schedule
from semblant.sampling.loop import Branches, sample_latents
from semblant.sampling.solvers import SOLVERS, points, solver

COMMON = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}


@pytest.fixture(scope="module")
def base():
    return miniature()


def ddim(steps):
    made = DDIMScheduler(**COMMON, **LEADING, clip_sample=False, set_alpha_to_one=False)
    made.set_timesteps(steps)
    return made


def euler(steps):
    made = EulerDiscreteScheduler(**COMMON, **LEADING)
    made.set_timesteps(steps)
    return made


def dpm(steps):
    made = DPMSolverMultistepScheduler(**COMMON, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero")
    made.set_timesteps(timesteps=[point.t for point in points(Schedule.scaled_linear(), steps)])
    return made


THEIRS = {"ddim": ddim, "euler": euler, "dpm++": dpm}


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 7, 16])
@pytest.mark.parametrize("name", SOLVERS)
def test_whole_trajectories_are_those_of_diffusers(base, name, steps):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    context, scheduler = base.text("a photo of a dog"), THEIRS[name](steps)
    assert scheduler.timesteps.tolist() == [point.t for point in points(base.schedule, steps)]
    theirs = x
    if name == "euler":
        # Its latents are the variance-preserving ones times sqrt(1 + sigma^2).
        theirs = x * (1 + scheduler.sigmas[0] ** 2).sqrt()
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(theirs, t)
        eps = base.denoise(given, Moment.of(t.long()[None]), context)
        theirs = scheduler.step(eps, t, theirs).prev_sample
    mine = sample_latents(base, x, Branches.of(context, base.text("")), steps=steps, guidance=1.0, solve=name)
    assert (mine - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", SOLVERS)
def test_a_perfect_prediction_leads_to_the_picture(name):
    """Where the noise is known, every solver returns the clean latent, up to the noise left at timestep 0."""
    schedule, generator = Schedule.scaled_linear(), torch.Generator().manual_seed(0)
    clean, eps = torch.randn(2, 1, 4, 4, 4, generator=generator)
    some = points(schedule, 10)
    x, history = some[0].alpha.sqrt() * clean + (1 - some[0].alpha).sqrt() * eps, []
    for point in some:
        x, before = solver(name)(point, x, eps, eps, history), x
        history.append((point, point.clean(before, eps)))
    end = schedule.alphas[0]
    expected = end.sqrt() * clean + (1 - end).sqrt() * eps if name == "ddim" else clean
    assert torch.allclose(x, expected, atol=2e-4)


def test_points_are_linked_and_end_at_timestep_0():
    schedule = Schedule.scaled_linear()
    some = points(schedule, 50)
    assert [p.t for p in some] == list(range(981, 0, -20))
    assert all(a.alpha_next == b.alpha for a, b in pairwise(some))
    assert some[-1].alpha_next == schedule.alphas[0]
    assert [p.last for p in some] == [False] * 49 + [True]
    every = points(schedule, 999)
    assert len({p.t for p in every}) == 999 and every[0].t == 999


@pytest.mark.parametrize("steps", [0, -1, 1000, 5000])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(SemblantError, match="1 to 999"):
        points(Schedule.scaled_linear(), steps)


def test_an_unknown_solver_is_refused_with_those_there_are():
    with pytest.raises(SemblantError, match=r"'dim'.*ddim"):
        solver("dim")
