"""Sampling one picture with guidance: diffusers' pipeline at its defaults, and ours, from the same noise.

`python -m benchmarks.speed.sampling JOB STARTED` is called by `benchmarks.speed`; the job's side says whose turn it is.
The timed picture follows one of two steps, which counts as the cold start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.speed.job import OURS, Job
from benchmarks.speed.recipe import GUIDANCE, NEGATIVE, PROMPT
from benchmarks.speed.watch import Watch, write

WARM_UP = 2
"""Steps of the picture that is not timed."""
Sample = Callable[[int], Image.Image]
"""Makes the picture in so many steps."""


def theirs(job: Job) -> Sample:
    """diffusers' pipeline; the scheduler is the checkpoint's own, DDIM."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(job.checkpoint)
    pipeline.set_progress_bar_config(disable=True)

    def sample(steps: int) -> Image.Image:
        generator = torch.Generator().manual_seed(job.seed)
        made = pipeline(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=steps, generator=generator)
        return made.images[0]

    return sample


def ours(job: Job) -> Sample:
    """The verb `sample`."""
    from semblant.verbs import load, sample

    base = load(job.checkpoint)
    return lambda steps: sample(base, PROMPT, negative=NEGATIVE, steps=steps, guidance=GUIDANCE, seed=job.seed)[0]


def run(job: Job, started: float) -> dict[str, Any]:
    """Make the picture, keep it beside the result, and say how it went."""
    watch = Watch(started)
    torch.set_num_threads(job.threads)
    sample = (ours if job.side == OURS else theirs)(job)
    sample(min(WARM_UP, job.steps))
    watch.step(0.0)
    picture = sample(job.steps)
    watch.step(0.0)
    picture.save(Path(job.result).with_suffix(".png"))
    return {"job": job.key(), "precision": "float32", **watch.facts(), "losses": []}


def main() -> None:
    """Run the job in the file named first; the second argument is when the process was started."""
    job = Job.read(Path(sys.argv[1]))
    write(Path(job.result), run(job, float(sys.argv[2])))


if __name__ == "__main__":
    main()
