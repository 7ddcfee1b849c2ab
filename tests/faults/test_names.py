"""What users type and what strangers' files say stays where it belongs: no way out of a folder, no way into a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from semblant.backbones.base import Base
from semblant.bench.demo import Arm, Made
from semblant.bench.page import page
from semblant.bench.rating import Shown, rating_page
from semblant.cli.main import app
from semblant.cli.outputs import RESERVED, Output, file_name
from semblant.cli.sampling import slug, write
from semblant.data.pictures import save_png
from semblant.data.subject import check_class_word, check_word
from semblant.errors import SemblantError
from semblant.training import concepts
from semblant.training.concepts import Concept

WAYS_OUT = [
    "../../../escaped", "..\\..\\escaped", "/tmp/escaped", "C:\\escaped", "\\\\host\\share", "~/escaped", "a/../../out",
    ".", "..", "...", "", " ", ".hidden", "-rf", "--out=/x", "a\0b", "a\nb", "a\r\nb", "\x1b[2J", "con", "NUL", "aux.x",
    "Com1", "lpt9", "a:b", "a|b", 'a"b', "a?b*", "x" * 5000, "\u202egnp.exe", "\ufeff", "\u2044etc", "e\u0301" * 300,
    "\udcff", "日本", "%2e%2e%2f", "$(id)", "`id`", ";id", "${HOME}",
]  # fmt: skip
"""What would lead elsewhere, or be something else, were it a file's name."""
WAYS_IN = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)", "javascript:alert(1)", "<a href=javascript:alert(1)>x</a>", "</style><svg onload=alert(1)>",
    "<!--", "-->", "]]>", "</title><iframe src=//example.org>", "&lt;script&gt;", "{{7*7}}", "${7*7}", "\u2028alert(1)",
    "\\u003cscript>", "RECORD", "SCRIPT", "STYLE", "IDENTITY", "<meta http-equiv=refresh content=0>",
    "<base href=//example.org/>", "\0<script>",
]  # fmt: skip
"""What would be more than text, were it put into a page as it is."""


@pytest.mark.parametrize("prompt", WAYS_OUT)
def test_no_prompt_leads_out_of_the_folder_of_pictures(tmp_path: Path, prompt: str) -> None:
    folder = tmp_path / "images"
    for _ in range(2):
        file = write(Image.new("RGB", (32, 32)), folder, prompt, 7, {"prompt": prompt})
        assert file.resolve().parent == folder.resolve() and re.fullmatch(r"[a-z0-9-]+-seed7(-2)?\.png", file.name)
        assert len(file.name) < 100 and file.name.split(".")[0] not in RESERVED
    assert sorted(tmp_path.iterdir()) == [folder] and len(list(folder.iterdir())) == 2
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug(prompt))


@pytest.mark.parametrize("word", [*WAYS_OUT, *(f"<{word}>" for word in WAYS_OUT)])
def test_no_word_leads_out_of_the_folder_of_concepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name = file_name(word)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name) and name.lower() not in RESERVED
    try:
        check_word(word)
    except SemblantError as refused:
        # Those that could mean anything to a disk are no words at all.
        assert "\n" not in str(refused) and len(str(refused)) < 400
    else:
        assert not set(word) & set("/\\\0:.~ ") and len(word) <= 40
        output = Output.of(None, word, resume=False, force=False)
        for path in (output.file, output.checkpoint, output.run.path, output.lock):
            assert path.parent == Path()


@pytest.mark.parametrize("word", WAYS_OUT)
def test_no_such_thing_is_a_class_word(word: str) -> None:
    try:
        check_class_word(word)
    except SemblantError:
        return
    assert word.isalnum()


def test_by_the_command_line_nothing_appears_elsewhere(
    command: Callable[..., Any], photo: Path, tmp_path: Path
) -> None:
    run = lambda *line: CliRunner().invoke(app, [str(word) for word in line])
    beside = sorted(tmp_path.parent.iterdir())
    for prompt in WAYS_OUT:
        made = run("sample", prompt, "--steps", 1, "--size", 32, "-q")
        assert made.exit_code in (0, 2, 3) and "Traceback" not in made.output, (prompt, made.output)
    said = ["--class-word", "person", "--face", "none", "--steps", 1, "--set", "views=1", "--precision", "float32"]
    for word in (*WAYS_OUT, "<con>", "<-rf>"):
        made = run("fit", "textual-inversion", photo, "--word", word, *said, "--no-verdict", "-q")
        # "con" and "<con>" would be one file: the second is refused.
        assert made.exit_code in (0, 2, 3), (word, made.output)
    assert sorted(tmp_path.parent.iterdir()) == beside
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"images"}
    assert {"concept-con.safetensors", "rf.safetensors"} <= {path.name for path in tmp_path.iterdir()}


