"""Textual Inversion against answers that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.data.subject import Subject
from semblant.methods.tokens.textual_inversion import STYLE_TEMPLATES, TextualInversion
from semblant.patches.words import LearnedWord
from semblant.training.concepts import is_plain_word
from semblant.training.optimise import optimise
from semblant.training.step import forward, gradients
from semblant.training.words import WordLearner

QUICK = TextualInversion(steps=2, views=2, batch=1)


@cache
def base() -> Base:
    return miniature(channels=(16,))


def subject(word: str = "<maya>", pictures: int = 1) -> Subject:
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 16, 16, 3), dtype=np.uint8)
    return Subject(tuple(map(Image.fromarray, pixels)), word, "person")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner(settings: TextualInversion = QUICK, **given: object) -> WordLearner:
    return settings.learner(base(), subject(**given), seeded())  # type: ignore[arg-type]


def test_it_learns_one_row_that_starts_as_the_class_words():
    made = learner()
    assert sum(p.numel() for p in made.parameters.values()) == base().width
    assert torch.equal(made.tensors()["rows"][0, 0, 0, 0], base().token_row("person"))


def test_no_row_of_the_table_of_words_changes():
    table = base().text_encoder.get_input_embeddings().weight
    before = table.detach().clone()
    made = learner()
    optimise(base(), [made], seeds=[0])
    assert torch.equal(table, before)
    assert not torch.equal(made.tensors()["rows"][0, 0, 0, 0], base().token_row("person"))


@pytest.mark.parametrize(("scaled", "expected"), [(True, 4 * 5e-3), (False, 5e-3)])
def test_the_learning_rate_grows_with_the_batch_as_in_the_released_code(scaled, expected):
    optimiser = learner(replace(QUICK, batch=4, scale_lr=scaled)).optimiser
    assert optimiser.lr == pytest.approx(expected)
    assert (optimiser.name, optimiser.weight_decay) == ("adamw", 1e-2)


def test_the_first_update_moves_every_number_by_the_learning_rate_after_decay():
    made = learner(replace(QUICK, lr=0.01))
    start = made.parameters["rows"].detach().clone()
    [[gradient]] = gradients(base(), [made], [seeded(5)])[1]
    optimise(base(), [made], seeds=[5], steps=1)
    # Adam's first step is the gradient's sign, and AdamW shrinks the weight first.
    expected = start * (1 - 0.01 * 1e-2) - 0.01 * gradient.sign()
    assert torch.allclose(made.parameters["rows"], expected, atol=1e-4)


def test_several_vectors_take_as_many_places():
    made = learner(replace(QUICK, num_vectors=3))
    view = base().patched(made.learned())
    context = view.text("a photo of <maya> on the beach")
    [positions] = context.positions("<maya>")
    assert len(positions) == 3 and positions == tuple(range(positions[0], positions[0] + 3))
    assert (
        context.positions("beach")[0][0] == base().text("a photo of person on the beach").positions("beach")[0][0] + 2
    )
    assert made.tensors()["rows"].shape == (1, 1, 1, 3, base().width)


def test_every_row_gets_a_gradient_at_every_timestep():
    made = learner(replace(QUICK, num_vectors=2))
    for t in (0, 500, 999):
        made.timesteps = lambda *_, t=t: torch.tensor([t])
        [[gradient]] = gradients(base(), [made], [seeded()])[1]
        assert gradient.abs().amax(-1).min() > 0


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_anchor_adds_the_squared_distance_to_the_start(weight):
    made = learner(replace(QUICK, anchor_weight=weight))
    with torch.no_grad():
        made.parameters["rows"][..., 0] += 3
    [given] = forward(base(), [made], [seeded()])
    added = made.loss(*given) - WordLearner.loss(made, *given)
    assert added.item() == pytest.approx(weight * 9, abs=1e-4)


def test_an_anchor_holds_the_row_back():
    far = []
    for weight in (0.0, 1e4):
        made = learner(replace(QUICK, anchor_weight=weight, weight_decay=0.0, lr=0.02))
        optimise(base(), [made], seeds=[0], steps=6)
        far.append(float((made.tensors()["rows"] - made.start).norm()))
    assert far[1] < 0.7 * far[0]


def test_there_are_27_templates_and_a_list_for_styles():
    assert len(learner().templates) == 27 and len(set(learner().templates)) == 27
    styles = learner(replace(QUICK, templates="style")).templates
    assert styles == STYLE_TEMPLATES and all(t.endswith("in the style of {}") for t in styles)
    assert len(set(styles)) == len(styles)


def test_templates_and_pictures_are_drawn_from_the_generator():
    made = learner(replace(QUICK, batch=6, views=8))
    seen = []
    for seed in (1, 1, 2):
        generator = seeded(seed)
        made.begin(generator)
        seen.append([(e.prompt, e.latent) for e in made.draw(generator)])
    prompts = [[prompt for prompt, _ in drawn] for drawn in seen]
    assert prompts[0] == prompts[1] != prompts[2]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(seen[0], seen[1], strict=True))
    assert len(set(prompts[0])) > 1 and all("<maya>" in prompt for prompt in prompts[0])


@pytest.mark.parametrize(("chance", "kinds"), [(0.0, 1), (1.0, 1), (0.5, 2)])
def test_pictures_are_mirrored_by_chance(chance, kinds):
    made = learner(replace(QUICK, flip=chance, views=12))
    assert len({mean.numpy().tobytes() for mean in made.bank.means}) == kinds


def test_two_subjects_share_a_batch_and_learn_what_they_learn_alone():
    alone = learner(word="<ben>")
    optimise(base(), [alone], seeds=[3])
    together = [learner(word=word) for word in ("<maya>", "<ben>")]
    assert all(one.shares_batch for one in together)
    optimise(base(), together, seeds=[2, 3])
    assert torch.allclose(together[1].tensors()["rows"], alone.tensors()["rows"], atol=1e-4)


def test_attention_inside_the_mask_is_that_of_pictures_with_a_mask():
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (4, 4, 12, 12))
    given = QUICK.learner(base(), replace(subject(pictures=2), masks=(mask, None)), seeded())
    seen = set()
    for seed in range(8):
        [drawn] = forward(base(), [given], [seeded(seed)])
        given.loss(*drawn)
        seen |= set(given.figures().values())
    assert seen and max(seen) < 0.9


def test_the_concept_is_a_plain_word_that_other_programs_can_read():
    concept = verbs.fit(QUICK, base(), subject())
    assert is_plain_word(concept) and concept.stages is None
    [word] = verbs.patches_of(base(), [concept])
    assert isinstance(word, LearnedWord) and not (word.timed or word.layered or word.split)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    settings = replace(QUICK, steps=4)
    whole = learner(settings)
    optimise(base(), [whole], seeds=[0])
    optimise(base(), [learner(settings)], seeds=[0], steps=2, checkpoint=tmp_path)
    resumed = learner(settings)
    optimise(base(), [resumed], seeds=[0], checkpoint=tmp_path, resume=True)
    assert torch.equal(resumed.tensors()["rows"], whole.tensors()["rows"]) and resumed.done == whole.done == 4
    assert resumed.figures() == whole.figures() and "longest row" in whole.figures()
