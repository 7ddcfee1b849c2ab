"""The command line: `semblant fit`, `sample`, `measure` and what belongs to them.

Nothing heavy is imported here: `semblant --help` has to answer at once.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from semblant import __version__
from semblant.cli import (
    analysing,
    catalogue,
    checkpoints,
    converting,
    demonstration,
    diagnosis,
    fitting,
    inspecting,
    measuring,
    rating,
    sampling,
    worlds,
)
from semblant.cli.interruption import terminable
from semblant.cli.terminal import visible
from semblant.errors import FileProblem, SemblantError, out_of_memory

NO_MEMORY = (
    "there is not enough memory for this; ask for less at once, or use a smaller base; `fit` and `sample` need less "
    "with `--weights float16`, and on a GPU with `--offload`"
)
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Sentences(TyperGroup):
    """Commands whose errors are one sentence on stderr and an exit code, whatever went wrong."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`--traceback` may stand anywhere: whoever needs it has just typed the rest."""
        end = args.index("--") if "--" in args else len(args)
        if "--traceback" in args[:end]:
            args = ["--traceback", *(arg for arg in args[:end] if arg != "--traceback"), *args[end:]]
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run a command and turn what it raises into a sentence."""
        try:
            with terminable():
                return super().invoke(ctx)
        except SemblantError as problem:
            self.explain(ctx, problem, str(problem))
            raise typer.Exit(problem.exit_code) from problem
        except KeyboardInterrupt as problem:
            self.explain(ctx, problem, "interrupted; nothing further was written")
            raise typer.Exit(INTERRUPTED) from problem
        except Exception as problem:
            # Exits and usage errors of the command line itself carry an exit code and explain themselves.
            if hasattr(problem, "exit_code") or isinstance(problem, typer.Abort | BrokenPipeError):
                raise
            if out_of_memory(problem):
                self.explain(ctx, problem, NO_MEMORY)
                raise typer.Exit(SemblantError.exit_code) from problem
            if isinstance(problem, OSError):
                where = problem.filename if isinstance(problem.filename, str) else "a file"
                self.explain(ctx, problem, f"{where} cannot be used: {problem.strerror or problem}")
                raise typer.Exit(FileProblem.exit_code) from problem
            said = (str(problem).strip().splitlines() or [""])[0]
            kind = type(problem).__name__
            self.explain(
                ctx,
                problem,
                f"this is a bug in semblant: {kind}: {said} (`--traceback` or SEMBLANT_TRACEBACK=1 shows where)",
            )
            raise typer.Exit(1) from problem

    def explain(self, ctx: Any, problem: BaseException, sentence: str) -> None:
        """Say what went wrong; with the traceback when asked for."""
        if ctx.params.get("traceback") or os.environ.get("SEMBLANT_TRACEBACK", "") not in ("", "0"):
            traceback.print_exception(problem, file=sys.stderr)
        print(f"error: {visible(sentence)}", file=sys.stderr)


app = typer.Typer(
    name="semblant",
    cls=Sentences,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"semblant {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="On an error, show where in the code it arose.")
    ] = False,
) -> None:
    """Teach a text-to-image model who or what is in your pictures; then generate and measure."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # File names need not be text, and not every terminal knows every letter.
            stream.reconfigure(errors="backslashreplace")
    # Before any library reads it: a bar over the reading of five small files says nothing.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


fitting.register(app)
checkpoints.register(app)
sampling.register(app)
measuring.register(app)
diagnosis.register(app)
inspecting.register(app)
converting.register(app)
catalogue.register(app)
demonstration.register(app)
analysing.register(app)
rating.register(app)
worlds.register(app)


def app_main() -> None:
    """The entry point."""
    app(prog_name="semblant")


if __name__ == "__main__":
    app_main()
