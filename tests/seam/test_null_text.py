"""Null-text inversion: an empty prompt per step that leads back (Mokady et al. 2022, arXiv 2211.09794)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

from semblant.backbones.context import Context
from semblant.backbones.patch import TrajectoryPatch
from semblant.sampling.loop import Branches, ddim_invert, guided, optimise_step, sample_latents
from semblant.sampling.solvers import ddim, points

STEPS, GUIDANCE = 4, 7.5


class NullTexts(TrajectoryPatch):
    """Guides each step away from its own null encoding."""

    def __init__(self, branches, encodings):
        self.branches, self.encodings = branches, encodings

    def wrap(self, denoise):
        def with_null_of_step(x, moment, contexts=self.branches):
            null = Context.of(self.encodings[moment.step], like=contexts.null)
            return denoise(x, moment, replace(contexts, null=null))

        return with_null_of_step


def optimised(base, branches, path, inner_steps):
    """One null encoding per step, each started from the one before (Alg. 1)."""
    encoding, found = base.encodings(branches.null), []
    x = path[0]
    for index, point in enumerate(points(base.schedule, STEPS)):
        moment = branches.moment(point.t, index, STEPS, x.device)

        def stepped(null, x=x, point=point, moment=moment):
            context = Context.of(null, like=branches.null)
            eps = guided(base, replace(branches, null=context), GUIDANCE)(x, moment)
            return ddim(point, x, eps, eps, [])

        error = lambda null, stepped=stepped, index=index: (stepped(null) - path[index + 1]).square().mean()
        encoding = optimise_step(encoding, error, steps=inner_steps, lr=0.05, enough=1e-7)
        found.append(encoding)
        with torch.no_grad():
            x = stepped(encoding)
    return found


def test_optimised_nulls_reconstruct_what_plain_guidance_does_not(base, latents):
    x0 = 0.5 * latents(1)
    branches = Branches.of(base.text("a photo of a dog"), base.text(""))
    path = ddim_invert(base, x0, branches, steps=STEPS)
    rebuilt = lambda view: sample_latents(view, path[0], branches, steps=STEPS, guidance=GUIDANCE)
    error = lambda made: float((made - x0).square().mean())
    plain = error(rebuilt(base))
    nulls = optimised(base, branches, path, inner_steps=10)
    with_nulls = error(rebuilt(base.patched(NullTexts(branches, nulls))))
    unchanged = [base.encodings(branches.null)] * STEPS
    assert with_nulls < 0.2 * plain
    assert abs(error(rebuilt(base.patched(NullTexts(branches, unchanged)))) - plain) < 1e-4 * plain
    assert any((a - b).abs().max() > 1e-3 for a, b in pairwise(nulls))
