"""Two concepts in one picture: noise predictions blended by masks (OMG, Kong et al. 2024, arXiv 2403.10983)."""

from __future__ import annotations

import pytest
import torch

from semblant.backbones.patch import TrajectoryPatch
from semblant.patches.words import LearnedWord
from semblant.sampling.loop import Branches, sample_latents


class NoiseBlending(TrajectoryPatch):
    """Inside each mask the prediction is that of the mask's own branches, elsewhere the picture's own."""

    def __init__(self, branches, masks):
        self.branches, self.masks = branches, masks

    def wrap(self, denoise):
        def blended(x, moment):
            eps = denoise(x, moment) * (1 - sum(self.masks))
            return eps + sum(m * denoise(x, moment, b) for m, b in zip(self.masks, self.branches, strict=True))

        return blended


@pytest.fixture
def concepts(base, generator):
    """Branches of one prompt with either concept."""
    made = []
    for word in ("<a>", "<b>"):
        view = base.patched(
            LearnedWord(word, torch.randn(1, 1, 1, 1, base.width, generator=generator), base.token_row("dog"))
        )
        made.append(Branches.of(view.text(f"a photo of {word} on the beach"), base.text("")))
    return made


@pytest.fixture
def plain(base):
    return Branches.of(base.text("a photo of a person on the beach"), base.text(""))


def make(base, x, branches, *patches):
    return sample_latents(base.patched(*patches), x, branches, steps=4)


def near(a, b):
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


def test_a_full_mask_is_that_concept_alone(base, latents, concepts, plain):
    x, ones, zeros = latents(1), torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    alone = [make(base, x, branches) for branches in concepts]
    assert not near(*alone)
    assert near(make(base, x, plain, NoiseBlending(concepts, (ones, zeros))), alone[0])
    assert near(make(base, x, plain, NoiseBlending(concepts, (zeros, ones))), alone[1])
    assert near(make(base, x, plain, NoiseBlending(concepts, (zeros, zeros))), make(base, x, plain))


def test_masks_part_the_picture(base, latents, concepts, plain):
    """After one step from the same noise, either half is its own concept's."""
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    x = latents(1)
    once = lambda branches, *patches: sample_latents(base.patched(*patches), x, branches, steps=1)
    mixed = once(plain, NoiseBlending(concepts, (left, 1 - left)))
    a, b = (once(branches) for branches in concepts)
    assert near(mixed[..., :4], a[..., :4]) and near(mixed[..., 4:], b[..., 4:])
    assert not near(a[..., 4:], b[..., 4:])
