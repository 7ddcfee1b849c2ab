"""A run that is resumed with something else than it was given is refused, and what differs is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import semblant as sb
from semblant import verbs
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.cli import fitting
from semblant.cli.main import app
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.training.optimise import Interrupted, Progress

SETTINGS = {"views": 2, "batch": 1, "steps": 4, "lr": 0.01}


@pytest.fixture(scope="module")
def begun(base: Base, subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`begun(**changed)` resumes a run that was stopped after two steps, with something changed."""
    folder = tmp_path_factory.mktemp("begun")
    taken: list[int] = []
    with pytest.raises(Interrupted, match="--resume"):
        given: dict[str, Any] = {
            "checkpoint": folder,
            "seed": 1,
            "progress": lambda p: taken.append(p.step),
            **SETTINGS,
        }
        sb.fit("textual-inversion", base, subject, stop=lambda: len(taken) == 2, **given)

    def resume(on: Base = base, of: Subject = subject, method: str = "textual-inversion", **changed: Any) -> Any:
        settings = {**SETTINGS, "seed": 1, **changed}
        return sb.fit(method, on, of, checkpoint=folder, resume=True, stop=lambda: True, **settings)

    return resume


def test_given_the_same_it_goes_on(begun: Callable[..., Any]) -> None:
    with pytest.raises(Interrupted, match="step 2 of 4"):
        begun()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.02}, "settings.lr was 0.01, is 0.02"),
        ({"steps": 5}, "settings.steps was 4, is 5"),
        ({"views": 3}, "settings.views was 2, is 3"),
        ({"seed": 2}, "seed was 1, is 2"),
    ],
)
def test_another_setting_is_named(begun: Callable[..., Any], changed: dict[str, Any], named: str) -> None:
    with pytest.raises(SemblantError, match="belongs to another run") as caught:
        begun(**changed)
    assert named in str(caught.value) and str(caught.value).count(" was ") <= 3
    assert "Give what that run was given, or leave out `--resume`" in str(caught.value)


def test_another_picture_crop_mask_word_or_caption_is_named(begun: Callable[..., Any], subject: Subject) -> None:
    turned = subject.images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for changed, named in (
        ({"sources": ("1" * 64,)}, "pictures"),
        ({"images": (turned,)}, "crops and masks"),
        ({"masks": (Image.new("L", (32, 32), 255),)}, "crops and masks"),
        ({"captions": ("a photo of {} at home",)}, "captions"),
        ({"word": "<ada>"}, 'word was "<maya>", is "<ada>"'),
        ({"class_word": "dog"}, 'class_word was "person", is "dog"'),
    ):
        with pytest.raises(SemblantError) as caught:
            begun(of=replace(subject, **changed))
        assert named in str(caught.value), (changed, str(caught.value))


def test_another_base_or_method_is_named(begun: Callable[..., Any], base: Base) -> None:
    other = miniature(channels=(8,), seed=1)
    with pytest.raises(SemblantError) as caught:
        begun(on=other)
    assert all(f"base.{part} was" in str(caught.value) for part in ("unet", "text", "autoencoder"))
    with pytest.raises(SemblantError, match="method was"):
        begun(method="custom-diffusion", views=2, lr=0.01, prior_count=0)


def test_the_precision_it_began_in_is_kept_and_another_is_warned_of(
    base: Base, subject: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Progress] = []
    given: dict[str, Any] = {"checkpoint": tmp_path, **SETTINGS}
    with pytest.raises(Interrupted):
        sb.fit("textual-inversion", base, subject, progress=taken.append, stop=lambda: bool(taken), **given)
    concept = sb.fit("textual-inversion", base, subject, resume=True, compute=torch.bfloat16, **given)
    assert "began in torch.float32 and goes on in it, not in torch.bfloat16" in caplog.text
    assert concept.figures["compute"] == "float32"


def test_the_command_line_refuses_in_one_sentence(
    fit: Callable[..., Any], command: Callable[..., Any], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lambda *more: CliRunner().invoke(app, [*map(str, more)])
    line = ["fit", "textual-inversion", photo, "--word", "<maya>", "--class-word", "person", "--face", "none"]
    line += ["--set", "views=2", "--precision", "float32", "--no-verdict", "--steps", 3]
    with monkeypatch.context() as patched:
        patched.setattr(fitting.Teller, "__call__", lambda self, progress: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = run(*line)
    assert stopped.exit_code == 130 and "step 1 of 3" in stopped.stderr and "--resume" in stopped.stderr
    before = {path: path.read_bytes() for path in Path("maya.checkpoint").iterdir()}
    cases = [(("--set", "lr=0.1"), "settings.lr was 0.005, is 0.1"), (("--seed", 5), "seed was 0, is 5")]
    for more, named in [*cases, (("--class-word", "dog"), "class_word")]:
        refused = run(*line, "--resume", *more)
        assert refused.exit_code == 2 and named in refused.stderr, refused.stderr
        assert "Traceback" not in refused.output and not Path("maya.safetensors").exists()
    monkeypatch.setattr(verbs, "load", lambda *given, **named: miniature(channels=(8,), seed=7))
    refused = run(*line, "--resume")
    assert refused.exit_code == 2 and "base.unet was" in refused.stderr
    assert {path: path.read_bytes() for path in Path("maya.checkpoint").iterdir()} == before
    assert not Path(".maya.semblant-lock").exists()
