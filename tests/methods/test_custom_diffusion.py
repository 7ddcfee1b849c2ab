"""Custom Diffusion against answers that can be worked out by hand."""

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
from semblant.backbones.moment import Moment
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.methods.finetune.custom_diffusion import FAR, NEAR, CustomDiffusion, DetachedStart, merged
from semblant.patches.weights import Offsets
from semblant.patches.words import LearnedWord
from semblant.training.concepts import Concept
from semblant.training.finetuning import FinetuningLearner
from semblant.training.optimise import optimise
from semblant.training.step import forward, gradients

QUICK = CustomDiffusion(
    steps=2, lr=0.03, batch=2, views=8, identifier="cup", prior_count=2, prior_steps=1, weight_decay=0
)
CAPTIONS = ("a photo of the old dog", "the smiling face of person", "cup on the beach", "dog on the old cup")


@cache
def base() -> Base:
    return miniature(channels=(16,))


def subject(word: str = "<maya>", class_word: str = "person", **more: object) -> Subject:
    pixels = np.random.default_rng(len(word)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Subject((Image.fromarray(pixels),), word, class_word, **more)  # type: ignore[arg-type]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner(settings: CustomDiffusion = QUICK, **given: object) -> FinetuningLearner:
    return settings.learner(base(), subject(**given), seeded())  # type: ignore[arg-type]


@cache
def concept(word: str = "<maya>", class_word: str = "person") -> Concept:
    return verbs.fit(QUICK, base(), subject(word, class_word), seed=len(word))


def weight(name: str) -> torch.Tensor:
    return dict(base().named_parameters())[name]


def test_only_keys_values_and_the_words_row_get_a_gradient():
    made = learner()
    names = {f"unet.{site.name}.{part}.weight" for site in base().cross_sites() for part in ("to_k", "to_v")}
    assert set(made.parameters) == {"modifier", *names}
    [found] = gradients(base(), [made], [seeded(1)])[1]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in found)
    assert not any(parameter.requires_grad for _, parameter in base().named_parameters())
    fewer = learner(replace(QUICK, targets=("to_v",), train_word=False))
    assert set(fewer.parameters) == set(fewer.tensors()) == {name for name in names if "to_v" in name}


def test_step_0_is_the_base_that_reads_the_word_as_the_rare_word_and_the_class_word():
    view, x = base().patched(*learner().patches()), torch.randn(1, 4, 8, 8, generator=seeded(9))
    moment = Moment.of(torch.tensor([500]))
    with torch.no_grad():
        ours = view.denoise(x, moment, view.text("a photo of <maya> on the beach"))
        stock = base().denoise(x, moment, base().text("a photo of cup person on the beach"))
    assert torch.equal(ours, stock)


def test_the_row_of_the_new_word_moves_and_that_of_the_class_word_does_not():
    rows = concept().tensors["rows"][0, 0, 0]
    assert rows.shape == (2, base().width)
    assert torch.equal(rows[1], base().token_row("person"))
    # Adam's first steps are about as long as the learning rate, in every direction.
    moved = (rows[0] - base().token_row("cup")).abs()
    assert 0.01 < moved.max() < 2.1 * QUICK.lr
    table = base().text_encoder.get_input_embeddings().weight
    assert torch.equal(table, miniature(channels=(16,)).text_encoder.get_input_embeddings().weight)
    frozen = verbs.fit(replace(QUICK, train_word=False), base(), subject())
    [word] = [patch for patch in verbs.patches_of(base(), [frozen]) if isinstance(patch, LearnedWord)]
    assert "rows" not in frozen.tensors and torch.equal(word.table[0, 0, 0, 0], base().token_row("cup"))


def test_the_start_token_teaches_keys_and_values_nothing():
    site = base().cross_sites()[0]
    k, v = (torch.randn(1, 4, 5, 4, generator=seeded(s)).requires_grad_() for s in (1, 2))
    q = torch.randn(1, 4, 3, 4, generator=seeded(3))
    kept = DetachedStart().rewrite(site, Moment.of(torch.tensor([0])), q, k, v)
    assert all(torch.equal(new, old) for new, old in zip(kept, (q, k, v), strict=True))
    for found in torch.autograd.grad(kept[1].sum() + kept[2].sum(), (k, v)):
        assert not found[:, :, 0].any() and (found[:, :, 1:] == 1).all()
    alone = next(site for site in base().sites if site.kind == "self")
    assert DetachedStart().rewrite(alone, Moment.of(torch.tensor([0])), q, k, v)[1] is k
    found = [gradients(base(), [learner(replace(QUICK, detach_start=on))], [seeded(1)]) for on in (True, False)]
    assert found[0][0] == found[1][0]
    assert any(not torch.allclose(one, other) for one, other in zip(found[0][1][0], found[1][1][0], strict=True))


