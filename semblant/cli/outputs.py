"""Where a fit leaves its files, refused before it begins when something would be lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    """Where a run leaves a concept, and its checkpoints while it is not done."""

    file: Path
    checkpoint: Path
    run: RunFolder
    """What stays beside the concept: kept steps and the verdict."""

    @property
    def lock(self) -> Path:
        """The file that says which run makes it: .NAME.semblant-lock."""
        return _lock_of(self.checkpoint)

    @classmethod
    def of(cls, out: Path | None, word: str, resume: bool, force: bool) -> Output:
        """The places for `--out`, or the word.

        Raises FileProblem when the file cannot be written, something is there that would be lost, or another run is
        making it.
        """
        from semblant.bench.runs import RunFolder

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
        _require_idle(checkpoint, file)
        _require_done(checkpoint, resume, force)
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


LONGEST = 80
"""Letters of the name of what several subjects share, above which the others are only counted."""


@dataclass(frozen=True)
class Outputs:
    """Where a run leaves the concepts of its subjects, and the checkpoints of all while it is not done."""

    each: tuple[Output, ...]
    checkpoint: Path

    @classmethod
    def of(cls, out: Path | None, words: Sequence[str], resume: bool, force: bool) -> Outputs:
        """The places for `--out`: a file for one subject, a folder for several, whose files are called by their words.

        Raises FileProblem as `Output.of` does, and when two subjects would be written to one file.
        """
        if len(words) == 1:
            one = Output.of(out, words[0], resume, force)
            return cls((one,), one.checkpoint)
        folder = Path() if out is None else out
        if folder.suffix == ".safetensors" or (folder.exists() and not folder.is_dir()):
            raise FileProblem(f"several subjects make a file each: give --out a folder; {folder} is none")
        names = [file_name(word) for word in words]
        for word, name in zip(words, names, strict=True):
            # Not every file system tells large letters from small ones.
            if len(same := [w for w, n in zip(words, names, strict=True) if n.lower() == name.lower()]) > 1:
                raise FileProblem(
                    f"{' and '.join(same)} would both be written to {folder / name}.safetensors; "
                    "call one of them otherwise, or learn them one by one with an --out each"
                )
            alone = folder / f"{name}.checkpoint"
            if _holds_run(alone) and not force:
                raise FileProblem(
                    f"{alone} holds an interrupted run of {word} alone; finish that, give another --out, "
                    "or --force to throw it away"
                )
        joined = "+".join(names)
        shared = folder / f"{joined if len(joined) <= LONGEST else f'{names[0]}+{len(names) - 1}'}.checkpoint"
        _require_idle(shared, folder)
        each = [Output.of(folder / f"{name}.safetensors", name, resume, force) for name in names]
        _require_done(shared, resume, force)
        return cls(tuple(each), shared)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs from making any of it. Raises FileProblem while one does."""
        from semblant.training.lock import held

        with ExitStack() as stack:
            for output in self.each:
                stack.enter_context(held(output.lock, output.file))
            stack.enter_context(held(_lock_of(self.checkpoint), self.checkpoint))
            yield

    def clear(self, resume: bool, force: bool) -> None:
        """Remove what killed runs left half written, and with `force` an interrupted run that is not resumed."""
        from semblant.training.checkpoint import Store

        for output in self.each:
            output.clear(resume, force)
        if force and not resume:
            Store(self.checkpoint).remove()

    def save(self, made: Sequence[Concept], strip: bool) -> None:
        """Write the concepts; then their checkpoints have served.

        Raises FileProblem when one cannot be written, and says that nothing of the run is lost.
        """
        from semblant.training import concepts
        from semblant.training.checkpoint import Store

        for number, (output, concept) in enumerate(zip(self.each, made, strict=True)):
            try:
                concepts.save(concept, output.file, strip=strip)
            except FileProblem as problem:
                # What is written already would else be in the way.
                again = "`--resume --force`" if number else "`--resume`"
                raise FileProblem(
                    f"{problem}; the finished run is in {self.checkpoint}: when that is mended, the same command with "
                    f"{again} writes the concept{'s' if len(made) > 1 else ''}"
                ) from problem
        Store(self.checkpoint).remove()


def _lock_of(checkpoint: Path) -> Path:
    from semblant.training.checkpoint import Store

    return Store(checkpoint).lock


def _holds_run(checkpoint: Path) -> bool:
    return checkpoint.is_dir() and any(checkpoint.iterdir())


def _require_idle(checkpoint: Path, what: Path) -> None:
    from semblant.training.lock import held

    if (lock := _lock_of(checkpoint)).exists():
        # Whoever is at work is the reason for all that may be found.
        with held(lock, what):
            pass


def _require_done(checkpoint: Path, resume: bool, force: bool) -> None:
    if _holds_run(checkpoint) and not resume and not force:
        raise FileProblem(
            f"{checkpoint} holds a run that was interrupted; go on with --resume, or start anew with --force"
        )
