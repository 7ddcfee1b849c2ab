"""A ControlNet's residuals behind a zero convolution (Zhang et al. 2023, arXiv 2302.05543)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semblant.backbones.moment import Moment
from semblant.patches.features import Residuals
from semblant.sampling.loop import Branches, sample_latents


class Control(nn.Module):
    """A sketch [pictures, 1, h, w] to one residual per skip connection and one for the middle."""

    def __init__(self, sketch, skips, mid):
        super().__init__()
        torch.manual_seed(0)
        self.sketch, self.skips, self.at_mid = sketch, skips, mid
        self.see = nn.Conv2d(1, 8, 3, padding=1)
        self.zero = nn.ModuleList(nn.Conv2d(8, shape[0], 1) for shape in (*skips, mid))
        for layer in self.zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x, moment, context):
        seen = self.see(self.sketch[list(moment.picture)]).relu()
        sized = [
            layer(F.adaptive_avg_pool2d(seen, s[1:]))
            for layer, s in zip(self.zero, (*self.skips, self.at_mid), strict=True)
        ]
        return sized[:-1], sized[-1]


@pytest.fixture
def control(base):
    # conv_in, block 0, its downsampler, block 1; the middle is at the lowest level.
    skips = [(16, 8, 8), (16, 8, 8), (16, 4, 4), (32, 4, 4)]
    return Control(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3)), skips, (32, 4, 4))


def test_zero_convolutions_are_the_base_and_one_step_moves_it(base, latents, control):
    branches = Branches.of(base.text(["a dog", "a dog"]), base.text(""))
    x = latents(1).expand(2, -1, -1, -1)
    make = lambda *patches: sample_latents(base.patched(*patches), x, branches, steps=3)
    plain = make()
    assert (make(Residuals(control)) - plain).abs().max() <= 1e-5 * plain.abs().max()

    view, moment = base.patched(Residuals(control)), Moment.of(torch.tensor([300, 600]))
    optimiser = torch.optim.Adam(control.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = (view.denoise(latents(2), moment, branches.conditional) - latents(2, 1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    assert all(layer.weight.grad.abs().max() > 0 for layer in control.zero), "each residual is used"
    moved = make(Residuals(control))
    assert (moved - plain).abs().max() > 1e-3 and (moved[0] - moved[1]).abs().max() > 1e-4
    assert (make(Residuals(control, strength=0.0)) - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert torch.equal(make(), plain)


def test_two_controls_add_up(base, latents, control):
    for layer in control.zero:
        nn.init.normal_(layer.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    moment, context = Moment.of(torch.tensor([300, 600])), base.text(["a dog", "a dog"])
    answer = lambda *patches: base.patched(*patches).denoise(latents(2), moment, context)
    with torch.no_grad():
        both = answer(Residuals(control), Residuals(control))
        assert torch.allclose(both, answer(Residuals(control, 2.0)), atol=1e-5)