def test_a_shrunk_picture_lies_on_grey_its_mask_on_it_and_its_prompt_tells_of_it():
    method = replace(QUICK, shrink=1.0, small=(0.5, 0.5))
    image, mask, words = method.augment(torch.full((3, 16, 16), 0.75), torch.ones(1, 16, 16), seeded())
    assert words in FAR
    assert int(mask.sum()) == 8 * 8 and torch.equal(image, 0.75 * mask.expand(3, -1, -1))
    image, mask, words = replace(method, small=(0.75, 0.75)).augment(image, torch.ones(1, 16, 16), seeded())
    assert words == "" and int(mask.sum()) == 12 * 12


def test_an_enlarged_picture_fills_the_frame_and_its_prompt_tells_of_it():
    # 20 pixels of which 16 are shown: the ramp climbs 16 / 20 as fast.
    ramp, method = torch.linspace(-1, 1, 16).expand(3, 16, 16), replace(QUICK, shrink=0.0, large=(1.25, 1.25), flip=0.0)
    image, mask, words = method.augment(ramp, torch.ones(1, 16, 16), seeded())
    assert words in NEAR and mask.min() == 1
    assert float(image[0, 0].diff()[3:12].mean() / ramp[0, 0].diff()[0]) == pytest.approx(16 / 20, abs=0.02)
    told = {replace(QUICK, shrink=0.0).augment(ramp, torch.ones(1, 16, 16), seeded(s))[2] for s in range(8)}
    assert told == set(NEAR)


def test_without_resizing_no_picture_changes_its_size_and_no_prompt_tells_of_it():
    method = replace(QUICK, resize=False, flip=0.0)
    image = torch.rand(3, 16, 16, generator=seeded())
    same, mask, words = method.augment(image, torch.ones(1, 16, 16), seeded())
    assert torch.equal(same, image) and mask.min() == 1 and words == ""
    made = learner(replace(method, batch=6))
    made.begin(seeded())
    assert {example.prompt for example in made.draw(seeded())} == {"photo of a <maya>", "photo of a person"}


def test_prompts_follow_what_was_done_to_their_own_picture():
    made = learner(replace(QUICK, views=128, batch=60))
    made.begin(seeded())
    own = [example for example in made.draw(seeded()) if example.patched]
    seen = set()
    for example in own:
        words, place = example.prompt.removesuffix("photo of a <maya>"), float(example.mask.mean())
        seen.add(words)
        assert (words in FAR) == (place < 0.6**2) and (words in NEAR) <= (place == 1)
    assert seen == {*FAR, *NEAR, ""}


def test_the_error_counts_where_the_picture_lies_only():
    made = learner(replace(QUICK, shrink=1.0, small=(0.5, 0.5)))
    with torch.no_grad():
        [(moment, prediction, batch)] = forward(base(), [made], [seeded(3)])
    given = prediction.detach().requires_grad_()
    [found] = torch.autograd.grad(made.loss(moment, given, batch).sum(), given)
    outside = (batch.mask == 0).expand_as(found)
    assert outside[:2].any() and not found[outside].any()
    assert not outside[2:].any() and found[2:].abs().min() > 0
    by_hand = (prediction[0] - batch.noise[0]).square() * batch.mask[0]
    area = batch.mask[0].sum() * 4
    assert float(made.loss(moment, prediction, batch)[0].detach()) == pytest.approx(
        float(by_hand.sum() / area), rel=1e-5
    )


def test_the_subjects_own_mask_counts_when_asked_to():
    half = Image.new("L", (16, 16), 0)
    half.paste(255, (0, 0, 8, 16))
    settings = replace(QUICK, resize=False, flip=0.0)
    assert all(
        learner(replace(settings, mask_loss=on), masks=(half,)).bank.masks.mean() == m for on, m in ((0, 1), (1, 0.5))
    )
    found = learner(replace(settings, mask_loss=True)).bank.masks.mean()
    assert 0 < found < 1


@pytest.mark.parametrize("prior_weight", [1.0, 0.5])
def test_class_pictures_weigh_as_much_as_they_should(prior_weight):
    made = learner(replace(QUICK, prior_weight=prior_weight))
    with torch.no_grad():
        [(moment, prediction, batch)] = forward(base(), [made], [seeded(2)])
    rows = made.loss(moment, prediction, batch)
    [loss], _ = gradients(base(), [made], [seeded(2)])
    assert loss == pytest.approx(float(rows[:2].mean() + prior_weight * rows[2:].mean()) / 2, rel=1e-5)
    assert [row.text for row in batch.context.rows[2:]] == ["photo of a person"] * 2


