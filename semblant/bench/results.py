"""Results as strict JSON, in files that appear complete or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semblant.errors import FileProblem


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
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise FileProblem(f"{path} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write results, readable by people and by `json.loads`."""
    write_text(path, json.dumps(jsonable(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
