"""The benchmark of several subjects in one batch, on a tiny base with a clock of its own."""

from __future__ import annotations

import json
from itertools import count

import pytest

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.bench import subjects
from semblant.bench.subjects import Speed, speeds, table
from semblant.errors import SemblantError


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(channels=(8,))


def test_speeds_are_counted_from_the_steps_that_count(base: Base) -> None:
    ticks = count()
    # Half a second a step, but for the first three of the first run, which take a minute more each.
    clock = lambda: (k := next(ticks)) * 0.5 + 60.0 * min(k, 2)
    assert speeds(base, (1, 2), steps=5, batch=3, clock=clock) == [Speed(1, 2.0, 6.0, 1.0), Speed(2, 2.0, 12.0, 2.0)]


def test_the_table_has_a_line_for_each_number_of_subjects() -> None:
    lines = table([Speed(1, 2.5, 2.5, 1.0), Speed(8, 0.5, 4.0, 1.6)]).splitlines()
    assert lines[0].split() == ["subjects", "steps/s", "pictures/s", "gain"]
    assert lines[1].split() == ["1", "2.50", "2.50", "1.00"] and lines[2].split() == ["8", "0.50", "4.00", "1.60"]
    assert len({len(line) for line in lines}) == 1


def test_it_answers_people_and_programs(
    base: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(subjects, "load", lambda name: base)
    subjects.main(["--counts", "1", "2", "--steps", "4"])
    assert len(capsys.readouterr().out.splitlines()) == 3
    subjects.main(["--counts", "2", "--steps", "4", "--json", "--method", "sefi-ide", "--processor-time"])
    record = json.loads(capsys.readouterr().out)
    assert record["method"] == "sefi-ide" and record["processor_time"] is True
    assert [row["subjects"] for row in record["speeds"]] == [2]
    assert record["speeds"][0]["pictures_per_second"] == pytest.approx(2 * record["speeds"][0]["steps_per_second"])


def test_what_cannot_be_measured_is_refused(
    base: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for given, says in (({"steps": 3}, "give 4 or more"), ({"counts": ()}, "got none"), ({"counts": (0, 2)}, "0, 2")):
        with pytest.raises(SemblantError, match=says):
            speeds(base, **given)  # type: ignore[arg-type]
    monkeypatch.setattr(subjects, "load", lambda name: base)
    with pytest.raises(SystemExit) as ended:
        subjects.main(["--method", "lora-dreambooth"])
    assert ended.value.code == 2 and "changes the base" in capsys.readouterr().err
