"""What a fit says: how it goes while it learns, how good the result is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semblant.cli.outputs import Output
from semblant.cli.terminal import Advance, Terminal, duration, memory
from semblant.errors import FileProblem, SemblantError

if TYPE_CHECKING:
    from semblant.backbones.base import Base
    from semblant.bench.verdict import Verdict
    from semblant.data.subject import Subject
    from semblant.training.concepts import Concept
    from semblant.training.optimise import Progress


class Teller:
    """Tells of a run: after a few steps how long it will take and how much memory, then how it goes.

    Of several subjects, whose words are `names`, it tells the loss of each, and who is done before the others.
    """

    AFTER = 5

    def __init__(self, terminal: Terminal, base: Base, advance: Advance, names: Sequence[str] = ("",)) -> None:
        self.terminal, self.base, self.advance, self.names = terminal, base, advance, names
        self.first: int | None = None
        self.at_work: set[int] = set()

    def __call__(self, progress: Progress) -> None:
        """Hear of one step."""
        from semblant.training.optimise import peak_memory

        if self.first is None:
            self.first = progress.step
        if progress.step == self.first + self.AFTER and progress.step < progress.steps:
            held = peak_memory(self.base.device)
            self.terminal.say(
                f"{progress.steps - progress.step} steps to go, about {duration(progress.seconds_left)}"
                + (f", {memory(held)} of memory" if held else "")
            )
        for index in sorted(self.at_work - {*progress.learners}):
            self.terminal.say(f"{self.names[index]} is done after {progress.step - 1} steps; the others go on")
        self.at_work = {*progress.learners}
        speed = 1 / max(progress.seconds_per_step, 1e-9)
        self.advance(progress.step, progress.steps, f"{self.losses(progress)}, {speed:.1f} steps/s")

    def losses(self, progress: Progress) -> str:
        """The loss, or that of each subject at work."""
        if len(self.names) == 1:
            return f"loss {progress.loss:.4f}"
        each = zip(progress.learners, progress.losses, strict=True)
        return "loss " + ", ".join(f"{self.names[index]} {loss:.4f}" for index, loss in each)


def judged(
    terminal: Terminal, base: Base, concept: Concept, subject: Subject, output: Output, *, one_of: int = 1
) -> Verdict | None:
    """The verdict on a fit, stored in its run folder; None, and one line that says why, where nothing can judge.

    Where it is `one_of` several, what is said names it.
    """
    from semblant.bench import verdict

    name = f" {concept.word}" if one_of > 1 else ""
    try:
        with terminal.work(f"judging{name}") as advance:
            found = verdict.judge(
                base, concept, subject.images, progress=lambda step, steps, clean: advance(step, steps, "")
            )
    except SemblantError as problem:
        terminal.say(f"no verdict{' on' if name else ''}{name}: {problem}")
        return None
    try:
        output.run.write_verdict(found)
    except FileProblem as problem:
        terminal.warn(f"the verdict is not kept: {problem}")
    return found


def embedding(terminal: Terminal, concept: Concept, file: Path, force: bool) -> Path | None:
    """The common embedding file beside a concept that is plain rows of one word."""
    from semblant.training import concepts

    if not concepts.is_plain_word(concept):
        return None
    target = file.with_suffix(".embedding.safetensors")
    if target.exists() and not force:
        terminal.warn(f"{target} exists already and was left as it is; --force replaces it")
        return None
    return concepts.save_embedding(concept, file)


@dataclass(frozen=True)
class Result:
    """What became of one subject."""

    subject: Subject
    concept: Concept
    output: Output
    embedding: Path | None
    kept: Sequence[Path]
    """Concepts of steps along the way."""
    verdict: Verdict | None = None

    def record(self) -> dict[str, Any]:
        """For programs."""
        concept = self.concept
        told = ("method", "word", "class_word", "settings", "seed", "steps", "losses", "figures", "base")
        return {
            "concept": self.output.file,
            "embedding": self.embedding,
            **{name: getattr(concept, name) for name in told},
            "pictures": len(self.subject.images),
            "kept": list(self.kept),
            "verdict": None if self.verdict is None else self.verdict.record(),
        }

    def lines(self) -> list[str]:
        """For people: one line for each thing."""
        concept, losses, figures = self.concept, self.concept.losses, self.concept.figures
        first, last = losses.get("first", 0), losses.get("last", 0)
        lines = [
            f"{concept.word} is in {self.output.file}, after {concept.steps} steps in "
            f"{duration(figures.get('seconds', 0))} ({figures.get('compute', 'float32')}); "
            f"loss {first:.4f} at first, {last:.4f} at last"
        ]
        if skipped := figures.get("skipped updates"):
            lines.append(f"{skipped} update{'s were' if skipped > 1 else ' was'} left out: the loss was not finite")
        if stopped := figures.get("stopped"):
            lines.append(f"it stopped {stopped}")
        if (inside := figures.get("attention inside mask")) is not None:
            lines.append(f"{inside:.0%} of the word's attention lies on the subject")
        if self.embedding is not None:
            lines.append(f"the word alone, for other programs, is in {self.embedding}")
        if self.kept:
            lines.append(f"{len(self.kept)} steps are kept; semblant checkpoints {self.output.run.path} compares them")
        if self.verdict is not None:
            lines.append(self.verdict.sentence)
        return lines


def summary(results: Sequence[Result], options: Sequence[str] = ()) -> str:
    """What became of each subject, and a line that samples them all, on the base that `options` name."""
    words = " and ".join(result.concept.word for result in results)
    files = [part for result in results for part in ("--concept", str(result.output.file))]
    blocks = ["\n".join(result.lines()) for result in results]
    return "\n".join([*blocks, f'next: semblant sample "a photo of {words}" {shlex.join([*files, *options])}'])
