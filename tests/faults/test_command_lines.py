"""Two thousand command lines that nobody would type: never a traceback, and an exit code that says what was wrong."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from semblant import verbs
from semblant.bench import analysis, demo, experiment, reach
from semblant.cli.main import app
from semblant.embedded import gates
from semblant.errors import FileProblem, GateFailed

IMPORTED = (analysis, demo, experiment, reach)
"""Read before anything is patched: they take names from `verbs` as they find them."""
LINES = 2000
CODES = {0, 2, 3, 4}
GIVE_UP = 20
"""Seconds after which a line counts as one that hangs."""
TEXTS = [
    "", " ", "-", "--", "---", "-x", "--xx", "--=", "a", "A" * 5000, "<maya>", "<>", "<a b>", "<script>x</script>",
    "person", "a photo of <maya>", "(((((", "(a:1e999)", "\\", "{}", "{0}", "{a.__class__}", "%s%n", "~", "`id`",
    "; rm -rf *", "C:\\con", "nul", "aux.png", "a:b:c", ":", ":0.5", "x:nan", "x:1e400", "/proc/no/x", "/dev/null/x",
    "\u202e", "\U0001f642", "e\u0301", "\ud83d", "\udcff", "\0", "a\0b", "\x1b[31m", "[bold]", "[/]", "[link=x]", "\n",
    "\r\n", "\t", "https://example.org/x", "file:x", "javascript:alert(1)", "owner/name", "owner/name@x", "name=value",
    "=", "==", "lr=", "=1", "lr=nan", "lr=-inf", "lr=1e9", "steps=0", "steps=-1", "steps=1.5", "views=0", "views=-3",
    "batch=0", "batch=-1", "num_vectors=0", "rank=0", "0", "-0", "1", "-1", "1.5", "1e3", "1e400", "nan", "inf", "-inf",
    "0x10", "07", "1_000", "2147483648", "99999999999999999999999999", "\u0663", "true", "None", "null", "[]", "0s",
    "1h", "-5s", "1e3s", "60 fortnights", "64x", "x64", "64x64", "0x0", "99999x99999", "float16", "euler", "dpm++",
    "ask", "largest", "train", "animal", "textual-inversion", "sefi-ide", "kohya", "concept", "tokens",
]  # fmt: skip
"""What is put where a value goes, fitting or not. Outside the test's own folder nobody can write there."""


@pytest.fixture
def things(tmp_path: Path, photo: Path, command: Callable[..., Any]) -> list[str]:
    """Files and folders to name: good ones, bad ones, and none."""
    line = f"fit textual-inversion {photo} --word <maya> --class-word person --face none --steps 1 --set views=1"
    made = CliRunner().invoke(app, [*line.split(), "--precision", "float32", "--no-verdict"])
    assert made.exit_code == 0, made.output
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "b.png").write_bytes(photo.read_bytes())
    (tmp_path / "notes.txt").write_text("nothing of use")
    (tmp_path / "answers.json").write_text(json.dumps({"format": "semblant-rating/1", "rater": "r", "answers": []}))
    (tmp_path / "wrong.json").write_text(json.dumps({"format": "semblant-rating/1", "rater": [], "answers": [1]}))
    (tmp_path / "damaged.safetensors").write_bytes(Path("maya.safetensors").read_bytes()[:-9])
    (tmp_path / "zip.ckpt").write_bytes(b"PK\x03\x04" + bytes(99))
    (tmp_path / "broken.run").mkdir()
    (tmp_path / "broken.run" / "step-000001.safetensors").write_bytes(b"{" * 99)
    os.symlink("loop", tmp_path / "loop")
    os.symlink("/dev/zero", tmp_path / "zero")
    os.mkfifo(tmp_path / "pipe")
    return [
        *sorted(path.name for path in tmp_path.iterdir()),
        "photos/b.png",
        "maya.safetensors/x",
        "missing",
        "new/deep",
    ]


@pytest.fixture
def harmless(things: list[str], monkeypatch: pytest.MonkeyPatch, base: Any) -> None:
    """What would take minutes is refused at once: bases are missing, except now and then, and big work is not done."""
    loads = [0]

    def load(*given: Any, **named: Any) -> Any:
        loads[0] += 1
        if loads[0] % 4:
            raise FileProblem("there is no such base")
        return base

    def refuse(*given: Any, **named: Any) -> Any:
        raise GateFailed("not now")

    monkeypatch.setattr(verbs, "load", load)
    monkeypatch.setattr(demo, "run", refuse)
    monkeypatch.setattr(gates, "gates", refuse)
    monkeypatch.setattr(gates, "calibrate", refuse)
    monkeypatch.setattr(verbs, "sample", refuse)
    monkeypatch.setattr(verbs, "fit", refuse)
    monkeypatch.setattr(verbs, "measure", refuse)


