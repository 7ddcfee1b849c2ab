"""Two people who were learned apart, in one picture."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges
from semblant.backbones.loading import miniature
from semblant.bench import two
from semblant.bench.results import means
from semblant.bench.sitter import Sitter
from semblant.metrics.pairs import Company
from semblant.world.captions import words
from semblant.world.scene import Scene

ONE, OTHER = Sitter("tune", 1), Sitter("tune", 2)


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(vocabulary=words())


def test_the_right_answer_shows_both_in_their_order_doing_what_the_prompt_says(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = two.right(ONE, OTHER, 64)
    assert len(drawn) == len(two.PROMPTS) and all(image.size == (64, 64) for image in drawn)
    seen: list[Scene] = []
    monkeypatch.setattr(two, "draw", lambda scenes, size: seen.extend(scenes))
    two.right(ONE, OTHER, 64)
    assert all([person.identity for person in scene.people] == [ONE.identity, OTHER.identity] for scene in seen)
    assert [scene.together for scene in seen] == ["shaking hands", "hugging", "talking", "dancing", "none"]
    assert (seen[1].background, seen[2].background, seen[4].background) == ("forest", "office", "beach")
    assert seen[3].light == "sunset" and all(person.hat == "none" for scene in seen for person in scene.people)


def test_both_are_named_and_learned_apart(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], list[str]]] = []
    fitted: list[tuple[str, str, dict[str, Any]]] = []

    def fit(method: str, base: Base, subject: Any, **given: Any) -> Any:
        fitted.append((method, subject.word, given))
        return SimpleNamespace(word=subject.word)

    def sample(base: Base, prompts: list[str], n: int = 1, concepts: Any = (), **given: Any) -> list[Image.Image]:
        asked.append((prompts, [concept.word for concept in concepts]))
        return [Image.new("RGB", (64, 64)) for _ in prompts for _ in range(n)]

    monkeypatch.setattr(two, "fit", fit)
    monkeypatch.setattr(two, "sample", sample)
    records, pictures = two.together(base, load_judges("B"), [(ONE, OTHER)], ["sefi-ide"], steps=3)
    assert fitted == [
        ("sefi-ide", "<one>", {"seed": 1, "steps": 3}),
        ("sefi-ide", "<other>", {"seed": 2, "steps": 3}),
    ]
    assert [words for _, words in asked] == [[], list(two.WORDS)]
    assert all("a person and a person" in prompt for prompt in asked[0][0])
    assert all("<one> and <other>" in prompt for prompt in asked[1][0])
    assert [record["arm"] for record in records] == ["drawn", "class word", "sefi-ide"]
    assert {arm: len(images) for arm, images in pictures.items()} == dict.fromkeys(pictures, len(two.PROMPTS))
    assert records[1]["two"] == 0 and records[1]["n"] == len(two.PROMPTS) * two.SEEDS


def test_means_are_over_pairs_and_arms_apart() -> None:
    cells = [
        {"arm": arm, **Company(1, two=1.0, left=left, right=0.5, swapped=0.0, blended=1.0).to_dict()}
        for arm, left in (("a", 0.2), ("a", 0.6), ("b", 1.0))
    ]
    found = means(cells, two.MEASURES)
    assert found["a"]["left"] == 0.4 and found["b"]["left"] == 1.0 and found["a"]["blended"] == 1


def test_the_command_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Base) -> None:
    monkeypatch.setattr(two, "load", lambda name: base)
    arguments = ["--pairs", "1", "--steps", "1", "--methods", "textual-inversion", "--out", str(tmp_path)]
    monkeypatch.setattr(two, "PROMPTS", two.PROMPTS[:1])
    monkeypatch.setattr(two, "choose", lambda base, rows: torch.float32)
    two.main(arguments)
    written = json.loads((tmp_path / "two.json").read_text())
    assert [cell["arm"] for cell in written["cells"]] == ["drawn", "class word", "textual-inversion"]
    assert written["means"].keys() == {"drawn", "class word", "textual-inversion"}
    assert Image.open(tmp_path / "two.png").width > 200
    with pytest.raises(SystemExit) as ended:
        two.main(["--pairs", "0"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        two.main(["--pairs", "1", "--methods", "nothing-known"])
    assert ended.value.code == 2
