"""What command lines refuse: one sentence on stderr, exit code 2 or 3, no traceback, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
WORDS = ("--word", "<maya>", "--class-word", "person")
FIT = ("fit", "sefi-ide", "PORTRAIT", *WORDS, "--base", "BASE", "--face", "none")
SAMPLE = ("sample", "a photo of <maya>", "--base", "BASE", "--concept", "CONCEPT", "--steps", "1")
PLAIN = ("sample", "a person", "--base", "BASE", "--steps", "1")

WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("fit", "sefi-idea", "PORTRAIT", *WORDS), 2, "did you mean sefi-ide"),
    ((*FIT, "--set", "attention_wieght=1"), 2, "attention_weight"),
    ((*FIT, "--set", "attention_weight"), 2, "name=value"),
    ((*FIT, "--set", "steps=many"), 2, "whole number"),
    ((*FIT, "--set", "split=perhaps"), 2, "true or false"),
    ((*FIT, "--set", "expansion=both"), 2, "module, direct"),
    ((*FIT, "--set", "steps=3", "--steps", "4"), 2, "twice"),
    ((*FIT, "--set", "lr=1", "--set", "lr=2"), 2, "twice"),
    ((*FIT, "--set", "steps=0"), 2, "1 step or more"),
    ((*FIT, "--steps", "0"), 2, "--steps"),
    ((*FIT, "--word", "two words"), 2, "word"),
    ((*FIT, "--class-word", "a person"), 2, "class word"),
    ((*FIT, "--word", "person"), 2, "word"),
    ((*FIT, "--budget", "soon"), 2, "60s, 5min or 1h"),
    ((*FIT, "--budget", "0s"), 2, "60s, 5min or 1h"),
    ((*FIT, "--precision", "float64"), 2, "float16"),
    (("fit", "sefi-ide", "PORTRAIT", *WORDS, "--base", "BASE", "--face", "left"), 2, "largest"),
    (("fit", "sefi-ide", "missing.png", *WORDS, "--base", "BASE"), 3, "missing.png"),
    (("fit", "sefi-ide", "NOTES", *WORDS, "--base", "BASE"), 3, "picture"),
    (("fit", "sefi-ide", "EMPTY", *WORDS, "--base", "BASE"), 3, "no pictures"),
    (("fit", "sefi-ide", "PORTRAIT", *WORDS, "--base", "nowhere"), 3, "nowhere"),
    (("fit", "sefi-ide", "PORTRAIT", *WORDS, "--base", "EMPTY"), 3, "unet"),
    ((*FIT, "--out", "CONCEPT"), 3, "--force"),
    ((*FIT, "--out", "maya.ckpt"), 3, ".safetensors"),
    ((*FIT, "--out", "NOTES/maya.safetensors"), 3, "no folder"),
    (("fit", "sefi-ide", "PORTRAIT"), 2, "--word"),
    ((*PLAIN, "--solver", "dmp++"), 2, "dpm++"),
    ((*PLAIN, "--size", "big"), 2, "WIDTHxHEIGHT"),
    ((*PLAIN, "--size", "17"), 2, "multiples"),
    (("sample", "a person", "--base", "BASE", "--steps", "0"), 2, "steps"),
    (("sample", "a person", "--base", "BASE", "--steps", "5000"), 2, "steps"),
    ((*PLAIN, "-n", "0"), 2, "-n"),
    ((*PLAIN, "--out", "NOTES"), 3, "takes a folder"),
    ((*PLAIN, "--concept", "CONCEPT"), 2, "is not in the prompt"),
    ((*PLAIN, "--concept", "missing.safetensors"), 3, "missing.safetensors"),
    ((*PLAIN, "--concept", "NOTES"), 3, "safetensors"),
    ((*PLAIN, "--concept", "PORTRAIT"), 3, "picture"),
    ((*PLAIN, "--concept", "CONCEPT:inf"), 2, "strength"),
    ((*SAMPLE, "--precision", "half"), 2, "bfloat16"),
    ((*SAMPLE, "--as", "two words"), 2, "word"),
    ((*SAMPLE, "--as", "<a>", "--as", "<b>"), 2, "one --as"),
    ((*PLAIN, "--as", "<a>"), 2, "--concept FILE --as NAME"),
    ((*SAMPLE, "--concept", "CONCEPT"), 2, "--as"),
    ((*PLAIN, "--negative", "--concept"), 2, "such as --negative took --concept or --as for its value"),
    (
        (*SAMPLE, "--negative", "--as", "--concept", "CONCEPT"),
        2,
        "such as --negative took --concept or --as for its value",
    ),
    (("measure", "missing", "--prompt", "a person"), 3, "missing"),
    (("measure", "EMPTY", "--prompt", "a person"), 3, "no pictures"),
    (("measure", "PORTRAIT"), 2, "--prompt"),
    (("measure", "PORTRAIT", "--prompt", "a person", "--subject", "missing"), 3, "missing"),
    (("rate", "PORTRAIT"), 2, "two folders"),
    (("rate", "PORTRAIT", "PORTRAIT"), 2, "given twice"),
    (("rate", "PORTRAIT", "missing"), 3, "missing"),
    (("rate", "--collect", "NOTES"), 3, "no answers"),
    (("analyse", "attention", "CONCEPT", "--base", "BASE", "--word", "dinosaur"), 2, "has no word dinosaur"),
    (("analyse", "adding", "CONCEPT", "--base", "BASE", "--prompt", "a person"), 2, "has no {}"),
    (("analyse", "exchange", "CONCEPT", "missing.safetensors"), 3, "missing.safetensors"),
    (("list", "token"), 2, "tokens"),
    (("list", "--base", "sd1"), 2, "sd-1"),
    (("show", "dreambooth-ish"), 2, "did you mean"),
    (("cite", "nothing"), 2, "did you mean"),
    (("world", "render", "--split", "test", "--out", "w"), 2, "heldout"),
    (("world", "render", "--out", "NOTES"), 3, "takes a folder"),
    (("world", "render", "--n", "0", "--out", "w"), 2, "--n"),
    (("demo", "--base", "BASE", "--out", "FULL"), 3, "holds other things"),
    (("demo", "--base", "nowhere", "--out", "d"), 3, "nowhere"),
    ((*PLAIN, "--config", "EMPTY"), 3, "--config goes with a single .safetensors file"),
    (("sample", "a person", "--base", "NOTES"), 3, "not a safetensors file"),
    (("sample", "a person", "--base", "CONCEPT"), 3, "not a whole Stable Diffusion"),
    (("sample", "a person", "--base", "owner/base", "--offline"), 3, "hub"),
    (("inspect", "missing.safetensors"), 3, "missing.safetensors"),
    (("inspect", "NOTES"), 3, "not a safetensors file"),
    (("inspect", "EMPTY"), 3, "is no base"),
    (("fitt",), 2, "fit"),
]


@pytest.fixture
def line(base: Path, portrait: Path, concept: Path, tmp_path: Path) -> Callable[[tuple[str, ...]], list[str]]:
    """A command line with the names of things in it replaced by where they lie."""
    (tmp_path / "notes.txt").write_text("no picture, no concept, no folder")
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not lose me")
    places = {
        "PORTRAIT": portrait,
        "CONCEPT": concept,
        "BASE": base,
        "NOTES": tmp_path / "notes.txt",
        "EMPTY": tmp_path / "empty",
        "FULL": tmp_path / "full",
    }

    def fill(words: tuple[str, ...]) -> list[str]:
        filled = list(words)
        for name, path in places.items():
            filled = [word.replace(name, str(path)) for word in filled]
        return filled

    return fill


@pytest.mark.parametrize(("words", "code", "says"), WRONG, ids=[" ".join(words)[-60:] for words, _, _ in WRONG])
def test_wrong_input_is_refused_in_a_sentence(
    words: tuple[str, ...], code: int, says: str, run: Run, line: Any, tmp_path: Path, concept: Path
) -> None:
    before, kept = concept.read_bytes(), set(tmp_path.rglob("*"))
    result = run(*line(words))
    assert result.exit_code == code, result.output
    assert says in result.stderr, result.stderr
    assert "Traceback" not in result.output and result.stdout == ""
    lines = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1 or "Usage:" in result.stderr
    assert concept.read_bytes() == before and set(tmp_path.rglob("*")) == kept


def test_a_bug_is_one_line_and_says_how_to_see_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.methods import index

    def broken() -> Any:
        raise RuntimeError("a hole\nin the floor")

    monkeypatch.setattr(index, "methods", broken)
    plain = run("list")
    assert plain.exit_code == 1 and plain.stderr.count("\n") == 1
    assert "RuntimeError: a hole (" in plain.stderr and "--traceback" in plain.stderr
    assert "in the floor" in run("list", "--traceback").stderr
    monkeypatch.setenv("SEMBLANT_TRACEBACK", "1")
    assert "Traceback" in run("list").stderr


def test_a_concept_of_another_kind_of_base_is_refused(run: Run, base: Path, concept: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from semblant.training import concepts

    mine = concepts.load(concept)
    concepts.save(
        replace(mine, base={**mine.base, "architecture": "sd-1", "width": 768}), tmp_path / "other.safetensors"
    )
    result = run("sample", "<maya>", "--concept", "other.safetensors", "--base", base)
    assert result.exit_code == 2 and "was made for sd-1" in result.stderr
