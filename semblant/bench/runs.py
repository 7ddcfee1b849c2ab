"""The folder of a run, beside its concept: steps kept along the way, where the pictures lie, and the verdict."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from semblant import __version__
from semblant.backbones.base import Base
from semblant.bench.results import write_json
from semblant.bench.verdict import Verdict, figure, judge, prompts_for
from semblant.data.faces import Detector
from semblant.data.pictures import digest, find_pictures
from semblant.data.subject import Subject
from semblant.errors import FileProblem, SemblantError
from semblant.training import concepts
from semblant.training.concepts import Concept

logger = logging.getLogger(__name__)

RUN, VERDICT = "run.json", "verdict.json"
MARGIN = 0.1
"""A step whose prompts are obeyed this much less than the best step's is not chosen, however alike."""
ALIKE = 0.1
"""Identity under which the choice of a step is said to mean little."""
LOOKED_AT = 2
"""Prompts by which a kept step is judged."""
_NAME = re.compile(r"step-(\d+)\.safetensors")
_HOMES = frozenset({"home", "Users", "root"})


@dataclass(frozen=True)
class RunFolder:
    """`NAME.run` beside `NAME.safetensors`."""

    path: Path

    @classmethod
    def beside(cls, concept: Path) -> RunFolder:
        """The folder of the run that makes a concept file."""
        return cls(concept.with_suffix(".run"))

    def keep(self, concept: Concept, strip: bool = False) -> Path | None:
        """Write what is learned so far as a concept file named with its step, atomically.

        What is not finite is only warned of: the run itself says what to do when it goes on like that.
        """
        file = self.path / f"step-{concept.steps:06d}.safetensors"
        try:
            concepts.save(concept, file, strip=strip)
        except FileProblem:
            raise
        except SemblantError as problem:
            logger.warning("step %d is not kept: %s", concept.steps, problem)
            return None
        return file

    def kept(self) -> list[tuple[int, Path]]:
        """Steps and files, in order; empty when there is no such folder."""
        named = [(_NAME.fullmatch(path.name), path) for path in self.path.glob("step-*.safetensors")]
        return sorted((int(found[1]), path) for found, path in named if found)

    def note(self, pictures: Sequence[Path], face: str, strip: bool = False) -> None:
        """Write down how to find the pictures again: their places relative to this folder.

        Places that would name somebody's home folder are left out, and with `strip` all of them.
        """
        places = [] if strip else [self._relative(picture) for picture in pictures]
        kept = [place for place in places if place is not None]
        whole = len(kept) == len(pictures)
        write_json(self.path / RUN, {"semblant": __version__, "pictures": kept if whole else [], "face": face})

    def write_verdict(self, verdict: Verdict) -> Path:
        """Store the verdict."""
        write_json(self.path / VERDICT, verdict.record())
        return self.path / VERDICT

    def read(self, name: str) -> dict[str, Any]:
        """One of its JSON files; empty when it is missing or damaged."""
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def pictures(self, concept: Concept, detector: Detector) -> list[Image.Image]:
        """The pictures that the run learned from, as it saw them.

        Raises FileProblem when they cannot be found, SemblantError when they are others than they were.
        """
        noted = self.read(RUN)
        places = [self.path / place for place in noted.get("pictures", []) if isinstance(place, str)]
        if not places:
            raise FileProblem(f"{self.path} does not say where its pictures are")
        there = {digest(file) for place in places for file in find_pictures(place)}
        if not there.issuperset(concept.pictures):
            raise SemblantError(f"the pictures noted in {self.path} are not those that the run learned from")
        face = noted.get("face", "ask")
        subject = Subject.read(places, concept.word, concept.class_word, face=face, detector=detector)
        return list(subject.images)

    def clear(self) -> None:
        """Remove what a run wrote here, and the folder when nothing else is in it."""
        for file in [*(path for _, path in self.kept()), self.path / RUN, self.path / VERDICT]:
            file.unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def _relative(self, picture: Path) -> str | None:
        try:
            place = PurePath(os.path.relpath(picture, self.path))
        except ValueError:
            # On another drive.
            return None
        return None if place.is_absolute() or _HOMES.intersection(place.parts) else place.as_posix()


