"""SeFi-IDE against answers that can be worked out by hand, and every key idea switched off to see its check fail."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.methods.tokens.sefi_ide import SeFiIDE, SeFiLearner
from semblant.ops.losses import map_error
from semblant.ops.schedule import Schedule, stage_of_timestep
from semblant.patches.looks import ComparedLooks
from semblant.patches.words import LearnedWord
from semblant.sampling.solvers import points
from semblant.training.balance import Displaced, balance, pull
from semblant.training.concepts import Concept
from semblant.training.expansion import Expansion
from semblant.training.optimise import optimise
from semblant.training.step import forward, gradients

QUICK = SeFiIDE(views=2, attention_size=8, attention_calibrate=False)
DIRECT = replace(QUICK, expansion="direct")


@cache
def base() -> Base:
    """Four cross-attention sites."""
    return miniature(channels=(16,))


@cache
def network(stages: int) -> Expansion:
    """The network at the width of Stable Diffusion 1, and a row as long as its words are."""
    word = torch.randn(768, generator=seeded()) * 0.4 / 768**0.5
    return SeFiIDE(stages=stages).rows(word, seeded())


@cache
def one_site() -> Base:
    """A base with a single cross-attention site, in the middle block."""
    from diffusers import UNet2DConditionModel

    whole = miniature(channels=(16,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    return Base(
        unet=unet,
        text_encoder=whole.text_encoder,
        tokenizer=whole.tokenizer,
        autoencoder=whole.autoencoder,
        schedule=whole.schedule,
        name="one site",
    )


def subject(class_word: str = "person", word: str = "<maya>", masked: bool = False) -> Subject:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = Image.new("L", (16, 16), 255)
    return Subject((Image.fromarray(pixels),), word, class_word, masks=(mask,) if masked else ())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner(settings: SeFiIDE = DIRECT, on: Base | None = None, seed: int = 0, **given: str) -> SeFiLearner:
    return settings.learner(on or base(), subject(**given), seeded(seed))


def move(made: SeFiLearner, parts: tuple[int, ...] = (0, 1), by: float = 1.0) -> None:
    """Displace free rows from the class word."""
    rows = made.parameters["rows"]
    with torch.no_grad():
        for part in parts:
            rows[:, :, part] += by * made.class_row.norm() * torch.randn(rows.shape[-1], generator=seeded(3))


def errors(made: SeFiLearner, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Denoising and face-wise error of one draw."""
    [given] = forward(made.base, [made], [seeded(seed)])
    return made.errors(*given)


def seen(settings: SeFiIDE, seed: int = 1) -> float:
    """The face-wise error under `settings`, the key and value rows displaced alike."""
    made = learner(settings)
    move(made)
    return errors(made, seed)[1].item()


# -- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stages", "parameters"), [(1, 12_596_736), (5, 31_477_248), (10, 55_077_888)])
def test_the_network_has_the_published_size(stages, parameters):
    assert sum(p.numel() for p in network(stages).parameters()) == parameters == 7_876_608 + 3073 * 1536 * stages


def test_queries_and_keys_of_the_network_get_no_gradient():
    made = Expansion(torch.randn(32, generator=seeded()), (5, 1, 2, 1), generator=seeded())
    made(seeded()).square().sum().backward()
    for layer in made.attention:
        assert not layer.to_q.weight.grad.any() and not layer.to_k.weight.grad.any()
        assert layer.to_v.weight.grad.any()


def test_with_two_input_tokens_queries_and_keys_would_matter():
    made = Expansion(torch.randn(32, generator=seeded()), (1, 1, 1, 1), generator=seeded())
    tokens = torch.randn(2, 32, generator=seeded())
    made.attention[0](tokens, tokens).square().sum().backward()
    assert made.attention[0].to_q.weight.grad.any()


