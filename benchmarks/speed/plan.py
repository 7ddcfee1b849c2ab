"""Which runs there are, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.speed.job import OURS, THEIRS, Job, Precision
from benchmarks.speed.recipe import RECIPES, SAMPLING_STEPS

PARITY, SAMPLING = "parity", "sampling"
PARTS = (PARITY, *RECIPES, SAMPLING)
PARITY_STEPS = 10


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    out: Path
    scripts: Path | None
    """Folder of diffusers' examples; None runs our side alone."""
    shape: str
    resolution: int
    steps: int
    """Timed steps."""
    warm_up: int
    """Steps before them, the first of which ends the cold start."""
    batch: int = 1
    views: int = 10
    threads: int = 1
    seed: int = 0
    half: bool = False
    """Whether bfloat16 pays on this processor."""

    def jobs(self, part: str) -> list[tuple[str, Job]]:
        """The runs of a part with the modules that make them. Raises ValueError for a script that lacks."""
        if part == PARITY:
            return self._parity()
        return self._sampling() if part == SAMPLING else self._training(part)

    def _job(self, part: str, side: str, name: str, precision: Precision = "float32", flags: Sequence[str] = ()) -> Job:
        total = self.steps + self.warm_up
        return Job(
            part=part,
            side=side,
            name=name,
            made=str(self.out / "made"),
            result=str(self.out / "runs" / part / f"{side}-{name}.json"),
            steps=total,
            look_every=max(1, total // 2),
            precision=precision,
            batch=self.batch,
            resolution=self.resolution,
            views=self.views,
            threads=self.threads,
            seed=self.seed,
            flags=tuple(flags),
            script=self.script(part) if side == THEIRS and part in RECIPES else "",
        )

    def script(self, part: str) -> str:
        """Path of the script for a method."""
        if self.scripts is None:
            return ""
        file = self.scripts / RECIPES[part].script
        if not file.is_file():
            raise ValueError(
                f"no script {file}: --scripts is a folder that holds {', '.join(r.script for r in RECIPES.values())}, "
                "from the examples of diffusers"
            )
        return str(file)

    def _training(self, part: str) -> list[tuple[str, Job]]:
        """Theirs by default and at its best, ours in the precision of each and, for plain words, in its own choice."""
        best = (*RECIPES[part].best, *(("--mixed_precision", "bf16") if self.half else ()))
        jobs: list[Job] = []
        if self.scripts is not None:
            jobs.append(self._job(part, THEIRS, "default"))
            if best:
                jobs.append(self._job(part, THEIRS, "best", "bfloat16" if self.half else "float32", best))
        jobs.append(self._job(part, OURS, "float32"))
        if self.half:
            jobs.append(self._job(part, OURS, "bfloat16", "bfloat16"))
        if part == "textual-inversion":
            jobs.append(self._job(part, OURS, "own choice", "auto"))
        return [("peers" if job.side == THEIRS else "ours", job) for job in jobs]

    def _sampling(self) -> list[tuple[str, Job]]:
        jobs = [self._job(SAMPLING, THEIRS, "pipeline"), self._job(SAMPLING, OURS, "float32")]
        return [("sampling", replace(job, steps=SAMPLING_STEPS, look_every=SAMPLING_STEPS)) for job in jobs]

    def _parity(self) -> list[tuple[str, Job]]:
        """On the tiny shape, whatever the others run on: the code is the same, and the answer comes in seconds."""
        if self.scripts is None:
            return []
        jobs = []
        for part, recipe in RECIPES.items():
            record = str(self.out / "runs" / PARITY / f"{part}-record")
            common = {"made": str(self.out / "made-tiny"), "resolution": 64, "steps": PARITY_STEPS, "batch": 2}
            # The script counts for both sides: ours replays what it drew.
            common |= {"look_every": PARITY_STEPS, "record": record, "script": self.script(part)}
            for module, side in (("peers", THEIRS), ("parity", OURS)):
                flags = recipe.parity_flags if side == THEIRS else ()
                job = self._job(part, side, f"{part} {PARITY}", flags=flags)
                result = str(self.out / "runs" / PARITY / f"{part}-{side}.json")
                jobs.append((module, replace(job, result=result, **common)))
        return jobs