def commands() -> dict[tuple[str, ...], Any]:
    """Every command by the words that call it, from the application itself."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(words: tuple[str, ...], command: Any) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[words] = command
            return
        for name, child in inner.items():
            walk((*words, name), child)

    walk((), typer.main.get_command(app))
    return found


def line_of(rng: random.Random, known: dict[tuple[str, ...], Any], things: list[str]) -> list[str]:
    """One line: a command, some of its options and arguments, and values of any kind; now and then something else."""
    value = lambda: rng.choice(things) if rng.random() < 0.4 else rng.choice(TEXTS)
    if rng.random() < 0.03:
        return [value() for _ in range(rng.randrange(4))]
    words = rng.choice(list(known))
    line: list[str] = []
    for parameter in known[words].params:
        if parameter.param_type_name == "argument":
            # Mostly there; a required one that is missing is refused at once.
            line += [value() for _ in range(rng.choice((1, 1, 1, 1, 0, 2)))]
            continue
        required = parameter.required and rng.random() < 0.9
        if not (required or rng.random() < 0.2) or parameter.name in ("help", "n"):
            continue
        line += [rng.choice(parameter.opts)] + ([] if parameter.is_flag else [value()])
    if rng.random() < 0.1:
        line.insert(
            rng.randrange(len(line) + 1),
            rng.choice(["--help", "--quiet", "--json", "--no-such", "--traceback", value()]),
        )
    if rng.random() < 0.1 and line:
        del line[rng.randrange(len(line))]
    if rng.random() < 0.1:
        rng.shuffle(line)
    # Little is drawn, whoever asks.
    few = ["-n", "1"] if words in (("world", "render"), ("world", "sheet")) else []
    return [*words, *line, *few]


@contextmanager
def patient(line: list[str]) -> Iterator[None]:
    """Fail the test when a line takes too long."""

    def late(*given: Any) -> None:
        raise AssertionError(f"it hangs: {line}")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(GIVE_UP)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def what_is_wrong(line: list[str], result: Any) -> str:
    """What a command line must not do, if it did; "" when all is well."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"it raised {result.exception!r}"
    if result.exit_code not in CODES:
        return f"it ended with {result.exit_code}"
    if "Traceback" in result.output and "--traceback" not in line:
        return "it shows a traceback"
    errors = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    # `doctor` answers with what it found.
    answered = "Usage:" in result.output or "─ Error ─" in result.output or line[0] == "doctor"
    if result.exit_code and len(errors) != 1 and not answered:
        return "it does not say in one sentence what was wrong"
    return ""


@pytest.mark.slow
def test_no_line_ends_in_a_traceback(harmless: None, things: list[str], tmp_path: Path) -> None:
    rng, known, runner = random.Random("command lines"), commands(), CliRunner()
    ended: dict[int, int] = {}
    wrong: list[str] = []
    outside = sorted(tmp_path.parent.iterdir())
    precious = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(LINES):
        line = line_of(rng, known, things)
        with patient(line):
            result = runner.invoke(app, line)
        ended[result.exit_code] = ended.get(result.exit_code, 0) + 1
        if problem := what_is_wrong(line, result):
            wrong.append(f"{line}: {problem}\n{result.output[-500:]}")
    assert not wrong, f"{len(wrong)} lines, such as\n" + "\n".join(wrong[:5])
    # They are not all refused for the same reason.
    assert set(ended) == CODES and min(ended.values()) > 5, ended
    # Nothing that was there is changed, unless it was named with --force; and nothing appears beside the folder.
    assert sorted(tmp_path.parent.iterdir()) == outside
    kept = [path for path, content in precious.items() if path.exists() and path.read_bytes() == content]
    assert len(kept) >= len(precious) - 2


def test_every_command_is_among_them() -> None:
    rng, known = random.Random("command lines"), commands()
    asked = {tuple(line[: len(words)]) for _ in range(400) for words in known if (line := line_of(rng, known, ["a"]))}
    assert set(known) <= asked and len(known) >= 15
