"""Which words a base hears, told with bases that hear everything, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from semblant.backbones.moment import Moment
from semblant.embedded import hearing
from semblant.ops.schedule import Schedule
from semblant.world.captions import contradictions, read
from semblant.world.scene import Scene


class Listener:
    """Predicts the noise but for an error, which is larger under a caption that contradicts the picture."""

    schedule = Schedule.scaled_linear()

    def __init__(self, hears: bool) -> None:
        self.hears = hears
        self.scenes: list[Scene] = []

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([images, images[:, :1]], 1)[:, :, ::4, ::4]

    def text(self, captions: Sequence[str]) -> Sequence[str]:
        return captions

    def denoise(self, x: Tensor, moment: Moment, captions: Sequence[str]) -> Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(moment.timestep[0])))
        facts = [read(caption).facts for caption in captions]
        wrong = [min(len(contradictions(said, scene)) for scene in self.scenes) for said in facts]
        return noise + 0.1 + 0.1 * self.hears * torch.tensor(wrong).view(-1, 1, 1, 1)


@pytest.mark.parametrize("hears", [True, False])
def test_a_wrong_word_raises_the_error_of_a_base_that_hears_it(hears: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Listener(hears)
    seen = hearing._seen

    def watched(given: Any, scenes: list[Scene]) -> hearing.Seen:
        base.scenes = scenes if not base.scenes else base.scenes
        return seen(given, scenes)

    monkeypatch.setattr(hearing, "_seen", watched)
    (heard,) = hearing.hearing(base, ["hat"], pictures=24)  # type: ignore[arg-type]
    # Errors of .2 instead of .1 are four times as large.
    assert heard.count > 2
    assert heard.rise == pytest.approx([300.0 if hears else 0.0] * len(hearing.TIMESTEPS), abs=0.1)


def test_the_most_a_fact_can_explain_is_half_of_what_it_changes() -> None:
    difference, where = torch.ones(2, 4, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    difference[0, :, 0, 0] = 3.0
    assert hearing._on(difference, where).tolist() == [9.0, 1.0]


def test_the_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = hearing.Heard("hat", 3, (1.5,) * 5, (20.0,) * 5)
    monkeypatch.setattr(hearing, "load", lambda name: name)
    monkeypatch.setattr(hearing, "hearing", lambda base, facts, pictures: [record])
    hearing.main(["--facts", "hat"])
    assert "| hat | 3 | 1.50 of 20" in capsys.readouterr().out
    hearing.main(["--facts", "hat", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["rise"] == [1.5] * 5
