"""Where a fit leaves its files, refused before it begins when something would be lost."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from semblant.backbones.replacement import sweep
from semblant.errors import FileProblem

if TYPE_CHECKING:
    from semblant.bench.runs import RunFolder
    from semblant.training.concepts import Concept


def require_free(path: Path, force: bool) -> None:
    """Raise FileProblem when something is there and `force` does not say to replace it, or nothing can be written."""
    if path.exists() and not force:
        raise FileProblem(f"{path} exists already; give another --out, or --force to replace it")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise FileProblem(f"{path} cannot be written: {folder} is no folder that you may write to")


RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))])
"""Names that mean a device on Windows, whatever their ending."""


def file_name(word: str) -> str:
    """A subject's word as a file name without ending: ASCII letters, digits, hyphens, underscores; never empty."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "", word).strip("-")
    return f"concept-{plain}".strip("-") if not plain or plain.lower() in RESERVED else plain


@dataclass(frozen=True)
class Output:
    """Where a run leaves its concept, and its checkpoints while it is not done."""

    file: Path
    checkpoint: Path
    run: RunFolder
    """What stays beside the concept: kept steps and the verdict."""

    @property
    def lock(self) -> Path:
        """The file that says which run makes it: NAME.lock."""
        from semblant.training.checkpoint import Store

        return Store(self.checkpoint).lock

    @classmethod
    def of(cls, out: Path | None, word: str, resume: bool, force: bool) -> Output:
        """The places for `--out`, or the word.

        Raises FileProblem when the file cannot be written, something is there that would be lost, or another run is
        making it.
        """
        from semblant.bench.runs import RunFolder
        from semblant.training.lock import held

        file = out if out is not None else Path(f"{file_name(word)}.safetensors")
        if not file.suffix:
            file = file.with_name(file.name + ".safetensors")
        if file.suffix != ".safetensors":
            raise FileProblem(f"a concept is a safetensors file: give {file} the ending .safetensors")
        if file.is_dir():
            raise FileProblem(f"{file} is a folder; give a file, such as {file}/concept.safetensors")
        require_free(file, force)
        checkpoint = file.with_name(file.name.removesuffix(".safetensors") + ".checkpoint")
        output = cls(file, checkpoint, RunFolder.beside(file))
        if output.lock.exists():
            # Whoever is at work is the reason for all that may be found below.
            with held(output.lock, file):
                pass
        if checkpoint.is_dir() and any(checkpoint.iterdir()) and not resume and not force:
            raise FileProblem(
                f"{checkpoint} holds a run that was interrupted; go on with --resume, or start anew with --force"
            )
        run = output.run
        if run.path.exists() and not run.path.is_dir():
            raise FileProblem(f"{run.path} is a file; the run needs a folder of that name. Give another --out")
        if run.kept() and not resume and not force:
            raise FileProblem(
                f"{run.path} holds steps kept of an earlier run; give another --out, or --force to replace it"
            )
        return output

    def clear(self, resume: bool, force: bool) -> None:
        """Remove what killed runs left half written, and with `force` an interrupted run that is not resumed."""
        from semblant.training.checkpoint import Store

        sweep(self.file)
        if force and not resume:
            Store(self.checkpoint).remove()
            self.run.clear()

    def save(self, concept: Concept, strip: bool) -> None:
        """Write the concept; then its checkpoints have served.

        Raises FileProblem when it cannot be written, and says that nothing of the run is lost.
        """
        from semblant.training import concepts
        from semblant.training.checkpoint import Store

        store = Store(self.checkpoint)
        try:
            concepts.save(concept, self.file, strip=strip)
        except FileProblem as problem:
            raise FileProblem(
                f"{problem}; the finished run is in {self.checkpoint}: when that is mended, the same command with "
                "`--resume` writes the concept"
            ) from problem
        store.remove()
