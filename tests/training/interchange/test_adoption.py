"""Becoming a concept of ours, and what stays one: words, kinds of base, and what other forms have no place for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semblant.backbones.base import Base
from semblant.errors import FileProblem, SemblantError
from semblant.training import concepts
from semblant.training.concepts import Concept
from semblant.training.interchange import peft_folder
from semblant.training.interchange.adoption import concept_of
from semblant.training.interchange.layers import Layer
from semblant.training.interchange.learned import Learned, from_concept
from semblant.training.interchange.reading import read, require

Make = Callable[..., Concept]
K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def embedding(width: int = 768, word: str | None = None, file: str = "maya.pt") -> Learned:
    return Learned("pickle", file, rows=torch.ones(1, width), about={} if word is None else {"word": word})


@pytest.mark.parametrize(
    ("found", "given", "expected"),
    [
        (embedding(word="<cat-toy>"), None, "<cat-toy>"),
        (embedding(word="cat-toy"), None, "cat-toy"),
        (embedding(word="my cat!"), None, "<my-cat>"),
        (embedding(word="*"), "<rex>", "<rex>"),
        (embedding(), None, "<maya>"),
        (embedding(file="some/maya.kohya.safetensors"), None, "<maya>"),
        (embedding(file="rex/learned_embeds.bin"), None, "<rex>"),
        (embedding(file="???.pt"), None, "<subject>"),
    ],
)
def test_a_word_is_the_files_own_or_made_of_its_name(found: Learned, given: str | None, expected: str) -> None:
    concept, said = concept_of(found, given)
    assert concept.word == expected
    own = given is not None or expected == found.about.get("word")
    assert any("--word" in text for text in said) != own
    assert concept.class_word == "person" and any("--class-word" in text for text in said)


def test_the_kind_of_base_is_told_from_widths_or_from_the_base(base: Base) -> None:
    kinds = {width: concept_of(embedding(width))[0].base["architecture"] for width in (192, 768, 1024)}
    assert kinds == {192: "embedded", 768: "sd-1", 1024: "sd-2"}
    with pytest.raises(SemblantError, match="width 32; give --base"):
        concept_of(embedding(32))
    concept, _ = concept_of(embedding(32), base=base)
    assert concept.base == {"name": "miniature", "architecture": "miniature", "width": 32}
    with pytest.raises(SemblantError, match="for bases of width 768, and miniature"):
        concept_of(embedding(768), base=base)
    queries = Learned(
        "kohya", "x", layers={f"unet.{K}".replace("to_k", "to_q"): Layer(torch.ones(6, 4), torch.ones(4, 768), 4.0)}
    )
    with pytest.raises(SemblantError, match="no layer that reads text"):
        concept_of(queries)
    with pytest.raises(FileProblem, match="made for width 64, and its width is 32"):
        concept_of(replace(embedding(32), about={"base": {"architecture": "x", "width": 64}}))


def test_layers_are_checked_against_the_base(lora: Make, base: Base) -> None:
    good = from_concept(lora("everything"), "x.safetensors")
    concept, _ = concept_of(replace(good, about={}), base=base)
    assert concept.tensors.keys() == lora("everything").tensors.keys()
    odd = replace(
        good, about={}, layers={"unet.up_blocks.7.resnets.0.conv1": Layer(torch.ones(6, 4), torch.ones(4, 768), 1.0)}
    )
    with pytest.raises(SemblantError, match=r"unet\.up_blocks\.7\.resnets\.0\.conv1, which miniature does not have"):
        concept_of(odd, base=base)
    place = "unet.conv_in"
    wrong = replace(good, about={}, layers={place: Layer(torch.ones(6, 4), torch.ones(4, 768), 1.0)})
    with pytest.raises(SemblantError, match=r"conv_in as one of \[6, 768\], and in miniature it is \[16, 4, 3, 3\]"):
        concept_of(wrong, base=base)


def test_a_bare_word_is_the_rare_word_of_its_lora(lora: Make, base: Base) -> None:
    found = replace(from_concept(lora("attention"), "x"), about={})
    assert "identifier" not in concept_of(found, "<maya>", base=base)[0].settings
    assert concept_of(found, "ohwx", "dog", base)[0].settings["identifier"] == "ohwx"
    with pytest.raises(SemblantError, match="word and class word are both 'dog'"):
        concept_of(found, "dog", "dog", base)
    with pytest.raises(SemblantError, match="cannot be the subject's word"):
        concept_of(found, "two words", base=base)
    with pytest.raises(SemblantError, match="cannot be the class word"):
        concept_of(found, "<maya>", "a dog", base)


def test_concepts_that_other_programs_have_no_place_for_stay_concepts(word: Make) -> None:
    plain = word(1)
    staged = replace(plain, method="sefi-ide", tensors={"rows": torch.zeros(5, 1, 2, 1, 32)}, stages=[0] * 1000)
    with pytest.raises(
        SemblantError, match="other rows for 5 stages and for keys and values, while an embedding file holds one"
    ):
        from_concept(staged, "x.safetensors")
    both = replace(plain, method="custom-diffusion", tensors={**plain.tensors, "unet.a.weight": torch.zeros(2, 2)})
    with pytest.raises(SemblantError, match="changes more than a word or low-rank layers, so it stays a concept"):
        from_concept(both, "x.safetensors")


def test_a_concept_that_is_no_whole_lora_is_damaged(lora: Make) -> None:
    concept = lora("alpha is the rank")
    name = next(name for name in concept.tensors if name.endswith(".up"))
    for changed, says in (
        (replace(concept, tensors={k: v for k, v in concept.tensors.items() if k != name}), "lacks its matrix up"),
        (replace(concept, tensors={**concept.tensors, "rows": torch.ones(1)}), "its tensor rows belongs to no layer"),
        (replace(concept, settings={"rank": 0, "alpha": 1}), "rank 0"),
    ):
        with pytest.raises(FileProblem, match=says):
            from_concept(changed, "x.safetensors")


def test_files_of_other_kinds_are_named(word: Make, tmp_path: Path) -> None:
    save_file({"image_proj.x": torch.ones(1, 1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(FileProblem, match="an IP-Adapter; possible: concepts of semblant"):
        read(tmp_path / "x.safetensors")
    save_file({"unet.a.attn2.to_k_custom_diffusion.weight": torch.ones(1, 1, 1)}, tmp_path / "c.safetensors")
    with pytest.raises(FileProblem, match="Custom Diffusion are not supported yet"):
        read(tmp_path / "c.safetensors")
    save_file({"<cat>": torch.ones(1, 768)}, tmp_path / "cat.safetensors")
    with pytest.raises(FileProblem, match="embedding of <cat>; `semblant convert` makes a concept of it"):
        concepts.load(tmp_path / "cat.safetensors")
    concepts.save(word(1), tmp_path / "word.safetensors")
    found = read(tmp_path / "word.safetensors")
    assert found.said == (f"versions stay in {tmp_path / 'word.safetensors'}",)
    with pytest.raises(
        SemblantError, match="rows of a word, which the form kohya is not for; possible: embedding, emb_params"
    ):
        require(found, "kohya")
    with pytest.raises(SemblantError, match="in concept form already"):
        require(found, "concept")


def test_what_a_form_has_no_place_for_is_said(word: Make) -> None:
    concept = replace(word(1), losses={"last": 0.1}, consent="asked", pictures=("0",))
    assert from_concept(concept, "x").said == ("pictures, consent, losses stay in x",)


def test_peft_names_the_text_encoder_as_the_installed_transformers_does(lora: Make, base: Base) -> None:
    [(tensors, config)] = peft_folder.write(from_concept(lora("text alone"), "x").layers).values()
    known = {name for name, _ in base.text_encoder.named_parameters()}
    assert {name.removeprefix("base_model.model.").split(".lora_")[0] + ".weight" for name in tensors} <= known
    assert f"{config['target_modules'][0]}.weight".removeprefix("text_model.") in {
        n.removeprefix("text_model.") for n in known
    }
