"""`semblant convert` as people type it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from semblant.training import concepts
from semblant.training.concepts import Concept

Run = Callable[..., Any]
NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


BASE = {"name": "mini", "architecture": "width-32", "width": 32}
"""The base of the folder `base`."""


@pytest.fixture
def maya(tmp_path: Path) -> Path:
    """A concept of one row in the folder where commands run."""
    rows = torch.randn(1, 1, 1, 1, 32, generator=torch.Generator().manual_seed(1))
    made = Concept("textual-inversion", {"num_vectors": 1}, "<maya>", "person", BASE, {"rows": rows})
    concepts.save(made, tmp_path / "maya.safetensors")
    return tmp_path / "maya.safetensors"


@pytest.fixture
def rex(tmp_path: Path) -> Path:
    """A LoRA with one layer, for the same base."""
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(16, 2, generator=generator), torch.randn(2, 32, generator=generator)
    settings = {"rank": 2, "alpha": 3.0, "identifier": "cup"}
    made = Concept("lora-dreambooth", settings, "<rex>", "dog", BASE, {f"{NAME}.up": up, f"{NAME}.down": down})
    concepts.save(made, tmp_path / "rex.safetensors")
    return tmp_path / "rex.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_word_becomes_an_embedding_and_a_concept_again(run: Run, maya: Path, base: Path, tmp_path: Path) -> None:
    done = run("convert", maya, "--to", "embedding")
    assert done.exit_code == 0, done.stderr
    assert "1 row of width 32 is in maya.embedding.safetensors (embedding), from concept" in done.stdout
    rows = concepts.load(maya).tensors["rows"]
    assert torch.equal(load_file(tmp_path / "maya.embedding.safetensors")["<maya>"], rows[0, 0, 0])
    back = run("convert", "maya.embedding.safetensors", "--to", "concept", "--out", "back", "--word", "<ada>", "--json")
    assert back.exit_code == 0, back.stderr
    record = json.loads(back.stdout)
    assert (record["from"], record["to"], record["out"]) == ("embedding", "concept", "back.safetensors")
    assert (record["word"], record["class_word"], record["method"]) == ("<ada>", "person", "textual-inversion")
    assert torch.equal(concepts.load("back.safetensors").tensors["rows"], rows)
    sampled = run("sample", "a photo of <ada>", "--concept", "back.safetensors", "--base", base, "--steps", "1")
    assert sampled.exit_code == 0, sampled.stderr


def test_an_embedding_that_names_no_method_has_no_settings_to_leave(run: Run, tmp_path: Path) -> None:
    save_file({"<ada>": torch.ones(1, 768)}, tmp_path / "ada.safetensors")
    done = run("convert", "ada.safetensors", "--to", "concept", "--out", "ada-concept", "--class-word", "woman")
    assert done.exit_code == 0 and "None" not in done.stdout and "settings" not in done.stdout, done.output


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
def test_a_lora_goes_out_and_comes_back(run: Run, rex: Path, base: Path, tmp_path: Path, form: str) -> None:
    done = run("convert", rex, "--to", form)
    assert done.exit_code == 0, done.stderr
    target = f"rex.{form}" + ("" if form == "peft" else ".safetensors")
    assert f"1 layer of rank 2 is in {target} ({form}), from concept" in done.stdout
    assert 'in other programs write "cup dog" where prompts here have <rex>' in done.stdout
    back = run("convert", target, "--to", "concept", "--base", base, "--out", "back.safetensors")
    assert back.exit_code == 0, back.stderr
    assert 'in prompts <rex> reads as "cup dog"' in back.stdout
    mine, again = concepts.load(rex), concepts.load("back.safetensors")
    assert again.settings == mine.settings and again.base == mine.base
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in mine.tensors.items())
    sampled = run("sample", "a photo of <rex>", "--concept", "back.safetensors", "--base", base, "--steps", "1")
    assert sampled.exit_code == 0, sampled.stderr


def test_a_foreign_lora_is_asked_for_nothing_and_says_what_it_took(run: Run, tmp_path: Path) -> None:
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": torch.ones(4, 768), f"{key}.lora_up.weight": torch.ones(320, 4)}
    save_file({**tensors, f"{key}.alpha": torch.tensor(1.0)}, tmp_path / "my style v2.safetensors", {"ss_seed": "1"})
    done = run("convert", "my style v2.safetensors", "--to", "concept")
    assert done.exit_code == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[0] == "<my-style-v2> is in my style v2.concept.safetensors: 1 layer of rank 4, for sd-1"
    assert "metadata of my style v2.safetensors is left there: ss_seed" in told
    assert 'in prompts <my-style-v2> reads as "sks person"' in told
    assert any("--class-word" in line for line in told)
    found = concepts.load("my style v2.concept.safetensors")
    assert (found.settings["rank"], found.settings["alpha"]) == (4, 1.0)
    quiet = run("convert", "my style v2.safetensors", "--to", "diffusers", "--quiet")
    assert quiet.exit_code == 0 and quiet.stdout == ""


def test_a_pickled_embedding_is_read(run: Run, base: Path, tmp_path: Path) -> None:
    torch.save({"<cat>": torch.ones(32)}, tmp_path / "learned_embeds.bin")
    done = run(
        "convert", "learned_embeds.bin", "--to", "concept", "--base", base, "--class-word", "cat", "--out", "cat"
    )
    assert done.exit_code == 0, done.stderr
    found = concepts.load("cat.safetensors")
    assert (found.word, found.class_word) == ("<cat>", "cat") and found.tensors["rows"].shape == (1, 1, 1, 1, 32)


def test_nothing_is_replaced_without_being_asked(run: Run, rex: Path, tmp_path: Path) -> None:
    for form in ("kohya", "peft"):
        assert run("convert", rex, "--to", form).exit_code == 0
        before = files(tmp_path)
        again = run("convert", rex, "--to", form)
        assert again.exit_code == 3 and "exists already" in again.stderr and files(tmp_path) == before
        for path in tmp_path.rglob(f"*.{form}*/*" if form == "peft" else f"*.{form}*"):
            path.write_bytes(b"old")
        assert run("convert", rex, "--to", form, "--force").exit_code == 0
        # The order of the metadata in a file is anybody's guess, its length is not.
        assert {name: len(held) for name, held in files(tmp_path).items()} == {n: len(h) for n, h in before.items()}


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("maya.safetensors", "--to", "kohia"), 2, "possible: kohya"),
    (("maya.safetensors", "--to", "kohya"), 2, "possible: embedding, emb_params"),
    (("maya.safetensors", "--to", "concept"), 2, "in concept form already"),
    (("rex.safetensors", "--to", "embedding"), 2, "possible: peft, diffusers, kohya"),
    (("sefi.safetensors", "--to", "embedding"), 2, "one meaning of a word, so it stays a concept"),
    (("maya.safetensors", "--to", "emb_params", "--word", "<a>"), 2, "--word has no place in the form emb_params"),
    (("maya.safetensors", "--to", "embedding", "--class-word", "dog"), 2, "it goes with --to concept"),
    (("rex.safetensors", "--to", "peft", "--base", "embedded"), 2, "--base has no place"),
    (("word.safetensors", "--to", "concept", "--config", "x"), 2, "--config goes with --base"),
    (("word.safetensors", "--to", "concept", "--word", "two words"), 2, "cannot be the subject's word"),
    (("word.safetensors", "--to", "concept"), 2, "width 48; give --base"),
    (("word.safetensors", "--to", "concept", "--base", "BASE"), 2, "for bases of width 48"),
    (("missing.safetensors", "--to", "concept"), 3, "there is no file missing.safetensors"),
    (("notes.txt", "--to", "concept"), 3, "not a safetensors file"),
    (("empty", "--to", "concept"), 3, "no adapter_config.json"),
    (("rex.safetensors", "--to", "kohya", "--out", "rex.ckpt"), 3, "the ending .safetensors"),
    (("rex.safetensors", "--to", "kohya", "--out", "folder.safetensors"), 3, "is a folder"),
    (("rex.safetensors", "--to", "peft", "--out", "notes.txt"), 3, "is a file"),
    (("rex.safetensors", "--to", "kohya", "--out", "notes.txt/a.safetensors"), 3, "no folder"),
    (("trap.pt", "--to", "concept"), 3, "asks for more than tables of tensors"),
    (("rex.safetensors",), 2, "--to"),
]


@pytest.mark.parametrize(("words", "code", "says"), WRONG, ids=[" ".join(words)[:60] for words, _, _ in WRONG])
def test_what_cannot_be_is_one_sentence_and_leaves_everything_as_it_was(
    words: tuple[str, ...], code: int, says: str, run: Run, maya: Path, rex: Path, base: Path, tmp_path: Path
) -> None:
    for name in ("empty", "folder.safetensors"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("no tensors here, only a line of text")
    (tmp_path / "trap.pt").write_bytes(b"cos\nmkdir\n(Vsprung\ntR.")
    save_file({"<cat>": torch.ones(1, 48)}, tmp_path / "word.safetensors")
    mine = concepts.load(maya)
    mine.method, mine.tensors = "sefi-ide", {"rows": torch.zeros(5, 1, 2, 1, 32)}
    concepts.save(mine, tmp_path / "sefi.safetensors")
    before = files(tmp_path)
    done = run("convert", *[str(base) if word == "BASE" else word for word in words])
    assert done.exit_code == code, done.output
    assert says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.output and done.stdout == ""
    assert done.stderr.count("error: ") == 1 or "Usage:" in done.stderr
    assert files(tmp_path) == before and not (tmp_path / "sprung").exists()
