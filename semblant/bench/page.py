"""The demo's report: one HTML page that needs nothing beside itself, no network and no scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image

from semblant.bench.chart import Line, chart, legend
from semblant.bench.paper import STYLE

if TYPE_CHECKING:
    from semblant.bench.demo import Made

COLUMNS = (
    ("identity_gain", "Likeness", "0 like strangers, 1 like other pictures of the person"),
    ("id_prompt", "Likeness where the prompt was followed", "mean cosine; 0 where the prompt was not followed"),
    ("facts", "Facts", "share of what the prompt names that the picture shows"),
    ("prompt", "Prompt", "cosine between picture and prompt"),
    ("detect", "Face", "share of pictures in which a face is found"),
    ("copy_rate", "Copies", "share of pictures that copy the portrait"),
)
OBEYS = 0.3
"""A base whose facts, corrected for chance, lie under this obeys too little for methods to be told apart on it."""


def page(
    results: Mapping[str, Any],
    made: Sequence[Made],
    truth: Made,
    portrait: Image.Image,
    references: Sequence[Image.Image],
) -> str:
    """The whole page. Everything that a user could have typed is escaped."""
    word, prompts = escape(results["word"]), results["prompts"]
    fitted = [result for result in made if result.concept is not None]
    body = "\n".join(
        [
            f"<h1>One portrait, {_count(len(prompts))} prompts, {_count(len(made))} ways</h1>",
            f"<p>A person whom the model has never seen is learned from a single picture as the word <b>{word}</b>. "
            "Then the model is asked for that person elsewhere, doing other things, in other styles. Everything below "
            f"was made by semblant {escape(results['semblant'])} on the base <b>{escape(results['base']['name'])}</b>, "
            f"with seed {results['seed']} and {results['plan']['steps']} updates per fit.</p>",
            _sitter(portrait, references),
            "<h2>What they made of it</h2>",
            "<p>One row for each way, one column for each prompt, the same seed in each column. The last row is no "
            "model: the world that drew the portrait draws the same person as the prompt says.</p>",
            _grid(results, [*made, truth]),
            "<h2>Measured</h2>",
            _caution(results),
            _measured(results, [*made, truth], len(references)),
            _attention(results, made),
            "<h2>While learning</h2>",
            "<p>The mean loss of the last 50 updates. It says that learning runs, and little about likeness.</p>",
            _curves(fitted),
            "<h2>Do it again</h2>",
            "<p>The portrait, the pictures to measure by, the concepts and all samples lie beside this page.</p>",
            f"<pre>{escape(chr(10).join(results['commands']))}</pre>",
            "<footer>Every picture here is drawn or generated; nobody in them exists. Made in "
            f"{results['seconds']:.0f} seconds. The numbers come from judges that no method may use.</footer>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>semblant demo: {word}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _caution(results: Mapping[str, Any]) -> str:
    """A warning when the base itself obeys prompts hardly better than chance: then no way can be told from another."""
    obeys = results["base"].get("facts above chance")
    if obeys is None or obeys >= OBEYS:
        return ""
    return (
        "<p class=caution><b>Do not compare the rows yet.</b> This base has been trained too briefly: of the "
        "facts that captions name, it obeys no more than chance would, or hardly more. What differs below is noise.</p>"
    )


def data_uri(picture: Image.Image) -> str:
    """A picture as text inside the page; small ones are enlarged in whole steps, so that no browser blurs them."""
    if picture.width < 128:
        times = 128 // picture.width
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _img(picture: Image.Image, alt: str, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<img{of_kind} src="{data_uri(picture)}" alt="{escape(alt, quote=True)}" width="128" height="128">'


def _sitter(portrait: Image.Image, references: Sequence[Image.Image]) -> str:
    others = "".join(
        _img(picture, f"The same person in another moment, {k}") for k, picture in enumerate(references, 1)
    )
    return (
        f'<div class="sitter"><figure>{_img(portrait, "The portrait that was learned from", "large")}'
        "<figcaption>The portrait: all that the methods saw.</figcaption></figure>"
        f'<figure><div class="others">{others}</div><figcaption>The same person in other moments. No method saw these; '
        "likeness is measured by them.</figcaption></figure></div>"
    )


def _grid(results: Mapping[str, Any], made: Sequence[Made]) -> str:
    prompts = results["prompts"]
    rows = []
    for result in made:
        cells = "".join(
            f"<td>{_img(picture, f'{result.arm.title}: {prompt}')}</td>"
            for picture, prompt in zip(result.images, prompts, strict=False)
        )
        kind = ' class="truth"' if result.arm.key == "truth" else ""
        rows.append(f'<tr{kind}><th class="row" scope="row">{escape(result.arm.title)}</th>{cells}</tr>')
    return _table(prompts, rows)


def _table(columns: Sequence[str], rows: Sequence[str], caption: str = "") -> str:
    """A table with a heading for each row and column, which scrolls by itself where the page is too narrow for it."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{above}{body}</table></div>'