def test_rows_of_the_untrained_network_are_random_and_long():
    rows, word = network(5)().detach(), network(5).seen
    assert rows.shape == (5, 1, 2, 1, 768)
    assert 2.5 < rows.norm(dim=-1).mean() < 3.8
    assert torch.nn.functional.cosine_similarity(rows, word, dim=-1).abs().max() < 0.2


def test_residual_starts_at_the_class_words_prompt_exactly():
    made = learner(replace(QUICK, residual=True))
    assert torch.equal(made.tensors()["rows"], made.class_row.expand(5, 1, 2, 1, -1))
    prompt = "a photo of {} on the beach"
    view = base().patched(made.learned())
    moment = Moment.of(torch.tensor([700]))
    context = view.text(prompt.format("<maya>"))
    x = torch.randn(1, 4, 8, 8, generator=seeded())
    with torch.no_grad():
        ours = view.denoise(x, moment, context)
        plain = base().denoise(x, moment, base().text(prompt.format("person")))
        published = base().patched(learner(QUICK).learned())
        random = published.denoise(x, moment, published.text(prompt.format("<maya>")))
    assert torch.allclose(ours, plain, atol=1e-6)
    assert not torch.allclose(random, plain, atol=1e-4)


def test_dropout_is_drawn_from_the_generator_and_absent_when_baking():
    made = learner(QUICK)
    made.begin(seeded(1))
    one = made.table
    made.begin(seeded(2))
    other = made.table
    made.begin(seeded(1))
    assert torch.equal(one, made.table) and not torch.equal(one, other)
    assert torch.equal(made.tensors()["rows"], made.rows()) and not torch.equal(made.rows(), one)


def test_baked_rows_are_the_live_rows():
    made = learner(QUICK)
    baked = made.tensors()["rows"]
    with torch.no_grad():
        words = [LearnedWord("<maya>", table, made.class_row, made.stage_of) for table in (baked, made.rows())]
        encoded = [base().patched(w).encodings(base().patched(w).text("a photo of <maya>")) for w in words]
    assert torch.equal(*encoded)


@pytest.mark.parametrize("trained", [False, True])
def test_the_input_is_trained_only_when_asked(trained):
    made = learner(replace(QUICK, train_input=trained))
    before = made.rows.seen.detach().clone()
    optimise(base(), [made], seeds=[0], steps=1)
    assert ("seen" in made.parameters) == trained
    assert torch.equal(made.rows.seen, before) != trained


@pytest.mark.parametrize("residual", [False, True])
def test_the_network_may_read_all_that_the_encoder_makes_of_the_class_word(residual):
    made = learner(replace(QUICK, expansion_input="encoder_output", residual=residual))
    assert made.rows.seen.shape == (76, 32)
    table = made.rows()
    assert table.shape == (5, 1, 2, 1, 32)
    assert torch.equal(table, made.class_row.expand_as(table)) == residual
    table.square().sum().backward()
    queries = [layer.to_q.weight.grad for layer in made.rows.attention]
    assert residual or all(gradient.any() for gradient in queries)


