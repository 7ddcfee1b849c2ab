"""The worked explanations: their code runs, makes every picture they show, and prints what they say."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest
from PIL import Image

import semblant
from semblant import verbs
from semblant.backbones.miniature import miniature
from semblant.bench.explained import main, run_page
from semblant.world.captions import PUNCTUATION, words

PAGES = sorted((Path(__file__).parents[2] / "docs" / "explained").glob("[0-9]*.md"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages' base, with random weights and the same words."""
    base = miniature(size=8, vocabulary=[*words(), *PUNCTUATION])
    monkeypatch.setattr(semblant, "load", lambda name: base)
    monkeypatch.setitem(verbs.SAMPLING, "miniature", verbs.SAMPLING["embedded"])
    fit = semblant.fit
    monkeypatch.setattr(
        semblant, "fit", lambda *a, **k: fit(*a, **{**k, "steps": 2, "views": 2, "calibration_draws": 1})
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_runs_and_makes_the_pictures_it_shows(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    made = run_page(text, tmp_path, page.name)
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert shown and made.count("```text") > 0
    assert {path.name for path in tmp_path.iterdir()} == set(shown)
    for name in shown:
        with Image.open(tmp_path / name) as picture:
            assert len(picture.getcolors(1 << 20) or range(9)) > 8
        assert (page.parent / name).is_file()
    for link in re.findall(r"(?<!!)\[[^]]+\]\(([^)]+\.md)\)", text):
        assert (page.parent / link).is_file()


def test_what_blocks_print_follows_them_and_is_renewed(tmp_path: Path) -> None:
    page = tmp_path / "1-page.md"
    page.write_text("# A\n\n```python\nx = 2\n```\n\nb\n\n```python\nprint(x + 1)\n```\n\n```text\n7\n```\n\nend\n")
    main([str(tmp_path)])
    said = page.read_text()
    assert said == "# A\n\n```python\nx = 2\n```\n\nb\n\n```python\nprint(x + 1)\n```\n\n```text\n3\n```\n\nend\n"
    main([str(page)])
    assert page.read_text() == said


def test_a_failing_block_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_page("# A\n\n```python\nx = 0\n1 / x\n```\n", tmp_path, "1-page.md")
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == ("1-page.md", 5)
