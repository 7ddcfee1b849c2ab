"""Learned words: which row holds where."""

from __future__ import annotations

import pytest
import torch

from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.patch import WordsPatch
from semblant.ops.schedule import stage_of_timestep
from semblant.patches.attention import Recorder
from semblant.patches.weights import Offsets
from semblant.patches.words import LearnedWord, class_word_table


@pytest.fixture(scope="module")
def base():
    return miniature()


def table(base, *shape, seed=0):
    return torch.randn(*shape, base.width, generator=torch.Generator().manual_seed(seed))


def answer(view, prompt, t=500):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return view.denoise(x, Moment.of(torch.tensor([t])), view.text(prompt))


def test_a_table_of_class_rows_is_the_class_word(base):
    view = base.patched(
        LearnedWord("<v>", class_word_table(base, "dog", (5, 7, 2, 1)), base.token_row("dog"), stage_of_timestep(5))
    )
    assert torch.allclose(answer(view, "a photo of <v>"), answer(base, "a photo of dog"), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_other_stages_is_exactly_zero(base):
    rows = table(base, 5, 1, 2, 1).requires_grad_()
    view = base.patched(LearnedWord("<v>", rows, base.token_row("dog"), stage_of_timestep(5)))
    for t, stage in ((999, 0), (800, 0), (799, 1), (500, 2), (0, 4)):
        (gradient,) = torch.autograd.grad(answer(view, "a photo of <v>", t).square().mean(), rows)
        touched = gradient.abs().amax((1, 3, 4)) > 0
        assert touched[stage].all() and touched.sum() == 2


def test_each_site_reads_its_own_row(base):
    rows = table(base, 1, 7, 1, 1)
    view = base.patched(LearnedWord("<v>", rows, base.token_row("dog")))
    prepared = view.prepare(view.text("a photo of <v>"), Moment.of(torch.tensor([5])))
    for site in view.cross_sites():
        alone = base.patched(LearnedWord("<v>", rows[:, site.index : site.index + 1], base.token_row("dog")))
        expected = alone.encodings(alone.text("a photo of <v>"))
        assert torch.allclose(prepared.read(site, "key"), expected, atol=1e-6)
        assert torch.equal(prepared.read(site, "key"), prepared.read(site, "value"))


def test_stages_without_their_table_are_refused(base):
    with pytest.raises(ValueError, match="5 stages"):
        LearnedWord("<v>", table(base, 5, 1, 1, 1), base.token_row("dog"))
    with pytest.raises(ValueError, match="stages, sites, parts, length, dim"):
        LearnedWord("<v>", table(base, 5), base.token_row("dog"))


def test_two_rows_that_spell_a_word_are_that_word(base):
    """A word of two tokens, as a placeholder of two rows."""
    ids = base.tokenizer("dog cup", add_special_tokens=False).input_ids
    rows = base.text_encoder.get_input_embeddings().weight[ids].detach()
    view = base.patched(LearnedWord("<v>", rows[None, None, None], base.token_row("dog")))
    for prompt in ("a <v> on the beach", "<v>", "a <v> of a <v>"):
        plain = answer(base, prompt.replace("<v>", "dog cup"))
        assert torch.allclose(answer(view, prompt), plain, rtol=1e-5, atol=1e-6)


def test_a_weighted_word_weighs_like_a_plain_one(base):
    view = base.patched(LearnedWord("<v>", base.token_row("dog")[None, None, None, None], base.token_row("dog")))
    weighted = answer(view, "a photo of (<v>:0.5)")
    assert torch.allclose(weighted, answer(base, "a photo of (dog:0.5)"), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weighted, answer(base, "a photo of dog"), atol=1e-4)


def test_of_two_words_with_one_name_the_last_holds(base):
    first, last = (LearnedWord("<v>", table(base, 1, 1, 1, n, seed=n), base.token_row("dog")) for n in (2, 1))
    expected = answer(base.patched(last), "a <v>")
    assert torch.equal(answer(base.patched(first).patched(last), "a <v>"), expected)
    assert torch.equal(answer(base.patched(first, last), "a <v>"), expected)


def test_what_is_encoded_without_gradient_is_not_taken_for_what_is_learned(base):
    """One context for previews and for training: rows that moved since are encoded anew, and have a gradient."""
    rows = table(base, 1, 1, 1, 1).requires_grad_()
    view = base.patched(LearnedWord("<v>", rows, base.token_row("dog")))
    context, moment = view.text("a <v>"), Moment.of(torch.tensor([500]))
    x = torch.ones(1, 4, 8, 8)
    with torch.no_grad():
        before = view.denoise(x, moment, context)
    assert torch.autograd.grad(view.denoise(x, moment, context).square().sum(), rows)[0].abs().max() > 0
    with torch.no_grad():
        rows += table(base, 1, 1, 1, 1, seed=1)
        assert not torch.allclose(view.denoise(x, moment, context), before, atol=1e-4)


def test_a_prompt_encoded_by_the_base_is_encoded_anew_by_a_view_with_other_text_weights(base):
    name = "text.encoder.layers.0.self_attn.v_proj.weight"
    context, at = base.text("a dog"), Moment.of(torch.tensor([500]))
    view = base.patched(Offsets({name: table(base, base.width)}))
    before = base.encodings(context, at)
    assert not torch.allclose(view.encodings(context, at), before, atol=1e-3)
    assert torch.equal(base.encodings(context, at), before)


class Shout(WordsPatch):
    """Rewrites the prompt, and the encoding."""

    def __init__(self, word=None):
        self.word = word

    def prompt(self, text):
        return text.replace("dog", "smiling dog")

    def after(self, encoding, encoded, variant):
        return encoding * 2


def test_a_patch_without_a_word_touches_every_prompt_one_with_a_word_only_its_own(base):
    view = base.patched(Shout())
    assert torch.allclose(view.encodings(view.text("a dog")), 2 * base.encodings(base.text("a smiling dog")), atol=1e-6)
    narrow = base.patched(Shout("person"))
    assert torch.equal(narrow.encodings(narrow.text("a dog")), base.encodings(base.text("a dog")))


def test_contexts_choose_what_sites_read(base):
    class Fewer(WordsPatch):
        def contexts(self, site, moment, keys, values):
            return keys[:, :3], values[:, :3]

    view, moment = base.patched(Fewer(), Recorder()), Moment.of(torch.tensor([500]))
    view.denoise(torch.ones(1, 4, 8, 8), moment, view.text("a photo of a dog"))
    assert {map.shape[-1] for map in moment.recorded("map")} == {3}
