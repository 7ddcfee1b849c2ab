"""Every method that claims Stable Diffusion XL, on a tiny base of that form: it learns, comes off, and comes back."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.context import Framing
from semblant.backbones.loading import miniature, miniature_xl
from semblant.errors import SemblantError
from semblant.methods.index import methods
from semblant.patches.weights import text_attention_weights
from semblant.sampling.loop import Branches, noise, sample_latents
from semblant.training import concepts
from semblant.training.concepts import Concept
from semblant.training.step import draw, gradients


def _rows() -> dict:
    spec = importlib.util.spec_from_file_location("rows", Path(__file__).with_name("rows.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {row.name: row for row in module.ROWS}


ROWS = _rows()
CLAIMED = [name for name, kind in methods().items() if "sdxl" in kind.card.bases]
each = pytest.mark.parametrize("name", CLAIMED)


@cache
def base() -> Base:
    return miniature_xl()


def method(name: str):
    """The row's settings; where text can be learned, it is."""
    made = ROWS[name].method
    return dataclasses.replace(made, train_text=True) if hasattr(made, "train_text") else made


@cache
def fitted(name: str) -> Concept:
    return verbs.fit(method(name), base(), ROWS[name].subject(), seed=0)


def picture(prompt: str, concept: Concept | None = None) -> Tensor:
    view = base().patched(*verbs.patches_of(base(), [] if concept is None else [concept]))
    with torch.no_grad():
        branches = Branches.of(view.text(prompt), view.text(""))
        return view.decode(sample_latents(view, noise(view, [5], (16, 16)), branches, steps=2, guidance=3.0))


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def test_all_methods_claim_it():
    assert sorted(CLAIMED) == ["custom-diffusion", "lora-dreambooth", "sefi-ide", "textual-inversion"]


@each
def test_it_learns_and_all_that_it_declares_changes(name):
    before, concept = base().hashes(), fitted(name)
    assert all(math.isfinite(loss) for loss in concept.losses.values())
    assert base().hashes() == before and not base().patches
    start = method(name).learner(base(), ROWS[name].subject(), torch.Generator().manual_seed(0)).tensors()
    assert start.keys() == concept.tensors.keys()
    assert all(not torch.equal(tensor, start[key]) for key, tensor in concept.tensors.items())
    assert concept.base["architecture"] == "sdxl" and concept.base["widths"] == [16, 32]


@each
def test_it_has_an_effect_is_neutral_at_strength_zero_and_leaves_no_trace(name):
    row, concept = ROWS[name], fitted(name)
    plain = picture(row.neutral(row.prompt))
    assert distance(picture(row.prompt, concept), plain) > 1e-3
    assert distance(picture(row.prompt, dataclasses.replace(concept, strength=0.0)), plain) < 1e-5
    assert torch.equal(picture(row.neutral(row.prompt)), plain)


@each
def test_saved_and_loaded_it_makes_the_same_picture(name, tmp_path):
    concepts.save(fitted(name), tmp_path / "maya.safetensors")
    loaded = concepts.load(tmp_path / "maya.safetensors", base())
    assert torch.equal(picture(ROWS[name].prompt, loaded), picture(ROWS[name].prompt, fitted(name)))
    with pytest.raises(SemblantError, match=r"made for sdxl \(width 48\) and cannot be used on miniature"):
        concepts.load(tmp_path / "maya.safetensors", miniature(width=48))


def test_textual_inversion_learns_a_row_in_each_text_encoder(tmp_path):
    concept = fitted("textual-inversion")
    start = base().token_row("person")
    moved = (concept.tensors["rows"][0, 0, 0, 0] - start).abs()
    assert moved[:16].max() > 1e-3 and moved[16:].max() > 1e-3
    file = concepts.save_embedding(concept, tmp_path / "maya.safetensors")
    from safetensors.torch import load_file

    written = load_file(file)
    assert {key: tuple(rows.shape) for key, rows in written.items()} == {"clip_l": (1, 16), "clip_g": (1, 32)}
    together = torch.cat([written["clip_l"], written["clip_g"]], -1)
    assert torch.equal(together, concept.tensors["rows"][0, 0, 0])
    assert concepts.widths_of({"architecture": "sdxl", "width": 2048}) == (768, 1280)


def test_a_concept_lent_to_a_pipeline_gives_our_own_picture_and_comes_off(layouts):
    pipe, concept = layouts.xl_pipeline(miniature_xl()), fitted("sefi-ide")
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def theirs(prompt: str) -> Tensor:
        given = {"num_inference_steps": 4, "guidance_scale": 5.0, "height": 16, "width": 16, "output_type": "latent"}
        return pipe(prompt, latents=start.clone(), **given).images

    before = theirs("a photo of person")
    take_off = concept.apply_to(pipe)
    through = theirs("a photo of <maya>")
    take_off()
    assert torch.equal(theirs("a photo of person"), before)
    view = base().patched(*verbs.patches_of(base(), [concept]))
    halves = Branches.of(view.text("a photo of <maya>"), view.text(""))
    assert (sample_latents(view, start, halves, steps=4, guidance=5.0) - through).abs().max() < 1e-4
    assert (through - before).abs().max() > 1e-3
    with pytest.raises(SemblantError, match="LowRank cannot act inside a pipeline"):
        fitted("lora-dreambooth").apply_to(pipe)


def test_a_lora_changes_both_text_encoders_but_no_layer_that_nobody_reads():
    names = set(text_attention_weights(base()))
    assert {name.partition(".")[0] for name in names} == {"text", "text_2"}
    assert not [name for name in names if name.startswith("text.encoder.layers.1.")]
    assert [name for name in names if name.startswith("text_2.text_model.encoder.layers.1.")]
    assert len(names) == 4 + 8


def test_pictures_are_learned_with_how_they_came_to_their_size():
    learner = method("textual-inversion").learner(base(), wide(), torch.Generator().manual_seed(0))
    drawn = draw(base(), [learner], [torch.Generator().manual_seed(1)])
    [framing] = set(drawn.batches[0].context.framings)
    # 48 x 24 pixels become 32 x 16, of which the middle is cut out.
    assert framing == Framing((24, 48), (0, 8), (16, 16))
    [loss], [[gradient]] = gradients(base(), [learner], [torch.Generator().manual_seed(1)])
    learner.framings = [None]
    [other], _ = gradients(base(), [learner], [torch.Generator().manual_seed(1)])
    assert loss != other and gradient.abs().max() > 0
    plain = method("textual-inversion").learner(miniature(), wide(), torch.Generator().manual_seed(0))
    assert draw(miniature(), [plain], [torch.Generator().manual_seed(1)]).batches[0].context.framings == ()


def wide():
    subject = ROWS["textual-inversion"].subject()
    image, mask = (picture.resize((48, 24)) for picture in (subject.images[0], subject.masks[0]))
    return dataclasses.replace(subject, images=(image,), masks=(mask,))


def test_two_subjects_learn_in_one_batch_what_they_learn_alone():
    learners = [
        method("textual-inversion").learner(base(), subject, torch.Generator().manual_seed(0))
        for subject in (dataclasses.replace(ROWS["textual-inversion"].subject(), word="<ben>"), wide())
    ]
    seeds = lambda: [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    [_, together], [_, [gradient]] = gradients(base(), learners, seeds())
    [alone], [[own]] = gradients(base(), learners[1:], seeds()[1:])
    assert together == pytest.approx(alone, rel=1e-5) and torch.allclose(gradient, own, rtol=1e-3, atol=1e-6)
