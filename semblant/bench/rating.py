"""A blind rating: pairs of pictures in one HTML page that needs no network, and the shares that its answers give.

Pictures that carry the same file name in every folder belong together. Pairs, sides and order are drawn from a seed;
the page does not show which folder a picture came from until the last answer is given.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from semblant.bench.page import data_uri
from semblant.bench.paper import STYLE
from semblant.errors import FileProblem, SemblantError, closest

FORMAT = "semblant-rating/1"
QUESTIONS = {
    "prompt": "Which picture shows better what the text says?",
    "identity": "In which picture is it rather the person, animal or thing of the reference?",
    "quality": "Which is the better picture?",
}
"""The three of the user study of SeFi-IDE (arXiv 2402.00631): prompt, identity, quality."""
CHOICES = ("left", "right", "neither")


@dataclass(frozen=True)
class Shown:
    """One picture of a method, and the text it was made from ("" when nobody knows)."""

    image: Image.Image
    prompt: str = ""


@dataclass(frozen=True)
class Pair:
    """Two methods' pictures of the same name."""

    name: str
    left: str
    right: str


def draw_pairs(methods: Mapping[str, Mapping[str, Shown]], count: int | None = None, seed: int = 0) -> list[Pair]:
    """Pairs in the order in which they are asked: every two methods equally often, sides at random.

    Raises SemblantError for fewer than two methods, or when their pictures share no names.
    """
    if len(methods) < 2:
        raise SemblantError(f"a comparison takes two folders of pictures or more; got {len(methods)}")
    names = sorted(set.intersection(*(set(pictures) for pictures in methods.values())))
    if not names:
        raise SemblantError(
            f"{', '.join(methods)} have no picture of the same file name; pictures that belong together (one prompt, "
            "one seed) are called alike in every folder"
        )
    rng = random.Random(f"semblant rating {seed}")
    queues = []
    for two in itertools.combinations(methods, 2):
        own = [Pair(name, *rng.sample(two, 2)) for name in rng.sample(names, len(names))]
        queues.append(own)
    rng.shuffle(queues)
    taken = [pair for rank in zip(*queues, strict=True) for pair in rank]
    chosen = taken[: len(taken) if count is None else max(1, count)]
    return rng.sample(chosen, len(chosen))


def rating_page(
    methods: Mapping[str, Mapping[str, Shown]],
    *,
    reference: Sequence[Image.Image] = (),
    questions: Sequence[str] = tuple(QUESTIONS),
    count: int | None = None,
    seed: int = 0,
) -> str:
    """The page. Without a reference nobody is asked about identity, without prompts nobody about the prompt.

    Raises SemblantError for an unknown question, or when none is left to ask.
    """
    for question in questions:
        if question not in QUESTIONS:
            raise SemblantError(f"unknown question {question!r}; did you mean {closest(question, tuple(QUESTIONS))}?")
    pairs = draw_pairs(methods, count, seed)
    said = {
        pair.name: next((p[pair.name].prompt for p in methods.values() if p[pair.name].prompt), "") for pair in pairs
    }
    askable = [q for q in questions if not (q == "identity" and not reference)]
    screens = [(pair, question) for pair in pairs for question in askable if question != "prompt" or said[pair.name]]
    if not screens:
        raise SemblantError("there is nothing to ask: identity takes --reference, prompt takes pictures with a prompt")
    pictures = sorted({(side, pair.name) for pair in pairs for side in (pair.left, pair.right)})
    index = {key: i for i, key in enumerate(pictures)}
    record = {
        "format": FORMAT,
        "methods": [base64.b64encode(name.encode()).decode() for name in methods],
        "questions": {question: QUESTIONS[question] for question in askable},
        "pictures": [data_uri(methods[method][name].image) for method, name in pictures],
        "owners": [list(methods).index(method) for method, _ in pictures],
        "reference": [data_uri(image) for image in reference],
        "screens": [
            [index[pair.left, pair.name], index[pair.right, pair.name], question, said[pair.name]]
            for pair, question in screens
        ],
    }
    text = json.dumps(record, sort_keys=True).replace("<", "\\u003c")
    title = f"{len(screens)} questions about pictures"
    return (
        PAGE.replace("TITLE", escape(title))
        .replace("STYLE", STYLE + LOOKS)
        .replace("IDENTITY", hashlib.sha256(text.encode()).hexdigest()[:12])
        .replace("SCRIPT", SCRIPT)
        .replace("RECORD", text)
    )


