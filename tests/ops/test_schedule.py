"""The noise schedule and the stages."""

from __future__ import annotations

import pytest
import torch

from semblant.ops.schedule import Schedule, stage_of_timestep
from semblant.sampling.solvers import points

SCHEDULE = Schedule.scaled_linear()
T = torch.tensor([0, 1, 250, 999])


@pytest.fixture
def drawn():
    return torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_the_schedule_of_stable_diffusion():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert torch.allclose(SCHEDULE.alphas.double(), (1 - betas).cumprod(0), rtol=1e-5)
    assert (SCHEDULE.alphas.diff() < 0).all() and SCHEDULE.timesteps == 1000
    assert SCHEDULE.alphas[0] == pytest.approx(1 - 0.00085) and SCHEDULE.alphas[-1] == pytest.approx(0.00466, abs=1e-5)


def test_noising_and_the_clean_latent_undo_each_other(drawn):
    clean, noise = drawn
    x = SCHEDULE.noised(clean, noise, T)
    assert torch.allclose(SCHEDULE.clean(x, noise, T), clean, atol=1e-9)
    signal, sigma = SCHEDULE.levels(T, x)
    assert signal.shape == (4, 1, 1, 1) and torch.allclose(signal**2 + sigma**2, torch.ones_like(signal))
    assert torch.allclose(
        x[2], SCHEDULE.alphas[250].double().sqrt() * clean[2] + (1 - SCHEDULE.alphas[250].double()).sqrt() * noise[2]
    )


def test_v_predictions_carry_the_noise(drawn):
    """v = sqrt(alpha) noise - sqrt(1 - alpha) clean."""
    clean, noise = drawn
    signal, sigma = SCHEDULE.levels(T, clean)
    x = SCHEDULE.noised(clean, noise, T)
    assert torch.allclose(SCHEDULE.epsilon_of_v(x, signal * noise - sigma * clean, T), noise, atol=1e-9)


def test_noise_of_unit_variance_stays_so(generator):
    clean, noise = torch.randn(2, 4, 200_000, generator=generator)
    assert torch.allclose(SCHEDULE.noised(clean, noise, T).var(-1), torch.ones(4), atol=0.02)


def test_signal_to_noise_ratio():
    signal, sigma = SCHEDULE.levels(T, torch.zeros(4))
    assert torch.allclose(SCHEDULE.snr(T), (signal / sigma) ** 2, rtol=1e-4)


def test_five_stages_of_200_in_the_order_of_generation():
    stages = stage_of_timestep(5)
    assert stages.bincount().tolist() == [200] * 5
    assert stages[[999, 800, 799, 600, 199, 0]].tolist() == [0, 0, 1, 1, 4, 4]
    assert (stages.diff() <= 0).all()


def test_each_stage_holds_ten_of_fifty_sampling_points():
    visited = stage_of_timestep(5)[[point.t for point in points(SCHEDULE, 50)]]
    assert visited.tolist() == sorted(visited.tolist()) and visited.bincount().tolist() == [10] * 5


@pytest.mark.parametrize(("stages", "timesteps"), [(1, 1000), (10, 1000), (3, 1000), (7, 20)])
def test_any_number_of_stages_is_as_even_as_can_be(stages, timesteps):
    counts = stage_of_timestep(stages, timesteps).bincount()
    assert len(counts) == stages and counts.max() - counts.min() <= 1


def test_a_noisier_schedule_starts_alike_and_ends_with_less_signal():
    plain = Schedule.scaled_linear()
    noisy = plain.noisier(4.0)
    ends = torch.tensor([0, 999])
    ratio = plain.snr(ends) / noisy.snr(ends)
    assert torch.allclose(ratio, torch.tensor([1.0, 16.0]), rtol=1e-3)
    assert (noisy.alphas[1:] < noisy.alphas[:-1]).all()
    assert torch.allclose(plain.noisier(1.0).alphas, plain.alphas, atol=1e-7)


def test_the_velocity_gives_back_the_noise():
    schedule, generator = Schedule.scaled_linear().noisier(4.0), torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 4, 8, 8, generator=generator)
    t = torch.tensor([0, 250, 500, 900, 999])
    v = schedule.velocity(x0, noise, t)
    assert torch.allclose(schedule.epsilon_of_v(schedule.noised(x0, noise, t), v, t), noise, atol=1e-5)
