"""Their side: a script of diffusers, unmodified, run in this process and watched.

`python -m benchmarks.speed.peers JOB STARTED` is called by `benchmarks.speed`. Nothing of semblant is imported here, so
that its memory is the script's own.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.job import Job
from benchmarks.speed.recipe import RECIPES
from benchmarks.speed.recording import Recorder
from benchmarks.speed.watch import Denoise, Finished, Watch, count_parts, follow, load_bank, write

STANDIN = Path(__file__).with_name("standin")
NEEDED = ("unet", "weight_dtype")
"""Variables of a script's main function by which its losses are read."""


def arguments(job: Job) -> list[str]:
    """What the script is called with."""
    recipe = RECIPES[job.part]
    return [
        *("--pretrained_model_name_or_path", str(job.checkpoint), recipe.pictures, str(job.pictures)),
        *("--output_dir", str(Path(job.result).with_suffix(".out"))),
        *("--resolution", str(job.resolution), "--train_batch_size", str(job.batch)),
        *("--max_train_steps", str(job.steps), "--seed", str(job.seed)),
        *recipe.flags,
        *job.flags,
    ]


def denoiser(variables: Mapping[str, Any], prompt: str) -> Denoise:
    """How the networks of a script, as they are now, predict noise under a prompt. Raises KeyError for a script whose
    variables have other names."""
    if missing := [name for name in NEEDED if name not in variables]:
        raise KeyError(
            f"the script has no variable {', '.join(missing)}: it is none of the examples this comparison knows "
            "(those of diffusers 0.38 to 0.42)"
        )
    unet, dtype = variables["unet"], variables["weight_dtype"]
    if variables.get("text_encoder") is None:
        # The prompt of training was encoded once, and the encoder let go.
        encoding = variables["pre_computed_encoder_hidden_states"]
    else:
        tokenizer = variables["tokenizer"]
        read = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        with torch.no_grad():
            encoding = variables["text_encoder"](read.input_ids)[0]

    def denoise(x: Tensor, timestep: Tensor) -> Tensor:
        predicted: Tensor = unet(x.to(dtype), timestep, encoding.to(dtype), return_dict=False)[0]
        return predicted

    return denoise


def lend_torchvision() -> None:
    """Make the stand-in importable as torchvision, for what is imported from now on by the script.

    diffusers, transformers and accelerate have looked for torchvision before, and go on as they do without it.
    """
    import accelerate
    import diffusers
    import transformers

    for library in (accelerate, diffusers, transformers):
        if hasattr(library.utils, "is_torchvision_available"):
            library.utils.is_torchvision_available()
    sys.path.insert(0, str(STANDIN))


def run(job: Job, started: float) -> dict[str, Any]:
    """Run the script and say how it went."""
    watch = Watch(started)
    torch.set_num_threads(job.threads)
    lend_torchvision()
    recipe = RECIPES[job.part]
    prompt = recipe.prompt.format(recipe.subject)
    recorder = Recorder(job.part, Path(job.record)) if job.record else None
    bank = load_bank(job.bank)

    def after(step: int, variables: Mapping[str, Any]) -> None:
        if recorder is not None:
            recorder.after(step, variables)
        if step % job.look_every == 0 or step == job.steps:
            watch.look(denoiser(variables, prompt), bank)

    count_parts(watch)
    follow(watch, after, job.steps)
    if recorder is not None:
        recorder.begin()
    sys.argv = [job.script, *arguments(job)]
    with suppress(Finished):
        runpy.run_path(job.script, run_name="__main__")
    if watch.taken < job.steps:
        raise RuntimeError(f"{job.script} took {watch.taken} of {job.steps} steps")
    if recorder is not None:
        recorder.write()
    return {"job": job.key(), "precision": job.precision, **watch.facts()}


def main() -> None:
    """Run the job in the file named first; the second argument is when the process was started."""
    job = Job.read(Path(sys.argv[1]))
    write(Path(job.result), run(job, float(sys.argv[2])))


if __name__ == "__main__":
    main()
