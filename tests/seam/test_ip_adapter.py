"""An IP-Adapter: image tokens through key and value projections of their own (Ye et al. 2023, arXiv 2308.06721)."""

from __future__ import annotations

import torch
from torch import nn

from semblant.backbones.moment import Moment
from semblant.patches.attention import Branch
from semblant.sampling.loop import Branches, sample_latents


class ImagePrompt(nn.Module):
    """Keys and values of image tokens [pictures, tokens, dim] for every cross-attention site, by its name."""

    def __init__(self, base, generator):
        super().__init__()
        wide = {site.index: site.module.to_k.out_features for site in base.cross_sites()}
        draw = lambda out: nn.Parameter(0.3 * torch.randn(out, base.width, generator=generator))
        self.keys = nn.ParameterDict({str(i): draw(out) for i, out in wide.items()})
        self.values = nn.ParameterDict({str(i): draw(out) for i, out in wide.items()})
        self.tokens = torch.randn(2, 4, base.width, generator=generator)

    def forward(self, site, moment):
        if site.kind != "cross":
            return None
        # The null half sees an empty picture.
        shown = [guidance == "conditional" for guidance in moment.guidance]
        tokens = self.tokens[list(moment.picture)] * torch.tensor(shown)[:, None, None]
        project = lambda weights: site.heads(tokens @ weights[str(site.index)].T)
        return project(self.keys), project(self.values)


def test_it_learns_and_samples_and_comes_off(base, latents, generator):
    prompt = ImagePrompt(base, generator)
    view = base.patched(Branch(prompt))
    optimiser = torch.optim.Adam(prompt.parameters(), lr=1e-2)
    context, moment, losses = base.text(["a photo", "a photo"]), Moment.of(torch.tensor([300, 600])), []
    for _ in range(8):
        loss = (view.denoise(latents(2), moment, context) - latents(2, 1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert all(weight.grad.abs().max() > 0 for weight in prompt.parameters())

    branches = Branches.of(base.text(["a dog", "a dog"]), base.text(""))
    x = latents(1).expand(2, -1, -1, -1)
    make = lambda view: sample_latents(view, x, branches, steps=3)
    plain, full = make(base), make(view)
    assert torch.equal(plain[0], plain[1])
    assert (full[0] - full[1]).abs().max() > 1e-3, "two image prompts, two pictures"
    zero = make(base.patched(Branch(prompt, strength=0.0)))
    assert (zero - plain).abs().max() <= 1e-5 * plain.abs().max()
    half = make(base.patched(Branch(prompt, strength=0.5)))
    assert (half - plain).abs().max() > 1e-3 and (half - full).abs().max() > 1e-3
    assert torch.equal(make(base), plain)
