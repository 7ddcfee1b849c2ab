"""Checkpoints: the state of a run in one safetensors file, the newest two kept, damage noticed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from semblant.errors import FileProblem, SemblantError
from semblant.training.files import content_hash, read_tensors, write_tensors
from semblant.training.lock import lock_name

FORMAT = "semblant-checkpoint/1"
_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds: tensors by name, plain facts, and the fingerprint of the run it belongs to."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    fingerprint: Mapping[str, Any]


@dataclass
class Store:
    """A folder of checkpoints, numbered in the order in which they were written."""

    folder: Path
    keep: int = 2
    own: list[Path] = field(default_factory=list)
    """Files of this run, oldest first. Another run's files go when this one has written its first."""

    def write(self, state: State) -> Path:
        """Write one more checkpoint atomically, then remove all but the newest ones of this run."""
        serial = max((number for number, _ in self._files()), default=0) + 1
        path = self.folder / f"checkpoint-{serial:06d}.safetensors"
        text = json.dumps({"facts": state.facts, "fingerprint": state.fingerprint}, sort_keys=True)
        metadata = {"format": FORMAT, "state": text, "sha256": content_hash(state.tensors, text)}
        write_tensors(path, state.tensors, metadata)
        self.own = [*self.own, path][-self.keep :]
        for _, old in self._files():
            if old not in self.own:
                # One too many does no harm, and is tried again next time.
                with suppress(OSError):
                    old.unlink()
        return path

    def read(self) -> State | None:
        """The newest undamaged checkpoint, or None when the folder has none at all.

        Raises FileProblem when there are some and all are damaged.
        """
        problems = []
        for _, path in reversed(self._files()):
            try:
                state = _read(path)
            except FileProblem as problem:
                logger.warning("%s; trying the checkpoint before it", problem)
                problems.append(str(problem))
                continue
            self.own = [path]
            return state
        if problems:
            raise FileProblem(f"no usable checkpoint: {'; '.join(problems)}. Start the run anew, without `--resume`.")
        return None

    @property
    def lock(self) -> Path:
        """The file that says which run writes here: .NAME.semblant-lock beside NAME.checkpoint."""
        return self.folder.with_name(lock_name(self.folder.name.removesuffix(".checkpoint")))

    def remove(self) -> None:
        """Delete the checkpoints, and the folder when nothing else is in it."""
        for _, path in self._files():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[tuple[int, Path]]:
        if self.folder.exists() and not self.folder.is_dir():
            raise FileProblem(f"{self.folder} is a file; checkpoints need a folder")
        named = [(_NAME.fullmatch(path.name), path) for path in self.folder.glob("checkpoint-*.safetensors")]
        return sorted((int(found[1]), path) for found, path in named if found)


def _read(path: Path) -> State:
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise FileProblem(
            f"{path} is no checkpoint of this version (format {metadata.get('format')!r}, not {FORMAT!r})"
        )
    text = metadata.get("state", "")
    if content_hash(tensors, text) != metadata.get("sha256"):
        raise FileProblem(f"{path} is damaged: its content does not match its checksum")
    state = json.loads(text)
    return State(tensors, state["facts"], state["fingerprint"])


def require_same(stored: Mapping[str, Any], current: Mapping[str, Any], folder: Path) -> None:
    """Raise SemblantError naming every key in which two fingerprints differ."""
    before, now = flat(json.loads(json.dumps(stored))), flat(json.loads(json.dumps(current)))
    absent = object()
    differing = [key for key in sorted({*before, *now}) if before.get(key, absent) != now.get(key, absent)]
    if differing:
        said = "; ".join(f"{key} was {_short(before, key)}, is {_short(now, key)}" for key in differing)
        raise SemblantError(
            f"the checkpoint in {folder} belongs to another run: {said}. "
            "Give what that run was given, or leave out `--resume` to start anew."
        )


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    made: dict[str, Any] = {}
    for key, value in nested.items():
        made.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return made


def _short(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    text = json.dumps(values[key])
    return text if len(text) <= 40 else text[:37] + "..."
