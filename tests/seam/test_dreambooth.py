"""DreamBooth with prior preservation: every U-Net weight may move (Ruiz et al. 2022, arXiv 2208.12242)."""

from __future__ import annotations

import torch
from torch import nn

from semblant.patches.weights import LowRank, Offsets
from semblant.sampling.loop import Branches, sample_latents
from semblant.training.learner import Example, Learner, Optimiser
from semblant.training.optimise import optimise


class DreamBooth(Learner):
    """Offsets for the U-Net's weights; a picture of the subject and one of its class in every step (Eq. 2)."""

    def __init__(self, base, subject, classes, prior_weight=1.0, steps=6):
        named = {n: w for n, w in base.named_parameters() if n.startswith("unet.")}
        super().__init__({n: nn.Parameter(torch.zeros_like(w)) for n, w in named.items()}, Optimiser(lr=1e-3), steps)
        self.subject, self.classes, self.prior_weight = subject, classes, prior_weight

    def draw(self, generator):
        pick = lambda some: some[int(torch.randint(len(some), (1,), generator=generator))]
        return [
            Example(pick(self.subject), "a photo of zq dog"),
            Example(pick(self.classes), "a photo of a dog", weight=self.prior_weight, patched=False),
        ]

    def patches(self):
        return [Offsets(self.parameters)]

    def tensors(self):
        return {name: p.detach() for name, p in self.parameters.items()}


def trained(base, latents, prior_weight):
    learner = DreamBooth(base, latents(2, 1) * 0.5, latents(4, 2) * 0.5, prior_weight)
    (history,) = optimise(base, [learner], seeds=[0])
    return learner, history


def test_it_learns_beside_the_base_and_comes_off(base, latents):
    hashes, x = base.hashes(), latents(1)
    branches = Branches.of(base.text("a photo of zq dog"), base.text(""))
    make = lambda *patches: sample_latents(base.patched(*patches), x, branches, steps=3)
    plain = make()
    learner, history = trained(base, latents, 1.0)
    assert len(history.losses) == 6 and min(history.losses[1:]) < history.losses[0]
    moved = [name for name, offset in learner.tensors().items() if offset.abs().max() > 0]
    assert len(moved) > 0.95 * len(learner.parameters)

    full = make(*learner.patches())
    assert (full - plain).abs().max() > 1e-3
    assert (make(Offsets(learner.tensors(), strength=0.0)) - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert torch.equal(make(), plain)
    assert base.hashes() == hashes
    assert not any(weight.requires_grad for _, weight in base.named_parameters())


def test_prior_preservation_takes_part(base, latents):
    with_prior, without = (trained(base, latents, weight)[0].tensors() for weight in (1.0, 0.0))
    assert max((with_prior[name] - without[name]).abs().max() for name in without) > 1e-4


def test_offsets_and_low_rank_add_up(base, latents, generator):
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    out, wide = dict(base.named_parameters())[name].shape
    up, down = torch.randn(out, 2, generator=generator), torch.randn(2, wide, generator=generator)
    branches = Branches.of(base.text("a photo of a dog"), base.text(""))
    make = lambda *patches: sample_latents(base.patched(*patches), latents(1), branches, steps=2)
    twice = make(Offsets({name: up @ down}), LowRank({name: (up, down)}))
    assert torch.allclose(twice, make(LowRank({name: (up, down)}, strength=2.0)), atol=1e-4)
    assert (twice - make(LowRank({name: (up, down)}))).abs().max() > 1e-3
