"""Command lines run in this process, on a miniature base that is written once as a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in diffusers' layout with a random miniature base that knows the world's words."""
    from semblant.backbones.blueprint import write_frame, write_part
    from semblant.backbones.loading import miniature
    from semblant.world.captions import words

    made, folder = miniature(vocabulary=words()), tmp_path_factory.mktemp("bases") / "mini"
    for kind, part in (("unet", made.unet), ("vae", made.autoencoder), ("text_encoder", made.text_encoder)):
        write_part(folder, kind, part)
    write_frame(folder, made.tokenizer)
    return folder


@pytest.fixture(scope="session")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn portrait of 64 pixels, as a user might have it."""
    from semblant.bench.sitter import Sitter, draw

    path = tmp_path_factory.mktemp("photos") / "maya.png"
    draw([Sitter("tune", 3).portrait()], 64)[0].save(path)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`run(*arguments)` runs a command line in an empty folder."""
    from semblant.cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def concept(base: Path, portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept of one row, fitted by the command line in two steps."""
    from semblant.cli.main import app

    out = tmp_path_factory.mktemp("concepts") / "maya.safetensors"
    said = ["--word", "<maya>", "--class-word", "person", "--steps", "2", "--set", "views=2", "--face", "none"]
    result = CliRunner().invoke(
        app, ["fit", "textual-inversion", str(portrait), *said, "--base", str(base), "--out", str(out)]
    )
    assert result.exit_code == 0, result.stderr
    return out
