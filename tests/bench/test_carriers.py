"""Keys of one person with values of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.judges import load_judges
from semblant.backbones.loading import miniature
from semblant.bench import carriers
from semblant.bench.carriers import MIXED, OWN, Learned, carried, kept_by
from semblant.bench.runs import RunFolder
from semblant.bench.sitter import Sitter, draw
from semblant.data.subject import Subject
from semblant.errors import FileProblem
from semblant.training.concepts import Concept
from semblant.training.surgery import exchanged
from semblant.verbs import fit
from semblant.world.captions import words

ONE, OTHER = Sitter("tune", 1), Sitter("tune", 2)


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(vocabulary=words())


@pytest.fixture(scope="module")
def people(base: Base) -> tuple[Learned, Learned]:
    learned = []
    for sitter in (ONE, OTHER):
        subject = Subject((draw([sitter.portrait()], 32)[0],), "<maya>", "person")
        learned.append(Learned(sitter, fit("sefi-ide", base, subject, steps=1, views=1, seed=sitter.index)))
    return learned[0], learned[1]


def pictures_of_the_values(people: tuple[Learned, Learned]) -> Any:
    """Samples as they would be if values alone decided who is shown."""

    def sample(base: Base, prompts: list[str], *, concepts: list[Concept], n: int) -> list[Image.Image]:
        [word] = concepts
        for who in people:
            if word.tensors["rows"][:, :, -1].equal(who.concept.tensors["rows"][:, :, -1]):
                return draw(who.sitter.others(len(prompts) * n), 128)
        raise AssertionError("values of nobody")

    return sample


def test_pictures_that_follow_the_values_are_found_to(
    base: Base, people: tuple[Learned, Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "sample", pictures_of_the_values(people))
    records, shown = carried(base, load_judges("B"), *people)
    assert [record["arm"] for record in records] == [OWN, OWN, MIXED, MIXED] and len(shown) == 4
    assert all(record["nearer"] == 1 for record in records)
    assert all(record["gain of values"] > max(0.6, 0.2 + record["gain of keys"]) for record in records)
    assert [(record["keys"], record["values"]) for record in records[2:]] == [(2, 1), (1, 2)]
    # With whatever is called values being keys the same pictures say the opposite.
    monkeypatch.setattr(carriers, "exchanged", lambda keys, values: exchanged(values, keys))
    records, _ = carried(base, load_judges("B"), *people)
    assert [record["nearer"] for record in records] == [1, 1, 0, 0]


def test_concepts_are_taken_from_where_an_experiment_keeps_them(
    base: Base, people: tuple[Learned, Learned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileProblem, match="of 0 people under 'SeFi-IDE'"):
        kept_by(tmp_path, "SeFi-IDE", "tune")
    for who in people:
        place = tmp_path / "cells" / f"{who.sitter.index:04d}-SeFi-IDE"
        RunFolder(place).keep(who.concept)
        with pytest.raises(FileProblem, match=r"of [01] people"):  # it was cut short
            kept_by(tmp_path, "SeFi-IDE", "tune")
        place.with_name(f"{place.name}.json").write_text('{"key": "of its own", "split": "tune"}')
    with pytest.raises(FileProblem, match="people of tune; say --split tune"):
        kept_by(tmp_path, "SeFi-IDE", "heldout")
    (tmp_path / "cells" / "0001-not SeFi-IDE").mkdir()
    assert [who.sitter.index for who in kept_by(tmp_path, "SeFi-IDE", "tune")] == [1, 2]
    monkeypatch.setattr(carriers, "sample", pictures_of_the_values(people))
    monkeypatch.setattr(carriers, "load", lambda name: base)
    carriers.main([str(tmp_path), "--split", "tune", "--out", str(tmp_path / "out")])
    told = json.loads((tmp_path / "out" / "carriers.json").read_text())
    assert told["means"][MIXED]["nearer"] == 1 and len(told["cells"]) == 4
    assert Image.open(tmp_path / "out" / "carriers.png").width > 6 * 128
    with pytest.raises(SystemExit) as end:
        carriers.main([str(tmp_path), "--arm", "nobody", "--out", str(tmp_path / "out")])
    assert end.value.code == 2
