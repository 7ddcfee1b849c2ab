"""`semblant world`: draw labelled pictures, list the words, measure the judges."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from semblant.cli.terminal import Terminal
from semblant.errors import FileProblem, GateFailed, SemblantError

if TYPE_CHECKING:
    from semblant.world.scene import Scene, Split

AT_ONCE = 32

world = typer.Typer(no_args_is_help=True, help="The labelled world behind the embedded base.")


@world.command(no_args_is_help=True)
def render(
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures and their labels.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many pictures.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="The same seed draws the same pictures.")] = 0,
    split: Annotated[str, typer.Option("--split", help="Whose people: train, tune or heldout.")] = "train",
    kind: Annotated[
        str, typer.Option("--kind", help="What they show: person, animal, thing, or mixed (a person with one of them).")
    ] = "person",
    same_identity: Annotated[
        bool, typer.Option("--same-identity", help="One person, animal or thing in many moments, not many of them.")
    ] = False,
    size: Annotated[int, typer.Option("--size", min=16, max=1024, help="Pixels a side.")] = 128,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Draw pictures: NAME.png, its labels in NAME.json, and in NAME.parts.png which part each pixel shows.

    semblant world render --n 16 --split tune --same-identity --out maya/

    semblant world render --kind animal --out zoo/
    """
    import dataclasses
    import json as text_of

    from PIL import Image

    from semblant.bench.results import write_text
    from semblant.data.pictures import save_png, to_image, write_picture
    from semblant.world.being_facts import facts_of, picture, shown_of
    from semblant.world.captions import write
    from semblant.world.facts import facts, shown
    from semblant.world.renderer import render as draw
    from semblant.world.scene import SPLITS
    from semblant.world.shapes import PARTS

    terminal = Terminal(quiet, json)
    if split not in SPLITS:
        raise SemblantError(f"no split {split!r}; possible: {', '.join(SPLITS)}")
    if kind not in SHOWN:
        raise SemblantError(f"no kind {kind!r}; possible: {', '.join(SHOWN)}")
    stem = f"{split}-seed{seed}" if kind == "person" else f"{split}-{kind}-seed{seed}"
    files = [out / f"{stem}-{k:05d}.png" for k in range(n)]
    if out.exists() and not out.is_dir():
        raise FileProblem(f"{out} is a file; --out takes a folder")
    if taken := next((file for file in files if file.exists()), None):
        raise FileProblem(f"{taken} exists already; give another --out or --seed")
    scenes = drawn_scenes(n, seed, split, same_identity, kind)  # type: ignore[arg-type]
    with terminal.work("drawing") as advance:
        for start in range(0, n, AT_ONCE):
            some = scenes[start : start + AT_ONCE]
            drawn = draw(some, size)
            for k, scene in enumerate(some):
                file, caption = files[start + k], write(scene, random.Random(f"{stem} {start + k}"))
                save_png(to_image(drawn.image[k] * 2 - 1), file, {"world": True, "prompt": caption, "seed": seed})
                write_picture(Image.fromarray(drawn.parts[k].numpy()), file.with_suffix(".parts.png"))
                labels: dict[str, Any] = {
                    "picture": file.name,
                    "caption": caption,
                    "facts": facts(scene) if scene.people else picture(scene),
                    "visible": sorted(shown(scene) if scene.people else picture(scene)),
                    "boxes": drawn.boxes[k].tolist(),
                    "others": [
                        {"facts": facts_of(scene, w), "visible": sorted(shown_of(scene, w)), "box": box.tolist()}
                        for w, box in enumerate(drawn.other_boxes[k, : len(scene.others)])
                    ],
                    "landmarks": drawn.landmarks[k].tolist(),
                    "parts_file": file.with_suffix(".parts.png").name,
                    "parts": list(PARTS),
                    "scene": dataclasses.asdict(scene),
                }
                write_text(file.with_suffix(".json"), text_of.dumps(labels, indent=1) + "\n")
            advance(start + len(some), n, "")
    terminal.answer(
        {"folder": out, "pictures": [file.name for file in files]}, f"{n} picture(s) with labels are in {out}"
    )