# -- stages, keys and values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 5, 10])
def test_fifty_steps_pass_every_stage_equally_often_in_the_order_of_generation(stages):
    of = learner(replace(DIRECT, stages=stages)).stages
    passed = [of[point.t] for point in points(Schedule.scaled_linear(), 50)]
    assert passed == sorted(passed) and [passed.count(s) for s in range(stages)] == [50 // stages] * stages
    assert of[999] == 0 and of[0] == stages - 1


def test_only_the_rows_of_the_drawn_stage_get_a_gradient():
    made = learner()
    move(made)
    timestep = torch.tensor([450])
    made.timesteps = lambda *_: timestep
    [[gradient]] = gradients(base(), [made], [seeded()])[1]
    per_stage = gradient.flatten(1).abs().sum(1)
    assert per_stage.nonzero().flatten().tolist() == [int(stage_of_timestep(5)[450])] == [2]
    assert gradient[2, 0, 0].any() and gradient[2, 0, 1].any()


def test_with_the_network_every_stage_moves_together():
    made = learner(QUICK)
    before = made.tensors()["rows"]
    optimise(base(), [made], seeds=[0], steps=1)
    assert (made.tensors()["rows"] - before).flatten(1).abs().amax(1).min() > 0


def prediction(table: Tensor, stages: int = 5) -> Tensor:
    view = base().patched(
        LearnedWord("<maya>", table, base().token_row("person"), stage_of_timestep(stages) if stages > 1 else None)
    )
    with torch.no_grad():
        x = torch.randn(1, 4, 8, 8, generator=seeded())
        return view.denoise(x, Moment.of(torch.tensor([100])), view.text("a photo of <maya>"))


def test_swapping_keys_and_values_changes_what_is_predicted():
    made = learner()
    move(made, parts=(0,), by=2)
    move(made, parts=(1,), by=-3)
    table = made.tensors()["rows"]
    assert not torch.allclose(prediction(table), prediction(table.flip(2)), atol=1e-5)


def test_without_the_split_there_is_nothing_to_swap():
    made = learner(replace(DIRECT, split=False))
    assert made.tensors()["rows"].shape == (5, 1, 1, 1, 32)
    doubled = made.tensors()["rows"].expand(-1, -1, 2, -1, -1)
    assert torch.equal(prediction(doubled), prediction(doubled.flip(2)))


def test_locked_keys_stay_the_class_words():
    for expansion in ("module", "direct"):
        made = learner(replace(QUICK, expansion=expansion, key_lock=True))
        optimise(base(), [made], seeds=[0], steps=1)
        keys, values = made.tensors()["rows"].unbind(2)
        assert torch.equal(keys, made.class_row.expand_as(keys)) and not torch.equal(values, keys)


def test_one_update_moves_the_drawn_stage_alone_even_with_locked_keys():
    # The gradient of locked rows is a strided view, which an optimiser must not read as if it were contiguous.
    made = learner(replace(DIRECT, key_lock=True))
    made.timesteps = lambda *_: torch.tensor([450])
    optimise(base(), [made], seeds=[0], steps=1)
    moved = (made.tensors()["rows"] - made.class_row).flatten(1).abs().amax(1)
    assert moved.nonzero().flatten().tolist() == [2]


def test_a_concept_is_five_key_and_value_rows_in_the_order_of_generation():
    concept = verbs.fit(replace(QUICK, steps=1), base(), subject())
    rows = concept.tensors["rows"]
    assert rows.shape == (5, 1, 2, 1, 32) and rows.dtype == torch.float32
    assert rows.numel() * rows.element_size() == 5 * 2 * 32 * 4
    assert concept.stages == stage_of_timestep(5).tolist()
    made = verbs.patches_of(base(), [concept])[0]
    assert made.variant(999, None, "key") == (0, 0, 0) and made.variant(0, None, "value") == (4, 0, 1)


# -- the face-wise error ----------------------------------------------------------------------------------------------


def test_the_error_is_exactly_zero_where_keys_are_the_class_words_whatever_the_values():
    made = learner()
    assert errors(made)[1].item() == 0
    move(made, parts=(1,), by=5)
    assert errors(made)[1].item() == 0


def test_the_error_is_positive_where_keys_differ():
    made = learner()
    move(made, parts=(0,))
    assert errors(made)[1].item() > 0


def test_the_printed_typo_would_learn_nothing_from_attention(monkeypatch):
    monkeypatch.setattr("semblant.patches.looks.map_error", lambda target, _, *rest: map_error(target, target, *rest))
    made = learner()
    move(made, parts=(0,))
    assert errors(made)[1].item() == 0


def pulls(made: SeFiLearner) -> tuple[float, float]:
    """Norms of the gradient of the face-wise error on key rows and on value rows."""
    gradient = torch.autograd.grad(errors(made)[1].sum(), made.table)[0]
    return float(gradient[:, :, 0].norm()), float(gradient[:, :, 1].norm())


def test_attention_teaches_keys_and_hardly_values():
    made = learner()
    move(made)
    keys, values = pulls(made)
    assert 0 < values < 0.2 * keys


def test_with_a_single_site_attention_teaches_values_nothing_at_all():
    made = learner(on=one_site())
    assert len(one_site().cross_sites()) == 1
    move(made)
    keys, values = pulls(made)
    assert keys > 0 and values == 0


def test_without_the_split_attention_teaches_the_values_too():
    made = learner(replace(DIRECT, split=False), on=one_site())
    move(made, parts=(0,))
    gradient = torch.autograd.grad(errors(made)[1].sum(), made.table)[0]
    assert gradient.any() and gradient.shape[2] == 1


def test_the_reference_is_no_path_for_gradients():
    site = base().cross_sites()[0]
    encodings = torch.randn(1, 77, 32, generator=seeded())
    q = site.heads(torch.randn(1, 64, 16, generator=seeded())).requires_grad_()
    comparison = ComparedLooks(encodings, torch.ones(1, 77, dtype=torch.bool), base().cross_sites(), size=8)
    moment = replace(Moment.of(torch.tensor([10])), size=(8, 8))
    k = site.keys(torch.randn(1, 77, 32, generator=seeded(1)))
    comparison.rewrite(site, moment, q, k, k)
    ours = torch.autograd.grad(moment.recorded("look error", site).sum(), q)[0]
    scale = site.module.scale
    both = [(q @ keys.mT * scale).softmax(-1) for keys in (k, site.keys(encodings))]
    fixed = torch.autograd.grad((both[0] - both[1].detach()).square().sum(), q, retain_graph=True)[0]
    loose = torch.autograd.grad((both[0] - both[1]).square().sum(), q)[0]
    assert torch.allclose(ours, fixed, atol=1e-6) and not torch.allclose(ours, loose, atol=1e-4)


def test_one_pass_of_the_network_serves_both_maps(monkeypatch):
    calls = []
    forward_once = base().unet.forward
    monkeypatch.setattr(base().unet, "forward", lambda *a, **k: calls.append(1) or forward_once(*a, **k))
    errors(learner())
    assert len(calls) == 1


def test_each_option_compares_other_maps():
    option = {tokens: seen(replace(DIRECT, attention_tokens=tokens)) for tokens in ("placeholder", "prompt", "all")}
    assert 0 < option["placeholder"] < option["prompt"] < option["all"]


def test_mean_is_sum_divided_by_how_many_entries_are_compared():
    heads, size = base().cross_sites()[0].module.heads, 8
    for tokens, number in (("all", 77), ("placeholder", 1)):
        settings = replace(DIRECT, attention_tokens=tokens)
        mean = seen(replace(settings, attention_reduction="mean"))
        assert seen(settings) == pytest.approx(mean * heads * number * size * size, rel=1e-5)
        assert mean <= 2 / number


def test_scores_before_the_softmax_are_another_error():
    assert seen(replace(DIRECT, attention_space="scores")) != pytest.approx(seen(DIRECT), rel=0.1)


def test_chosen_sites_only():
    made = learner(replace(DIRECT, attention_sites=(0.0, 0.5)))
    move(made)
    [(moment, *_)] = forward(base(), [made], [seeded()])
    assert len(moment.recorded("look error")) == 2
    everywhere = learner()
    [(moment, *_)] = forward(base(), [everywhere], [seeded()])
    assert len(moment.recorded("look error")) == len(base().cross_sites()) == 4


def test_maps_are_no_larger_than_the_bases_own():
    assert seen(replace(DIRECT, attention_size=32)) == seen(replace(DIRECT, attention_size=8))
    assert seen(replace(DIRECT, attention_size=4)) < seen(DIRECT)


def test_a_choice_of_no_site_is_refused():
    made = learner(replace(DIRECT, attention_sites=(0.5, 0.5)))
    made.begin(seeded())
    with pytest.raises(SemblantError, match="holds none of 4 sites"):
        made.patches()


def test_weight_zero_compares_nothing():
    made = learner(replace(DIRECT, attention_weight=0.0))
    made.begin(seeded())
    assert [type(patch) for patch in made.patches()] == [LearnedWord]
    assert not made.references


def test_the_weighted_error_is_part_of_the_loss():
    made = learner(replace(DIRECT, attention_weight=0.5))
    move(made)
    [given] = forward(base(), [made], [seeded()])
    denoising, attention = made.errors(*given)
    assert torch.equal(made.loss(*given), denoising + 0.5 * attention)


# -- balance ----------------------------------------------------------------------------------------------------------


def ratio(made: SeFiLearner, draws: int, seed: int) -> float:
    """How hard the weighted face-wise error pulls on the key rows, in units of the denoising error, by our own count:
    key rows one row length from the class word's, gradients of each error alone."""
    rows, (denoising, attention) = made.rows, (0.0, 0.0)
    generator = seeded(seed)
    for _ in range(draws):
        made.rows = Displaced(made.class_row, made.table.shape)
        [given] = forward(made.base, [made], [generator])
        table = made.table
        assert (table - made.class_row)[:, :, 0].norm(dim=-1).allclose(made.class_row.norm())
        pulls = [torch.autograd.grad(error.sum(), table, retain_graph=True)[0] for error in made.errors(*given)]
        denoising += float(pulls[0][:, :, 0].norm())
        attention += float(pulls[1][:, :, 0].norm())
    made.rows = rows
    return made.weight * attention / denoising


def test_the_calibrated_weight_balances_both_errors_on_the_keys():
    made = learner(replace(QUICK, attention_calibrate=True, calibration_draws=6))
    assert ratio(made, 6, seed=9) == pytest.approx(1, rel=0.7)
    assert made.figures()["attention weight"] == made.weight
    assert "attention weight" in verbs.fit(replace(QUICK, steps=1), base(), subject()).figures


def test_the_same_draws_give_exactly_one():
    made = learner()
    made.weight = balance(made, made.errors, 2, seeded(4))
    assert ratio(made, 2, seed=4) == pytest.approx(1, rel=1e-5)


def test_the_literal_weight_is_far_from_balance():
    assert not 0.2 < ratio(learner(), 3, seed=9) < 5


def test_other_weights_keep_their_proportion():
    one, ten = (
        learner(replace(QUICK, attention_calibrate=True, calibration_draws=2, attention_weight=weight)).weight
        for weight in (0.003, 0.03)
    )
    assert ten == pytest.approx(10 * one, rel=1e-5)


def test_how_errors_are_summed_does_not_matter_once_balanced():
    settings = replace(QUICK, attention_calibrate=True, calibration_draws=2)
    total, mean = (learner(replace(settings, attention_reduction=r)) for r in ("sum", "mean"))
    assert mean.weight == pytest.approx(total.weight * 4 * 77 * 64, rel=1e-4)


def test_calibrating_leaves_the_rows_alone():
    plain, calibrated = (learner(replace(QUICK, attention_calibrate=c, calibration_draws=1)) for c in (False, True))
    assert torch.equal(plain.tensors()["rows"], calibrated.tensors()["rows"])


def test_a_drowning_error_is_said(caplog):
    made = learner(replace(DIRECT, attention_weight=1e6))
    move(made)
    with caplog.at_level(logging.WARNING):
        [given] = forward(base(), [made], [seeded()])
        made.loss(*given)
    assert "face-wise error pulls" in caplog.text


# -- words, company, watching -----------------------------------------------------------------------------------------


def test_a_class_word_of_two_tokens_is_refused_because_maps_would_not_align():
    with pytest.raises(SemblantError, match="more than one token"):
        learner(class_word="zebra")
    assert learner(replace(DIRECT, attention_weight=0.0), class_word="zebra").weight == 0


def test_word_and_class_word_stand_at_the_same_place():
    made = learner()
    for template in made.templates:
        target = base().patched(made.learned()).text(template.replace("{}", "<maya>")).rows[0]
        reference = base().text(template.replace("{}", "person")).rows[0]
        assert target.positions["<maya>"] == reference.positions["person"] and target.end == reference.end


def test_templates_say_face_for_persons_only():
    assert all("face of {}" in template for template in learner().templates) and len(learner().templates) == 7
    assert not any("face" in template for template in learner(class_word="dog").templates)


def test_in_company_it_sees_what_it_sees_alone():
    made = [learner(seed=s, word=w) for s, w in ((0, "<maya>"), (1, "<ben>"))]
    for one in made:
        move(one)
    [[gradient]] = gradients(base(), [made[1]], [seeded(8)])[1]
    [_, [shared]] = gradients(base(), made, [seeded(7), seeded(8)])[1]
    assert all(one.shares_batch for one in made)
    assert torch.allclose(shared, gradient, rtol=1e-3, atol=1e-6)


def test_two_concepts_in_one_prompt_need_nothing_more():
    rows = torch.randn(2, 5, 1, 2, 1, 32, generator=seeded())
    of = [
        Concept("sefi-ide", {}, word, "person", base().describe(), {"rows": table}, stage_of_timestep(5).tolist())
        for word, table in zip(("<maya>", "<ben>"), rows, strict=True)
    ]
    both, one = base().patched(*verbs.patches_of(base(), of)), base().patched(*verbs.patches_of(base(), of[:1]))
    x, moment = torch.randn(1, 4, 8, 8, generator=seeded()), Moment.of(torch.tensor([900]))
    with torch.no_grad():
        together = both.denoise(x, moment, both.text("<maya> and <ben> on the beach"))
        alone = one.denoise(x, moment, one.text("<maya> and person on the beach"))
    assert not torch.allclose(together, alone, atol=1e-4)
    read = both.prepare(both.text("<maya> and <ben>"), moment)
    assert len(read.table) == 2, "one encoding with all key words, one with all value words"


def test_long_rows_are_warned_about_once(caplog):
    made = learner()
    for factor, warnings in ((9.0, 0), (20.0, 1), (20.0, 1)):
        made.done = 0
        made.table = factor * made.class_row.expand(5, 1, 2, 1, -1)
        with caplog.at_level(logging.WARNING):
            made.after_step()
        assert caplog.text.count("times as long") == warnings
        assert made.figures()["longest row"] == pytest.approx(factor)


def test_figures_say_what_was_seen():
    made = SeFiIDE(views=2, attention_size=8, calibration_draws=1).learner(base(), subject(masked=True), seeded())
    [history] = optimise(base(), [made], seeds=[0], steps=1)
    assert set(history.figures) == {
        "longest row",
        "likeness to class word",
        "denoising error",
        "face-wise error",
        "pull ratio",
        "attention inside mask",
        "attention weight",
    }
    assert 0 < history.figures["attention inside mask"] <= 1


def test_masked_loss_without_a_mask_finds_one(caplog):
    made = learner(replace(DIRECT, mask_loss=True))
    assert made.bank.masked and "has no mask" in caplog.text
    assert 0 < float(made.bank.masks.mean()) < 1


def test_looking_does_not_change_what_is_learned():
    runs = []
    for shift in (0, 1):
        made = learner(replace(QUICK, steps=2))
        made.done = shift
        optimise(base(), [made], seeds=[0])
        runs.append(made.tensors()["rows"])
    assert torch.equal(*runs)


def test_pull_is_the_norm_of_the_gradient_on_keys():
    table = torch.zeros(1, 1, 2, 1, 3, requires_grad=True)
    weights = torch.tensor([[3.0, 0, 4.0], [100.0, 0, 0]])
    assert pull((table[0, 0, :, 0] * weights).sum()[None], table) == 5
