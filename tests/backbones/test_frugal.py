"""Layers that keep less for their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from semblant.backbones.convolution import quicken
from semblant.backbones.frugal import Gate, economise
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment


def kept(work: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What some work gives, and the tensors that were kept for its gradient."""
    seen: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        return work(), seen


def convolution(learning: bool) -> nn.Conv2d:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1).requires_grad_(learning))
    quicken(network)
    return network[0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_what_goes_into_a_frozen_convolution_nothing_is_kept(layout):
    x = torch.randn(2, 4, 8, 8).to(memory_format=layout).requires_grad_()
    layer = convolution(learning=False)
    found, seen = kept(lambda: layer(x))
    assert {t.data_ptr() for t in seen} == {layer.weight.data_ptr()}
    wanted = F.conv2d(x, layer.weight, layer.bias, padding=1)
    assert torch.equal(found, wanted)
    grads = [torch.autograd.grad(out.sin().sum(), x)[0] for out in (found, wanted)]
    assert torch.equal(*grads)


def test_one_that_learns_has_the_gradients_of_its_weights():
    x = torch.randn(2, 4, 8, 8)
    layer = convolution(learning=True)
    layer(x).square().sum().backward()
    wanted = torch.autograd.grad(F.conv2d(x, layer.weight, layer.bias, padding=1).square().sum(), layer.weight)[0]
    assert torch.allclose(layer.weight.grad, wanted)
    half = convolution(learning=False)
    half.bias.requires_grad_()
    assert torch.autograd.grad(half(x).sum(), half.bias)[0].shape == (6,), "a bias that learns alone"


def test_in_bfloat16_a_frozen_convolution_has_torchs_gradient():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    layer = convolution(learning=False)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1)
    assert found.dtype == torch.bfloat16
    grads = [torch.autograd.grad(out.float().sin().sum(), x)[0] for out in (found, wanted)]
    assert grads[0].dtype == torch.float32 and torch.allclose(*grads, atol=1e-2)


@pytest.mark.parametrize("learning", [False, True])
def test_a_gate_keeps_both_halves_once_and_has_torchs_gradient(learning):
    torch.manual_seed(0)
    network = nn.Sequential(GEGLU(5, 7)).requires_grad_(learning)
    x = torch.randn(2, 3, 5, requires_grad=True)
    wanted, theirs = kept(lambda: network(x))
    inputs = [x, *network.parameters()] if learning else [x]
    expected = torch.autograd.grad(wanted.sin().sum(), inputs)
    economise(network)
    assert type(network[0]) is Gate
    found, ours = kept(lambda: network(x))
    size = lambda seen: sum({t.data_ptr(): t.untyped_storage().nbytes() for t in seen}.values())
    assert size(theirs) - size(ours) >= 2 * 3 * 7 * 4, "what became of the gate is not kept"
    assert torch.equal(found, wanted)
    for got, right in zip(torch.autograd.grad(found.sin().sum(), inputs), expected, strict=True):
        assert torch.allclose(got, right, atol=1e-6)


def test_the_activation_of_clip_keeps_its_input_alone():
    network = nn.Sequential(QuickGELUActivation())
    x = torch.linspace(-6, 6, 60, requires_grad=True)
    wanted = network(x)
    expected = torch.autograd.grad(wanted.sin().sum(), x)[0]
    economise(network)
    found, seen = kept(lambda: network(x))
    assert [t.data_ptr() for t in seen] == [x.data_ptr()] and torch.equal(found, wanted)
    assert torch.allclose(torch.autograd.grad(found.sin().sum(), x)[0], expected, atol=1e-6)


def test_a_step_on_a_base_keeps_less_for_the_same_gradient():
    base = miniature()
    rows = base.encodings(base.text("a dog")).detach().requires_grad_()
    x, moment = torch.randn(1, 4, 8, 8), Moment.of(torch.tensor([500]))

    def step() -> Tensor:
        keywords = {"timestep": moment.timestep, "encoder_hidden_states": rows}
        return base.unet(x, **keywords).sample

    size = lambda seen: sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in seen}.values())
    found, ours = kept(step)
    got = torch.autograd.grad(found.sin().sum(), rows)[0]
    for module in base.unet.modules():
        if isinstance(module, Gate):
            module.__class__ = GEGLU
        elif isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d
    wanted, theirs = kept(step)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(got, torch.autograd.grad(wanted.sin().sum(), rows)[0], atol=1e-6)
    assert size(ours) < 0.9 * size(theirs)


@pytest.mark.parametrize("kind", ["convolution", "gate", "activation"])
def test_gradients_of_gradients_are_torchs(kind):
    torch.manual_seed(0)
    layer = {"convolution": nn.Conv2d(4, 4, 3, padding=1), "gate": GEGLU(5, 4), "activation": QuickGELUActivation()}[
        kind
    ]
    network = nn.Sequential(layer.requires_grad_(False))
    x = torch.randn(1, 4, 5, 5, requires_grad=True)

    def second() -> Tensor:
        first = torch.autograd.grad(network(x).sin().sum() + (x**3).sum(), x, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), x)[0]

    wanted = second()
    quicken(network)
    economise(network)
    assert torch.allclose(second(), wanted, rtol=1e-4, atol=1e-3)


def test_without_gradients_layers_are_plain():
    network = nn.Sequential(GEGLU(5, 4), QuickGELUActivation()).requires_grad_(False)
    x = torch.randn(2, 5)
    wanted = network(x)
    economise(network)
    assert torch.equal(network(x), wanted) and torch.allclose(torch.func.vmap(network)(x), wanted, atol=1e-6)
