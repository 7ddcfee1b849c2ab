"""The verbs on a miniature base: settings, sampling, and lending words to a diffusers pipeline."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import semblant as sb
from semblant.backbones.base import Base
from semblant.backbones.blueprint import new_scheduler
from semblant.backbones.loading import miniature
from semblant.data.pictures import to_tensor
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.training.concepts import Concept
from semblant.verbs import method


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature()


@pytest.fixture(scope="module")
def subject() -> Subject:
    pixels = (np.random.default_rng(0).random((32, 32, 3)) * 255).astype("uint8")
    picture = Image.fromarray(pixels)
    return Subject((picture,), "<maya>", "person", (None,), (None,), (None,), ("0" * 64,))


@pytest.fixture(scope="module")
def concept(base: Base, subject: Subject) -> Concept:
    return sb.fit("sefi-ide", base, subject, steps=3, expansion="direct", views=4, calibration_draws=2, lr=0.1)


def distance(one: Image.Image, other: Image.Image) -> float:
    return float((to_tensor(one, 16) - to_tensor(other, 16)).abs().max())


def test_settings_are_read_in_the_type_of_their_default() -> None:
    made = method("sefi-ide", steps="7", lr="1e-3", split="false", scale="0.5,1")
    assert (made.steps, made.lr, made.split, made.scale) == (7, 1e-3, False, (0.5, 1.0))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stepz": 3}, "steps"),
        ({"steps": "many"}, "whole number"),
        ({"steps": "1.5"}, "whole number"),
        ({"lr": "fast"}, "a number"),
        ({"split": "perhaps"}, "true or false"),
        ({"expansion": "modul"}, "module, direct"),
    ],
)
def test_wrong_settings_are_refused_with_what_would_be_right(settings: dict[str, object], says: str) -> None:
    with pytest.raises(SemblantError, match=says):
        method("sefi-ide", **settings)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("textual-inversion", {"batch": 0}, "batch=0"),
        ("textual-inversion", {"batch": -1}, "batch=-1"),
        ("textual-inversion", {"views": 0}, "views are 1 or more"),
        ("textual-inversion", {"num_vectors": 0}, "num_vectors=0"),
        ("textual-inversion", {"steps": 0}, "steps=0"),
        ("textual-inversion", {"steps": math.inf}, "whole number"),
        ("textual-inversion", {"lr": -1}, "lr is"),
        ("textual-inversion", {"weight_decay": math.nan}, "weight_decay is"),
        ("lora-dreambooth", {"clip": -1}, "clip is"),
        ("lora-dreambooth", {"prior_weight": -1}, "weight of class pictures"),
        ("custom-diffusion", {"clip": 0}, "clip is"),
        ("custom-diffusion", {"small": (0.0, 2.0)}, "small is two numbers"),
        ("custom-diffusion", {"large": "1.2"}, "large is two numbers"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    base: Base, subject: Subject, name: str, settings: dict[str, object], says: str
) -> None:
    few = {"steps": 1, "prior_count": 0} if name in ("lora-dreambooth", "custom-diffusion") else {"steps": 1}
    with pytest.raises(SemblantError, match=says):
        sb.fit(name, base, subject, **{**few, **settings})


def test_settings_beside_a_method_are_read_as_those_beside_its_name(base: Base, subject: Subject) -> None:
    chosen = method("textual-inversion", views=1, steps=3)
    assert sb.fit(chosen, base, subject, steps="1", batch="1").settings == {**vars(chosen), "steps": 1, "batch": 1}
    with pytest.raises(SemblantError, match="no setting 'stepz'; did you mean steps"):
        sb.fit(chosen, base, subject, stepz=1)


def test_a_type_that_nothing_computes_in_is_refused_before_anything_is_learned(
    base: Base, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = method("textual-inversion")
    monkeypatch.setattr(type(chosen), "learner", lambda *_: pytest.fail("a learner was made"))
    with pytest.raises(SemblantError, match=r"torch.float64 .* possible: torch.float32, torch.bfloat16"):
        sb.fit(chosen, base, subject, compute=torch.float64)


def test_unknown_method_names_the_closest() -> None:
    with pytest.raises(SemblantError, match="textual-inversion"):
        method("textual-inversoin")


def test_a_picture_does_not_depend_on_what_is_made_with_it(base: Base) -> None:
    three = sb.sample(base, "a photo of person", n=3, seed=5, steps=3)
    alone = sb.sample(base, "a photo of person", n=1, seed=7, steps=3)
    assert distance(three[2], alone[0]) < 1 / 128


def test_a_learned_word_changes_its_prompt_and_no_other(base: Base, concept: Concept) -> None:
    with_word = sb.sample(base, "a photo of <maya>", concepts=[concept], steps=3)[0]
    plain = sb.sample(base, "a photo of person", steps=3)[0]
    assert distance(with_word, plain) > 0.01
    with pytest.raises(SemblantError, match="not in the prompt"):
        sb.sample(base, "a photo of person", concepts=[concept], steps=3)


@pytest.mark.parametrize(
    ("words", "prompt", "missing"),
    [
        (["sks"], "desks on the beach", "sks"),
        (["sks"], "skss", "sks"),
        (["sks", "sks-cat"], "a photo of sks-cat", "sks"),
        (["<maya>", "sks"], "<maya> at two desks", "sks"),
    ],
)
def test_a_word_inside_another_is_not_in_the_prompt(
    base: Base, concept: Concept, words: list[str], prompt: str, missing: str
) -> None:
    renamed = [replace(concept, word=word) for word in words]
    with pytest.raises(SemblantError, match=rf"the concept {missing} \(person\) is not in the prompt"):
        sb.sample(base, prompt, concepts=renamed, steps=1)
    assert len(sb.sample(base, f"{prompt}, ({missing}:1.1)", concepts=renamed, steps=1)) == 1


def test_one_number_is_the_side_of_a_square(base: Base) -> None:
    [square] = sb.sample(base, "a person", size=32, steps=1)
    [oblong] = sb.sample(base, "a person", size=(16, 32), steps=1)
    assert square.size == (32, 32) and oblong.size == (32, 16)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": 0}, "steps must be"),
        ({"steps": 2000}, "steps must be"),
        ({"n": 0}, "n is how many"),
        ({"size": (17, 16)}, "multiples of"),
        ({"size": 17}, "multiples of .* 17x17"),
        ({"size": 0}, "multiples of .* 0x0"),
        ({"solver": "dmp++"}, r"dpm\+\+"),
    ],
)
def test_what_cannot_be_sampled_is_said(base: Base, given: dict[str, object], says: str) -> None:
    with pytest.raises(SemblantError, match=says):
        sb.sample(base, "a photo", **given)  # type: ignore[arg-type]


def test_no_prompt_is_said_to_be_none(base: Base) -> None:
    with pytest.raises(sb.SemblantError, match="there is no prompt"):
        sb.sample(base, [])


def test_two_concepts_with_one_word_are_refused(base: Base, concept: Concept) -> None:
    with pytest.raises(SemblantError, match="--as"):
        sb.sample(base, "a photo of <maya>", concepts=[concept, concept], steps=2)


def pipeline_of(base: Base) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline(
        base.autoencoder,
        base.text_encoder,
        base.tokenizer,
        base.unet,
        new_scheduler(),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_concept_lent_to_a_pipeline_gives_our_own_picture_and_comes_off(base: Base, concept: Concept) -> None:
    pipeline = pipeline_of(base)
    wrapped = Base.wrap(pipeline)
    lent = Concept(**{**vars(concept), "base": wrapped.describe()})
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def picture(prompt: str) -> torch.Tensor:
        made = pipeline(
            prompt,
            num_inference_steps=5,
            guidance_scale=5.0,
            latents=start.clone(),
            height=16,
            width=16,
            output_type="latent",
        )
        return made.images

    before = picture("a photo of person")
    take_off = lent.apply_to(pipeline)  # type: ignore[attr-defined]
    through = picture("a photo of <maya>")
    take_off()
    assert torch.equal(picture("a photo of person"), before)
    from semblant.sampling.loop import Branches, sample_latents
    from semblant.verbs import patches_of

    view = wrapped.patched(*patches_of(wrapped, [lent]))
    ours = sample_latents(
        view, start, Branches.of(view.text("a photo of <maya>"), view.text("")), steps=5, guidance=5.0
    )
    assert torch.allclose(ours, through, atol=1e-4)
    assert float((through - before).abs().max()) > 1e-2