def test_a_concept_of_a_stranger_cannot_choose_where_pictures_go(
    command: Callable[..., Any], tmp_path: Path, base: Base
) -> None:
    rows = torch.zeros(1, 1, 1, 1, base.width)
    for number, word in enumerate(("../../escaped", "/tmp/escaped", "<script>alert(1)</script>", "[bold]", "\x1b[2J")):
        file = f"{number}.safetensors"
        concepts.save(Concept("textual-inversion", {}, word, "person", base.describe(), {"rows": rows}), file)
        for line in (["sample", f"a photo of {word}", "--concept", file, "--steps", "1"], ["inspect", file]):
            made = CliRunner().invoke(app, line)
            assert made.exit_code in (0, 2) and "Traceback" not in made.output, made.output
            assert "\x1b" not in made.output
    assert all(path.parent.name == "images" for path in tmp_path.rglob("a-photo-of-*"))


class Seen(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


HARMLESS = set(
    "html head meta title style body main h1 h2 p b table caption thead tbody tr th td small img figure figcaption div "
    "pre footer svg line text polyline span br script button kbd progress a".split()
)


def look(text: str, scripts: int) -> Seen:
    """Parse a page, and see that only what this library writes is in it."""
    seen = Seen(text)
    assert {tag for tag, _ in seen.elements} <= HARMLESS
    assert sum(tag == "script" for tag, _ in seen.elements) == scripts
    assert all("http-equiv" not in attributes for _, attributes in seen.elements)
    for tag, attributes in seen.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "style"):
            value = attributes.get(name) or ""
            assert "javascript:" not in value.lower() and "//" not in value.split(",")[0], (tag, attributes)
    return seen


@pytest.mark.parametrize("text", WAYS_IN)
def test_nothing_that_was_typed_runs_in_the_report(text: str) -> None:
    plain = Image.new("RGB", (128, 128))
    arm = Arm(text, text, "sefi-ide")
    looks = {"cup": {kind: plain for kind in ("picture", "subject", "object")}}
    made = [Made(arm, [plain], looks, [(1, 0.5), (2, 0.4)], scores={"facts": 0.5}, seconds=1.0)]
    made[0].concept = Concept("sefi-ide", {}, text, text, {}, {})
    results = {
        "word": text, "prompts": [f"{text} cup"], "semblant": text, "base": {"name": text, "facts above chance": 0.1},
        "seed": 0, "plan": {"steps": 1}, "not_measured": "", "commands": [f'semblant fit "{text}"'], "seconds": 1.0,
    }  # fmt: skip
    for not_measured in ("", text):
        whole = page({**results, "not_measured": not_measured}, made, replace(made[0], concept=None), plain, [plain])
        seen = look(whole, scripts=0)
        # It is shown as it was typed: a NUL is what browsers do not show.
        assert any(text.replace("\0", "") in told.replace("\0", "") for told in seen.texts)


@pytest.mark.parametrize("text", WAYS_IN)
def test_nothing_that_was_typed_runs_in_a_rating(text: str) -> None:
    plain = Image.new("RGB", (128, 128))
    methods = {f"{text}{k}": {f"{text}.png": Shown(plain, text)} for k in range(2)}
    whole = rating_page(methods, reference=[plain])
    seen = look(whole, scripts=2)
    inside = whole.split('id="record"')[1].split(">", 1)[1].split("</script>")[0]
    assert "<" not in inside
    record = json.loads(inside)
    assert [screen[3] for screen in record["screens"]] == [text] * len(record["screens"])
    assert all(source.startswith("data:image/png;base64,") for source in [*record["pictures"], *record["reference"]])
    # The page itself never turns a text into elements.
    assert (
        "innerHTML" not in whole and "document.write" not in whole and "eval(" not in whole and len(seen.elements) > 20
    )


def test_pictures_of_strangers_in_folders_of_strange_names_can_be_rated(
    command: Callable[..., Any], noise: Callable[..., Image.Image], tmp_path: Path
) -> None:
    folders = ["<img src=x onerror=alert(1)>", "[/bold]$(id)"]
    for k, folder in enumerate(folders):
        save_png(noise(k), tmp_path / folder / "a.png", {"prompt": WAYS_IN[1]})
    made = CliRunner().invoke(app, ["rate", *folders])
    assert made.exit_code == 0, made.output
    look(Path("rating.html").read_text(), scripts=2)
    answer = {"question": "[/]", "left": folders[0], "right": folders[1], "choice": "left"}
    Path("r.json").write_text(json.dumps({"format": "semblant-rating/1", "rater": "[/]", "answers": [answer]}))
    told = CliRunner().invoke(app, ["rate", "--collect", "r.json"])
    assert told.exit_code == 0 and "[/]" in told.stdout and "onerror" in told.stdout, told.output