def test_with_prior_weight_0_there_are_no_class_pictures():
    made = learner(replace(QUICK, prior_weight=0))
    made.begin(seeded())
    assert made.prior is None and all(example.patched for example in made.draw(seeded()))


def test_two_subjects_of_one_run_learn_what_they_learn_alone():
    alone = learner(word="<ben>")
    optimise(base(), [alone], seeds=[3])
    together = [learner(word=word) for word in ("<maya>", "<ben>")]
    assert not any(one.shares_batch for one in together)
    optimise(base(), together, seeds=[2, 3])
    assert all(torch.equal(together[1].tensors()[name], tensor) for name, tensor in alone.tensors().items())


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    settings = replace(QUICK, steps=4, prior_count=1, views=2)
    whole, half, resumed = (learner(settings) for _ in range(3))
    optimise(base(), [whole], seeds=[0])
    optimise(base(), [half], seeds=[0], steps=2, checkpoint=tmp_path)
    optimise(base(), [resumed], seeds=[0], checkpoint=tmp_path, resume=True)
    assert all(torch.equal(resumed.tensors()[name], tensor) for name, tensor in whole.tensors().items())


def test_strength_0_is_the_base_with_the_rare_word():
    both = (("a <maya>", [replace(concept(), strength=0.0)]), ("a <maya>", [concept()]), ("a cup person", []))
    images = [verbs.sample(base(), text, concepts=used, steps=2)[0].tobytes() for text, used in both]
    assert images[0] == images[2] != images[1]


def read(view: Base, prompt: str, word: str) -> torch.Tensor:
    """The keys of the last site at a word and after it, up to the prompt's end."""
    context = view.text(prompt)
    row = context.rows[0]
    with torch.no_grad():
        return view.encodings(context)[0, row.positions[word][0] : row.end + 1]


def test_merged_concepts_read_their_own_words_as_alone_and_move_others_less_than_averages():
    pair = [concept("<maya>", "person"), concept("<rex>", "dog")]
    patches = merged(base(), pair, CAPTIONS)
    [offsets] = [patch for patch in patches if isinstance(patch, Offsets)]
    name = f"unet.{base().cross_sites()[-1].name}.to_k.weight"
    average = Offsets({name: sum(one.tensors[name] for one in pair) / 2})
    view, wrong, kept = base().patched(*patches), [], {}
    for one in pair:
        inputs = read(view, f"photo of a {one.word}", one.word)
        own = inputs @ (weight(name) + one.tensors[name]).T
        assert float((inputs @ offsets.delta(name, weight(name)).T - own).abs().max()) < 1e-4
        wrong.append(float((inputs @ average.delta(name, weight(name)).T - own).abs().max()))
    assert min(wrong) > 1e-2, "the average of the changes must fail where the merge passes"
    with torch.no_grad():
        plain = base().encodings(base().text(list(CAPTIONS)))[:, 1:7].flatten(0, 1)
    for which, patch in (("merged", offsets), ("average", average)):
        kept[which] = float((plain @ (patch.delta(name, weight(name)) - weight(name)).T).norm())
    assert kept["merged"] < kept["average"]
    backwards = merged(base(), pair[::-1], CAPTIONS)[-1]
    assert torch.allclose(backwards.offsets[name], offsets.offsets[name], atol=1e-5)
    together = verbs.sample(base(), "<maya> on <rex>", patches=patches, steps=2)
    assert together[0].tobytes() != verbs.sample(base(), "<maya> on <rex>", concepts=pair, steps=2)[0].tobytes()


def test_concepts_that_changed_unlike_weights_are_not_merged():
    other = verbs.fit(replace(QUICK, targets=("to_v",)), base(), subject("<rex>"))
    with pytest.raises(SemblantError, match="changes of the same weights"):
        merged(base(), [concept(), other], CAPTIONS)


def test_what_reads_no_text_is_not_merged_also_where_it_is_as_wide():
    wide = miniature(channels=(32,))
    queries = Concept("custom-diffusion", {"identifier": "cup"}, "<maya>", "person", wide.describe(), {})
    name = f"unet.{wide.cross_sites()[0].name}.to_q.weight"
    queries.tensors[name] = torch.zeros_like(dict(wide.named_parameters())[name])
    with pytest.raises(SemblantError, match=r"only what reads the text .*to_q.weight does not"):
        merged(wide, [queries], CAPTIONS)
    for pair, captions in (([concept()], ()), ((), CAPTIONS)):
        with pytest.raises(SemblantError, match="needs concepts, and captions"):
            merged(base(), pair, captions)
