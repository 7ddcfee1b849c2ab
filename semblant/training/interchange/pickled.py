"""Pickles, read by a process apart: of what they hold only tensors and names come back."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from semblant.backbones.header import PICKLE_SIGNS, PICKLED, beginning
from semblant.errors import FileProblem
from semblant.training.files import read_tensors
from semblant.training.interchange import unpickling

SECONDS = 60
"""How long the process may take, most of which goes into starting it."""
Names = tuple[str, ...]
"""The keys that lead to an entry, through tables within tables."""
_REASONS = {
    unpickling.MORE_THAN_TENSORS: "asks for more than tables of tensors, or is damaged; a program could hide in it",
    unpickling.TOO_LARGE: f"holds more than {unpickling.LARGEST // 2**20} MB, far more than an embedding has",
}


@dataclass(frozen=True)
class Pickled:
    """What a pickle holds: its tensors, and the names of entries that are none, whose values stay behind."""

    tensors: dict[Names, Tensor]
    others: tuple[Names, ...]


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by how it begins or, unless it is a safetensors file, by its name.

    Raises FileProblem when it is missing or a folder.
    """
    start = beginning(path)
    if start[8:9] == b"{":
        return False
    return start.startswith(PICKLE_SIGNS) or path.suffix.lower() in PICKLED


def read(path: Path) -> Pickled:
    """The tensors of a pickle.

    Raises FileProblem, in one sentence, for a pickle that asks for anything else, is damaged, or takes too long.
    """
    if path.stat().st_size > 2 * unpickling.LARGEST:
        raise FileProblem(f"{path} was not read: the pickle {_REASONS[unpickling.TOO_LARGE]}")
    with tempfile.TemporaryDirectory(prefix="semblant-") as folder:
        out = Path(folder) / "tensors.safetensors"
        # -P: modules are not looked for where the program lies, nor in the folder that it runs in.
        command = [sys.executable, "-P", unpickling.__file__, str(path.resolve()), str(out)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise FileProblem(f"{path} was not read: as a pickle it took more than {SECONDS} seconds") from None
        if done.returncode in _REASONS:
            raise FileProblem(f"{path} was not read: the pickle {_REASONS[done.returncode]}")
        if done.returncode != 0 or not out.is_file():
            raise FileProblem(f"{path} was not read: the process that reads pickles ended with {done.returncode}")
        tensors, metadata = read_tensors(out)
    return Pickled(
        {tuple(json.loads(names)): tensor for names, tensor in tensors.items()},
        tuple(tuple(names) for names in json.loads(metadata["others"])),
    )
