"""The demo from end to end on a random miniature base, and its page."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.bench.demo import ARMS, Plan, commands, run
from semblant.bench.gaze import Gaze, overlay
from semblant.bench.sitter import Sitter, draw
from semblant.errors import FileProblem
from semblant.world.captions import words
from semblant.world.facts import facts
from semblant.world.prompts import demo_prompts

FAST = {"views": 2, "calibration_draws": 1}
TINY = Plan(steps=2, prompts=4, seeds=1, sampling_steps=2, references=2, settings=FAST)
LEAST = Plan(1, 1, 1, 1, 1, FAST)
WORD = "<script>"
VOID = {"meta", "img", "line", "br"}


@pytest.fixture(scope="module")
def base() -> Base:
    return miniature(vocabulary=words())


@pytest.fixture(scope="module")
def demo(base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """The demo of a word that would be a script if nobody escaped it."""
    out, said = tmp_path_factory.mktemp("demo") / "demo", []
    return out, run(out, base, plan=TINY, word=WORD, compute=torch.bfloat16, say=said.append), said


class Page(HTMLParser):
    """Whether tags close in order, and every picture of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_that_was_promised_is_there(demo: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, results, said = demo
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results)) and results["finished"]
    for name in ("report.html", "grid.png", "portrait.png", "references/1.png", "concepts/sefi-ide.safetensors"):
        assert (out / name).is_file(), name
    for arm in ARMS:
        assert len(list((out / "pictures" / arm.key).glob("*.png"))) == TINY.prompts
    assert results["arms"]["sefi-ide-without-attention"]["settings"]["attention_weight"] == 0
    assert said[0] == "computing in bfloat16" and results["arms"]["sefi-ide"]["figures"]["compute"] == "bfloat16"
    assert sum("--precision bfloat16" in line for line in results["commands"]) == 4
    assert any("step 2 of 2" in line for line in said) and said[-1].startswith("done after")


