"""What every method has to obey, over the table in rows.py."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import pkgutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import semblant.methods
from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.backbones.patch import Patch
from semblant.errors import SemblantError
from semblant.methods.index import method_class, name_of
from semblant.methods.method import FittingMethod
from semblant.patches.weights import LowRank
from semblant.sampling.loop import Branches, noise, sample_latents
from semblant.training import concepts
from semblant.training.concepts import Concept


def _table() -> tuple:
    spec = importlib.util.spec_from_file_location("rows", Path(__file__).with_name("rows.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ROWS


ROWS = _table()
BY_NAME = {row.name: row for row in ROWS}


@cache
def base() -> Base:
    return miniature()


@cache
def before() -> dict[str, str]:
    return base().hashes()


@cache
def fitted(name: str, seed: int = 0) -> Concept:
    """The row's concept; the base's hashes are taken first, so that a method that changes it is caught."""
    before()
    row = BY_NAME[name]
    return verbs.fit(row.method, base(), row.subject(), seed=seed)


def picture(prompt: str, patches: Sequence[Patch] = (), seeds: Sequence[int] = (5,), on: Base | None = None) -> Tensor:
    view = (on or base()).patched(*patches)
    with torch.no_grad():
        branches = Branches.of(view.text([prompt] * len(seeds)), view.text(""))
        size = (view.size, view.size)
        return view.decode(sample_latents(view, noise(view, seeds, size), branches, steps=2, guidance=3.0))


@cache
def made(name: str) -> Tensor:
    """The picture that the row's concept makes."""
    return picture(BY_NAME[name].prompt, verbs.patches_of(base(), [fitted(name)]))


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def low_rank() -> LowRank:
    name = next(n for n, _ in base().named_parameters() if n.endswith("attn1.to_q.weight"))
    height, width = dict(base().named_parameters())[name].shape
    draw = torch.Generator().manual_seed(0)
    return LowRank({name: (torch.randn(height, 2, generator=draw), torch.randn(2, width, generator=draw))})


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest):
    law = request.function.__name__.removeprefix("test_")
    if reason := request.param.skips.get(law):
        pytest.skip(reason)
    return request.param


def test_fits_with_a_finite_loss(row):
    losses = fitted(row.name).losses
    assert losses and all(math.isfinite(loss) for loss in losses.values())
    assert fitted(row.name).steps == row.method.steps


@cache
def halves() -> Base:
    made = miniature()
    for network in (made.unet, made.text_encoder, made.autoencoder):
        network.to(torch.float16)
    return made


def test_on_a_base_in_halves_it_learns_in_float32(row):
    learner = row.method.learner(halves(), row.subject(), torch.Generator().manual_seed(0))
    assert {parameter.dtype for parameter in learner.parameters.values()} == {torch.float32}
    concept = verbs.fit(row.method, halves(), row.subject())
    assert concept.losses == pytest.approx(fitted(row.name).losses, rel=0.01)
    assert picture(row.prompt, verbs.patches_of(halves(), [concept]), on=halves()).isfinite().all()


def test_only_what_it_declares_changes(row):
    assert set(fitted(row.name).tensors) == row.learns
    assert base().hashes() == before()
    assert not base().patches


def test_what_it_declares_does_change(row):
    start = row.method.learner(base(), row.subject(), torch.Generator().manual_seed(0)).tensors()
    assert all(not torch.equal(tensor, start[name]) for name, tensor in fitted(row.name).tensors.items())


def test_has_an_effect(row):
    assert distance(made(row.name), picture(row.neutral(row.prompt))) > 1e-3


def test_neutral_strength_is_the_base(row):
    concept = dataclasses.replace(fitted(row.name), strength=0.0)
    neutral = picture(row.prompt, verbs.patches_of(base(), [concept]))
    assert distance(neutral, picture(row.neutral(row.prompt))) < 1e-5


def test_strength_is_gradual(row):
    half = dataclasses.replace(fitted(row.name), strength=0.5)
    between = picture(row.prompt, verbs.patches_of(base(), [half]))
    assert min(distance(between, made(row.name)), distance(between, picture(row.neutral(row.prompt)))) > 1e-4


