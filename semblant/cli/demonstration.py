"""`semblant demo`: one portrait, four ways, and a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semblant.cli.bases import BaseName, Config, Device, Offline, precision_of, read
from semblant.cli.interruption import stoppable
from semblant.cli.terminal import Terminal


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the report and everything in it.")] = Path("demo"),
    base: BaseName = "embedded",
    offline: Offline = False,
    config: Config = None,
    device: Device = "cpu",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Updates per fit.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of fits and pictures.")] = 0,
    precision: Annotated[
        str, typer.Option("--precision", help="auto (measured once), float32, bfloat16 or float16.")
    ] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps and prompts: a minute instead of five.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Fit a drawn person by several methods, sample, measure, and write OUT/report.html."""
    from semblant.bench.demo import QUICK, Plan, run

    terminal = Terminal(quiet, json)
    plan, compute = QUICK if quick else Plan(), precision_of(precision)
    loaded = read(base, offline, config, device)
    with stoppable(terminal.say, "stopping after this step") as asked_to_stop:
        results = run(
            out,
            loaded,
            steps=steps or plan.steps,
            plan=plan,
            seed=seed,
            base_name=base,
            compute=compute,
            say=terminal.say,
            stop=asked_to_stop,
        )
    terminal.answer(results, f"the report is {out / 'report.html'}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)
