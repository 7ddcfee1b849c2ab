"""Hashes of networks follow their weights, and are computed no more often than these change."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from semblant.backbones import digest as module
from semblant.backbones.digest import digest


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry with every hash that is computed."""
    count: list[int] = []
    sha256 = hashlib.sha256
    monkeypatch.setattr(module.hashlib, "sha256", lambda: count.append(1) or sha256())
    return count


def test_a_hash_is_computed_once(hashed: list[int]) -> None:
    network = nn.Linear(3, 2)
    assert digest(network) == digest(network)
    assert len(hashed) == 1


def test_it_follows_weights_that_are_changed_in_place_or_loaded_or_replaced(hashed: list[int]) -> None:
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    found = [digest(network)]
    with torch.no_grad():
        network.weight[0, 0] += 1
    found.append(digest(network))
    network.load_state_dict(other.state_dict())
    found.append(digest(network))
    network.bias = nn.Parameter(torch.full((2,), 5.0))
    found.append(digest(network))
    assert len({*found}) == len(hashed) == 4
    assert found[2] == digest(other)


def test_networks_of_equal_weights_have_one_hash_and_names_count() -> None:
    network = nn.Linear(3, 2)
    twin = nn.Linear(3, 2)
    twin.load_state_dict(network.state_dict())
    assert digest(twin) == digest(network) != digest(nn.Sequential(network))


def test_weights_made_for_inference_are_hashed_too() -> None:
    with torch.inference_mode():
        network = nn.Linear(3, 2)
    assert digest(network) == digest(network)
