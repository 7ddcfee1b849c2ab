"""Labels of a batch's rows, and what hooks record."""

from __future__ import annotations

import pytest
import torch

from semblant.backbones.moment import Moment


@pytest.fixture
def moment():
    """Two pictures, each a source and a target row."""
    return Moment.of(
        torch.tensor([9, 9, 9, 9]), role=["source", "target"] * 2, picture=[0, 0, 1, 1], learner=3, step=2, steps=8
    )


def test_labels_are_spread_or_given_per_row(moment):
    assert moment.learner == (3, 3, 3, 3) and moment.guidance == ("conditional",) * 4
    with pytest.raises(ValueError, match="one entry per row"):
        Moment.of(torch.tensor([1, 2]), role=["a"])


def test_both_halves_keep_rows_together(moment):
    both = moment.both_halves()
    assert both.rows(guidance="null") == [0, 1, 2, 3] and both.rows(guidance="conditional", role="target") == [5, 7]
    values = torch.arange(8)
    assert both.branch(values, "source").tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert both.branch(values, "target").tolist() == [1, 1, 3, 3, 5, 5, 7, 7]
    assert both.branch(values, "reference").tolist() == values.tolist()


def test_a_row_without_its_partner_keeps_its_own():
    lone = Moment.of(torch.zeros(3, dtype=torch.long), role=["source", "target", "target"], picture=[0, 0, 1])
    assert lone.branch(torch.arange(3), "source").tolist() == [0, 0, 2]


def test_time_in_sampling_and_in_training(moment):
    assert moment.fraction == 0.25 and moment.before(3) and not moment.before(2)
    training = Moment.of(torch.tensor([250]))
    assert training.fraction == 0.75 and not training.before(5)


def test_records_are_replaced_and_kept_apart_by_scope(base, moment):
    site, other = base.sites[0], base.sites[2]
    moment.record("m", site, torch.tensor(1))
    moment.record("m", site, torch.tensor(2))
    some = moment.only([1, 3], "mine")
    some.record("m", other, torch.tensor(3))
    assert some.role == ("target", "target") and some.picture == (0, 1) and len(some.timestep) == 2
    assert [int(t) for t in moment.recorded("m")] == [2] and int(moment.recorded("m", site)) == 2
    assert [int(t) for t in moment.scoped("mine").recorded("m")] == [3]
    with pytest.raises(KeyError):
        moment.recorded("m", other)
