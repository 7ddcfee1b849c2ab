"""Blind comparisons: what is asked, what the page hides, what a browser makes of it, and what the answers add up to."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semblant.bench.rating import FORMAT, Shown, collect, draw_pairs, rating_page
from semblant.errors import FileProblem, SemblantError

METHODS = {
    method: {
        f"{i}.png": Shown(Image.new("RGB", (8, 8), (40 * k, 60 * i, 90)), f"a photo </script> {i}") for i in range(3)
    }
    for k, method in enumerate(("secret-one", "secret-two", "secret-three"))
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_every_two_methods_meet_equally_often_and_chance_follows_the_seed() -> None:
    pairs = draw_pairs(METHODS)
    assert len(pairs) == len(set(pairs)) == 9
    assert set(Counter(frozenset((p.left, p.right)) for p in pairs).values()) == {3}
    assert set(Counter(frozenset((p.left, p.right)) for p in draw_pairs(METHODS, 6)).values()) == {2}
    assert draw_pairs(METHODS, seed=4) == draw_pairs(METHODS, seed=4) != draw_pairs(METHODS, seed=5)
    sides = Counter(p.left for seed in range(60) for p in draw_pairs(METHODS, seed=seed))
    assert min(sides.values()) > 0.8 * max(sides.values())


def test_the_page_names_no_method_and_runs_nothing_that_was_typed() -> None:
    page = rating_page(METHODS)
    assert "secret" not in page and page.count("</script>") == 2
    assert "http" not in re.sub(r"data:[^\"]*", "", page)
    asked = json.loads(page.split('id="record"')[1].split(">", 1)[1].split("</script>")[0])
    assert set(asked["questions"]) == {"prompt", "quality"} and len(asked["screens"]) == 18
    with_reference = rating_page(METHODS, reference=[Image.new("RGB", (8, 8))], questions=["identity"])
    assert '"identity"' in with_reference


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(SemblantError, match="two folders"):
        draw_pairs({"one": METHODS["secret-one"]})
    with pytest.raises(SemblantError, match="no picture of the same file name"):
        draw_pairs({"one": METHODS["secret-one"], "two": {"other.png": METHODS["secret-one"]["0.png"]}})
    with pytest.raises(SemblantError, match="did you mean quality"):
        rating_page(METHODS, questions=["qualty"])
    with pytest.raises(SemblantError, match="nothing to ask"):
        rating_page(METHODS, questions=["identity"])


def answers(path: Path, rater: str, choices: list[str]) -> Path:
    record = {
        "format": FORMAT,
        "rater": rater,
        "answers": [{"question": "quality", "left": "a", "right": "b", "choice": choice} for choice in choices],
    }
    path.write_text(json.dumps(record))
    return path


def test_shares_sum_to_one_and_ties_count_half(tmp_path: Path) -> None:
    files = [
        answers(tmp_path / "one.json", "r1", ["left", "left", "neither"]),
        answers(tmp_path / "two.json", "r2", ["right"]),
    ]
    found = collect(files)
    assert found == {"raters": 2, "answers": 4, "shares": {"quality": {"a": 2.5 / 4, "b": 1.5 / 4}}}
    bad = tmp_path / "bad.json"
    for text in ("{", "[]", '{"format": "other"}', '{"format": "semblant-rating/1", "rater": 1, "answers": [{}]}'):
        bad.write_text(text)
        with pytest.raises(FileProblem, match="no answers"):
            collect([bad])
    for part in ("question", "left", "choice"):
        record = json.loads(answers(bad, "r", ["left"]).read_text())
        record["answers"][0][part] = ["quality"]
        bad.write_text(json.dumps(record))
        with pytest.raises(FileProblem, match="no text"):
            collect([bad])
    bad.write_text("[" * 100_000)
    with pytest.raises(FileProblem, match="no answers"):
        collect([bad])
    with pytest.raises(FileProblem, match="left, right or neither"):
        collect([answers(bad, "r", ["up"])])


def test_answers_are_read_as_the_browser_wrote_them_whatever_the_machine_speaks(tmp_path: Path) -> None:
    file = answers(tmp_path / "one.json", "r1", ["left"])
    file.write_text(file.read_text().replace('"a"', '"größe"'), encoding="utf-8")
    code = "import sys, pathlib; from semblant.bench.rating import collect; "
    code += "print(ascii(collect([pathlib.Path(sys.argv[1])])))"
    plain = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, env=plain)
    assert done.returncode == 0 and ascii("größe")[1:-1] in done.stdout, done.stderr


def test_answers_that_were_saved_twice_count_once(tmp_path: Path) -> None:
    once = [answers(tmp_path / "one.json", "r1", ["left"]), answers(tmp_path / "two.json", "r2", ["right"])]
    again = answers(tmp_path / "one (1).json", "r1", ["left"])
    assert (
        collect([*once, again])
        == collect(once)
        == {
            "raters": 2,
            "answers": 2,
            "shares": {"quality": {"a": 0.5, "b": 0.5}},
        }
    )
    with pytest.raises(FileProblem, match="other answers of one rater"):
        collect([*once, answers(again, "r1", ["neither"])])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_asks_by_keyboard_and_gives_the_answers(tmp_path: Path) -> None:
    press = """
<script>
const key = k => document.dispatchEvent(new KeyboardEvent("keydown", {key: k, bubbles: true}));
key("ArrowLeft"); key("Backspace");
const first = at("count").textContent;
for (let i = 0; i < 17; i++) key(["ArrowLeft", "ArrowRight", "ArrowDown"][i % 3]);
const hidden = document.body.innerText.includes("secret");
key("ArrowRight"); key("ArrowRight");
document.title = JSON.stringify({first, hidden, link: at("save").href, shown: at("shares").innerText,
  over: !at("finished").hidden});
</script>"""
    page = tmp_path / "rating.html"
    page.write_text(rating_page(METHODS).replace("</body>", press + "</body>"))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title is not None
    seen: dict[str, Any] = json.loads(html.unescape(title.group(1)))
    assert seen["first"] == "1 of 18" and not seen["hidden"] and seen["over"]
    saved = tmp_path / "saved.json"
    saved.write_text(urllib.parse.unquote(seen["link"].split(",", 1)[1]))
    record, found = json.loads(saved.read_text()), collect([saved])
    assert found["answers"] == 18 and set(found["shares"]) == {"prompt", "quality"}
    assert all(shares == pytest.approx(record["shares"][question]) for question, shares in found["shares"].items())
    assert all(name in seen["shown"] for name in METHODS)
