"""What a fit runs on: tested versions are the repository's, and what is amiss is named with what to do."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

from semblant.backbones.loading import miniature
from semblant.data import environment
from semblant.errors import FileProblem

ROOT = Path(__file__).parents[2]


def levels(findings) -> list[tuple[str, str]]:
    return [(finding.file, finding.level) for finding in findings]


def test_the_tested_versions_are_those_of_the_constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in environment.TESTED} == environment.TESTED


def test_the_floors_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {m[1]: m[2] for line in project["dependencies"] if (m := re.match(r"([\w-]+)>=([\d.]+)", line))}
    assert {name: found[name] for name in environment.LEAST} == environment.LEAST
    assert project["requires-python"] == ">=" + ".".join(map(str, environment.LEAST_PYTHON))


def test_missing_old_and_other_versions_are_told_apart():
    versions = {**environment.TESTED, "torch": "2.9.1+cpu", "peft": None, "numpy": "2.5", "pillow": "12.3"}
    found = environment.version_findings(versions)
    assert levels(found) == [("torch", "error"), ("peft", "error"), ("numpy", "note")]
    assert "2.10" in found[0].problem and "pip install peft==" in found[1].advice
    assert environment.version_findings(environment.TESTED | {"torch": "2.13.0+cu130"}) == []
    assert environment.numbers("2.10") > environment.numbers("2.9.1")


def test_threads_disk_and_python():
    assert environment.thread_findings(4, 4) == []
    assert levels(environment.thread_findings(1, 4)) == [("threads", "note")]
    assert levels(environment.thread_findings(8, 4)) == [("threads", "warning")]
    assert [levels(environment.disk_findings(free)) for free in (10**6, 10**8, 10**11)] == [
        [("disk", "error")],
        [("disk", "warning")],
        [],
    ]
    assert levels(environment.python_findings((3, 10))) == [("python", "error")]
    assert environment.python_findings((3, 14)) == []


def test_the_environment_is_that_of_this_process(tmp_path):
    facts, _ = environment.environment(tmp_path / "not" / "yet")
    assert facts["threads"] == torch.get_num_threads() and facts["cores"] >= 1
    assert facts["disk_free"] > 0 and environment.numbers(facts["versions"]["torch"])[:2] >= (2, 10)
    assert (facts["accelerator"] is None) == (not torch.cuda.is_available() and not torch.backends.mps.is_available())


def test_a_card_is_told_and_a_weak_base_warned_of():
    card = {
        "base": {"presentations": 15632, "macro": 0.3023, "macro_corrected": -0.1763},
        "autoencoder": {"psnr": 24.56},
    }
    facts, found = environment.base_facts(miniature(), card)
    assert (
        facts["size"] == 16 and "15,632" in facts["about"] and "30%" in facts["about"] and "24.6 dB" in facts["about"]
    )
    assert levels(found) == [("miniature", "warning")] and "chance" in found[0].problem
    facts, found = environment.base_facts(miniature(in_channels=9), {})
    assert "no card" in facts["about"] and levels(found) == [("miniature", "error")]
    card["base"]["macro_corrected"] = 0.5
    assert environment.base_facts(miniature(), card)[1] == []


def test_a_card_lies_in_or_beside_the_folder(tmp_path):
    (tmp_path / "base").mkdir()
    assert environment.card_of(str(tmp_path / "base")) == {}
    (tmp_path / "card.json").write_text(json.dumps({"base": {"macro": 0.5}}))
    assert environment.card_of(str(tmp_path / "base")) == {"base": {"macro": 0.5}}
    (tmp_path / "base" / "card.json").write_text("{")
    with pytest.raises(FileProblem, match=r"card\.json"):
        environment.card_of(str(tmp_path / "base"))
