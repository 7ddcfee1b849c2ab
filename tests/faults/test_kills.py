"""Killed at any point of a run: resumed, it learns to the bit what it would have learned."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import semblant as sb
from semblant.backbones.base import Base
from semblant.data.subject import Subject
from semblant.training.checkpoint import Store
from semblant.training.concepts import Concept, load, save

Fork = Callable[[Callable[[], Any]], Any]
METHODS: dict[str, tuple[int, dict[str, Any]]] = {
    "textual-inversion": (12, {"views": 2, "batch": 1}),
    "sefi-ide": (4, {"views": 2, "calibration_draws": 1}),
    "lora-dreambooth": (4, {"views": 2, "batch": 1, "prior_count": 1, "prior_steps": 1}),
}
"""How often each is killed, and settings that make it quick."""


def learn(base: Base, subject: Subject, method: str, folder: Path, resume: bool = False) -> None:
    """A run of six steps that writes a checkpoint every second step, and its concept."""
    settings = METHODS[method][1]
    at, out = folder / "maya.checkpoint", folder / "maya.safetensors"
    save(sb.fit(method, base, subject, steps=6, checkpoint=at, every=2, resume=resume, seed=3, **settings), out)
    Store(at).remove()


def counting(work: Callable[[], Any], die_at: int | None = None) -> int:
    """How many functions are called during some work; the process is killed as the one of this number is called."""
    calls = 0

    def watch(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        if event in ("call", "c_call"):
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_what_a_writer_left_that_was_killed_is_swept_up(fit: Callable[..., Any], fork: Fork, tmp_path: Path) -> None:
    def dying(ending: str) -> None:
        """Die between the writing of such a file and its renaming."""
        kept = os.replace

        def replace(old: Any, new: Any) -> None:
            if str(new).endswith(ending):
                os.kill(os.getpid(), signal.SIGKILL)
            kept(old, new)

        os.replace = replace  # type: ignore[assignment]

    hidden = lambda ending="": [path for path in tmp_path.rglob(f".*{ending}") if path.is_file()]
    for ending in ("checkpoint-000001.safetensors", "maya.safetensors"):
        ended = fork(lambda: (dying(ending), fit("--steps", 2, "--resume"))).wait()  # noqa: B023 - forked at once
        assert ended.code == -signal.SIGKILL and len(hidden(".part")) == 1, ended.said
    assert fork(lambda: fit("--steps", 2, "--resume")).wait().code == 0
    assert not hidden() and Path("maya.safetensors").exists() and not Path("maya.checkpoint").exists()


def same(one: Concept, other: Concept) -> None:
    assert one.losses == other.losses and one.settings == other.settings and one.steps == other.steps
    assert one.tensors.keys() == other.tensors.keys()
    assert all(tensor.equal(other.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_anywhere_and_resumed_it_learns_the_same_to_the_bit(
    base: Base, subject: Subject, fork: Fork, tmp_path: Path, method: str
) -> None:
    run = partial(learn, base, subject, method)
    whole = tmp_path / "whole"
    counted = fork(lambda: print(counting(lambda: run(whole)))).wait()
    assert counted.code == 0, counted.said
    calls, expected = int(counted.said.split()[-1]), load(whole / "maya.safetensors")
    rng, begun = random.Random(f"kills {method}"), 0
    for number in range(METHODS[method][0]):
        folder, point, again = tmp_path / str(number), rng.randrange(calls), rng.randrange(calls)
        killed = fork(lambda: counting(lambda: run(folder), point)).wait()  # noqa: B023 - forked at once
        assert killed.code == -signal.SIGKILL, killed.said
        begun += (folder / "maya.checkpoint").exists()
        if number % 4 == 0:
            # Killed once more on its way, unless it arrives before.
            fork(lambda: counting(lambda: run(folder, resume=True), again)).wait()  # noqa: B023
        resumed = fork(lambda: run(folder, resume=True)).wait()  # noqa: B023
        assert resumed.code == 0, resumed.said
        same(load(folder / "maya.safetensors"), expected)
        assert [path.name for path in folder.iterdir()] == ["maya.safetensors"]
    # Some of the points are after the first checkpoint, so this is not starting anew.
    assert begun > METHODS[method][0] // 5
