"""Subjects that are no people."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.bench import others
from semblant.bench.others import CLASS_WORDS, Model
from semblant.bench.results import means
from semblant.world.captions import words


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(vocabulary=words())


@pytest.mark.parametrize("kind", CLASS_WORDS)
def test_a_model_is_one_being_in_many_moments(base: Base, kind: str) -> None:
    model = Model(kind, 4)
    scenes = [model.scene("portrait"), model.scene("reference 0"), model.truth("a sketch of {} in the city")]
    assert len({scene.others[0].identity for scene in scenes}) == 1 and scenes[0].others[0].kind == kind
    assert len({repr(scene.others[0]) for scene in scenes}) == 3
    assert (scenes[2].style, scenes[2].background) == ("sketch", "city")
    assert (scenes[0].style, scenes[0].background) == ("photo", "room")
    subject = model.subject(64)
    assert subject.class_word == CLASS_WORDS[kind] and subject.images[0].size == (64, 64)
    assert len(base.token_row(subject.class_word).shape) == 1
    assert Model(kind, 5).scene("portrait").others[0].identity != scenes[0].others[0].identity


def test_each_is_learned_by_every_method_and_measured_against_others_of_its_kind(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], int]] = []
    fitted: list[tuple[str, str, dict[str, Any]]] = []

    def fit(method: str, base: Base, subject: Any, **given: Any) -> Any:
        fitted.append((method, subject.class_word, given))
        return SimpleNamespace(word=subject.word)

    def sample(base: Base, prompts: list[str], n: int = 1, concepts: Any = (), **given: Any) -> list[Image.Image]:
        asked.append((prompts, len(concepts)))
        who = Model("teapot", 300) if concepts else Model("teapot", 399)
        return others.draw([who.truth(prompt) for prompt in others.PROMPTS for _ in range(n)], base.size)

    monkeypatch.setattr(others, "fit", fit)
    monkeypatch.setattr(others, "sample", sample)
    records, pictures = others.learned(base, [Model("teapot", 300)], ["sefi-ide"], steps=2)
    assert fitted == [("sefi-ide", "teapot", {"steps": 2})]
    assert [count for _, count in asked] == [0, 1]
    assert "a photo of a teapot on the beach" in asked[0][0] and "a photo of <it> on the beach" in asked[1][0]
    gains = {record["arm"]: record["identity_gain"] for record in records}
    assert gains["drawn"] > 0.4 and gains["sefi-ide"] == pytest.approx(gains["drawn"], abs=0.3)
    assert gains["class word"] < gains["drawn"] - 0.3
    assert all(len(images) == len(others.PROMPTS) for images in pictures.values()) and len(pictures) == 3
    found = means([*records, {"arm": "drawn", "identity_gain": None, "facts": 1.0, "kind": None}], others.MEASURES)
    assert found["drawn"]["identity_gain"] == round(gains["drawn"], 3)


def test_the_command_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Base) -> None:
    monkeypatch.setattr(others, "load", lambda name: base)
    monkeypatch.setattr(others, "PROMPTS", others.PROMPTS[:1])
    monkeypatch.setattr(others, "choose", lambda base, rows: torch.float32)
    arguments = ["--each", "1", "--kinds", "teapot", "--steps", "1", "--methods", "sefi-ide", "--out", str(tmp_path)]
    others.main(arguments)
    written = json.loads((tmp_path / "others.json").read_text())
    assert [cell["arm"] for cell in written["cells"]] == ["drawn", "class word", "sefi-ide"]
    assert Image.open(tmp_path / "others.png").width > 200
    with pytest.raises(SystemExit) as ended:
        others.main(["--each", "0"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        others.main(["--each", "1", "--kinds", "teapot", "--methods", "nothing-known"])
    assert ended.value.code == 2


def test_what_the_judge_takes_for_another_kind_has_no_gain(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "being_vectors", lambda seen, judges: ("chair", torch.zeros(1, 96)))
    records, _ = others.learned(base, [Model("teapot", 300)], [])
    assert [record["identity_gain"] for record in records] == [None, None] and records[0]["facts"] is not None
