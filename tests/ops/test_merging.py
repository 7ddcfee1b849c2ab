"""Merging changes of one matrix, against answers that can be worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from semblant.ops.merging import constrained_least_squares


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_with_independent_kept_inputs_only_the_asked_direction_moves():
    # Kept are both axes; (1, 0) is to become (2, 0) and (0, 1) is free to stay.
    found = constrained_least_squares(torch.eye(2), torch.eye(2), torch.tensor([[1.0, 0]]), torch.tensor([[2.0, 0]]))
    assert torch.allclose(found, torch.tensor([[2.0, 0], [0, 1]]), atol=1e-5)


def test_a_direction_that_is_kept_harder_bends_less():
    # Kept is 3 x the first axis and the second once: G = diag(9, 1). (1, 1) is to move by 10 in the first output; by
    # Lagrange the change is 10 * (1 / 9, 1) / (1 / 9 + 1) = (1, 9).
    kept, inputs = torch.tensor([[3.0, 0], [0, 1]]), torch.tensor([[1.0, 1]])
    found = constrained_least_squares(torch.zeros(1, 2), kept, inputs, torch.tensor([[10.0]]))
    assert torch.allclose(found, torch.tensor([[1.0, 9]]), atol=1e-3)


def test_constraints_hold_exactly_and_every_other_solution_moves_the_kept_more():
    w, kept, c = drawn(6, 8, seed=0), drawn(40, 8, seed=1), drawn(3, 8, seed=2)
    v = drawn(3, 6, seed=3)
    found = constrained_least_squares(w, kept, c, v)
    assert float((c @ found.T - v).abs().max()) < 1e-4
    moved = (kept @ (found - w).T).norm()
    null = torch.linalg.svd(c.double())[2][3:].float()
    for seed in range(5):
        other = found + 0.1 * drawn(6, 5, seed=seed) @ null
        assert float((c @ other.T - v).abs().max()) < 1e-4
        assert (kept @ (other - w).T).norm() > moved


def test_nothing_asked_of_it_changes_nothing_and_equal_inputs_count_once():
    w, kept, c = drawn(6, 8, seed=0), drawn(40, 8, seed=1), drawn(3, 8, seed=2)
    assert torch.allclose(constrained_least_squares(w, kept, c, c @ w.T), w, atol=1e-6)
    v = drawn(3, 6, seed=3)
    twice = constrained_least_squares(w, kept, torch.cat([c, c[:1]]), torch.cat([v, v[:1]]))
    assert torch.allclose(twice, constrained_least_squares(w, kept, c, v), atol=1e-6)


def test_few_kept_inputs_still_have_an_answer():
    w, c, v = drawn(6, 8, seed=0), drawn(2, 8, seed=2), drawn(2, 6, seed=3)
    assert float((c @ constrained_least_squares(w, drawn(3, 8, seed=1), c, v).T - v).abs().max()) < 1e-4