def collect(answers: Sequence[Path]) -> dict[str, Any]:
    """Preference shares over the answers of several raters: per question and method, ties counting half for each.

    The shares of a question sum to one over the methods. A file that was saved twice counts once. Raises FileProblem
    for a file that holds no answers, or others of a rater to a page that this rater has answered.
    """
    wins: dict[str, dict[str, float]] = {}
    told: dict[tuple[str, str], tuple[Path, list[tuple[str, str, str, str]]]] = {}
    total = 0
    for path in answers:
        try:
            if path.exists() and not path.is_file():
                raise ValueError("it is no file")
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise ValueError(f"its format is {record['format']!r}")
            given = [(a["question"], a["left"], a["right"], a["choice"]) for a in record["answers"]]
            if not all(isinstance(part, str) for answer in given for part in answer):
                raise ValueError("an answer of it is no text")
            who = str(record.get("page")), str(record["rater"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
            raise FileProblem(f"{path} holds no answers of a rating page: {problem}") from problem
        if who in told:
            earlier, said = told[who]
            if said != given:
                raise FileProblem(f"{earlier} and {path} are other answers of one rater to one page; give one of them")
            continue
        told[who] = path, given
        for question, left, right, choice in given:
            if choice not in CHOICES:
                raise FileProblem(f"{path}: an answer is left, right or neither; got {choice!r}")
            table = wins.setdefault(question, {})
            for method, side in ((left, "left"), (right, "right")):
                won = 1.0 if choice == side else 0.5 if choice == "neither" else 0.0
                table[method] = table.get(method, 0.0) + won
            total += 1
    shares = {
        question: {method: won / sum(table.values()) for method, won in sorted(table.items())}
        for question, table in wins.items()
    }
    return {"raters": len({rater for _, rater in told}), "answers": total, "shares": shares}


LOOKS = """
.ask { text-align: center; max-width: none }
.ask p { margin: .4rem auto }
#two { display: flex; justify-content: center; gap: 1.4rem; margin: 1.4rem 0 }
#two button { background: var(--card); border: 2px solid var(--rule); border-radius: 10px; padding: 8px }
#two button:hover, #two button:focus-visible { border-color: var(--accent); outline: none }
#two img { width: min(38vw, 384px); height: min(38vw, 384px); image-rendering: auto }
#reference { display: flex; justify-content: center; gap: 8px }
kbd { font: .8rem var(--code); border: 1px solid var(--rule); border-radius: 4px; padding: 1px 6px }
progress { width: min(80vw, 30rem); accent-color: var(--accent) }
.plain { background: none; border: 1px solid var(--rule); border-radius: 6px; color: var(--ink); padding: .4rem .8rem }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>STYLE</style>
</head>
<body>
<main class="ask">
<div id="asking">
<h1 id="question" aria-live="polite"></h1>
<p id="text"></p>
<div id="reference"></div>
<div id="two">
<button id="left" aria-label="the left picture"><img alt=""></button>
<button id="right" aria-label="the right picture"><img alt=""></button>
</div>
<p><button class="plain" id="neither">no difference</button> <button class="plain" id="back">back</button></p>
<p><kbd>&larr;</kbd> left, <kbd>&rarr;</kbd> right, <kbd>&darr;</kbd> no difference, <kbd>Backspace</kbd> back</p>
<p><progress id="done"></progress> <span id="count"></span></p>
</div>
<div id="finished" hidden>
<h1>Thank you</h1>
<p>Please keep the file with your answers and send it to whoever asked you.
<a id="save" href="#">Save the answers</a> (<kbd>Enter</kbd>)</p>
<div id="shares"></div>
</div>
</main>
<script type="application/json" id="record" data-page="IDENTITY">RECORD</script>
<script>SCRIPT</script>
</body>
</html>
"""

SCRIPT = """
"use strict";
const at = id => document.getElementById(id);
const record = JSON.parse(at("record").textContent);
const page = at("record").dataset.page;
const methods = record.methods.map(name => new TextDecoder().decode(Uint8Array.from(atob(name), c => c.charCodeAt(0))));
let state = {rater: Math.random().toString(36).slice(2, 10), choices: []};
try {
  state = JSON.parse(localStorage.getItem("rating " + page)) || state;
} catch (problem) { /* no storage: the answers live as long as the page does */ }
const keep = () => { try { localStorage.setItem("rating " + page, JSON.stringify(state)); } catch (problem) {} };
const answers = () => state.choices.map((choice, i) => {
  const [left, right, question] = record.screens[i];
  return {question, left: methods[record.owners[left]], right: methods[record.owners[right]], choice};
});
function shares() {
  const table = {};
  for (const {question, left, right, choice} of answers()) {
    const own = table[question] = table[question] || {};
    for (const [method, side] of [[left, "left"], [right, "right"]])
      own[method] = (own[method] || 0) + (choice === side ? 1 : choice === "neither" ? 0.5 : 0);
  }
  for (const own of Object.values(table)) {
    const total = Object.values(own).reduce((a, b) => a + b, 0);
    for (const method of Object.keys(own)) own[method] /= total;
  }
  return table;
}
function finish() {
  at("asking").hidden = true;
  at("finished").hidden = false;
  const result = {format: record.format, page, rater: state.rater, answers: answers(), shares: shares()};
  at("save").href = "data:application/json;charset=utf-8," + encodeURIComponent(JSON.stringify(result, null, 1));
  at("save").download = "rating-" + state.rater + ".json";
  at("save").focus();
  const names = [...new Set(Object.values(result.shares).flatMap(Object.keys))].sort();
  const box = at("shares"), table = document.createElement("table");
  table.style.margin = "1rem auto";
  const line = cells => {
    const row = table.insertRow();
    cells.forEach(text => { const cell = row.insertCell(); cell.textContent = text; cell.style.padding = "2px 10px"; });
  };
  line(["preferred", ...names]);
  for (const [question, own] of Object.entries(result.shares))
    line([question, ...names.map(name => name in own ? Math.round(100 * own[name]) + " %" : "")]);
  box.replaceChildren(table);
}
function show() {
  const i = state.choices.length;
  if (i >= record.screens.length) return finish();
  const [left, right, question, text] = record.screens[i];
  at("asking").hidden = false;
  at("finished").hidden = true;
  at("question").textContent = record.questions[question];
  at("text").textContent = question === "prompt" ? "\\u201c" + text + "\\u201d" : "";
  at("reference").replaceChildren(...(question === "identity" ? record.reference : []).map(source => {
    const image = new Image();
    image.src = source;
    image.alt = "reference";
    return image;
  }));
  at("left").firstChild.src = record.pictures[left];
  at("right").firstChild.src = record.pictures[right];
  at("done").max = record.screens.length;
  at("done").value = i;
  at("count").textContent = (i + 1) + " of " + record.screens.length;
}
function choose(choice) {
  if (state.choices.length >= record.screens.length) return;
  state.choices.push(choice);
  keep();
  show();
}
function back() {
  state.choices.pop();
  keep();
  show();
}
for (const choice of ["left", "right", "neither"]) at(choice).addEventListener("click", () => choose(choice));
at("back").addEventListener("click", back);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const choice = {ArrowLeft: "left", ArrowRight: "right", ArrowDown: "neither"}[event.key];
  if (choice) choose(choice);
  else if (event.key === "Backspace") back();
  else return;
  event.preventDefault();
});
show();
"""