@dataclass(frozen=True)
class Step:
    """What one kept concept is like."""

    step: int
    file: Path
    loss: float | None
    figures: Mapping[str, Any]
    verdict: Verdict | None = None

    @property
    def identity(self) -> float | None:
        """See `Verdict.identity`; None when not measured."""
        return None if self.verdict is None else self.verdict.identity

    @property
    def obeys(self) -> float | None:
        """See `Verdict.obeys`; None when not measured."""
        return None if self.verdict is None else self.verdict.obeys

    def record(self) -> dict[str, Any]:
        """All of it as plain data."""
        told = {"identity": self.identity, "obeys": self.obeys}
        copies = [] if self.verdict is None else list(self.verdict.copies)
        plain = {"step": self.step, "file": self.file, "loss": self.loss, "figures": dict(self.figures)}
        return {**plain, **told, "copies": copies}


def read_steps(folder: RunFolder) -> list[tuple[Step, Concept]]:
    """Every kept concept, damaged ones left out with a warning. Raises FileProblem when none can be used."""
    if not folder.path.is_dir():
        raise FileProblem(f"there is no folder {folder.path}; give the NAME.run of `semblant fit --keep-every N`")
    found = []
    for step, file in folder.kept():
        try:
            concept = concepts.load(file)
        except FileProblem as problem:
            logger.warning("Skipped: %s", problem)
            continue
        found.append((Step(step, file, concept.losses.get("last"), concept.figures), concept))
    if not found:
        raise FileProblem(
            f"{folder.path} holds no kept concepts; `semblant fit --keep-every N` keeps one every N steps"
        )
    return found


def measure_steps(
    steps: Sequence[tuple[Step, Concept]],
    base: Base,
    pictures: Sequence[Image.Image],
    *,
    seed: int = 0,
    looked_at: int = LOOKED_AT,
    progress: Callable[[int, int, str], None] = lambda done, total, details: None,
) -> list[Step]:
    """Judge each kept concept by `looked_at` prompts, one picture each. Raises SemblantError as `judge` does."""
    measured = []
    for number, (step, concept) in enumerate(steps):
        progress(number, len(steps), f"step {step.step}")
        concepts.require_base(concept, base, str(step.file))
        found = judge(base, concept, pictures, prompts=prompts_for(concept.class_word)[:looked_at], seed=seed)
        measured.append(replace(step, verdict=found))
    progress(len(steps), len(steps), "")
    return measured


def choose(steps: Sequence[Step]) -> tuple[Step, str] | None:
    """The step to keep and why: the best identity among those that obey within ten points of the best; of equals the
    earliest. None when nothing was measured."""
    told = [step for step in steps if step.obeys is not None]
    if not told:
        return None
    best = max(step.obeys or 0.0 for step in told)
    # A hair's breadth for the rounding of shares.
    faithful = [step for step in told if (step.obeys or 0.0) >= best - MARGIN - 1e-9]
    alike = [step for step in faithful if step.identity is not None]
    if not alike:
        chosen = max(told, key=lambda step: (step.obeys or 0.0, -step.step))
        return chosen, f"it obeys best ({figure(chosen.obeys)}); identity could not be measured"
    chosen = max(alike, key=lambda step: (step.identity or 0.0, -step.step))
    which = f"the {len(faithful)} of {len(told)} steps" if len(told) > 1 else "the only step"
    within = f" that obey within {MARGIN * 100:.0f} points of the best ({figure(best)})" if len(told) > 1 else ""
    stranger = "; but none is much more like the subject than a stranger" if (chosen.identity or 0.0) < ALIKE else ""
    return chosen, f"the best identity ({figure(chosen.identity)}) among {which}{within}{stranger}"
