"""Lines over numbers, as drawings."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from semblant.bench.chart import COLOURS, MOST, Line, chart, legend

SVG = "{http://www.w3.org/2000/svg}"


def points(drawing: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'points="([^"]*)"', drawing)
    return [[(float(a), float(b)) for a, b in (pair.split(",") for pair in line.split())] for line in found]


def test_higher_numbers_stand_higher_and_later_ones_further_right() -> None:
    [line] = points(chart([Line("a", [(0, 1.0), (10, 3.0), (20, 2.0)])], "step", "loss"))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x0 < x1 < x2 and y1 < y2 < y0 and x1 - x0 == x2 - x1


def test_a_drawing_is_a_file_of_its_own_that_names_its_lines() -> None:
    drawing = chart([Line("<one>", [(1, 1)], ["step 1"]), Line("two", [(2, 5), (3, 6)])], "steps & more", "identity")
    root = ElementTree.fromstring(drawing)
    told = [text.text for text in root.iter(f"{SVG}text")]
    assert {"<one>", "two", "step 1", "steps & more", "identity"} <= set(told)
    strokes = [line.get("stroke") for line in root.iter(f"{SVG}polyline")]
    assert strokes == list(COLOURS[:2]) and len(list(root.iter(f"{SVG}circle"))) == 1


def test_what_is_not_finite_is_left_out_and_what_is_too_much_thinned() -> None:
    nan = float("nan")
    [line] = points(chart([Line("a", [(1, nan), (2, 1.0), (3, float("inf")), (4, 2.0)])], "x", "y"))
    assert len(line) == 2
    assert chart([Line("a", [(1, nan)])], "x", "y") == ""
    [line] = points(chart([Line("a", [(k, k % 7) for k in range(10_000)])], "x", "y"))
    assert len(line) <= MOST + 1 and line[-1][0] == max(x for x, _ in line)


def test_a_line_without_numbers_leaves_the_colours_of_the_others() -> None:
    drawing = chart([Line("a", []), Line("b", [(1, 1), (2, 2)])], "x", "y", alone=False)
    assert f'stroke="{COLOURS[1]}"' in drawing and COLOURS[1] in legend(["a", "b"]) and "xmlns" not in drawing
