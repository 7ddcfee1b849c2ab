"""MasaCtrl with a mask, under guidance (Cao et al. 2023, arXiv 2304.08465)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from semblant.backbones.patch import AttentionPatch
from semblant.sampling.loop import Branches, sample_latents


class MutualSelfAttention(AttentionPatch):
    """The target keeps its queries and reads the source's keys and values; with a mask, only where the mask is."""

    def __init__(self, start_step=0, start_layer=0, mask=None):
        self.start_step, self.start_layer, self.mask = start_step, start_layer, mask

    def acts(self, site, moment):
        return site.kind == "self" and not moment.before(self.start_step) and site.index >= self.start_layer

    def rewrite(self, site, moment, q, k, v):
        if not self.acts(site, moment):
            return q, k, v
        return q, moment.branch(k, "source"), moment.branch(v, "source")

    def bias(self, site, moment):
        if self.mask is None or not self.acts(site, moment):
            return None
        height, width = (side // site.factor for side in moment.size)
        keys = F.adaptive_max_pool2d(self.mask, (height, width)).flatten()
        bias = torch.zeros(len(moment.role), 1, 1, len(keys))
        bias[moment.rows(role="target"), 0, 0] = torch.where(keys > 0, 0.0, -torch.inf)
        return bias


def edited(base, x, prompts, patch=None):
    """Source and target, sampled side by side; returns the target."""
    view = base if patch is None else base.patched(patch)
    branches = Branches.of(base.text(prompts), base.text(""), ("source", "target"), (0, 0))
    source, target = sample_latents(view, x.expand(2, -1, -1, -1), branches, steps=4, guidance=7.5)
    plain = Branches.of(base.text(prompts[0]), base.text(""))
    assert torch.allclose(source, sample_latents(base, x, plain, steps=4)[0], rtol=1e-4, atol=1e-4)
    return target


SAME = ["a photo of a dog"] * 2
OTHER = ["a photo of a dog", "a photo of the smiling person"]


def near(a, b, tolerance=1e-5):
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def test_same_prompt_and_noise_is_the_picture_itself(base, latents):
    x = latents(1)
    assert near(edited(base, x, SAME, MutualSelfAttention()), edited(base, x, SAME))


def test_the_target_reads_the_source(base, latents):
    x = latents(1)
    assert not near(edited(base, x, OTHER, MutualSelfAttention()), edited(base, x, OTHER), 1e-3)


def test_steps_and_layers_before_the_start_are_left_alone(base, latents):
    x = latents(1)
    plain, full = edited(base, x, OTHER), edited(base, x, OTHER, MutualSelfAttention())
    assert near(edited(base, x, OTHER, MutualSelfAttention(start_step=4)), plain)
    assert near(edited(base, x, OTHER, MutualSelfAttention(start_layer=7)), plain)
    for late in (MutualSelfAttention(start_step=2), MutualSelfAttention(start_layer=3)):
        part = edited(base, x, OTHER, late)
        assert not near(part, plain, 1e-3) and not near(part, full, 1e-3)


def test_the_mask_restricts_what_is_read(base, latents):
    x, mask = latents(1), torch.zeros(1, 8, 8)
    full = edited(base, x, OTHER, MutualSelfAttention())
    assert near(edited(base, x, OTHER, MutualSelfAttention(mask=torch.ones(1, 8, 8))), full)
    mask[:, :4] = 1
    assert not near(edited(base, x, OTHER, MutualSelfAttention(mask=mask)), full, 1e-3)
