"""LoRA-DreamBooth against answers that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.backbones.moment import Moment
from semblant.backbones.site import find_sites
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.methods.finetune.lora_dreambooth import LoRADreamBooth
from semblant.patches.weights import LowRank, Offsets, attention_weights, low_rank_start
from semblant.training import bank as banks
from semblant.training import concepts
from semblant.training.finetuning import FinetuningLearner
from semblant.training.learner import denoising_error
from semblant.training.optimise import optimise
from semblant.training.step import forward, gradients

QUICK = LoRADreamBooth(steps=3, lr=0.01, rank=2, alpha=2.0, prior_count=2, prior_steps=1)


@cache
def base() -> Base:
    return miniature(channels=(16,))


def subject(word: str = "<maya>") -> Subject:
    pixels = np.random.default_rng(len(word)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Subject((Image.fromarray(pixels),), word, "person")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner(settings: LoRADreamBooth = QUICK, word: str = "<maya>") -> FinetuningLearner:
    return settings.learner(base(), subject(word), seeded())


def predicted(view: Base, prompt: str) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=seeded(9))
    with torch.no_grad():
        return view.denoise(x, Moment.of(torch.tensor([500])), view.text(prompt))


@pytest.mark.parametrize("train_text", [False, True])
def test_a_class_prompt_is_encoded_anew_only_where_the_text_encoder_learns(train_text):
    calls: list[int] = []
    hook = base().text_encoder.register_forward_pre_hook(
        lambda module, given, named: calls.append(len(named["input_ids"])), with_kwargs=True
    )
    made = learner(replace(QUICK, train_text=train_text))
    plain: dict = {}
    try:
        for step in range(3):
            calls.clear()
            gradients(base(), [made], [seeded(step)], plain=plain)
    finally:
        hook.remove()
    # In the third step the subject's prompt at most is left, whose word may be another one by then.
    assert base().patched(*made.patches()).rewrites_text == train_text
    assert sum(calls) == (2 if train_text else 1)


def test_step_0_is_the_base_that_reads_the_word_as_the_identifier_and_the_class_word():
    made = learner()
    plain = predicted(base(), "a photo of sks person on the beach")
    assert torch.equal(predicted(base().patched(*made.patches()), "a photo of <maya> on the beach"), plain)
    assert all(bool(factor.any()) != name.endswith(".up") for name, factor in made.weights.items())
    with torch.no_grad():
        next(factor for name, factor in made.weights.items() if name.endswith(".up")).fill_(0.5)
    assert not torch.equal(predicted(base().patched(*made.patches()), "a photo of <maya> on the beach"), plain)


def test_a_weight_changes_by_alpha_over_rank_times_up_times_down():
    name = next(iter(attention_weights(base())))
    up, down = torch.arange(32.0).view(16, 2), torch.arange(32.0).view(2, 16) / 10
    made = learner(replace(QUICK, alpha=6.0))
    with torch.no_grad():
        made.weights[f"{name}.up"].copy_(up)
        made.weights[f"{name}.down"].copy_(down)
    [lora] = [patch for patch in made.patches() if isinstance(patch, LowRank)]
    weight = dict(base().named_parameters())[name]
    # 6 / 2 times, at row 2 and column 5, 4 * 0.5 + 5 * 2.1.
    assert float((lora.delta(name, weight) - weight)[2, 5].detach()) == pytest.approx(3 * (4 * 0.5 + 5 * 2.1), rel=1e-5)
    same = Offsets({name: 3 * up @ down})
    assert torch.allclose(
        predicted(base().patched(lora), "a cup"), predicted(base().patched(same), "a cup"), rtol=1e-4, atol=1e-5
    )


def test_the_first_gradients_are_those_of_the_chain_rule():
    made = learner(replace(QUICK, alpha=6.0))
    found = dict(zip(made.parameters, gradients(base(), [made], [seeded(1)])[1][0], strict=True))
    factors, name = made.weights, next(iter(attention_weights(base(), ("to_v",), ("cross",))))
    made.parameters = {name: torch.nn.Parameter(torch.zeros(16, base().width))}
    made.attach = lambda _: [Offsets(made.parameters)]
    [[whole]] = gradients(base(), [made], [seeded(1)])[1]
    # With W + s U D: dL/dU = s G D^T and dL/dD = s U^T G, which is 0 while U is.
    assert whole.abs().max() > 0
    assert torch.allclose(found[f"{name}.up"], 3 * whole @ factors[f"{name}.down"].T, rtol=1e-3, atol=1e-7)
    assert all(not gradient.any() for key, gradient in found.items() if key.endswith(".down"))


def test_the_figures_say_how_far_the_weights_have_moved():
    made = learner(replace(QUICK, steps=1, targets=("to_v",), sites="cross"))
    [history] = optimise(base(), [made], seeds=[0])
    weights = attention_weights(base(), ("to_v",), ("cross",))
    factors = made.tensors()
    by_hand = [float((factors[f"{n}.up"] @ factors[f"{n}.down"]).norm() / w.norm()) for n, w in weights.items()]
    assert set(history.figures) == {"change of weights"}
    assert history.figures["change of weights"] == pytest.approx(np.mean(by_hand), rel=1e-4) and min(by_hand) > 0


def test_the_number_of_weights_on_stable_diffusion_1_is_as_published():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=4, out_channels=4, cross_attention_dim=768, attention_head_dim=8
        )
    named = [(f"unet.{name}", weight) for name, weight in unet.named_parameters()]
    large = SimpleNamespace(sites=find_sites(unet), named_parameters=lambda: named)
    factors = low_rank_start(attention_weights(large), 4, seeded())
    assert sum(factor.numel() for factor in factors.values()) == 797_184
    keys_and_values = attention_weights(large, ("to_k", "to_v"), ("cross",))
    assert sum(weight.numel() for weight in keys_and_values.values()) == 19_169_280


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_that_of_the_subject_plus_the_weighted_one_of_the_class(weight):
    made = learner(replace(QUICK, prior_weight=weight))
    with torch.no_grad():
        [(_, prediction, batch)] = forward(base(), [made], [seeded(2)])
    own, prior = ((prediction[i] - batch.noise[i]).square().mean() for i in (0, 1))
    [loss], _ = gradients(base(), [made], [seeded(2)])
    # Eq. 2 as the mean over two rows.
    assert loss == pytest.approx(float(own + weight * prior) / 2, rel=1e-5)
    assert [row.text for row in batch.context.rows] == ["a photo of <maya>", "a photo of person"]
    assert [len(row.words) for row in batch.context.rows] == [1, 0]


def test_with_prior_weight_0_it_is_the_plain_method_and_makes_no_class_pictures():
    fits = [verbs.fit(replace(QUICK, **more), base(), subject()) for more in ({"prior_weight": 0}, {"prior_count": 0})]
    plain, other = (fit.tensors for fit in fits)
    with_prior = verbs.fit(QUICK, base(), subject()).tensors
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    assert any(not torch.equal(plain[name], with_prior[name]) for name in plain)
    assert learner(replace(QUICK, prior_weight=0)).prior is None
    for weight, rows in ((0.0, [True] * 3), (1.0, [True] * 3 + [False] * 3)):
        made = learner(replace(QUICK, prior_weight=weight, batch=3))
        made.begin(seeded())
        assert [example.patched for example in made.draw(seeded())] == rows


def test_prior_preservation_holds_the_class():
    """After the same training the class picture is denoised worse when it took no part in it."""
    settings, errors = replace(QUICK, prior_count=1, prior_steps=4, lr=0.02, rank=4, alpha=4.0), []
    judge = learner(settings)
    for weight in (3.0, 0.0):
        made = learner(replace(settings, prior_weight=weight))
        made.timesteps = judge.timesteps = lambda _, rows, total: torch.full((rows,), 700)
        optimise(base(), [made], seeds=[0], steps=40)
        judge.weights = made.weights
        with torch.no_grad():
            found = [forward(base(), [judge], [seeded(s)])[0] for s in range(8)]
        errors.append(np.mean([float(denoising_error(prediction, batch)[1]) for _, prediction, batch in found]))
    assert errors[0] < errors[1] - 0.01


def test_class_pictures_are_the_bases_own_made_once_and_seeded(monkeypatch):
    calls = []

    def counted(*args, **more):
        calls.append(more["seed"])
        return genuine(*args, **more)

    genuine = banks.class_latents
    monkeypatch.setattr(banks, "class_latents", counted)
    made = learner(replace(QUICK, prior_count=3))
    optimise(base(), [made], seeds=[0])
    assert len(calls) == 1 and len(made.prior.latents) == 3
    expected = genuine(base(), "a photo of person", 3, seed=calls[0], steps=1, guidance=7.5)
    assert all(torch.equal(one, other) for one, other in zip(made.prior.latents, expected, strict=True))
    assert torch.equal(learner(replace(QUICK, prior_count=3)).prior.latents[2], made.prior.latents[2])


def test_projections_and_sites_can_be_chosen():
    cross = learner(replace(QUICK, targets=("to_v",), sites="cross")).weights
    assert len(cross) == 2 * len(base().cross_sites()) and all("attn2.to_v.weight" in name for name in cross)
    assert all(".attn1." in name for name in learner(replace(QUICK, sites="self")).weights)
    with pytest.raises(SemblantError, match=r"no projection 'to_w'.*to_v"):
        learner(replace(QUICK, targets=("to_w",)))
    with pytest.raises(SemblantError, match=r"rank .* 1 or more; got 0"):
        learner(replace(QUICK, rank=0))


def test_the_text_encoder_learns_when_asked_to():
    assert not any(name.startswith("text.") for name in learner().weights)
    made = learner(replace(QUICK, train_text=True))
    text = {name: factor.detach().clone() for name, factor in made.weights.items() if name.startswith("text.")}
    assert len(text) == 2 * 2 * 4
    optimise(base(), [made], seeds=[0])
    assert all(not torch.equal(made.weights[name], factor) for name, factor in text.items())


def test_half_the_strength_is_half_the_change_and_none_the_base():
    concept = verbs.fit(QUICK, base(), subject())
    name = next(iter(attention_weights(base())))
    weight = dict(base().named_parameters())[name]
    change = {}
    for strength in (0.0, 0.5, 1.0):
        patches = verbs.patches_of(base(), [replace(concept, strength=strength)])
        change[strength] = next(p for p in patches if isinstance(p, LowRank)).delta(name, weight) - weight
    assert change[1.0].abs().max() > 1e-3 and not change[0.0].any()
    assert torch.allclose(change[0.5], change[1.0] / 2, atol=1e-6)
    images = [
        verbs.sample(base(), text, concepts=used, steps=2)[0].tobytes()
        for text, used in (
            ("a <maya>", [replace(concept, strength=0.0)]),
            ("a <maya>", [concept]),
            ("a sks person", []),
        )
    ]
    assert images[0] == images[2] != images[1]


def test_two_subjects_of_one_run_learn_what_they_learn_alone():
    alone = learner(word="<ben>")
    optimise(base(), [alone], seeds=[3])
    together = [learner(word=word) for word in ("<maya>", "<ben>")]
    assert not any(one.shares_batch for one in together)
    optimise(base(), together, seeds=[2, 3])
    assert all(torch.equal(together[1].tensors()[name], tensor) for name, tensor in alone.tensors().items())


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = learner(replace(QUICK, steps=4))
    optimise(base(), [whole], seeds=[0])
    optimise(base(), [learner(replace(QUICK, steps=4))], seeds=[0], steps=2, checkpoint=tmp_path)
    resumed = learner(replace(QUICK, steps=4))
    optimise(base(), [resumed], seeds=[0], checkpoint=tmp_path, resume=True)
    assert all(torch.equal(resumed.tensors()[name], tensor) for name, tensor in whole.tensors().items())


def test_a_concept_comes_back_from_its_file_and_is_refused_where_its_weights_are_not(tmp_path):
    concept = verbs.fit(QUICK, base(), subject())
    concepts.save(concept, tmp_path / "maya.safetensors")
    loaded = concepts.load(tmp_path / "maya.safetensors", base())
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in concept.tensors.items())
    assert loaded.settings["targets"] == ["to_q", "to_k", "to_v", "to_out.0"]
    other = verbs.fit(QUICK, miniature(channels=(16, 32)), subject())
    with pytest.raises(SemblantError, match=r"changes unet\..*does not have"):
        verbs.patches_of(base(), [other])


def test_a_prompt_without_a_place_for_the_word_is_refused():
    with pytest.raises(SemblantError, match="once, where the word goes"):
        learner(replace(QUICK, prompt="a photo"))