def test_taken_off_it_leaves_no_trace(row):
    prompt = row.neutral(row.prompt)
    fresh = picture(prompt, on=miniature())
    made(row.name)
    assert torch.equal(picture(prompt), fresh)


def test_same_seed_same_concept_and_image(row):
    again = verbs.fit(row.method, base(), row.subject(), seed=0)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in fitted(row.name).tensors.items())
    assert torch.equal(picture(row.prompt, verbs.patches_of(base(), [again])), made(row.name))


def test_picture_k_of_n_is_picture_k_alone(row):
    three = picture(row.prompt, verbs.patches_of(base(), [fitted(row.name)]), seeds=(4, 5, 6))
    assert distance(three[1:2], made(row.name)) < 1e-5


def test_looking_whether_to_stop_changes_nothing(row):
    assert isinstance(row.method, FittingMethod), "a method that learns from pictures is a FittingMethod"
    watched = verbs.fit(row.method, base(), row.subject(), seed=0, early_stop=True)
    assert watched.steps == row.method.steps and "stopped" not in watched.figures
    assert all(torch.equal(watched.tensors[name], tensor) for name, tensor in fitted(row.name).tensors.items())


def test_it_says_whether_several_subjects_may_share_the_base(row):
    learner = row.method.learner(base(), row.subject(), torch.Generator().manual_seed(0))
    learner.begin(torch.Generator().manual_seed(0))
    assert row.method.shares_base == learner.shares_batch


def test_saved_and_loaded_it_makes_the_same_image(row, tmp_path):
    concepts.save(fitted(row.name), tmp_path / "maya.safetensors")
    loaded = concepts.load(tmp_path / "maya.safetensors", base())
    assert torch.equal(picture(row.prompt, verbs.patches_of(base(), [loaded])), made(row.name))


def test_a_wrong_base_is_refused_in_one_sentence(row):
    with pytest.raises(SemblantError, match="width 16") as refused:
        verbs.patches_of(miniature(width=16), [fitted(row.name)])
    assert "\n" not in str(refused.value) and ". " not in str(refused.value)


def test_composes_with_low_rank_weights(row):
    words = verbs.patches_of(base(), [fitted(row.name)])
    both = picture(row.prompt, [low_rank(), *words])
    # Two changes of one weight add up in the order in which they are attached, and so do their roundings.
    rounding = 1e-5 if any(patch.kind == "weights" for patch in words) else 0
    assert distance(picture(row.prompt, [*words, low_rank()]), both) <= rounding
    assert distance(both, made(row.name)) > 1e-4
    assert distance(both, picture(row.neutral(row.prompt), [low_rank()])) > 1e-4


def test_an_unknown_setting_is_refused_naming_the_closest(row):
    known = next(field.name for field in dataclasses.fields(row.method))
    with pytest.raises(SemblantError, match=rf"{row.name} has no setting '{known}z'.*\b{known}\b"):
        verbs.method(row.name, **{f"{known}z": 1})


def test_the_row_is_of_the_method_it_names(row):
    assert name_of(row.method) == row.name and isinstance(row.method, method_class(row.name))


def test_presets_set_what_exists(row):
    known = {field.name for field in dataclasses.fields(row.method)}
    assert all(set(preset) <= known for preset in row.method.presets.values())


def test_the_card_says_where_it_comes_from(row):
    family = type(row.method).__module__.split(".")[2]
    card = row.method.card
    assert card.family == family and card.title and card.authors and card.arxiv and card.bases and card.needs


def test_every_method_file_has_a_row():
    families = [f.name for f in pkgutil.iter_modules(semblant.methods.__path__) if f.ispkg]
    files = {
        module.name.replace("_", "-")
        for family in families
        for module in pkgutil.iter_modules([str(Path(semblant.methods.__path__[0]) / family)])
    }
    assert files == set(BY_NAME), "every file in methods/<family>/ needs a row in tests/methods/rows.py"
