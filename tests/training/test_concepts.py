"""Concepts as files: what goes in comes out, and everything else is refused in one sentence."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.errors import FileProblem, SemblantError
from semblant.training.concepts import Concept, load, save, save_embedding, widths_of
from semblant.training.files import write_tensors
from semblant.training.interchange.learned import RECORD, about_of


@pytest.fixture
def concept(base: Base) -> Concept:
    return Concept(
        method="sefi-ide",
        settings={"lr": 0.005, "scale": (0.1, 1.0), "folder": Path.home() / "photos" / "maya.png"},
        word="<maya>",
        class_word="person",
        base=base.describe(),
        tensors={"rows": torch.randn(5, 1, 2, 1, 32), "half": torch.ones(2, 3, dtype=torch.bfloat16)},
        stages=[0, 1, 2],
        seed=7,
        steps=1000,
        losses={"denoising": 0.1},
        pictures=("ab" * 32,),
        consent="my own face, /home/maya/consent.pdf",
        licence="CC-BY-4.0",
        versions={"semblant": "0.1.0"},
        figures={"minutes": 3.5},
    )


def test_a_concept_survives_its_file(concept: Concept, base: Base, tmp_path: Path) -> None:
    save(concept, tmp_path / "new" / "maya.safetensors")
    read = load(tmp_path / "new" / "maya.safetensors", base)
    assert read.tensors.keys() == concept.tensors.keys()
    for name, tensor in concept.tensors.items():
        assert torch.equal(read.tensors[name], tensor) and read.tensors[name].dtype == tensor.dtype
    assert read.settings["scale"] == [0.1, 1.0]
    same = {"settings": {}, "tensors": {}, "consent": ""}
    assert replace(read, **same) == replace(concept, **same)  # type: ignore[arg-type]
    assert os.listdir(tmp_path / "new") == ["maya.safetensors"]


def test_metadata_is_json_without_home_paths(concept: Concept, tmp_path: Path) -> None:
    save(concept, tmp_path / "maya.safetensors")
    with safe_open(tmp_path / "maya.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata.pop("format") == "semblant/1"
    assert len(metadata.pop("sha256")) == len(metadata.pop("sha256_all")) == 64
    assert json.loads(metadata["stages"]) == [0, 1, 2] and json.loads(metadata["word"]) == "<maya>"
    text = json.dumps(metadata)
    assert str(Path.home()) not in text and "/home/maya" not in text and "consent.pdf" in text


def test_stripping_leaves_out_what_is_personal(concept: Concept, tmp_path: Path) -> None:
    save(concept, tmp_path / "maya.safetensors", strip=True)
    read = load(tmp_path / "maya.safetensors")
    assert (read.pictures, read.consent, read.versions) == ((), "", {})
    assert (read.licence, read.seed, read.stages) == ("CC-BY-4.0", 7, [0, 1, 2])


def test_versions_are_written_when_none_are_given(concept: Concept, tmp_path: Path) -> None:
    concept.versions = {}
    save(concept, tmp_path / "maya.safetensors")
    assert load(tmp_path / "maya.safetensors").versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(concept: Concept, tmp_path: Path, value: float) -> None:
    concept.tensors["rows"][2, 0, 1, 0, 3] = value
    with pytest.raises(SemblantError, match="<maya> is not saved: rows hold NaN"):
        save(concept, tmp_path / "maya.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync"])
def test_dying_while_writing_leaves_the_old_file(
    concept: Concept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "maya.safetensors"
    save(concept, path)
    before = path.read_bytes()
    concept.tensors["rows"] += 1

    def die(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failing, die)
        with pytest.raises(FileProblem, match=r"maya.safetensors cannot be written: No space left"):
            save(concept, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["maya.safetensors"]

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(failing, killed)
        with pytest.raises(KeyboardInterrupt):
            save(concept, path)
    assert path.read_bytes() == before
    save(concept, path)
    assert path.read_bytes() != before


PICKLE = b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x06sprung\x85R."
OLD_PICKLE = b"cos\nmkdir\n(Vsprung\ntR."
"""Both would make a folder when loaded; written byte by byte, in the newest and the oldest form."""


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_nothing_is_ever_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, write in enumerate(
        [
            lambda path: torch.save(Trap(), path),
            lambda path: torch.save(Trap(), path, _use_new_zipfile_serialization=False),
            lambda path: path.write_bytes(PICKLE),
            lambda path: path.write_bytes(OLD_PICKLE),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        write(path)
        with pytest.raises(FileProblem, match="pickle" if number < 3 else "not a safetensors file") as caught:
            load(path)
        assert str(path) in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_unusable_files_are_refused_by_name(concept: Concept, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save(concept, good)
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[-9] ^= 4
    cases = {
        "cut.safetensors": (content[:-50], "truncated"),
        "header.safetensors": (content[:200], "truncated"),
        "flip.safetensors": (bytes(flipped), "checksum"),
        "empty.safetensors": (b"", "empty"),
        "text.safetensors": (b"hello, this is not a concept at all", "not a safetensors file"),
        "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        "page.safetensors": (b"<!DOCTYPE html><html></html>", "web page"),
    }
    for name, (bytes_, reason) in cases.items():
        (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(FileProblem, match=reason) as caught:
            load(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FileProblem, match=r"no file .*gone\.safetensors"):
        load(tmp_path / "gone.safetensors")
    with pytest.raises(FileProblem, match="is a folder"):
        load(tmp_path)


def test_every_cut_of_a_file_is_refused(concept: Concept, tmp_path: Path) -> None:
    save(concept, tmp_path / "good.safetensors")
    content = (tmp_path / "good.safetensors").read_bytes()
    for end in range(0, len(content), 61):
        (tmp_path / "cut.safetensors").write_bytes(content[:end])
        with pytest.raises(FileProblem, match=r"truncated|empty|not a safetensors"):
            load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        ({"unet.down_blocks.0.to_q.lora_A.weight": torch.ones(2, 2)}, "LoRA"),
        ({"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2, 2)}, "LoRA"),
        ({"image_proj.norm.bias": torch.ones(2)}, "IP-Adapter"),
        ({"model.diffusion_model.out.0.bias": torch.ones(2)}, "whole Stable Diffusion checkpoint"),
        ({"conv_in.weight": torch.ones(2)}, "U-Net"),
        ({"<cat-toy>": torch.ones(1, 768)}, "textual-inversion embedding of <cat-toy>"),
        ({"a": torch.ones(1), "b": torch.ones(1)}, "something else with 2 tensors"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path: Path, tensors: dict[str, torch.Tensor], kind: str) -> None:
    save_file(tensors, tmp_path / "foreign.safetensors")
    with pytest.raises(FileProblem, match=f"foreign.safetensors is not a concept.*{kind}"):
        load(tmp_path / "foreign.safetensors")


def test_newer_and_incomplete_files_are_refused(concept: Concept, tmp_path: Path) -> None:
    path = tmp_path / "maya.safetensors"
    for format_, reason in [
        ("semblant/2", "format semblant/2.*upgrade"),
        ("semblant-checkpoint/1", "checkpoint of an unfinished run"),
        ("semblant/1", "lacks.*method, settings"),
    ]:
        write_tensors(path, concept.tensors, {"format": format_})
        with pytest.raises(FileProblem, match=reason):
            load(path)
    write_tensors(path, concept.tensors, {"format": "semblant/1", "method": "{"})
    with pytest.raises(FileProblem, match="no JSON"):
        load(path)


def test_another_kind_of_base_is_refused_and_other_weights_are_warned_of(
    concept: Concept, base: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "maya.safetensors"
    save(concept, path)
    load(path, base)
    assert not caplog.records
    load(path, miniature(seed=1))
    assert "unet and text differs" in caplog.text or "text and unet differs" in caplog.text
    for wrong in (miniature(width=64), _renamed(base)):
        with pytest.raises(SemblantError, match=r"made for miniature \(width 32\)") as caught:
            load(path, wrong)
        assert not isinstance(caught.value, FileProblem)
        assert f"(width {wrong.width})" in str(caught.value) and "maya.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"architecture": None},
        {"architecture": 5},
        {"width": "32"},
        {"width": None},
        {"width": True},
        {"architecture": "sdxl", "widths": "abc"},
        {"architecture": "sdxl", "widths": ["16", "16"]},
        {"architecture": "sdxl", "widths": [16, 8]},
        {"architecture": "sdxl", "widths": []},
    ],
    ids=str,
)
def test_a_base_that_makes_no_sense_is_refused(concept: Concept, tmp_path: Path, said: dict[str, Any]) -> None:
    path = tmp_path / "maya.safetensors"
    concept.base = {**concept.base, **said}
    save(concept, path)
    with pytest.raises(FileProblem, match=r"maya.safetensors is damaged: its metadata .*wrong form, base$"):
        load(path)
    about = {"base": concept.base, "method": "textual-inversion"}
    with pytest.raises(FileProblem, match=r"x is damaged: base in its metadata"):
        about_of({RECORD: json.dumps(about)}, "x")


def test_the_widths_of_two_text_encoders_are_one_together(concept: Concept, tmp_path: Path) -> None:
    concept.base = {**concept.base, "architecture": "sdxl", "width": 32, "widths": [12, 20]}
    save(concept, tmp_path / "maya.safetensors")
    assert widths_of(load(tmp_path / "maya.safetensors").base) == (12, 20)


def _renamed(base: Base) -> Base:
    other = base.patched()
    other.architecture = "sd-1"
    return other


def test_a_plain_word_is_also_a_common_embedding_file(concept: Concept, tmp_path: Path) -> None:
    rows = torch.randn(1, 1, 1, 2, 32)
    plain = replace(concept, method="textual-inversion", tensors={"rows": rows}, stages=None)
    written = save_embedding(plain, tmp_path / "maya.safetensors")
    assert written == tmp_path / "maya.embedding.safetensors"
    found = load_file(written)
    assert list(found) == ["<maya>"] and torch.equal(found["<maya>"], rows[0, 0, 0])
    with pytest.raises(SemblantError, match="more than rows of one word"):
        save_embedding(concept, tmp_path / "maya.safetensors")
