"""Bases named on command lines, and `inspect`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from semblant.cli.bases import named
from semblant.cli.telling import summary

Run = Callable[..., Any]
SAMPLE = ("sample", "a photo of a dog", "--steps", 1, "--size", 32, "--json")


def test_a_picture_is_sampled_from_a_single_file(run: Run, layouts: Any, tmp_path: Path) -> None:
    base = layouts.base_like("sd-1")
    file = layouts.write_original(base, tmp_path / "tiny-v1.safetensors")
    companion = layouts.write_companion(base, tmp_path / "companion")
    refused = run(*SAMPLE, "--base", file)
    assert refused.exit_code == 3 and "add --config FOLDER" in refused.stderr
    made = run(*SAMPLE, "--base", file, "--config", companion)
    assert made.exit_code == 0, made.stderr
    [picture] = json.loads(made.stdout)["pictures"]
    assert (picture["base"]["name"], picture["base"]["architecture"]) == ("tiny-v1", "sd-1")
    told = run("inspect", picture["file"], "--json")
    assert json.loads(told.stdout)["settings"]["prompt"] == "a photo of a dog"


def test_a_base_of_xl_is_told_what_the_command_line_says_of_sizes(run: Run, layouts: Any, tmp_path: Path) -> None:
    from semblant.backbones.loading import miniature_xl

    base = layouts.write_folder(miniature_xl(), tmp_path / "xl")

    def picture(*options: str) -> tuple[bytes, Any]:
        made = run(*SAMPLE, "--base", base, *options)
        assert made.exit_code == 0, made.stderr
        [record] = json.loads(made.stdout)["pictures"]
        with Image.open(record["file"]) as image:
            return image.tobytes(), record["framing"]

    plain, framing = picture()
    assert framing is None
    small, framing = picture("--original-size", "30x40", "--crop", "5,3")
    assert framing == {"original": [40, 30], "crop": [3, 5], "target": [32, 32]} and small != plain
    assert picture("--original-size", "32")[0] == picture("--crop", "0,0")[0] == plain
    assert run(*SAMPLE, "--base", base, "--original-size", "0x64").exit_code == 2
    wrong = run(*SAMPLE, "--base", "no such base", "--crop", "left")
    assert wrong.exit_code == 2 and "--crop is pixels cut off" in wrong.stderr
    other = run(*SAMPLE, "--base", layouts.write_folder(layouts.base_like("sd-1"), tmp_path / "sd"), "--crop", "0,8")
    assert other.exit_code == 2 and "only bases of Stable Diffusion XL are told" in other.stderr


def test_a_base_on_the_hub_is_not_looked_for_offline(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: asked.append(k["local_files_only"]) or real(*a, **k)
    )
    for command in (SAMPLE, ("doctor", "--json"), ("demo", "--out", "d")):
        asked.clear()
        result = run(*command, "--base", "owner/tiny", "--offline")
        assert result.exit_code == (2 if command[0] == "doctor" else 3), result.output
        assert "in the hub's cache" in result.output and asked and all(asked)


def test_inspect_tells_people_what_a_concept_is(run: Run, concept: Path, base: Path) -> None:
    told = run("inspect", concept)
    assert told.exit_code == 0 and "maya.safetensors: concept" in told.stdout
    for line in ("method: textual-inversion", "word: <maya>", "class word: person", "parts 1", "dtypes: F32 1"):
        assert line in told.stdout
    answer = json.loads(run("inspect", concept, "--json").stdout)
    assert answer["kind"] == "concept" and answer["steps"] == 2 and answer["settings"]["views"] == 2
    folder = run("inspect", base)
    assert (
        "base folder" in folder.stdout and "usable: yes" in folder.stdout and "architecture: width-32" in folder.stdout
    )


def test_a_folder_of_senseless_settings_is_refused_in_a_sentence(run: Run, layouts: Any, tmp_path: Path) -> None:
    folder = layouts.write_folder(layouts.base_like("sd-1"), tmp_path / "base")
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scaling_factor": None}))
    refused = run(*SAMPLE, "--base", folder)
    assert refused.exit_code == 3 and refused.stdout == "" and not (tmp_path / "images").exists()
    assert f"error: {folder} has scaling_factor = null in vae/config.json; possible: a number" in refused.stderr
    told = run("inspect", folder)
    assert told.exit_code == 0 and "usable: no" in told.stdout and "scaling_factor = null in vae/config" in told.stdout


def test_inspect_refuses_pickles(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"PK\x03\x04")
    refused = run("inspect", "model.ckpt", "--json")
    assert refused.exit_code == 3 and "a pickle" in refused.stderr and refused.stdout == ""


def test_the_options_that_name_a_base_are_those_it_was_named_by() -> None:
    assert named("embedded", None) == []
    assert named("my base", None) == ["--base", "my base"]
    assert named("one.safetensors", "folder") == ["--base", "one.safetensors", "--config", "folder"]


def test_what_to_do_next_names_the_base_and_keeps_names_with_spaces_whole() -> None:
    result: Any = SimpleNamespace(
        concept=SimpleNamespace(word="<maya>"), output=SimpleNamespace(file=Path("two words.safetensors")), lines=list
    )
    last = summary([result], named("my base", None)).splitlines()[-1]
    told = shlex.split(last.removeprefix("next: "))
    assert told == [
        *("semblant", "sample", "a photo of <maya>", "--concept", "two words.safetensors"),
        *("--base", "my base"),
    ]


@pytest.mark.parametrize("command", ["fit", "sample", "doctor", "checkpoints", "demo"])
def test_help_says_that_a_base_on_the_hub_may_have_a_revision(run: Run, command: str) -> None:
    assert "owner/name[@revision] on the" in " ".join(run(command, "--help").stdout.replace("│", " ").split())
