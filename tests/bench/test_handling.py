"""How a base takes to being edited: pictures back from their noise, words that look at what they name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.bench import attention_mass, handling
from semblant.bench.attention_mass import look_of, object_mask
from semblant.world.captions import read, words
from semblant.world.scene import Scene


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(vocabulary=words())


def test_overlap_is_one_for_the_mask_itself_and_known_for_half_of_it() -> None:
    mask = torch.zeros(8, 8)
    mask[2:6, 2:6] = 1
    assert handling.overlap(mask * 0.3, mask) == 1
    shifted = mask.roll(2, 1)
    assert handling.overlap(shifted, mask) == pytest.approx(8 / 24)
    assert handling.overlap(1 - mask, mask) == 0
    assert handling.overlap(mask, torch.zeros(8, 8)) == 0


def test_a_base_that_looks_at_the_thing_is_told_from_one_that_looks_anywhere(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def true(base: Base, prompt: str, scene: Scene, word: str, timesteps: object, seed: int) -> Tensor:
        asked.append((prompt, word))
        return object_mask(scene, base.size)

    monkeypatch.setattr(handling, "look_of", true)
    found = handling.localisation(base, each=2)
    assert found["all"] == 1 and 0 < found["at random"] < 0.2
    assert set(found) == {*handling.OBJECTS, "all", "at random"}
    for prompt, word in asked:
        assert word in prompt.replace(",", "").split() and read(prompt).facts["action"] == handling.OBJECTS[word]
    anywhere = lambda base, *_, seed, **__: torch.rand(
        base.size, base.size, generator=torch.Generator().manual_seed(seed)
    )
    monkeypatch.setattr(handling, "look_of", anywhere)
    found = handling.localisation(base, each=4)
    assert abs(found["all"] - found["at random"]) < 0.04


def test_a_look_is_read_off_the_finest_sites(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = handling.draw_scene(
        handling.random.Random(0), handling.person_of("heldout", 0), action="reading a book", camera="portrait"
    )
    fine, coarse = torch.zeros(1, 2, 64, 77), torch.zeros(1, 2, 16, 77)
    fine[:, :, :8, 5] = 0.5
    coarse[:, :, 8:, 5] = 1.0
    passes = lambda *_: iter([([coarse, fine], {"book": (5,)})])
    monkeypatch.setattr(attention_mass, "_passes", passes)
    look = look_of(base, "", scene, "book")
    assert look.shape == (base.size, base.size)
    assert look[0].min() == 0.5 and look[-1].max() == 0


def test_pictures_come_back_from_their_noise_when_the_base_finds_none(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Base, "denoise", lambda self, x, *_: torch.zeros_like(x))
        found = handling.inversion(base, pictures=2, steps=3)
    assert found["autoencoder"] > 80 and found["render"] == pytest.approx(found["autoencoder alone"], abs=0.01)
    random = handling.inversion(base, pictures=2, steps=3)
    assert random["autoencoder"] < found["autoencoder"]


def test_the_command_writes_what_it_prints(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handling, "load", lambda name: base)
    monkeypatch.setattr(handling, "inversion", lambda base, pictures: {"render": float(pictures)})
    monkeypatch.setattr(handling, "localisation", lambda base, each: {"all": each / 10})
    out = tmp_path / "deep" / "found.json"
    monkeypatch.setattr(sys, "argv", ["handling", "--pictures", "3", "--each", "2", "--out", str(out)])
    handling.main()
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said == json.loads(out.read_text())
    assert said == {"localisation, IoU": {"all": 0.2}, "inversion, dB": {"render": 3.0}}
