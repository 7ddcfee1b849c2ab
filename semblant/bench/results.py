"""Results as strict JSON, in files that appear complete or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
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