@world.command(no_args_is_help=True)
def sheet(
    out: Annotated[Path, typer.Option("--out", help="The picture to write: .png, .jpg or .webp.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many pictures.")] = 400,
    seed: Annotated[int, typer.Option("--seed", help="The same seed draws the same pictures.")] = 0,
    columns: Annotated[int, typer.Option("--columns", min=1, help="Pictures in a row.")] = 20,
    size: Annotated[int, typer.Option("--size", min=16, max=512, help="Pixels a side of each.")] = 64,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Draw a sheet of everything that the world holds: people, animals and things, alone and together.

    semblant world sheet --out world.jpg
    """
    from PIL import Image

    from semblant.data.pictures import to_image, write_picture
    from semblant.world.company import draw_world_scene
    from semblant.world.renderer import render as draw

    terminal = Terminal(quiet, json)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise FileProblem(f"{out} is no kind of picture that is written here; give it the ending .png, .jpg or .webp")
    if out.exists():
        raise FileProblem(f"{out} exists already; give another --out")
    made = Image.new("RGB", (min(n, columns) * size, -(-n // columns) * size), "white")
    with terminal.work("drawing") as advance:
        for start in range(0, n, AT_ONCE):
            scenes = [draw_world_scene(k, seed) for k in range(start, min(n, start + AT_ONCE))]
            # Drawn at the base's own size and made smaller: lines then keep the weight they have there.
            for k, picture in enumerate(draw(scenes, max(size, 128), labels=False).image, start):
                tile = to_image(picture * 2 - 1).resize((size, size), Image.Resampling.LANCZOS)
                made.paste(tile, (k % columns * size, k // columns * size))
            advance(start + len(scenes), n, "")
    write_picture(made, out, quality=88)
    terminal.answer({"sheet": out, "pictures": n, "seed": seed}, f"{n} pictures are on {out}")


SHOWN = ("person", "animal", "thing", "mixed")


def drawn_scenes(n: int, seed: int, split: Split, same_identity: bool, kind: str = "person") -> list[Scene]:
    """Scenes of n people, animals or things of a split, or of one in n moments; scene k does not depend on n."""
    from semblant.world.beings import ANIMALS, KINDS, THINGS
    from semblant.world.company import being_of, draw_being_scene, draw_mixed_scene
    from semblant.world.scene import draw_scene, person_of

    scenes = []
    for k in range(n):
        rng = random.Random(f"semblant world render {split} {seed} {k}")
        own = random.Random(f"semblant world person {split} {seed} {0 if same_identity else k}")
        person = person_of(split, own.randrange(10**9))
        if kind == "person":
            scenes.append(draw_scene(rng, person))
            continue
        kinds = {"animal": ANIMALS, "thing": THINGS, "mixed": KINDS}[kind]
        being = being_of(own.choice(kinds), split, own.randrange(10**9))
        scenes.append(draw_mixed_scene(rng, person, being) if kind == "mixed" else draw_being_scene(rng, being))
    return scenes


@world.command()
def words(json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False) -> None:
    """List the words that the embedded base knows, one a line."""
    from semblant.world.captions import words as known

    Terminal(json=json).answer({"words": list(known())}, "\n".join(known()))


@world.command()
def judges(
    people: Annotated[int, typer.Option("--people", min=10, help="Held-out people to measure on.")] = 100,
    write: Annotated[
        bool, typer.Option("--write", help="Calibrate anew and keep the results beside the weights.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout.")] = False,
) -> None:
    """Measure the judges on held-out people. Exits with 0 when every gate holds, with 4 when one does not."""
    from dataclasses import asdict

    from semblant.backbones.judges import load_judges, weights_folder
    from semblant.embedded import gates

    terminal = Terminal(quiet, json)
    if write or not (weights_folder() / "card.json").is_file():
        terminal.say("calibrating the judges")
        gates.calibrate()
        write = True
    chosen = load_judges("B")
    terminal.say(f"measuring the judges on {people} people; this takes some minutes")
    measured = gates.gates(chosen, people=people, round_trip=_round_trip(terminal))
    if write:
        gates.write_card(measured)
    table = Table(box=None, pad_edge=False)
    for column in ("gate", "value", "bar", ""):
        table.add_column(column)
    for gate in measured:
        verdict = "" if gate.bar is None else "holds" if gate.passed else "missed"
        table.add_row(Text(gate.name), f"{gate.value:.4f}", "" if gate.bar is None else f"{gate.bar:g}", verdict)
    terminal.answer({"gates": [asdict(gate) for gate in measured], "passed": all(g.passed for g in measured)}, table)
    if missed := [gate.name for gate in measured if not gate.passed]:
        raise GateFailed(f"{len(missed)} of {len(measured)} gates are missed: {'; '.join(missed)}")


def _round_trip(terminal: Terminal) -> Any:
    """Through the embedded autoencoder and back, pictures in 0..1; None when it is not there."""
    from semblant import verbs
    from semblant.embedded.quality import round_trip

    try:
        return round_trip(verbs.load("embedded"))
    except FileProblem as problem:
        terminal.warn(f"gates about the autoencoder are left out: {problem}")
        return None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(world, name="world")
