"""Results as strict JSON, in files that appear complete or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from semblant.backbones.replacement import write_whole


def jsonable(value: Any) -> Any:
    """A value as strict JSON holds it: paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(entry) for entry in value]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: Path, text: str) -> None:
    """Write a text file whole. Raises FileProblem when it cannot be written."""
    # A file name that is no text may be in it; what stands for its bytes has no UTF-8.
    write_whole(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write results, readable by people and by `json.loads`."""
    write_text(path, json.dumps(jsonable(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def stored(path: Path) -> dict[str, Any]:
    """Results that are there; empty when they are missing or damaged, and are then made again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def means(records: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Per "arm" of the records the mean of every measure, None where nothing was measured."""
    found: dict[str, dict[str, float | None]] = {}
    for arm in dict.fromkeys(record["arm"] for record in records):
        found[arm] = {}
        for name in measures:
            values = [r[name] for r in records if r["arm"] == arm and r[name] is not None]
            found[arm][name] = round(mean(values), 3) if values else None
    return found
