"""What a writer leaves that dies, or whose disk refuses, at any of its steps: the old file or the new."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from semblant.backbones.replacement import sweep, write_whole
from semblant.bench.results import write_json
from semblant.bench.runs import RunFolder
from semblant.data.pictures import read_picture, read_settings, save_png
from semblant.errors import FileProblem
from semblant.training import concepts
from semblant.training.checkpoint import State, Store
from semblant.training.concepts import Concept

STEPS = ("mkdir", "open", "write", "fsync", "close", "replace", "link", "unlink")
"""Everything that a writer asks of the system."""
REFUSED = ("open", "write", "fsync", "close", "replace")
"""What fails on a disk that is full."""


def concept_of(version: int) -> Concept:
    rows = torch.full((1, 1, 1, 1, 8), float(version))
    base = {"architecture": "sd-1", "width": 8}
    return Concept("textual-inversion", {}, "<maya>", "person", base, {"rows": rows}, steps=version)


def write_concept(folder: Path, version: int) -> None:
    concepts.save(concept_of(version), folder / "maya.safetensors")


def read_concept(folder: Path) -> int:
    read = concepts.load(folder / "maya.safetensors")
    assert read.tensors["rows"].eq(read.steps).all()
    return read.steps


def write_checkpoint(folder: Path, version: int) -> None:
    store = Store(folder)
    # As a run that is resumed: what it goes on from stays until there are two newer ones.
    store.read()
    store.write(State({"rows": torch.full((8,), float(version))}, {"version": version}, {}))


def read_checkpoint(folder: Path) -> int:
    state = Store(folder).read()
    assert state is not None and state.tensors["rows"].eq(state.facts["version"]).all()
    return int(state.facts["version"])


def write_picture(folder: Path, version: int) -> None:
    save_png(Image.new("RGB", (32, 32), (version, 0, 0)), folder / "a.png", {"version": version})


def read_back(folder: Path) -> int:
    version = read_settings(folder / "a.png")["version"]
    assert read_picture(folder / "a.png").getpixel((0, 0)) == (version, 0, 0)
    return int(version)


def write_results(folder: Path, version: int) -> None:
    write_json(folder / "run.json", {"version": version, "padding": "x" * 1000})


def read_results(folder: Path) -> int:
    return int(RunFolder(folder).read("run.json")["version"])


WRITERS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], int]]] = {
    "concept": (write_concept, read_concept),
    "checkpoint": (write_checkpoint, read_checkpoint),
    "picture": (write_picture, read_back),
    "results": (write_results, read_results),
}


@contextmanager
def counted(act: Callable[[int, str], None], steps: tuple[str, ...] = STEPS) -> Iterator[list[str]]:
    """`act(number, step)` is called before and after every step: numbers 0 and 1 for the first, and so on.

    A write takes half of what it is given first, as a disk that is filling up does. Yields the steps as they are taken.
    """
    taken: list[str] = []
    kept = {name: getattr(os, name) for name in steps}

    def wrapped(name: str) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            number = 2 * len(taken)
            taken.append(name)
            act(number, name)
            if name == "write" and len(given[1]) > 1:
                given = (given[0], given[1][: len(given[1]) // 2])
            try:
                return kept[name](*given, **named)
            finally:
                act(number + 1, name)

        return step

    try:
        for name in steps:
            setattr(os, name, wrapped(name))
        yield taken
    finally:
        for name, function in kept.items():
            setattr(os, name, function)


def steps_of(write: Callable[[Path, int], None], folder: Path, steps: tuple[str, ...] = STEPS) -> list[str]:
    """The steps of writing over a file that is there, beyond the halving of ever smaller pieces."""
    write(folder, 1)
    with counted(lambda number, name: None, steps) as taken:
        write(folder, 2)
    return taken


@pytest.mark.parametrize("kind", WRITERS)
def test_killed_before_or_after_any_step_it_leaves_the_old_file_or_the_new(
    kind: str, fork: Callable[..., Any], tmp_path: Path
) -> None:
    write, read = WRITERS[kind]
    taken = steps_of(write, tmp_path / "count")
    assert [name for name in dict.fromkeys(taken) if name != "unlink"] == [
        "mkdir",
        "open",
        "write",
        "fsync",
        "close",
        "replace",
    ]
    # Some writes of many, and all the rest.
    writes = [k for k, name in enumerate(taken) if name == "write"]
    points = [k for k, name in enumerate(taken) if name != "write" or k in (*writes[:2], writes[-1])]
    seen = []
    for point in sorted([*(2 * k for k in points), *(2 * k + 1 for k in points)]):
        folder = tmp_path / str(point)
        write(folder, 1)

        def die(number: int, name: str, point: int = point) -> None:
            if number == point:
                os.kill(os.getpid(), signal.SIGKILL)

        def work(folder: Path = folder, die: Callable[[int, str], None] = die) -> None:
            with counted(die):
                write(folder, 2)

        ended = fork(work).wait()
        assert ended.code == -signal.SIGKILL, ended.said
        seen.append(read(folder))
        visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        # A checkpoint is a file of its own; the one before it is still there until the next is written.
        assert len(visible) == (seen[-1] if kind == "checkpoint" else 1)
        # Whoever comes next writes as if nothing had been, and sweeps up.
        write(folder, 3)
        sweep(folder)
        assert read(folder) == 3 and not [path for path in folder.iterdir() if path.name.startswith(".")]
    # Old up to the renaming, new from there on.
    assert seen == sorted(seen) and set(seen) == {1, 2}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_what_was_there_and_is_said_in_one_sentence(kind: str, tmp_path: Path) -> None:
    write, read = WRITERS[kind]
    taken = steps_of(write, tmp_path / "count", REFUSED)
    failed = 0
    for point, name in enumerate(taken):
        if name == "write" and taken[:point].count("write") > 2:
            continue
        folder = tmp_path / str(point)
        write(folder, 1)
        before = {path: path.read_bytes() for path in folder.iterdir()}

        def refuse(number: int, name: str, point: int = point) -> None:
            if number == 2 * point:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if point > taken.index("replace"):
            # The folder's list of names is flushed as far as the system lets it be; the file is whole by then.
            with counted(refuse, REFUSED):
                write(folder, 2)
            assert read(folder) == 2
            continue
        with counted(refuse, REFUSED), pytest.raises(FileProblem, match=r"cannot be written: No space left") as caught:
            write(folder, 2)
        failed += 1
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        write(folder, 3)
        assert read(folder) == 3
    assert failed >= 6


def test_a_folder_that_cannot_be_made_is_said_too(tmp_path: Path) -> None:
    def refuse(number: int, name: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with counted(refuse, ("mkdir",)), pytest.raises(FileProblem, match=r"a.txt cannot be written: No space left"):
        write_whole(tmp_path / "new" / "a.txt", b"")
    assert not list(tmp_path.iterdir())


def test_what_is_new_is_never_written_over_what_came_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, b"mine", replace=False)
    with pytest.raises(FileExistsError):
        write_whole(path, b"yours", replace=False)
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == ["a.txt"]


def test_a_link_laid_where_the_partial_file_goes_is_not_followed(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("precious")
    folder.mkdir()
    made: list[str] = []
    kept = os.open

    def watched(path: Any, *given: Any) -> int:
        if str(path).endswith(".part") and not made:
            made.append(str(path))
            os.symlink(victim, path)
        return kept(path, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", watched)
        with pytest.raises(FileProblem, match="cannot be written"):
            write_whole(folder / "a.txt", b"new")
    assert made and victim.read_text() == "precious"


def test_names_that_no_system_has_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 300, "\udcff\ud800"):
        with pytest.raises(FileProblem, match="cannot be written"):
            write_whole(tmp_path / name / "a.txt", b"")
        with pytest.raises(FileProblem, match="cannot be written"):
            write_whole(tmp_path / name, b"")
    longest = tmp_path / ("n" * 255)
    write_whole(longest, b"whole")
    assert os.listdir(tmp_path) == [longest.name]
