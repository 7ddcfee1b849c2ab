"""Where a fit leaves its files, refused before it begins when something would be lost."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from semblant.errors import FileProblem

if TYPE_CHECKING:
    from semblant.bench.runs import RunFolder


@dataclass(frozen=True)
class Output:
    """Where a run leaves its concept, and its checkpoints while it is not done."""

    file: Path
    checkpoint: Path
    run: RunFolder
    """What stays beside the concept: kept steps and the verdict."""

    @classmethod
    def of(cls, out: Path | None, word: str, resume: bool, force: bool) -> Output:
        """The places for `--out`, or the word.

        Raises FileProblem when the file cannot be written, or something is there that would be lost.
        """
        from semblant.bench.runs import RunFolder

        file = out if out is not None else Path(f"{re.sub(r'[^A-Za-z0-9_-]+', '', word) or 'concept'}.safetensors")
        if not file.suffix:
            file = file.with_name(file.name + ".safetensors")
        if file.suffix != ".safetensors":
            raise FileProblem(f"a concept is a safetensors file: give {file} the ending .safetensors")
        if file.is_dir():
            raise FileProblem(f"{file} is a folder; give a file, such as {file}/concept.safetensors")
        if file.exists() and not force:
            raise FileProblem(f"{file} exists already; give another --out, or --force to replace it")
        folder = file.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise FileProblem(f"{file} cannot be written: {folder} is no folder that you may write to")
        checkpoint = file.with_name(file.name.removesuffix(".safetensors") + ".checkpoint")
        if checkpoint.is_dir() and any(checkpoint.iterdir()) and not resume and not force:
            raise FileProblem(
                f"{checkpoint} holds a run that was interrupted; go on with --resume, or start anew with --force"
            )
        run = RunFolder.beside(file)
        if run.path.exists() and not run.path.is_dir():
            raise FileProblem(f"{run.path} is a file; the run needs a folder of that name. Give another --out")
        if run.kept() and not resume and not force:
            raise FileProblem(
                f"{run.path} holds steps kept of an earlier run; give another --out, or --force to replace it"
            )
        return cls(file, checkpoint, run)
