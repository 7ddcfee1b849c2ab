"""Losses enlarged for float16: what would vanish is learned, and what would overflow is taken again, smaller."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.training import scale
from semblant.training.checkpoint import Store
from semblant.training.optimise import optimise
from semblant.training.scale import Scale
from semblant.training.step import gradients

Make = Callable[..., Any]
FINE, LARGE = [[torch.ones(2), None]], [[torch.ones(2), None], [torch.tensor([1.0, math.inf])]]


def test_only_float16_enlarges() -> None:
    assert [Scale.of(dtype).factor for dtype in (torch.float32, torch.bfloat16, torch.float16)] == [1, 1, 2**16]
    assert Scale.of(torch.float32, torch.float16).factor == 2**16
    assert Scale(1.0).holds([1.0, 1.0], LARGE)


def test_a_base_that_is_held_in_float16_has_its_losses_enlarged(tiny: Make, tmp_path: Path) -> None:
    half = miniature(channels=(8,))
    for part in (half.unet, half.text_encoder, half.autoencoder):
        part.half()
    optimise(half, [tiny()], seeds=[0], steps=1, checkpoint=tmp_path)
    state = Store(tmp_path).read()
    assert state is not None and state.facts["compute"] == "float32" and state.facts["scale"]["factor"] > 1


def test_it_is_halved_when_gradients_are_too_large_and_doubled_when_they_long_were_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale, "PATIENT", 3)
    now = Scale(8.0)
    assert not now.holds([1.0, 1.0], LARGE) and now.factor == 4
    assert now.holds([1.0], FINE) and now.holds([1.0], FINE) and now.factor == 4
    again = Scale.read(now.facts())
    assert now.holds([1.0], FINE) and now.factor == 8 and now.steps == 0
    assert again.holds([1.0], FINE) and again == now


def test_a_loss_that_is_not_finite_is_not_its_fault() -> None:
    now = Scale(8.0)
    assert now.holds([1.0, math.nan], LARGE) and now.factor == 8
    # That of one learner says nothing of the others.
    assert not now.holds([math.nan, 1.0], LARGE) and now.factor == 4


def test_without_it_small_gradients_are_zero_in_float16(
    base: Base, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(dtype: torch.dtype, factor: float) -> Tensor:
        learner = tiny(rows=1)
        error = learner.loss
        monkeypatch.setattr(learner, "loss", lambda *given: error(*given) * 1e-4)
        view, draws = base.computing(dtype), [torch.Generator().manual_seed(0)]
        return gradients(view, [learner], draws, scale=factor)[1][0][0]  # type: ignore[return-value]

    true = found(torch.float32, 1.0)
    assert torch.allclose(found(torch.float32, 2.0**16), true, rtol=1e-5)
    lost, kept = ((found(torch.float16, factor) - true).norm() / true.norm() for factor in (1.0, 2.0**16))
    assert lost > 0.2 and kept < 0.02


def test_a_step_that_overflowed_is_taken_again_with_the_same_draws(
    base: Base, tiny: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(start: float, **given: Any) -> tuple[Tensor, list[float], list[float]]:
        monkeypatch.setattr(scale, "START", start)
        factors: list[float] = []
        holds = Scale.holds
        with monkeypatch.context() as patch:
            patch.setattr(Scale, "holds", lambda self, *given: (holds(self, *given), factors.append(self.factor))[0])
            learner = tiny()
            (history,) = optimise(base, [learner], seeds=[3], compute=torch.float16, every=2, **given)
        assert history.skipped == 0
        return learner.parameters["row"].detach(), history.losses, factors

    row, losses, steady = run(2.0**10, steps=4)
    assert steady == [2.0**10] * 4
    again, same, falling = run(2.0**60, steps=4)
    # The first step is taken many times, each with half the scale, until it fits.
    assert falling[:30] == [2.0**power for power in range(59, 29, -1)] and falling[-1] < 2.0**30
    assert same == pytest.approx(losses, rel=1e-3) and torch.allclose(again, row, rtol=0.02, atol=1e-4)
    # A resumed run goes on with the scale it had.
    whole, *_ = run(2.0**60, steps=4)
    run(2.0**60, steps=2, checkpoint=tmp_path)
    resumed, _, factors = run(2.0**60, steps=4, checkpoint=tmp_path, resume=True)
    assert len(factors) < 10 and factors[-1] == falling[-1] and torch.equal(resumed, whole)
