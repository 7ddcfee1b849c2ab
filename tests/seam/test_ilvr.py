"""ILVR: the low frequencies of every step come from a reference (Choi et al. 2021, arXiv 2108.02938)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from semblant.backbones.patch import TrajectoryPatch
from semblant.sampling.loop import Branches, sample_latents
from semblant.sampling.solvers import points


def low(x, factor=2):
    """Block averages, as large as before: a linear projection, as Eq. 8 needs."""
    return F.interpolate(F.avg_pool2d(x, factor), scale_factor=factor, mode="nearest")


class LowFrequencies(TrajectoryPatch):
    """After each step, the latent's low frequencies are the noised reference's (Alg. 1)."""

    def __init__(self, schedule, reference, noise):
        self.schedule, self.reference, self.noise = schedule, reference, noise

    def noised(self, moment):
        alpha = points(self.schedule, moment.steps)[moment.step].alpha_next
        return alpha.sqrt() * self.reference + (1 - alpha).sqrt() * self.noise

    def after(self, x, stepped, moment):
        return stepped - low(stepped) + low(self.noised(moment))


def test_the_result_has_the_references_low_frequencies_and_its_own_high_ones(base, latents):
    reference, noise, x = latents(1, 1), latents(1, 2), latents(2, 3)
    branches = Branches.of(base.text(["a dog", "a photo of the beach"]), base.text(""))
    free = sample_latents(base, x, branches, steps=5)
    patch = LowFrequencies(base.schedule, reference, noise)
    made = sample_latents(base.patched(patch), x, branches, steps=5)
    a = base.schedule.alphas[0]
    wanted = low(a.sqrt() * reference + (1 - a).sqrt() * noise)
    assert (low(made) - wanted).abs().max() < 1e-5
    assert (low(free) - wanted).abs().max() > 0.1
    high = made - low(made)
    assert (high[0] - high[1]).abs().max() > 0.1


def test_every_step_is_refined(base, latents):
    """Not only the last: the pictures differ from those refined once, at the end."""

    class Last(LowFrequencies):
        def after(self, x, stepped, moment):
            return super().after(x, stepped, moment) if moment.step == moment.steps - 1 else stepped

    args = base.schedule, latents(1, 1), latents(1, 2)
    branches = Branches.of(base.text("a dog"), base.text(""))
    made = [sample_latents(base.patched(kind(*args)), latents(1), branches, steps=5) for kind in (LowFrequencies, Last)]
    assert torch.allclose(low(made[0]), low(made[1]), atol=1e-5)
    assert (made[0] - made[1]).abs().max() > 1e-3
