"""Attention patches on some rows only."""

from __future__ import annotations

import pytest
import torch

from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch
from semblant.patches.attention import Recorder
from semblant.patches.narrow import Narrowed


class Everything(AttentionPatch):
    """Uses each hook."""

    def __init__(self, bias_shape):
        self.bias_shape = bias_shape

    def rewrite(self, site, moment, q, k, v):
        return q * 1.5, k, v * (1 + torch.arange(len(v)).view(-1, 1, 1, 1))

    def bias(self, site, moment):
        if site.kind == "self":
            return None
        return torch.linspace(-2, 2, 77).expand(self.bias_shape(site, moment))

    def reweight(self, site, moment, map):
        moment.record("rows", site, torch.tensor(len(map)))
        return map**2

    def add(self, site, moment, q, out):
        return out + 0.1 * q


SHAPES = {
    "all": lambda site, moment: (len(moment.role), 4, (8 // site.factor) ** 2, 77),
    "broadcast": lambda site, moment: (1, 1, 1, 77),
    "two axes": lambda site, moment: (1, 77),
}


@pytest.fixture(scope="module")
def base():
    return miniature()


def answer(base, *patches, order=(0, 1, 2)):
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = ["a dog", "a photo of a cup", "the beach"]
    moment = Moment.of(torch.tensor([100, 500, 900])[list(order)], role=[("a", "b", "c")[i] for i in order])
    view = base.patched(*patches)
    return view.denoise(x[list(order)], moment, view.text([prompts[i] for i in order])), moment


@pytest.mark.parametrize("shape", SHAPES)
def test_chosen_rows_change_as_alone_and_others_not_at_all(base, shape):
    inner = Everything(SHAPES[shape])
    plain, _ = answer(base)
    narrowed, moment = answer(base, Narrowed(inner, lambda moment: moment.rows(role="b"), "b"))
    alone, _ = answer(base, inner, order=(1,))
    assert torch.allclose(narrowed[1:2], alone, rtol=1e-5, atol=1e-5)
    assert torch.allclose(narrowed[[0, 2]], plain[[0, 2]], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(narrowed[1], plain[1], atol=1e-3)
    assert {int(n) for n in moment.scoped("b").recorded("rows")} == {1}
    assert moment.recorded("rows") == []


def test_rows_may_come_in_any_order(base):
    """The inner patch treats rows by their place, so the answer is that of the batch in this order."""
    inner = Everything(SHAPES["all"])
    narrowed, _ = answer(base, Narrowed(inner, lambda moment: [2, 0, 1], ""))
    ordered, _ = answer(base, inner, order=(2, 0, 1))
    assert torch.allclose(narrowed[[2, 0, 1]], ordered, rtol=1e-5, atol=1e-5)


def test_no_rows_is_nothing(base):
    nothing, _ = answer(base, Narrowed(Everything(SHAPES["all"]), lambda moment: [], ""))
    assert torch.equal(nothing, answer(base)[0])


def test_two_scopes_do_not_mix(base):
    chosen = [Narrowed(Recorder(), lambda moment, r=r: moment.rows(role=r), r) for r in "ac"]
    _, moment = answer(base, *chosen)
    for row, role in ((0, "a"), (2, "c")):
        _, alone = answer(base, Recorder(), order=(row,))
        for mine, own in zip(moment.scoped(role).recorded("map"), alone.recorded("map"), strict=True):
            assert torch.allclose(mine, own, atol=1e-6)


def test_a_change_of_the_number_of_keys_is_refused(base):
    class Doubled(AttentionPatch):
        def rewrite(self, site, moment, q, k, v):
            return q, torch.cat([k, k], -2), torch.cat([v, v], -2)

    with pytest.raises(ValueError, match="Doubled changes the number of tokens"):
        answer(base, Narrowed(Doubled(), lambda moment: [0], ""))