def test_the_page_is_whole_and_needs_nothing_else(demo: tuple[Path, dict[str, Any], list[str]]) -> None:
    text = (demo[0] / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    # Portrait and references, five rows of four prompts, and for guitar and cup three rows of four ways.
    assert len(page.pictures) == 1 + 2 + 5 * 4 + 2 * 3 * 4
    assert all((p["src"] or "").startswith("data:image/png;base64,") and p["alt"] for p in page.pictures)
    assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(", text)


def test_what_users_type_is_escaped(demo: tuple[Path, dict[str, Any], list[str]]) -> None:
    text = (demo[0] / "report.html").read_text()
    assert WORD not in text and "&lt;script&gt;" in text


def test_without_judges_the_page_says_so(
    base: Base, tmp_path: Path, demo: tuple[Path, dict[str, Any], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant.bench import demo as module

    def missing(which: str) -> None:
        raise FileProblem("there is no judge <here>")

    monkeypatch.setattr(module, "load_judges", missing)
    results = run(tmp_path / "d", base, plan=LEAST)
    text = (tmp_path / "d" / "report.html").read_text()
    assert results["not_measured"] == "there is no judge <here>"
    assert "not measured: there is no judge &lt;here&gt;" in text


def test_with_judges_the_page_has_a_table(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant import verbs
    from semblant.bench import demo as module
    from semblant.metrics.report import Scores

    monkeypatch.setattr(module, "load_judges", lambda which: None)
    monkeypatch.setattr(
        verbs, "measure", lambda images, **more: Scores(len(images), 1.0, 0.3, identity_gain=0.6125, copy_rate=None)
    )
    run(tmp_path / "d", base, plan=LEAST)
    text = (tmp_path / "d" / "report.html").read_text()
    assert "<td class=best>0.61</td>" in text and "<td>–</td>" in text


def test_the_demo_can_be_repeated_but_takes_no_other_folder(base: Base, tmp_path: Path) -> None:
    plan = LEAST
    first = run(tmp_path / "d", base, plan=replace(plan, references=2, seeds=2))
    (tmp_path / "d" / "notes.txt").write_text("kept")
    again = run(tmp_path / "d", base, plan=plan)
    assert first["arms"]["sefi-ide"]["losses"] == again["arms"]["sefi-ide"]["losses"]
    names = lambda folder: [file.name for file in (tmp_path / "d" / folder).iterdir()]
    assert names("references") == ["0.png"] and names("pictures/base") == ["1-seed0.png"], "none of the first is left"
    assert (tmp_path / "d" / "notes.txt").is_file()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(FileProblem, match="holds other things"):
        run(tmp_path / "mine", base, plan=plan)
    results = tmp_path / "mine" / "results.json"
    for own in ('{"accuracy": 0.5}', "[1, 2]", "no JSON"):
        results.write_text(own)
        with pytest.raises(FileProblem, match="holds other things"):
            run(tmp_path / "mine", base, plan=plan)
        assert results.read_text() == own


def test_command_lines_name_what_a_shell_and_the_hub_understand(tmp_path: Path) -> None:
    told = lambda out, base: commands(Plan(), out, base, "largest", 0, "<maya>", "a photo of <maya>", "float32")
    here = tmp_path / "my base"
    here.mkdir()
    lines = [shlex.split(line) for line in told(tmp_path / "my demo", str(here))]
    assert lines[0][3] == "my demo/portrait.png" and "my demo/references" in lines[-1]
    assert all(line[line.index("--base") + 1] == "my base" for line in lines[:-1]), "no folder of this computer"
    assert "--base owner/name@fp16 " in told(tmp_path, "owner/name@fp16")[0]


def test_the_right_answer_shows_what_the_prompt_names() -> None:
    from semblant.world.captions import read

    sitter = Sitter()
    for prompt in demo_prompts():
        named, true = read(prompt).facts, facts(sitter.truth(prompt))
        assert {fact: true.get(fact) for fact in named} == named, prompt
        assert sitter.truth(prompt).people[0].identity == sitter.identity


def test_the_sitter_is_seen_and_the_same_each_time() -> None:
    sitter = Sitter()
    assert sitter.portrait().people[0].hat == "none" and sitter.identity.hair_style != "bald"
    one, other = draw([sitter.portrait()], 32)[0], draw([sitter.portrait()], 32)[0]
    assert one.tobytes() == other.tobytes() and one.size == (32, 32)
    assert len(set(sitter.others(4))) == 4


def test_gaze_is_the_mean_attention_to_a_word_and_changes_nothing(base: Base) -> None:
    from semblant.sampling.loop import Branches, noise, sample_latents

    prompts = ["a photo of a person", "a cup"]
    contexts = Branches.of(base.text(prompts), base.text(""))
    x = noise(base, [0, 1], (16, 16))
    plain = sample_latents(base, x, contexts, steps=2, guidance=3.0)
    everywhere = [{"all": range(77)}, {"all": range(77), "cup": row} if (row := (2,)) else {}]
    gaze = Gaze(everywhere)
    watched = sample_latents(base.patched(*gaze.patches()), x, contexts, steps=2, guidance=3.0)
    torch.testing.assert_close(watched, plain, rtol=1e-4, atol=1e-5)
    whole, cup = gaze.map(1, "all"), gaze.map(1, "cup")
    assert whole is not None and cup is not None and gaze.map(0, "cup") is None
    # A place's attention over all tokens is 1, and no word has more.
    torch.testing.assert_close(whole, torch.ones(8, 8))
    assert float(cup.min()) > 0 and float(cup.max()) < 1


def test_an_overlay_is_hottest_where_the_word_is_looked_for() -> None:
    look = torch.zeros(8, 8)
    look[:, 6:] = 1
    made = overlay(Image.new("RGB", (32, 32), (128, 128, 128)), look)
    assert made.size == (32, 32)
    left, right = made.getpixel((2, 16)), made.getpixel((30, 16))
    assert isinstance(left, tuple) and isinstance(right, tuple) and sum(right) > sum(left) + 200


@pytest.mark.parametrize(("obeys", "warned"), [(-0.18, True), (0.05, True), (0.8, False), (None, False)])
def test_a_base_that_obeys_by_chance_comes_with_a_warning(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obeys: float | None, warned: bool
) -> None:
    monkeypatch.setattr("semblant.bench.demo._above_chance", lambda _: obeys)
    run(tmp_path / "demo", base, plan=LEAST, say=lambda _: None)
    assert ("Do not compare the rows yet" in (tmp_path / "demo" / "report.html").read_text()) == warned
