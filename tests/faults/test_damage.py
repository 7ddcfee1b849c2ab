"""A checkpoint that rotted on the disk is noticed, named, and the one before it used."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import semblant as sb
from semblant.backbones.base import Base
from semblant.data.subject import Subject
from semblant.errors import FileProblem
from semblant.training import concepts
from semblant.training.checkpoint import Store
from semblant.training.concepts import Concept
from semblant.training.files import read_tensors, write_tensors
from semblant.training.inspection import inspect

QUICK = {"views": 2, "batch": 1, "steps": 6}


@pytest.fixture(scope="module")
def learned(base: Base, subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Concept, list[Path]]:
    """What a run learned, and its last two checkpoints: those after four and after six steps."""
    folder = tmp_path_factory.mktemp("run")
    concept = sb.fit("textual-inversion", base, subject, checkpoint=folder, every=2, **QUICK)
    return concept, sorted(folder.iterdir())


def put(files: list[Path], folder: Path, newest: bytes) -> Path:
    """The older checkpoint as it is, and other bytes as the newest."""
    folder.mkdir(exist_ok=True)
    (folder / files[0].name).write_bytes(files[0].read_bytes())
    (folder / files[1].name).write_bytes(newest)
    return folder / files[1].name


def refuses(folder: Path, newest: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The older checkpoint is read, and one line names the damaged one."""
    caplog.clear()
    state = Store(folder).read()
    assert state is not None and len(state.tensors["0.losses"]) == 4
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1 and str(newest) in said[0] and "\n" not in said[0]


def test_whole_both_are_read(learned: Any, tmp_path: Path) -> None:
    put(learned[1], tmp_path, learned[1][1].read_bytes())
    state = Store(tmp_path).read()
    assert state is not None and len(state.tensors["0.losses"]) == 6


def test_a_checkpoint_cut_anywhere_is_noticed(learned: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = learned[1][1].read_bytes()
    cuts = [0, 1, 7, 8, 9, len(content) - 1, *random.Random("cuts").sample(range(len(content)), 60)]
    for cut in cuts:
        refuses(tmp_path, put(learned[1], tmp_path, content[:cut]), caplog)
    refuses(tmp_path, put(learned[1], tmp_path, content + b"\0"), caplog)


def test_one_bit_flipped_anywhere_is_noticed(learned: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = learned[1][1].read_bytes()
    header, rng = 8 + int.from_bytes(content[:8], "little"), random.Random("bits")
    # All of the length, many of the header, of what pads it, and of the tensors.
    bits = [*range(64), *rng.sample(range(64, 8 * header), 200), *range(8 * header - 16, 8 * header)]
    bits += rng.sample(range(8 * header, 8 * len(content)), 120)
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        refuses(tmp_path, put(learned[1], tmp_path, bytes(damaged)), caplog)


def test_a_page_of_zeros_and_a_foreign_file_are_noticed(
    learned: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = learned[1][1].read_bytes()
    for newest in (bytes(len(content)), content[:512] + bytes(len(content) - 512), b"PK\x03\x04", b"<html>", b"{}" * 9):
        refuses(tmp_path, put(learned[1], tmp_path, newest), caplog)


def test_the_run_goes_on_from_the_one_before_to_the_same_concept(
    base: Base, subject: Subject, learned: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(learned[1][1].read_bytes())
    content[-3] ^= 16
    newest = put(learned[1], tmp_path, bytes(content))
    again = sb.fit("textual-inversion", base, subject, checkpoint=tmp_path, every=2, resume=True, **QUICK)
    assert str(newest) in caplog.text and "the checkpoint before it" in caplog.text
    assert again.tensors["rows"].equal(learned[0].tensors["rows"]) and again.losses == learned[0].losses
    # The damaged file is gone, and two whole ones are there.
    assert len(list(tmp_path.iterdir())) == 2 and newest not in tmp_path.iterdir()


def test_when_none_is_whole_all_are_named(base: Base, subject: Subject, learned: Any, tmp_path: Path) -> None:
    newest = put(learned[1], tmp_path, b"")
    older = tmp_path / learned[1][0].name
    older.write_bytes(older.read_bytes()[:-7])
    with pytest.raises(FileProblem, match="without `--resume`") as caught:
        sb.fit("textual-inversion", base, subject, checkpoint=tmp_path, resume=True, **QUICK)
    assert str(newest) in str(caught.value) and str(older) in str(caught.value)


def test_no_bit_of_a_concepts_header_makes_another_concept(learned: Any, tmp_path: Path) -> None:
    path = tmp_path / "maya.safetensors"
    concepts.save(learned[0], path)
    content = path.read_bytes()
    whole, header = concepts.load(path), 8 + int.from_bytes(content[:8], "little")
    telling = [content.index(text) * 8 for text in (b"person", b"class_word", b"<maya>")]
    bits = {
        *random.Random("header").sample(range(64, 8 * header), 600),
        *(first + k for first in telling for k in range(48)),
    }
    refused = 0
    for bit in sorted(bits):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        try:
            read = concepts.load(path)
        except FileProblem as problem:
            assert str(path) in str(problem) and "\n" not in str(problem)
            refused += 1
        else:
            # The name of the checksum itself: then what it would guard is whole.
            assert replace(read, tensors={}) == replace(whole, tensors={})
            assert read.tensors["rows"].equal(whole.tensors["rows"])
    assert refused > 0.9 * len(bits)


def test_an_altered_word_is_refused_when_read_and_when_inspected(learned: Any, tmp_path: Path) -> None:
    path = tmp_path / "maya.safetensors"
    concepts.save(learned[0], path)
    path.write_bytes(path.read_bytes().replace(b"person", b"parson"))
    for look in (concepts.load, inspect):
        with pytest.raises(FileProblem, match=r"maya\.safetensors is damaged: its metadata .* its checksum"):
            look(path)


def test_a_concept_from_before_metadata_had_a_checksum_is_read(learned: Any, tmp_path: Path) -> None:
    path = tmp_path / "maya.safetensors"
    concepts.save(learned[0], path)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, {key: text for key, text in metadata.items() if key != "sha256_all"})
    assert concepts.load(path).word == "<maya>" and inspect(path)["word"] == "<maya>"


def test_a_concept_with_a_bit_of_its_tensors_flipped_is_refused_by_name(learned: Any, tmp_path: Path) -> None:
    path = tmp_path / "maya.safetensors"
    concepts.save(learned[0], path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for bit in [*range(64), *random.Random("concept").sample(range(8 * header, 8 * len(content)), 60)]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(FileProblem, match=r"maya\.safetensors"):
            concepts.load(path)
