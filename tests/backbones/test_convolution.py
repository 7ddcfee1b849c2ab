"""Convolutions of few pixels as products of matrices."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from semblant.backbones.convolution import CHANNELS, Convolution, quicken
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.twin import narrowed, twin

WIDE = CHANNELS


def pair(bias: bool = True) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution of torch, and ours with the very same parameters."""
    torch.manual_seed(0)
    plain, ours = (nn.Conv2d(8, WIDE, 3, padding=1, bias=bias).requires_grad_(False) for _ in range(2))
    ours.load_state_dict(plain.state_dict())
    quicken(ours)
    assert type(ours) is Convolution and type(plain) is nn.Conv2d
    return plain, ours


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of what was laid side by side."""
    seen: list[torch.Size] = []
    original = F.unfold
    monkeypatch.setattr(F, "unfold", lambda x, *given, **named: seen.append(x.shape) or original(x, *given, **named))
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_product_is_the_convolution_and_its_gradient(products, rows, bias, layout):
    plain, ours = pair(bias)
    x = torch.randn(rows, 8, 5, 7).to(memory_format=layout).requires_grad_()
    grad = torch.randn(rows, WIDE, 5, 7)
    theirs, found = plain(x), ours(x)
    assert products == [x.shape]
    assert found.shape == theirs.shape and torch.allclose(found, theirs, atol=1e-5)
    [wanted], [got] = (torch.autograd.grad(out, x, grad) for out in (theirs, found))
    assert torch.allclose(got, wanted, atol=1e-4)


def test_many_pixels_are_convolved_as_ever(products):
    plain, ours = pair()
    x = torch.randn(2, 8, 16, 16)
    assert torch.equal(ours(x), plain(x)) and not products


def test_in_bfloat16_it_differs_by_rounding_and_fewer_pixels_count_as_few(products):
    plain, ours = pair()
    x = torch.randn(1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, found = plain(x), narrowed(nn.Sequential(ours), torch.bfloat16)(x)
        assert found.dtype == theirs.dtype == torch.bfloat16
        assert len(products) == 1 and torch.allclose(found.float(), theirs.float(), atol=0.02)
        ours(torch.randn(1, 8, 18, 18))
    assert len(products) == 1
    ours(torch.randn(1, 8, 18, 18))
    assert len(products) == 2


def test_it_computes_with_whatever_weight_it_has(products):
    _, ours = pair()
    x, weight = torch.randn(1, 8, 4, 4), torch.randn(WIDE, 8, 3, 3).requires_grad_()
    changed = twin(nn.Sequential(ours), {"0.weight": weight}, {})
    wanted = F.conv2d(x, weight, ours.bias, padding=1)
    assert torch.allclose(changed(x), wanted, atol=1e-4) and products
    grads = [torch.autograd.grad(out.square().sum(), weight)[0] for out in (changed(x), wanted)]
    assert torch.allclose(*grads, rtol=1e-3, atol=1e-2)
    with torch.no_grad():
        ours.weight.zero_()
    assert torch.equal(ours(x), ours.bias.view(1, -1, 1, 1).expand(1, WIDE, 4, 4))


def test_whatever_others_make_of_the_layer_holds(products):
    _, ours = pair()
    x = torch.randn(1, 8, 4, 4)
    ours.padding_mode, ours._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
    wrapped = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), ours.weight, ours.bias)
    assert torch.equal(ours(x), wrapped) and not products
    ours.padding_mode, ours._conv_forward = "zeros", lambda input, weight, bias: input + 1
    assert torch.equal(ours(x), x + 1)
    del ours._conv_forward
    assert ours(x[:0]).shape == (0, WIDE, 4, 4) and ours.to("meta")(x.to("meta")).shape == (1, WIDE, 4, 4)
    assert not products


def test_an_adapter_of_the_layer_works():
    plain, ours = pair()
    network = inject_adapter_in_model(LoraConfig(r=4, target_modules=["0"]), nn.Sequential(ours))
    x = torch.randn(1, 8, 4, 4)
    assert torch.allclose(network(x), plain(x), atol=1e-5)


OTHERS = [
    nn.Conv2d(8, WIDE - 1, 3, padding=1),
    nn.Conv2d(8, WIDE, 1),
    nn.Conv2d(8, WIDE, 3),
    nn.Conv2d(8, WIDE, 3, padding=1, stride=2),
    nn.Conv2d(8, WIDE, 3, padding=2, dilation=2),
    nn.Conv2d(8, WIDE, 3, padding=1, groups=2),
    nn.Conv2d(8, WIDE, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(8, WIDE, 3, padding="same"),
    nn.ConvTranspose2d(8, WIDE, 3, padding=1),
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda layer: str(layer)[:60])
def test_others_are_no_products_and_have_torchs_gradients(other, products):
    ours = copy.deepcopy(other).requires_grad_(False)
    quicken(nn.Sequential(ours))
    x = torch.randn(2, 8, 6, 5, requires_grad=True)
    theirs, found = other(x), ours(x)
    assert torch.equal(found, theirs) and not products
    wanted, got = (torch.autograd.grad(out.square().sum(), x)[0] for out in (theirs, found))
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-4)


def test_a_transposed_convolution_stays_what_it_is():
    network = nn.Sequential(nn.ConvTranspose2d(8, WIDE, 3))
    quicken(network)
    assert type(network[0]) is nn.ConvTranspose2d


def test_a_base_answers_as_its_network_did_before(products):

    base = miniature(channels=(16, WIDE))
    x, moment = torch.randn(2, 4, 8, 8), Moment.of(torch.tensor([10, 500]))
    context = base.text(["a dog", "a cup"])
    ours = base.denoise(x, moment, context)
    assert products, "few pixels and many channels"
    for layer in base.unet.modules():
        if isinstance(layer, Convolution):
            layer.__class__ = nn.Conv2d
    products.clear()
    theirs = base.denoise(x, moment, context)
    assert not products and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
