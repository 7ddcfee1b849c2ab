"""Stage words for keys and values, two subjects in one batch (as in SeFi-IDE, Li et al. 2024, arXiv 2402.00631)."""

import pytest
import torch
from torch import nn

from semblant.backbones.patch import AttentionPatch
from semblant.ops.attention import attention_map
from semblant.ops.schedule import stage_of_timestep
from semblant.patches.words import LearnedWord, class_word_table
from semblant.training.learner import Example, Learner, Optimiser, denoising_error
from semblant.training.optimise import optimise


class FaceWise(AttentionPatch):
    """Compares where the pixels look, with the learned word and with the class word in its place (Eq. 1)."""

    def __init__(self, reference):
        self.reference = reference

    def rewrite(self, site, moment, q, k, v):
        if site.kind == "cross":
            wanted = attention_map(q, site.keys(self.reference.expand(len(q), -1, -1)))
            moment.record("face-wise error", site, (attention_map(q, k) - wanted).square().flatten(1).mean(1))
        return q, k, v


class StageWords(Learner):
    """Five stages of a key row and a value row."""

    def __init__(self, base, latent, word, weight=30.0):
        table = nn.Parameter(class_word_table(base, "person", (5, 1, 2, 1)))
        super().__init__({"table": table}, Optimiser(lr=5e-3), steps=4)
        self.latent, self.word, self.weight = latent, word, weight
        self.class_row = base.token_row("person")
        self.reference = base.encodings(base.text("a photo of person"))

    def draw(self, generator):
        return [Example(self.latent, f"a photo of {self.word}")] * 3

    def patches(self):
        table = self.parameters["table"].clone()
        if table.requires_grad:
            table.register_hook(lambda gradient: setattr(self, "gradient", gradient))
        return [LearnedWord(self.word, table, self.class_row, stage_of_timestep(5)), FaceWise(self.reference)]

    def loss(self, moment, prediction, batch):
        errors = torch.stack(moment.recorded("face-wise error"))
        assert errors.shape == (7, len(prediction))
        return denoising_error(prediction, batch) + self.weight * errors.mean(0)

    def tensors(self):
        return {"table": self.parameters["table"].detach()}


def learners(base, latents, words, weight=30.0, spread=0.3):
    """Learners of different rows: equal ones would hide a mix-up."""
    made = [StageWords(base, 0.5 * latents(1, i)[0], word, weight) for i, word in enumerate(words)]
    for index, learner in enumerate(made):
        table = learner.parameters["table"].data
        table += spread * torch.randn(table.shape, generator=torch.Generator().manual_seed(index))
    return made


def first_step(base, some, seeds):
    """Losses and gradients of one step."""
    histories = optimise(base, some, seeds=seeds, steps=1)
    return [history.losses[0] for history in histories], [learner.gradient for learner in some]


@pytest.mark.parametrize("words", [("<a>", "<b>"), ("<subject>", "<subject>")], ids=["two words", "one word"])
def test_two_subjects_in_one_batch_learn_as_alone(base, latents, words):
    losses, together = first_step(base, learners(base, latents, words), [0, 1])
    for i in (0, 1):
        (loss,), (own,) = first_step(base, [learners(base, latents, words)[i]], [i])
        assert loss == pytest.approx(losses[i], rel=1e-5)
        assert own.abs().max() > 1e-4
        assert (own - together[i]).abs().max() <= 1e-5 * own.abs().max()


def test_the_face_wise_error_reaches_the_keys(base, latents):
    with_error, without = (first_step(base, learners(base, latents, ["<a>"], w), [0])[1][0] for w in (30.0, 0.0))
    keys, values = (with_error - without).abs().amax((0, 1, 3, 4))
    assert keys > 1e-4 * with_error.abs().max()
    assert values < keys, "values shape where pixels look only through later layers"


def test_the_error_is_zero_where_the_word_is_the_class_word(base, latents):
    losses = [first_step(base, learners(base, latents, ["<a>"], w, spread=0.0), [0])[0] for w in (30.0, 0.0)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_training_both_moves_both(base, latents):
    both = learners(base, latents, ("<a>", "<b>"))
    before = [learner.tensors()["table"].clone() for learner in both]
    optimise(base, both, seeds=[0, 1])
    for learner, old in zip(both, before, strict=True):
        moved = (learner.tensors()["table"] - old).abs().amax((1, 3, 4)) > 0
        assert moved.any(0).all(), "key and value rows of some stage"
