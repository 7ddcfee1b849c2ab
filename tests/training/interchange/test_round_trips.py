"""There and back: what goes into a form comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from semblant.backbones.header import read_header
from semblant.errors import SemblantError
from semblant.patches.weights import LowRank
from semblant.training.concepts import Concept
from semblant.training.interchange import writing
from semblant.training.interchange.adoption import concept_of
from semblant.training.interchange.learned import CARRIED, from_concept
from semblant.training.interchange.reading import FORMS, read, require

KINDS = ("attention", "alpha is the rank", "text too", "text alone", "everything", "several ranks")
Make = Callable[..., Concept]
LORA_FORMS = [form for form, method in FORMS.items() if method == "lora-dreambooth"]
WORD_FORMS = [form for form, method in FORMS.items() if method == "textual-inversion"]


def converted(concept: Concept, form: str, folder: Path, *between: str) -> Concept:
    """A concept written in a form, and perhaps in others after that, and read again."""
    found = from_concept(concept, "maya.safetensors")
    for number, step in enumerate((*between, form)):
        require(found, step)
        target = folder / f"{number}.{step}{'' if step == 'peft' else '.safetensors'}"
        writing.write(found, step, target)
        found = read(target)
        assert found.form == step
    return concept_of(found)[0]


def changes(concept: Concept) -> dict[str, Tensor]:
    """What is added to each weight."""
    lowrank = LowRank.of(concept.tensors, concept.settings["alpha"] / concept.settings["rank"])
    made = {}
    for name, (up, down) in lowrank.factors.items():
        zero = torch.zeros(up.shape[0], *down.shape[1:])
        made[name] = lowrank.delta(name, zero)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", LORA_FORMS)
def test_a_lora_comes_back_from_every_form_as_it_was(lora: Make, tmp_path: Path, form: str, kind: str) -> None:
    concept = lora(kind)
    back = converted(concept, form, tmp_path)
    assert back.tensors.keys() == concept.tensors.keys()
    assert all(getattr(back, name) == getattr(concept, name) for name in CARRIED if name != "settings")
    assert {**back.settings, "alpha": 0} == {**concept.settings, "alpha": 0}
    assert back.settings["alpha"] == pytest.approx(concept.settings["alpha"], rel=1e-6)
    if (form, kind) == ("kohya", "several ranks"):
        # There is one alpha a file, and the rest goes into `up`.
        expected, found = changes(concept), changes(back)
        assert all(torch.allclose(found[name], change, rtol=1e-5, atol=1e-5) for name, change in expected.items())
    else:
        assert all(torch.equal(back.tensors[name], tensor) for name, tensor in concept.tensors.items())


@pytest.mark.parametrize("last", LORA_FORMS)
@pytest.mark.parametrize("first", LORA_FORMS)
def test_forms_go_over_into_each_other(lora: Make, tmp_path: Path, first: str, last: str) -> None:
    concept = lora("text too")
    if first == last:
        with pytest.raises(SemblantError, match=f"in {first} form already"):
            converted(concept, last, tmp_path, first)
        return
    back = converted(concept, last, tmp_path, first)
    assert back.word == "<maya>" and back.settings["identifier"] == "cup"
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in concept.tensors.items())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", WORD_FORMS)
def test_a_word_comes_back_from_every_form_as_it_was(word: Make, tmp_path: Path, form: str, count: int) -> None:
    concept = word(count)
    back = converted(concept, form, tmp_path)
    assert torch.equal(back.tensors["rows"], concept.tensors["rows"])
    assert all(getattr(back, name) == getattr(concept, name) for name in CARRIED)
    [name] = load_file(tmp_path / f"0.{form}.safetensors")
    assert name == {"embedding": "<rex>", "emb_params": "emb_params"}[form]
    other = next(other for other in WORD_FORMS if other != form)
    assert torch.equal(converted(concept, other, tmp_path, form).tensors["rows"], concept.tensors["rows"])


def test_every_tensor_of_a_concept_is_in_the_file(lora: Make, tmp_path: Path) -> None:
    concept = lora("everything")
    found = from_concept(concept, "maya.safetensors")
    for form, per_layer in (("peft", 2), ("diffusers", 2), ("kohya", 3)):
        writing.write(found, form, tmp_path / form)
        files = [tmp_path / form] if form != "peft" else list((tmp_path / form).rglob("*.safetensors"))
        names = [name for file in files for name in read_header(file).shapes]
        assert len(names) == per_layer * len(found.layers) == per_layer * len(concept.tensors) // 2
