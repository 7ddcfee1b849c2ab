"""Every part of the schedule counting alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from semblant.backbones.base import Base
from semblant.data.subject import Subject
from semblant.methods.tokens.sefi_ide import SeFiIDE
from semblant.methods.tokens.textual_inversion import TextualInversion
from semblant.training.evenness import PARTS, evenness
from semblant.training.learner import denoising_error
from semblant.training.step import forward
from semblant.training.words import WordLearner

QUICK = {"views": 4, "batch": 4, "steps": 2}


def subject() -> Subject:
    pixels = np.random.default_rng(0)
    image = Image.fromarray(pixels.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    half = Image.new("L", (16, 16))
    half.paste(255, (0, 0, 8, 16))
    return Subject((image,), "<a>", "person", masks=(half,))


def learner(base: Base, **settings: object) -> WordLearner:
    return TextualInversion(**QUICK, **settings).learner(base, subject(), torch.Generator().manual_seed(0))


@pytest.fixture
def uneven(base: Base, monkeypatch: pytest.MonkeyPatch) -> Base:
    """A base that takes its input for the noise: all the more wrong the less of it there is."""
    monkeypatch.setattr(type(base), "denoise", lambda self, x, moment, context: x)
    return base


def test_the_error_in_its_units_is_as_large_everywhere_and_on_the_mean_as_before(uneven: Base) -> None:
    made = learner(uneven)
    factors = evenness(made, torch.Generator().manual_seed(0))
    total = uneven.schedule.timesteps
    generator = torch.Generator().manual_seed(1)
    before, after = [], []
    for part in range(PARTS):
        t = torch.arange(part * total // PARTS, (part + 1) * total // PARTS).repeat(4)
        latent = torch.stack([made.bank.view(generator).latent for _ in t])
        noise = torch.randn(latent.shape, generator=generator)
        error = (uneven.schedule.noised(latent, noise, t) - noise).square().flatten(1).mean(1)
        before.append(float(error.mean()))
        after.append(float((error * factors[t]).mean()))
    assert max(before) > 3 * min(before)
    assert max(after) < 1.35 * min(after)
    assert np.mean(after) == pytest.approx(np.mean(before), rel=0.1)


def test_the_class_word_stands_where_the_word_did_and_in_no_other_word(
    uneven: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, said = type(uneven).text, set()
    made = TextualInversion(**QUICK).learner(
        uneven, replace(subject(), word="sks", captions=("sks on desks",)), torch.Generator().manual_seed(0)
    )
    monkeypatch.setattr(type(uneven), "text", lambda self, texts: said.update(texts) or read(self, texts))
    evenness(made, torch.Generator().manual_seed(0))
    assert "person on desks" in said and not [text for text in said if "deperson" in text]


@pytest.mark.parametrize("mask", [False, True])
def test_a_loss_is_the_error_times_the_factor_of_its_timestep(base: Base, mask: bool) -> None:
    plain, even = (learner(base, even_loss=on, mask_loss=mask) for on in (False, True))
    assert plain.factors is None and even.factors is not None and len(even.factors) == base.schedule.timesteps
    [(moment, prediction, batch)] = forward(base, [plain], [torch.Generator().manual_seed(3)])
    error = denoising_error(prediction, batch, batch.mask if mask else None)
    assert plain.loss(moment, prediction, batch).equal(error)
    assert even.loss(moment, prediction, batch).equal(error * even.factors[batch.timestep])


def test_what_counts_is_the_mask_when_the_loss_is_asked_inside_it(uneven: Base) -> None:
    """Where the picture is flat outside its mask the magnitudes are those inside."""
    whole, masked = (evenness(learner(uneven, mask_loss=on), torch.Generator().manual_seed(0)) for on in (False, True))
    assert not torch.allclose(whole, masked, rtol=1e-3)


def test_both_losses_of_sefi_ide_are_weighed_after_it(base: Base) -> None:
    settings = SeFiIDE(**QUICK, calibration_draws=1, attention_size=8, even_loss=True)
    made = settings.learner(base, subject(), torch.Generator().manual_seed(0))
    assert made.factors is not None and float(made.factors.min()) > 0
    again = settings.learner(base, subject(), torch.Generator().manual_seed(0))
    assert again.factors is not None and again.factors.equal(made.factors) and again.weight == made.weight
