"""NeTI: a word whose row a small network makes from timestep and layer (Alaluf et al. 2023, arXiv 2305.15391)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semblant.backbones.moment import Moment
from semblant.backbones.patch import WordsPatch


class Mapper(nn.Module):
    """(timestep, site) -> input row: Fourier features, one hidden layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frequencies = torch.randn(8, 2)
        self.layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, dim))

    def forward(self, timestep: int, site: int) -> torch.Tensor:
        angles = self.frequencies @ torch.tensor([timestep / 1000, site / 7])
        return self.layers(torch.cat([angles.sin(), angles.cos()]))


class Neural(WordsPatch):
    """The word's row at each (timestep, site)."""

    timed = layered = True

    def __init__(self, word: str, mapper: nn.Module) -> None:
        self.word, self.mapper = word, mapper

    def variant(self, timestep, site, part):
        return timestep, site.index

    def embed(self, rows, encoded, variant):
        return rows.index_copy(0, torch.tensor(encoded.positions[self.word]), self.mapper(*variant)[None])


class Fixed(Neural):
    """The idea switched off: one meaning everywhere."""

    def variant(self, timestep, site, part):
        return 500, 0


@pytest.fixture
def encoded_rows(base):
    """How many rows each call of the text encoder had."""
    counts = []
    count = lambda _module, _args, kwargs: counts.append(len(kwargs["input_ids"]))
    hook = base.text_encoder.register_forward_pre_hook(count, with_kwargs=True)
    yield counts
    hook.remove()


def test_every_site_and_timestep_has_its_own_row(base, latents):
    mapper = Mapper(base.width)
    moment = Moment.of(torch.tensor([100, 800]))
    answers = []
    with torch.no_grad():
        for kind in (Neural, Fixed):
            view = base.patched(kind("<v>", mapper))
            answers.append(view.denoise(latents(2), moment, view.text(["a photo of <v>"] * 2)))
            prepared = view.prepare(view.text("a photo of <v>"), Moment.of(torch.tensor([100])))
            different = [torch.equal(prepared.read(s, "key"), prepared.table[:1]) for s in view.cross_sites()].count(
                False
            )
            assert different == (6 if kind is Neural else 0)
    assert (answers[0] - answers[1]).abs().max() > 1e-4


def test_two_training_steps_reach_the_network(base, latents):
    mapper = Mapper(base.width)
    before = {name: weight.detach().clone() for name, weight in mapper.named_parameters()}
    view = base.patched(Neural("<v>", mapper))
    optimiser = torch.optim.Adam(mapper.parameters(), lr=1e-2)
    context, moment, losses = view.text(["a photo of <v>"] * 2), Moment.of(torch.tensor([100, 800])), []
    for _ in range(2):
        loss = (view.denoise(latents(2), moment, context) - latents(2, 1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    assert all(weight.grad.abs().max() > 0 for weight in mapper.parameters())
    assert not any(torch.equal(weight, before[name]) for name, weight in mapper.named_parameters())


@torch.no_grad()
def test_only_rows_that_are_needed_are_encoded(base, latents, encoded_rows):
    view = base.patched(Neural("<v>", Mapper(base.width)))
    prompts = ["a photo of <v>", "a photo of <v>", "a photo of a dog", "a photo of a dog"]
    view.denoise(latents(4), Moment.of(torch.tensor([100, 800, 100, 800])), view.text(prompts))
    view.denoise(latents(4), Moment.of(torch.tensor([100, 100, 100, 800])), view.text(prompts))
    assert encoded_rows == [2 * 7 + 1, 7 + 1]
