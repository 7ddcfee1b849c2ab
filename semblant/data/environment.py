"""What a fit runs on: Python, libraries, threads, accelerator, disk, and the base; and what is amiss there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semblant.backbones.base import Base
from semblant.backbones.loading import EMBEDDED, embedded_card
from semblant.data.doctor import Finding
from semblant.errors import FileProblem

TESTED = {
    "torch": "2.13.0",
    "diffusers": "0.42.1",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "safetensors": "0.8.0",
    "numpy": "2.4.6",
    "pillow": "12.3.0",
    "scikit-image": "0.26.0",
}
"""The versions that the tests pass with, as in constraints.txt."""
LEAST = {"torch": "2.10", "diffusers": "0.38", "transformers": "5.3"}
"""Security floors, as in pyproject.toml."""
LEAST_PYTHON = (3, 11)
LITTLE_DISK, MUCH_DISK = 50 * 2**20, 2**30
"""Bytes under which a run's checkpoints may not fit, and under which its owner should know."""
CHANCE = 0.05
"""A base whose facts, corrected for chance, lie under this obeys too little for likeness to be told on it."""


def environment(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """What is installed and how much of the machine is used, and what is amiss; `folder` is where results will go."""
    free = shutil.disk_usage(_existing(folder)).free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: installed(name) for name in TESTED},
        "tested": dict(TESTED),
        "threads": torch.get_num_threads(),
        "cores": cores,
        "accelerator": accelerator(),
        "disk_free": free,
    }
    return facts, [
        *python_findings(sys.version_info[:2]),
        *version_findings(facts["versions"]),
        *thread_findings(facts["threads"], cores),
        *disk_findings(free),
    ]


def installed(name: str) -> str | None:
    """The version of a distribution, None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def accelerator() -> dict[str, Any] | None:
    """The first GPU that torch sees, with its memory in bytes where that is known; None without one."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return {"kind": "cuda", "name": found.name, "memory": found.total_memory, "count": torch.cuda.device_count()}
    if torch.backends.mps.is_available():
        return {"kind": "mps", "name": platform.processor() or "Apple GPU", "memory": None, "count": 1}
    return None


def python_findings(version: tuple[int, ...]) -> list[Finding]:
    """An error for a Python that is too old."""
    if version >= LEAST_PYTHON:
        return []
    least = ".".join(map(str, LEAST_PYTHON))
    return [Finding("python", f"is {'.'.join(map(str, version))}", f"Install {least} or newer.", "error", "version")]


def version_findings(versions: Mapping[str, str | None]) -> list[Finding]:
    """An error for what is missing or below its security floor, a note for what differs from the tested version."""
    findings = []
    for name, tested in TESTED.items():
        version = versions.get(name)
        if version is None:
            advice = f"Install it: `pip install {name}=={tested}`."
            findings.append(Finding(name, "is not installed", advice, "error", "version"))
        elif name in LEAST and numbers(version) < numbers(LEAST[name]):
            problem = f"is {version}, and versions before {LEAST[name]} have known security holes"
            findings.append(Finding(name, problem, f"Install {tested}.", "error", "version"))
        elif numbers(version) != numbers(tested):
            advice = f"Should something fail, try `pip install {name}=={tested}`."
            findings.append(Finding(name, f"is {version}, and the tests pass with {tested}", advice, "note", "version"))
    return findings


def numbers(version: str) -> tuple[int, ...]:
    """A version's release as numbers: 2.13.0+cpu becomes (2, 13), so that trailing zeros do not matter."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in found.group().split(".")] if found else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def thread_findings(threads: int, cores: int) -> list[Finding]:
    """A note when torch uses fewer threads than there are cores, a warning when more."""
    if threads < cores:
        advice = f"Set OMP_NUM_THREADS={cores} to use all, unless something else runs beside it."
        return [Finding("threads", f"torch uses {threads} of {cores} cores", advice, "note", "threads")]
    if threads > cores:
        advice = f"Set OMP_NUM_THREADS={cores}: more threads than cores wait for each other."
        return [Finding("threads", f"torch uses {threads} threads on {cores} cores", advice, "warning", "threads")]
    return []


def disk_findings(free: int) -> list[Finding]:
    """An error or warning when there is little room for checkpoints and results."""
    if free >= MUCH_DISK:
        return []
    problem, advice = f"{free / 2**20:.0f} MB are free", "Make room, or work in a folder on another disk."
    return [Finding("disk", problem, advice, "error" if free < LITTLE_DISK else "warning", "disk")]


def card_of(source: str) -> dict[str, Any]:
    """What was measured about a base: the embedded one's card, or `card.json` in or beside a folder. Empty without one.

    Raises FileProblem when the card is no JSON.
    """
    if source == EMBEDDED:
        return embedded_card()
    for card in (Path(source) / "card.json", Path(source).parent / "card.json"):
        if card.is_file():
            try:
                return dict(json.loads(card.read_text(encoding="utf-8")))
            except (ValueError, TypeError, OSError) as problem:
                raise FileProblem(f"the card {card} cannot be read: {problem}") from problem
    return {}


def base_facts(base: Base, card: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """What a loaded base is and what its card says, and what to expect of it."""
    facts = {
        "name": base.name,
        "architecture": base.architecture,
        "width": base.width,
        "size": base.size,
        "cross_attention_sites": len(base.cross_sites()),
        "prediction": base.prediction,
        "card": {key: dict(value) for key, value in card.items() if isinstance(value, Mapping)},
        "about": card_sentence(card),
    }
    findings = []
    obeys = _measured(card, "base").get("macro_corrected")
    if obeys is not None and obeys < CHANCE:
        problem = "by its card it obeys prompts no better than chance"
        advice = "Expect no likeness from it; use a Stable Diffusion folder as --base for real pictures."
        findings.append(Finding(base.name, problem, advice, "warning", "base"))
    if base.extra_channels:
        problem = f"its U-Net takes {base.extra_channels} channels beside the latent (an inpainting base)"
        findings.append(Finding(base.name, problem, "Use a plain text-to-image base for a fit.", "error", "base"))
    return facts, findings


def card_sentence(card: Mapping[str, Any]) -> str:
    """A card in one sentence; says when there is none."""
    base, people, autoencoder = (_measured(card, part) for part in ("base", "named people", "autoencoder"))
    said = []
    if "presentations" in base:
        said.append(f"trained on {base['presentations']:,} presentations")
    if "macro" in base:
        corrected = f" ({base['macro_corrected']:.0%} corrected for chance)" if "macro_corrected" in base else ""
        said.append(f"{base['macro']:.0%} of the facts that captions name hold{corrected}")
    if "identity_gain" in people:
        said.append(f"identity gain of named people {people['identity_gain']:.2f}")
    if "psnr" in autoencoder:
        said.append(f"autoencoder {autoencoder['psnr']:.1f} dB")
    return ", ".join(said) if said else "has no card: nothing measured about it is known here"


def _measured(card: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    found = card.get(part)
    return found if isinstance(found, Mapping) else {}


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
