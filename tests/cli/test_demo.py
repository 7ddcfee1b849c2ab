"""The demo's command lines do by hand what the demo did."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


def test_the_printed_command_lines_make_the_same_again(
    run: Callable[..., Any], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant.bench import demo
    from semblant.training import concepts

    fast = {"views": 2, "calibration_draws": 1}
    monkeypatch.setattr(demo, "QUICK", demo.Plan(2, 1, 1, 2, 1, fast))
    (tmp_path / base.name).symlink_to(base)
    result = run("demo", "--base", base, "--quick", "--steps", 2, "--precision", "float32", "--json")
    assert result.exit_code == 0, result.stderr
    lines = [shlex.split(line)[1:] for line in json.loads(result.stdout)["commands"]]
    for line in lines:
        if line[0] != "measure":
            done = run(*line)
            assert done.exit_code == 0, done.stderr
    for key in ("sefi-ide", "sefi-ide-without-attention", "textual-inversion"):
        shown, again = (
            concepts.load(f"{folder}{key}.safetensors").tensors["rows"] for folder in ("demo/concepts/", "")
        )
        assert shown.equal(again), key
    picture = Image.open("demo/pictures/sefi-ide/1-seed0.png")
    assert picture.tobytes() == Image.open(next(Path("images").glob("*-seed0.png"))).tobytes()
