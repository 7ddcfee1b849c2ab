"""Attention maps as tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semblant.ops.attention import as_grid, attention_map, mass_inside, resize_grid


@pytest.fixture
def q_and_k(generator):
    return torch.randn(2, 3, 16, 4, generator=generator), torch.randn(2, 3, 7, 4, generator=generator)


def test_every_query_looks_somewhere(q_and_k):
    maps = attention_map(*q_and_k)
    assert maps.shape == (2, 3, 16, 7) and (maps > 0).all()
    assert torch.allclose(maps.sum(-1), torch.ones(2, 3, 16), atol=1e-6)


def test_it_is_what_fused_attention_uses(q_and_k, generator):
    q, k = q_and_k
    v, bias = torch.randn(2, 3, 7, 5, generator=generator), torch.randn(16, 7, generator=generator)
    for scale in (None, 0.3):
        fused = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        assert torch.allclose(attention_map(q, k, scale, bias) @ v, fused, atol=1e-6)


def test_by_hand():
    q, k = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[2**0.5, 0.0], [0.0, 5.0]]]])
    e = torch.e
    assert torch.allclose(attention_map(q, k), torch.tensor([e / (e + 1), 1 / (e + 1)]))
    masked = attention_map(q, k, bias=torch.tensor([0.0, -torch.inf]))
    assert masked.tolist() == [[[[1.0, 0.0]]]]


def test_a_grid_has_queries_row_by_row(q_and_k):
    maps = attention_map(*q_and_k)
    grid = as_grid(maps, 2, 8)
    assert grid.shape == (2, 3, 7, 2, 8)
    assert torch.equal(grid[1, 2, 5, 1, 3], maps[1, 2, 8 + 3, 5])


@pytest.mark.parametrize("size", [2, 4, 8, 5])
def test_resizing_keeps_the_sum_over_keys(q_and_k, size):
    grid = as_grid(attention_map(*q_and_k), 4, 4)
    resized = resize_grid(grid, size)
    assert resized.shape == (2, 3, 7, size, size)
    assert torch.allclose(resized.sum(2), torch.ones(2, 3, size, size), atol=1e-6)
    assert (resized is grid) == (size == 4)


def test_halving_averages_blocks(q_and_k):
    grid = as_grid(attention_map(*q_and_k), 4, 4)
    assert torch.allclose(resize_grid(grid, 2), F.avg_pool2d(grid.flatten(0, 1), 2).unflatten(0, (2, 3)), atol=1e-6)


def test_mass_inside():
    grid = torch.tensor([[[1.0, 3.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    mask = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]] * 2 + [[[0.5, 0.5], [0.0, 0.0]]])
    assert mass_inside(grid, mask).tolist() == pytest.approx([3 / 8, 0.0, 0.25])
    whole = mass_inside(grid, torch.ones(3, 2, 2))
    assert whole.tolist() == pytest.approx([1.0, 0.0, 1.0])
