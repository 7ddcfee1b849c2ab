"""Compare the speed of semblant with the example scripts of diffusers, in one command.

`python -m benchmarks.speed --shape tiny --scripts DIR --out build/speed` runs every part one after the other, each in a
process of its own, and writes results.json and results.md. What was run before with the same settings is not run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.speed.job import Job
from benchmarks.speed.plan import PARITY, PARTS, SAMPLING, Plan
from benchmarks.speed.report import collect
from benchmarks.speed.table import markdown
from benchmarks.speed.watch import write
from semblant.bench.results import stored

ROOT = Path(__file__).resolve().parents[2]
RESOLUTIONS = {"tiny": 64, "sd15": 256}
STEPS = {"tiny": 60, "sd15": 6}
"""Timed steps unless told otherwise: where they are short, single ones tell little."""
COSTS = {
    "tiny": "some minutes, half a gigabyte of memory and 10 MB on disk",
    "sd15": "less than 20 minutes on two cores, up to 10 GB of memory and 4.3 GB on disk",
}


class Failed(Exception):
    """A run that ended with an error."""


def environment(threads: int) -> dict[str, str]:
    """The same for both sides: threads, nothing from the network, no accelerator."""
    count = str(threads)
    return {
        **os.environ,
        **{name: count for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
        **{name: "1" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")},
        "TOKENIZERS_PARALLELISM": "false",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }


def call(module: str, arguments: Sequence[str], threads: int, log: Path) -> None:
    """Run a module of this package in a process of its own. Raises Failed with the end of what it said."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"benchmarks.speed.{module}", *arguments]
    with log.open("w", encoding="utf-8") as told:
        ended = subprocess.run(command, cwd=ROOT, env=environment(threads), stdout=told, stderr=subprocess.STDOUT)
    if ended.returncode:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise Failed(f"{module} failed; {log} tells all of it, and ends:\n{last}")


def run(module: str, job: Job) -> bool:
    """Make a result unless it is there, made with the same settings. Returns whether it had to be made."""
    result = Path(job.result)
    if stored(result).get("job") == job.key():
        return False
    job.write(result.with_suffix(".job"))
    call(module, [str(result.with_suffix(".job")), repr(time.time())], job.threads, result.with_suffix(".log"))
    return True


def made(folder: Path, shape: str, given: argparse.Namespace) -> None:
    """Checkpoint, pictures and bank, unless they are there."""
    wanted = {"shape": shape, "seed": given.seed, "rows": given.rows}
    if stored(folder / "made.json") == wanted:
        return
    say(f"making a checkpoint of shape {shape}")
    arguments = [str(folder), "--shape", shape, "--seed", str(given.seed), "--rows", str(given.rows)]
    call("checkpoint", arguments, given.threads, folder / "made.log")
    write(folder / "made.json", wanted)


def machine(out: Path, threads: int) -> dict[str, Any]:
    """What it runs on, measured once in a folder."""
    path = out / "machine.json"
    if stored(path).get("threads") != threads:
        call("machine", [str(path), str(threads)], threads, out / "machine.log")
    return stored(path)


def say(text: str) -> None:
    """A line for whoever waits."""
    print(text, flush=True)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--shape", choices=tuple(RESOLUTIONS), default="tiny", help="size of the networks")
    parser.add_argument("--scripts", type=Path, help="folder of diffusers' examples; without it ours runs alone")
    parser.add_argument("--out", type=Path, default=Path("build/speed"), help="folder of everything that is made")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to run; all unless given")
    parser.add_argument("--steps", type=int, help="timed steps; 60 (tiny) or 6 (sd15) unless given")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    parser.add_argument("--batch", type=int, default=1, help="pictures a step")
    parser.add_argument("--views", type=int, default=10, help="views of the pictures that ours encodes beforehand")
    parser.add_argument("--rows", type=int, default=2, help="rows of the bank that losses are read on")
    parser.add_argument("--threads", type=int, default=processors(), help="threads of each side")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    given.steps = STEPS[given.shape] if given.steps is None else given.steps
    if given.steps < 1 or given.warm_up < 1:
        parser.error("--steps and --warm-up are 1 or more: the first step belongs to the cold start")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all that is missing and report. Returns 0 when every part ran and what is to be reached was."""
    given = parsed(arguments)
    out = given.out.resolve()
    say(f"{given.shape}: {COSTS[given.shape]}")
    if given.scripts is None:
        say("no --scripts: ours runs alone, and there is nothing to compare it with")
    about = machine(out, given.threads)
    plan = Plan(
        out=out,
        scripts=given.scripts and given.scripts.resolve(),
        shape=given.shape,
        resolution=RESOLUTIONS[given.shape],
        steps=given.steps,
        warm_up=given.warm_up,
        batch=given.batch,
        views=given.views,
        threads=given.threads,
        seed=given.seed,
        half=about["half"],
    )
    failures = _all(plan, given)
    sampled = [Path(job.result).with_suffix(".png") for _, job in plan.jobs(SAMPLING)]
    told = collect(list(results(plan)), sampled, given.warm_up)
    told = {"plan": {**asdict(plan), "out": "", "scripts": ""}, "machine": about, **told, "failures": failures}
    write(out / "results.json", told)
    text = markdown(told)
    (out / "results.md").write_text(text, encoding="utf-8")
    say(text)
    # The bars are for networks of true size: in tiny ones the libraries themselves take most of the memory.
    missed = [bar["what"] for bar in told["bars"] if not bar["reached"] and given.shape != "tiny"]
    missed += [f"parity of {part}" for part, row in told["parity"].items() if not row["same"]]
    return 1 if failures or missed else 0


def results(plan: Plan) -> Iterator[dict[str, Any]]:
    """What there is of a plan's results, made with its settings; of parts that were not asked for, too."""
    for part in PARTS:
        try:
            jobs = plan.jobs(part)
        except ValueError:
            continue
        for _, job in jobs:
            found = stored(Path(job.result))
            if found.get("job") == job.key():
                yield found


def _all(plan: Plan, given: argparse.Namespace) -> list[str]:
    """Run the parts in order. What fails is named at the end, and the others run all the same."""
    failures = []
    for part in given.parts:
        tiny = part == PARITY
        try:
            jobs = plan.jobs(part)
            if jobs:
                made(Path(jobs[0][1].made), "tiny" if tiny else plan.shape, given)
        except (Failed, ValueError) as problem:
            failures.append(f"{part}: {problem}")
            say(f"{part}: {problem}")
            continue
        for module, job in jobs:
            began = time.perf_counter()
            try:
                fresh = run(module, job)
            except Failed as problem:
                failures.append(f"{part}, {job.side}, {job.name}: {problem}")
                say(failures[-1])
                continue
            took = f"{time.perf_counter() - began:.0f} s" if fresh else "there already"
            say(f"{part}, {job.side}, {job.name}: {took}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
