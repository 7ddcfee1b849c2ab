"""The laws of patches on a base in the form of Stable Diffusion XL: the same laws over the same examples, and more."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature_xl
from semblant.backbones.moment import Moment
from semblant.patches.attention import Recorder
from semblant.patches.features import Residuals
from semblant.patches.narrow import Narrowed
from semblant.patches.weights import Offsets
from semblant.patches.words import LearnedWord


def _laws():
    spec = importlib.util.spec_from_file_location("laws", Path(__file__).with_name("test_laws.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


laws = _laws()
SKIPS = [(8, 8, 8)] * 3 + [(8, 4, 4)] + [(16, 4, 4)] * 2 + [(16, 2, 2)] * 3
SECOND = "text_2.text_model.encoder.layers.1.self_attn.q_proj.weight"


def residuals(base: Base, strength: float) -> Residuals:
    down = [0.3 * laws.drawn(1, *shape, seed=2) for shape in SKIPS]
    return Residuals(lambda x, moment, context: (down, 0.3 * laws.drawn(1, 16, 2, 2, seed=2)), strength)


def layered(base: Base, strength: float) -> LearnedWord:
    rows = laws.drawn(2, len(base.cross_sites()), 2, 1, base.width, seed=5)
    stages = (torch.arange(1000) < 500).long()
    return LearnedWord("<v>", rows, base.token_row("dog"), stages, strength)


ROWS = [
    *(row for row in laws.ROWS if row.name != "residuals"),
    laws.Row("residuals", "features", residuals),
    laws.Row("low rank in the second text", "weights", lambda base, strength: laws.low_rank(base, strength, SECOND)),
    laws.Row("word of layers and stages", "words", layered, "a photo of dog", "a photo of <v>"),
]
LAWS = [laws.test_taken_off_it_leaves_no_trace, laws.test_neutral_strength_is_the_base]


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature_xl()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.removeprefix("test_"))
def test_the_law(law, row, base):
    law(row, base)
    second = base.readers[1].encoder
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in second.modules())


@pytest.mark.parametrize("row", ROWS[-3:], ids=lambda row: row.name)
def test_it_comes_off_after_an_error_too_and_composes(row, base):
    laws.test_it_comes_off_after_an_error_too(row, base)
    laws.test_it_composes_with_low_rank(row, base)


def test_all_five_kinds_go_together_in_any_order(base, monkeypatch):
    monkeypatch.setattr(laws, "FIVE", [ROWS[0], ROWS[1], ROWS[5], ROWS[-3], ROWS[7]])
    assert len({row.kind for row in laws.FIVE}) == 5
    laws.test_the_order_of_attachment_across_kinds_is_irrelevant(base)


def test_threads_with_views_of_one_base_do_not_meet(base, monkeypatch):
    monkeypatch.setattr(laws, "ROWS", ROWS)
    laws.test_threads_with_views_of_one_base_do_not_meet((0, len(ROWS) - 2), base)


def test_gradients_reach_both_text_encoders_and_checkpointing_changes_none(base):
    gradients = []
    for checkpointing in (False, True):
        made = miniature_xl()
        if checkpointing:
            made.unet.enable_gradient_checkpointing()
        weights = dict(made.named_parameters())
        learned = [torch.zeros_like(weights[name]).requires_grad_() for name in (SECOND, laws.TEXT)]
        table = laws.drawn(1, 1, 2, 1, made.width).requires_grad_()
        view = made.patched(
            Recorder(),
            Offsets(dict(zip((SECOND, laws.TEXT), learned, strict=True))),
            LearnedWord("<v>", table, made.token_row("dog")),
        )
        moment = Moment.of(torch.tensor([400]))
        out = view.denoise(laws.drawn(1, 4, 8, 8), moment, view.text("a photo of <v>"))
        loss = out.square().mean() + sum((m**2).mean() for m in moment.recorded("map"))
        gradients.append(torch.autograd.grad(loss, [*learned, table]))
    for stock, again in zip(*gradients, strict=True):
        assert stock.abs().max() > 0 and torch.allclose(stock, again, rtol=1e-4, atol=1e-8)
    assert gradients[0][2][..., :16].abs().max() > 0 and gradients[0][2][..., 16:].abs().max() > 0


def test_a_patch_of_some_rows_leaves_the_others_alone(base):
    x, prompts = laws.drawn(2, 4, 8, 8), ["a dog", "the beach"]

    def noise(*patches):
        view = base.patched(*patches)
        moment = Moment.of(torch.tensor([300, 600]), role=["a", "b"])
        with torch.no_grad():
            return view.denoise(x, moment, view.text(prompts))

    plain, made = noise(), noise(Narrowed(laws.Sharper(1.0), lambda moment: moment.rows(role="b"), "b"))
    assert torch.allclose(made[0], plain[0], rtol=1e-5, atol=1e-5) and not laws.near(made[1], plain[1], 1e-3)
