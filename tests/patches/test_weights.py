"""Low-rank changes as a branch beside a layer: the same numbers as with the changed matrix, without making it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.patch import Patch
from semblant.patches.weights import LowRank, Offsets, attention_weights, text_attention_weights


@cache
def base() -> Base:
    return miniature()


def factors(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every attention matrix of U-Net and text encoder."""
    draw = torch.Generator().manual_seed(seed)
    random = lambda *shape: (0.3 * torch.randn(*shape, generator=draw)).requires_grad_()
    weights = attention_weights(base()) | text_attention_weights(base())
    return {name: (random(len(w), 2), random(2, w.shape[1])) for name, w in weights.items()}


def built(made: dict[str, tuple[Tensor, Tensor]], strength: float) -> Offsets:
    return Offsets({name: up @ down for name, (up, down) in made.items()}, strength)


def predicted(*patches: Patch) -> Tensor:
    draw = torch.Generator().manual_seed(7)
    view = base().patched(*patches)
    x = torch.randn(2, 4, 8, 8, generator=draw)
    return view.denoise(x, Moment.of(torch.tensor([500, 20])), view.text(["a photo of a person", ""]))


def test_a_branch_answers_as_the_changed_matrix_does_and_so_do_its_gradients() -> None:
    one, other = factors(0), factors(1)
    learned = [f for made in (one, other) for pair in made.values() for f in pair]
    as_branch = predicted(LowRank(one, 0.7), LowRank(other, -0.4))
    as_matrix = predicted(built(one, 0.7), built(other, -0.4))
    assert (as_branch - predicted()).abs().max() > 0.05
    torch.testing.assert_close(as_branch, as_matrix, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(out.square().sum(), learned) for out in (as_branch, as_matrix))
    for gradient, wanted in zip(ours, theirs, strict=True):
        assert (gradient - wanted).norm() <= 1e-4 * wanted.norm()


def test_no_matrix_is_made_where_a_branch_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    made = factors(0)
    wanted = predicted(LowRank(made))
    together = predicted(LowRank(made), built(factors(1), 1.0))
    with monkeypatch.context() as patch:
        patch.setattr(LowRank, "delta", lambda *_: pytest.fail("a matrix was made"))
        torch.testing.assert_close(predicted(LowRank(made)), wanted, rtol=0, atol=0)
    # Beside a change that is no product there is one matrix for both.
    torch.testing.assert_close(together, predicted(built(made, 1.0), built(factors(1), 1.0)), rtol=1e-4, atol=1e-5)


def test_convolutions_have_no_branch() -> None:
    up, down = torch.randn(4, 2, 1, 1), torch.randn(2, 3, 3, 3)
    assert LowRank({"unet.conv_in.weight": (up, down)}).branch("unet.conv_in.weight") is None
    assert LowRank({"x": (up.flatten(1), torch.randn(2, 5))}).branch("x") is not None