def _measured(results: Mapping[str, Any], made: Sequence[Made], references: int) -> str:
    if results["not_measured"]:
        return f'<p class="note">not measured: {escape(results["not_measured"])}</p>'
    models = [result.scores for result in made if result.arm.key != "truth" and result.scores]
    head = "".join(f'<th scope="col">{escape(name)}<small>{escape(what)}</small></th>' for _, name, what in COLUMNS)
    rows = []
    for result in made:
        cells = ""
        for key, _, _ in COLUMNS:
            value = (result.scores or {}).get(key)
            known = [scores[key] for scores in models if scores.get(key) is not None]
            best = value is not None and key != "copy_rate" and result.arm.key != "truth" and value == max(known)
            cells += f"<td{' class=best' if best else ''}>{'–' if value is None else f'{value:.2f}'}</td>"
        seconds = f"{result.seconds:.0f} s" if result.seconds else "–"
        rows.append(f'<tr><th class="row" scope="row">{escape(result.arm.title)}</th>{cells}<td>{seconds}</td></tr>')
    total = len(made[0].images)
    return (
        f"<p>{total} pictures for each model, against {references} pictures that no method saw. "
        "The best of the models is marked.</p>"
        f'<div class="wide"><table class="numbers"><thead><tr><th></th>{head}<th scope="col">Fitting</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _attention(results: Mapping[str, Any], made: Sequence[Made]) -> str:
    things = [thing for thing in ("guitar", "cup") if any(thing in result.looks for result in made)]
    if not things:
        return ""
    parts = [
        "<h2>Where the words look</h2>",
        "<p>The share of attention that each place gives a word while the picture is made, averaged over steps, layers "
        "and heads, brightest at its own maximum. A word that was learned too greedily spreads over the whole picture "
        "and leaves the other words no place.</p>",
    ]
    for thing in things:
        prompt = next(p for p in results["prompts"] if thing in p)
        shown = [result for result in made if thing in result.looks]
        rows = []
        for label, kind in (("picture", "picture"), ("the person", "subject"), (f"“{thing}”", "object")):
            cells = "".join(
                f"<td>{_img(result.looks[thing][kind], f'{result.arm.title}, {label}: {prompt}')}</td>"
                for result in shown
            )
            rows.append(f'<tr><th class="row" scope="row">{escape(label)}</th>{cells}</tr>')
        parts.append(_table([result.arm.title for result in shown], rows, prompt))
    return "\n".join(parts)


def _curves(fitted: Sequence[Made]) -> str:
    """Loss curves as a drawing in the page."""
    drawn = chart([Line(result.arm.title, result.curve) for result in fitted], "step", "loss", alone=False)
    if not drawn:
        return "<p>No loss was finite.</p>"
    names = [result.arm.title for result in fitted]
    return f"<figure>{drawn}<figcaption>{legend(names)}</figcaption></figure>"


def _count(number: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[number] if number < len(words) else str(number)
