"""The results as Markdown, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.speed.plan import SAMPLING

Row = Mapping[str, Any]


def markdown(told: Mapping[str, Any]) -> str:
    """All tables."""
    machine = told["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    sections = [
        f"# Speed beside diffusers: {told['plan']['shape']}, {told['plan']['resolution']} px",
        f"{machine['processor']}, {machine['threads']} threads; {versions}. Batch {told['plan']['batch']}, "
        f"{told['plan']['steps']} timed steps after {told['plan']['warm_up']} of warm-up.",
        _parity(told),
        _bars(told["bars"]),
        _pictures(told),
        _runs([run for run in told["runs"] if run["part"] != SAMPLING]),
        _parts([run for run in told["runs"] if run["part"] != SAMPLING]),
        _losses(told),
        _break_even(told["runs"]),
        _sampling([run for run in told["runs"] if run["part"] == SAMPLING]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _parity(told: Mapping[str, Any]) -> str:
    rows = [
        (part, f"{row['difference']:.1e}", "yes" if row["same"] else "NO", f"{row['change']:.1e}")
        for part, row in told["parity"].items()
    ]
    head = ("method", "largest difference of a loss", "same to 1e-4", "difference of what was learned")
    return _section("Parity", table(head, rows)) if rows else ""


def _bars(bars: Sequence[Row]) -> str:
    rows = [
        (
            bar["what"],
            f"{bar['ratio']:.3f}",
            f"{'at least' if bar['least'] else 'at most'} {bar['wanted']:g}",
            "yes" if bar["reached"] else "NO",
            "" if bar["processor"] is None else f"{bar['processor']:.3f}",
        )
        for bar in bars
    ]
    text = "These are for networks of true size (`--shape sd15`).\n\n" + table(
        ("what", "is", "wanted", "reached"), rows
    )
    return _section("To reach", text) if rows else ""


def _pictures(told: Mapping[str, Any]) -> str:
    if (found := told.get("pictures")) is None:
        return ""
    same = "the same" if found["same"] else "NOT the same"
    return (
        f"The two sampled pictures differ by {found['largest']:.4f} at most and {found['mean']:.5f} on average, in "
        f"parts of the whole range: {same} to 1e-2."
    )


def _runs(runs: Sequence[Row]) -> str:
    rows = [
        (
            *_name(run),
            f"{run['step']:.3f} ({run['fastest']:.3f} to {run['slowest']:.3f})",
            f"{run['processor']:.3f}",
            f"{run['cold_start']:.1f}",
            f"{run['memory']:.0f}",
            f"{run['steps_memory']:.0f}",
        )
        for run in runs
    ]
    head = ("method", "side", "precision", "seconds a step", "processor seconds", "cold start, s")
    head = (*head, "peak, MiB", "peak of later steps, MiB")
    return _section("Runs", table(head, rows)) if rows else ""


def _parts(runs: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run["parts"] if name != "rest"))
    rows = [(*_name(run), *(f"{run['parts'].get(name, 0):.4f}" for name in (*names, "rest"))) for run in runs]
    head = ("method", "side", "precision", *names, "rest")
    return _section("What each part of a step costs, in seconds", table(head, rows)) if rows else ""


def _losses(told: Mapping[str, Any]) -> str:
    rows = []
    for run in told["runs"]:
        if run["bank"]:
            steps = ", ".join(f"{loss:.5f} after {step}" for step, loss in sorted(run["bank"].items()))
            rows.append((*_name(run), steps))
    if not rows:
        return ""
    text = table(("method", "side", "precision", "loss on the bank, by steps"), rows)
    equal = [
        (row["part"], row["ours"], f"{row['seconds']:.2f}", f"{row['loss']:.5f}", f"{row['their_loss']:.5f}")
        for row in told["equal_seconds"]
    ]
    if equal:
        head = ("method", "ours", "seconds of steps", "our loss", "theirs, default flags")
        text += "\n\n" + table(head, equal)
    return _section("Loss on the bank", text)


def _break_even(runs: Sequence[Row]) -> str:
    """After how many steps ours, with its views encoded beforehand, is ahead in all."""
    default = {run["part"]: run for run in runs if run["side"] == "theirs" and run["name"] == "default"}
    rows = []
    for run in runs:
        if run["side"] != "ours" or run["part"] not in default:
            continue
        theirs = default[run["part"]]
        later, sooner = run["cold_start"] - theirs["cold_start"], theirs["step"] - run["step"]
        steps = "never" if sooner <= 0 else f"{max(0.0, later / sooner):.0f}"
        each = run["encoding"] / max(1, run["views"])
        rows.append((*_name(run), f"{run['encoding']:.2f}", f"{each:.3f}", steps))
    head = ("method", "side", "precision", "encoding its views, s", "each view, s", "steps until it is ahead in all")
    return _section("Ours beside their default flags, cold start counted", table(head, rows)) if rows else ""


def _sampling(runs: Sequence[Row]) -> str:
    rows = [(run["side"], f"{run['step']:.2f}", f"{run['processor']:.2f}", f"{run['memory']:.0f}") for run in runs]
    head = ("side", "seconds a picture", "processor seconds", "peak, MiB")
    return _section("Sampling with guidance", table(head, rows)) if rows else ""


def _name(run: Row) -> tuple[str, str, str]:
    side = f"{run['side']}, {run['name']}" if run["name"] not in ("float32", "bfloat16") else run["side"]
    return run["part"], side, run["precision"]
