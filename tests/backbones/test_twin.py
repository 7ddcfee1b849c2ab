"""Twins of a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semblant.backbones.twin import narrowed, twin
from semblant.errors import SemblantError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(3, 2))


def test_a_twin_has_its_own_weights_and_hooks_and_shares_the_rest(network):
    x, seen = torch.ones(1, 2), []
    before = network(x)
    weight = torch.zeros(3, 2)
    made = twin(network, {"0.0.weight": weight}, {"1": [lambda _m, _i, out: out + 1], "": [lambda *_: seen.append(1)]})
    assert torch.equal(made(x), network[1](network[0][0].bias.relu()[None]) + 1)
    assert seen == [1]
    assert torch.equal(network(x), before) and seen == [1]
    assert made[0][0].weight is weight and made[0][0].bias is network[0][0].bias
    assert made[0][1] is network[0][1], "what does not change is not copied"
    assert made[1].weight is network[1].weight


def test_a_twin_keeps_the_networks_own_hooks(network):
    network[1].register_forward_hook(lambda _m, _i, out: out * 2)
    made = twin(network, {}, {"1": [lambda _m, _i, out: out + 1]})
    assert torch.allclose(made(torch.ones(1, 2)), network(torch.ones(1, 2)) + 1)


@pytest.mark.parametrize("name", ["0.0.wait", "0.7.weight"])
def test_an_unknown_name_is_refused(network, name):
    with pytest.raises(KeyError):
        twin(network, {name: torch.zeros(1)}, {})


def test_a_replaced_forward_method_is_refused_where_it_would_void_a_change(network):
    """As accelerate does it for offloading: the method stays bound to the module it was taken from."""
    network[0].forward = network[0].forward
    with pytest.raises(SemblantError, match=r"Sequential was replaced.*remove_all_hooks"):
        twin(network, {"0.0.weight": torch.zeros(3, 2)}, {})
    twin(network, {"1.weight": torch.zeros(2, 3)}, {})


def test_narrowed_it_answers_bit_for_bit_as_autocast_does_and_holds_only_matrices_so():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 5))
    x, made = torch.randn(3, 4, 2, 2), narrowed(network, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(x), network(x))
    types = {name: weight.dtype for name, weight in made.named_parameters()}
    assert {name for name, dtype in types.items() if dtype == torch.float32} == {"1.weight", "1.bias"}
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
