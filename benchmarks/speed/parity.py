"""Whether both sides compute the same: ours replays what a script drew, and its losses are compared step by step.

The script runs as always and is recorded (`recording`): pictures as its networks saw them, the draw from the
autoencoder's posterior, noise, timesteps, prompts, and for LoRA the factors it starts from. Ours then takes its own
training loop through the same draws, encoding every picture and prompt anew at every step.

`python -m benchmarks.speed.parity JOB STARTED` is called by `benchmarks.speed`; the job's `record` is read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.speed.job import Job
from benchmarks.speed.ours import chosen, subject_of
from benchmarks.speed.recipe import RECIPES, WORD
from benchmarks.speed.watch import write
from semblant.backbones.base import Base
from semblant.backbones.context import Context
from semblant.backbones.patch import TrajectoryPatch, WordsPatch
from semblant.training import step
from semblant.training.learner import Batch, Learner
from semblant.training.optimise import optimise
from semblant.training.step import Drawn
from semblant.verbs import load

CLOSE = 1e-4
"""Largest difference of a loss, as a share of it, that still counts as the same."""


class Record:
    """What a script drew and learned."""

    def __init__(self, path: Path, subject: str) -> None:
        self.tensors = load_file(path.with_suffix(".safetensors"))
        told = json.loads(path.with_suffix(".json").read_text())
        self.losses: list[float] = told["losses"]
        self.ids: list[list[list[int]]] = told["ids"]
        self.prompts: list[list[str]] = told["prompts"]
        self.subject = subject

    def learned(self, when: str) -> dict[str, Tensor]:
        """What stood at the "start" or at the "end", by our names."""
        return {name.removeprefix(f"{when}."): t for name, t in self.tensors.items() if name.startswith(f"{when}.")}

    def draws(self, base: Base, learner: Learner) -> Iterator[Drawn]:
        """The steps, as our loop has them after drawing."""
        for number, (prompts, ids) in enumerate(zip(self.prompts, self.ids, strict=True), 1):
            learner.begin(torch.Generator().manual_seed(0))
            patches = [p for p in learner.patches() if not isinstance(p, TrajectoryPatch)]
            words = base.patched(*(p for p in patches if isinstance(p, WordsPatch)))
            context = words.text([prompt.replace(self.subject, WORD) for prompt in prompts])
            require_same_tokens(context, ids)
            yield Drawn([0], [patches], [self._batch(base, number, context)])

    def _batch(self, base: Base, number: int, context: Context) -> Batch:
        given = {
            name: self.tensors.get(f"{number}.{name}") for name in ("pixels", "drawn", "noise", "timesteps", "mask")
        }
        pixels, drawn, noise, timesteps = (given[name] for name in ("pixels", "drawn", "noise", "timesteps"))
        assert pixels is not None and drawn is not None and noise is not None and timesteps is not None
        with torch.no_grad():
            mean, deviation = base.posterior(pixels)
        latent = mean + deviation * drawn
        noised = base.schedule.noised(latent, noise, timesteps)
        return Batch(latent, noise, noised, timesteps, given["mask"], context, torch.ones(len(latent)))


def require_same_tokens(context: Context, ids: Sequence[Sequence[int]]) -> None:
    """Raise ValueError when a prompt has other tokens than the script's, the subject's own apart."""
    for row, theirs in zip(context.rows, ids, strict=True):
        own = set(row.positions[WORD])
        different = [place for place, pair in enumerate(zip(row.ids, theirs, strict=True)) if pair[0] != pair[1]]
        if not own.issuperset(different):
            raise ValueError(
                f"{row.text!r} has other tokens than the script's prompt at {sorted(set(different) - own)}"
            )


def start_like(learner: Learner, start: Mapping[str, Tensor]) -> None:
    """Let a learner start from factors that a script drew by chance; what both sides start at anyway stays."""
    with torch.no_grad():
        for name, parameter in learner.parameters.items():
            if name in start and name.endswith((".up", ".down")):
                parameter.copy_(start[name])


def change(start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> Tensor:
    """What was learned, as one vector."""
    return torch.cat([(end[name] - start[name]).flatten() for name in sorted(end)])


def learned(learner: Learner) -> dict[str, Tensor]:
    """What a learner holds, by the names of a record."""
    rows = {"rows": "row", "modifier": "row"}
    return {rows.get(name, name): p.detach().clone() for name, p in learner.parameters.items()}


def compare(ours: Sequence[float], theirs: Sequence[float], scale: float = 1.0) -> dict[str, Any]:
    """Losses side by side, theirs in our units, and their largest difference as a share of theirs."""
    wanted = [loss / scale for loss in theirs]
    shares = [abs(own - other) / abs(other) for own, other in zip(ours, wanted, strict=True)]
    return {"ours": list(ours), "theirs": wanted, "difference": max(shares), "same": max(shares) <= CLOSE}


def replay(job: Job) -> dict[str, Any]:
    """Take our loop through a record, and compare."""
    torch.set_num_threads(job.threads)
    recipe = RECIPES[job.part]
    record = Record(Path(job.record), recipe.subject)
    base = load(job.checkpoint)
    settings = chosen(job, **recipe.parity_settings)
    learner = settings.learner(base, subject_of(job), torch.Generator().manual_seed(job.seed))
    start_like(learner, record.learned("start"))
    before = learned(learner)
    draws = record.draws(base, learner)
    with patch.object(step, "draw", lambda *_given, **_named: next(draws)):
        history = optimise(base, [learner], seeds=[job.seed])[0]
    ours, theirs = change(before, learned(learner)), change(record.learned("start"), record.learned("end"))
    apart = float((_matched(ours, theirs) - theirs).norm() / theirs.norm())
    return {"job": job.key(), **compare(history.losses, record.losses, recipe.parity_scale), "change": apart}


def _matched(ours: Tensor, theirs: Tensor) -> Tensor:
    if ours.shape != theirs.shape:
        raise ValueError(f"ours learns {ours.numel()} numbers, the script {theirs.numel()}")
    return ours


def main() -> None:
    """Run the job in the file named first."""
    job = Job.read(Path(sys.argv[1]))
    write(Path(job.result), replay(job))


if __name__ == "__main__":
    main()
