"""What command lines write and say when all goes well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

Run = Callable[..., Any]
FACE = ("--word", "<maya>", "--class-word", "person", "--face", "none")


def fit(run: Run, base: Path, portrait: Path, *more: Any, method: str = "sefi-ide") -> Any:
    # The precision is given so that no time is spent on measuring it.
    quick = ["--set", "views=2", *(["--set", "calibration_draws=1"] if method == "sefi-ide" else [])]
    quick += [] if "--precision" in more else ["--precision", "float32"]
    return run("fit", method, portrait, *FACE, "--base", base, *quick, *more)


def test_fit_writes_a_concept_that_says_how_it_was_made(run: Run, base: Path, portrait: Path) -> None:
    from semblant.training import concepts

    more = ("--steps", 2, "--seed", 7, "--consent", "asked", "--precision", "auto", "--json", "--out", "maya")
    result = fit(run, base, portrait, *more)
    assert result.exit_code == 0, result.stderr
    answer, concept = json.loads(result.stdout), concepts.load("maya.safetensors")
    assert answer["concept"] == "maya.safetensors" and answer["steps"] == 2 and answer["seed"] == 7
    assert concept.word == "<maya>" and concept.consent == "asked" and concept.settings["views"] == 2
    assert concept.settings["calibration_draws"] == 1 and len(concept.pictures) == 1
    assert not Path("maya.checkpoint").exists()


def test_fit_tells_of_its_progress_in_plain_lines(run: Run, base: Path, portrait: Path) -> None:
    result = fit(run, base, portrait, "--steps", 12, method="textual-inversion")
    assert "fitting: 12 of 12, loss" in result.stderr and "steps to go, about" in result.stderr
    assert result.stdout.startswith("<maya> is in maya.safetensors, after 12 steps")
    assert Path("maya.embedding.safetensors").exists() and "maya.embedding.safetensors" in result.stdout


def test_the_time_left_is_that_of_the_steps(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from semblant.cli import terminal

    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.Terminal().work("fitting") as advance:
        # A minute of preparation, then a run that goes on at step 501 and takes two seconds a step.
        for step, now[0] in ((501, 60.0), (600, 258.0), (1000, 1058.0)):
            advance(step, 1000, "")
    lines = ["fitting: 501 of 1000", "fitting: 600 of 1000, about 13 min 20 s left", "fitting: 1000 of 1000"]
    assert capsys.readouterr().err.splitlines() == lines


def test_quiet_is_silent(run: Run, base: Path, portrait: Path) -> None:
    result = fit(run, base, portrait, "--steps", 1, "--quiet", method="textual-inversion")
    # transformers, when something imported it before the command could say otherwise, draws a bar of its own.
    said = [line for line in result.output.split("\n") if line.strip() and "Loading weights" not in line]
    assert result.exit_code == 0 and said == [] and Path("maya.safetensors").exists()


def test_the_same_seed_gives_the_same_concept(run: Run, base: Path, portrait: Path) -> None:
    from semblant.training import concepts

    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        assert fit(run, base, portrait, "--steps", 2, "--seed", seed, "--out", name, "-q").exit_code == 0
    one, two, three = (concepts.load(f"{name}.safetensors").tensors["rows"] for name in ("one", "two", "three"))
    assert one.equal(two) and not one.equal(three)


def test_a_budget_settles_the_steps(run: Run, base: Path, portrait: Path) -> None:
    result = fit(run, base, portrait, "--budget", "0.01s", "--json", method="textual-inversion")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 1 and "allow for 1 of 5000 steps" in result.stderr


def test_an_interrupted_fit_goes_on_to_the_same_concept(
    run: Run, base: Path, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant.cli import fitting
    from semblant.training import concepts

    whole = fit(run, base, portrait, "--steps", 4, "--out", "whole")
    assert whole.exit_code == 0, whole.stderr
    told = fitting.Teller.__call__

    def stop_at_two(self: Any, progress: Any) -> None:
        told(self, progress)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    half = ("--steps", 4, "--out", "half")
    with monkeypatch.context() as patched:
        patched.setattr(fitting.Teller, "__call__", stop_at_two)
        stopped = fit(run, base, portrait, *half)
    assert stopped.exit_code == 130 and "`--resume`" in stopped.stderr and "step 2" in stopped.stderr
    assert not Path("half.safetensors").exists() and Path("half.checkpoint").is_dir()
    anew = fit(run, base, portrait, *half)
    assert anew.exit_code == 3 and "--resume" in anew.stderr and Path("half.checkpoint").is_dir()
    resumed = fit(run, base, portrait, *half, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    one, other = (concepts.load(f"{name}.safetensors").tensors["rows"] for name in ("whole", "half"))
    assert one.equal(other) and not Path("half.checkpoint").exists()


@pytest.mark.parametrize("method", ["lora-dreambooth", "custom-diffusion"])
def test_weights_are_fitted_saved_and_sampled_and_at_strength_0_the_base_is_left(
    run: Run, base: Path, portrait: Path, method: str
) -> None:
    few = [f"--set={name}" for name in ("identifier=sks", "prior_count=1", "prior_steps=1", "lr=0.02", "batch=1")]
    fitted = fit(run, base, portrait, "--steps", 2, *few, "--out", "maya", method=method)
    assert fitted.exit_code == 0, fitted.stderr
    assert not Path("maya.embedding.safetensors").exists()
    pictures = []
    for prompt, *concept in (
        ("a photo of <maya>", "--concept", "maya.safetensors:0"),
        ("a photo of sks person",),
        ("a photo of <maya>", "--concept", "maya.safetensors"),
    ):
        sampled = run("sample", prompt, *concept, "--base", base, "--steps", 2, "--seed", 3, "--size", 32, "--json")
        assert sampled.exit_code == 0, sampled.stderr
        with Image.open(json.loads(sampled.stdout)["pictures"][0]["file"]) as picture:
            pictures.append(picture.tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_sample_writes_pictures_that_say_how_they_were_made(run: Run, base: Path, concept: Path) -> None:
    from semblant.data.pictures import digest, read_settings

    line = ("sample", "a photo of <maya> / ../../etc", "--concept", f"{concept}:0.5", "--base", base, "-n", 2)
    result = run(*line, "--steps", 2, "--seed", 5, "--size", "48x32", "--json")
    assert result.exit_code == 0, result.stderr
    made = json.loads(result.stdout)["pictures"]
    assert [entry["file"] for entry in made] == [f"images/a-photo-of-maya-etc-seed{seed}.png" for seed in (5, 6)]
    settings = read_settings(made[0]["file"])
    assert settings["seed"] == 5 and settings["steps"] == 2 and settings["guidance"] == 7.5
    assert settings["concepts"][0]["sha256"] == digest(concept) and settings["concepts"][0]["strength"] == 0.5
    with Image.open(made[0]["file"]) as picture:
        assert picture.size == (48, 32) and "by semblant" in picture.info["generated"]
    assert str(concept.parent).encode() not in Path(made[0]["file"]).read_bytes()
    again = json.loads(run(*line, "--steps", 2, "--seed", 5, "--size", "48x32", "--json").stdout)["pictures"]
    assert again[0]["file"] == "images/a-photo-of-maya-etc-seed5-2.png" and Path(made[0]["file"]).exists()
    assert Image.open(again[0]["file"]).tobytes() == Image.open(made[0]["file"]).tobytes()


def test_pictures_are_made_in_the_precision_that_is_asked_for(run: Run, base: Path) -> None:
    from semblant.data.pictures import read_settings

    pictures = []
    for precision in ("float32", "bfloat16"):
        line = ("sample", "a photo of a person", "--base", base, "--steps", 2, "--size", 32, "--json")
        result = run(*line, "--precision", precision)
        assert result.exit_code == 0, result.stderr
        file = json.loads(result.stdout)["pictures"][0]["file"]
        assert read_settings(file)["precision"] == precision
        pictures.append(Image.open(file).tobytes())
    assert pictures[0] != pictures[1]
    assert max(abs(a - b) for a, b in zip(*pictures, strict=True)) < 16


def test_weights_are_held_in_the_type_that_is_asked_for(
    run: Run, base: Path, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant.data.pictures import read_settings
    from semblant.training import concepts, precision

    pictures = []
    for weights in ("float32", "bfloat16"):
        line = ("sample", "a photo of a person", "--base", base, "--steps", 2, "--size", 32, "--json")
        result = run(*line, "--weights", weights)
        assert result.exit_code == 0, result.stderr
        file = json.loads(result.stdout)["pictures"][0]["file"]
        assert read_settings(file)["weights"] == weights
        pictures.append(Image.open(file).tobytes())
    assert pictures[0] != pictures[1]
    assert max(abs(a - b) for a, b in zip(*pictures, strict=True)) < 32
    for slow in (True, False):
        monkeypatch.setattr(precision, "hopeless", lambda *_, slow=slow: slow)
        said = run("sample", "a person", "--base", base, "--steps", 1, "--size", 32, "--weights", "bfloat16").stderr
        assert ("no arithmetic for bfloat16 here" in said) == slow
    given = ("--steps", 2, "--weights", "bfloat16", "--no-verdict", "-q")
    assert fit(run, base, portrait, *given, method="textual-inversion").exit_code == 0
    assert concepts.load("maya.safetensors").tensors["rows"].dtype == torch.float32
    refused = run("sample", "a person", "--base", base, "--weights", "int8")
    assert refused.exit_code == 2 and "possible: " in refused.stderr and "bfloat16" in refused.stderr


def test_a_name_belongs_to_the_concept_before_it(run: Run, base: Path, concept: Path) -> None:
    line = ("sample", "<maya> and <ada> on the beach", "--base", base, "--steps", 1, "--json")
    result = run(*line, "--concept", concept, "--concept", f"{concept}:0.7", "--as", "<ada>")
    assert result.exit_code == 0, result.stderr
    used = json.loads(result.stdout)["pictures"][0]["concepts"]
    assert [(entry["word"], entry["strength"]) for entry in used] == [("<maya>", 1.0), ("<ada>", 0.7)]


def test_measure_answers_with_plain_numbers(run: Run, portrait: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant import verbs
    from semblant.cli.measuring import MEANING
    from semblant.metrics.report import Scores

    given: dict[str, Any] = {}

    def measured(images: Any, **more: Any) -> Scores:
        given.update(more, images=images)
        return Scores(n=len(images), detect=1.0, prompt=0.25, identity=float("nan"), facts_by_name={"hat": 0.5})

    monkeypatch.setattr(verbs, "measure", measured)
    result = run("measure", portrait, "--subject", portrait, "--trained-on", portrait, "--prompt", "a person", "--json")
    answer = json.loads(result.stdout)
    assert set(MEANING) <= set(answer) and answer["n"] == 1 and answer["identity"] is None
    assert given["prompt"] == "a person" and len(given["subject"]) == len(given["trained_on"]) == 1
    assert "0.250" in run("measure", portrait, "--prompt", "a person").stdout


def test_measure_takes_each_pictures_own_prompt(
    run: Run, base: Path, concept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant import verbs
    from semblant.metrics.report import Scores

    for prompt in ("a cat", "a photo of <maya>"):
        extra = ("--concept", concept) if "maya" in prompt else ()
        assert run("sample", prompt, *extra, "--base", base, "--steps", 1, "--size", 32).exit_code == 0
    heard: list[Any] = []
    monkeypatch.setattr(verbs, "measure", lambda images, **more: heard.append(more["prompt"]) or Scores(2, 0.0, 0.0))
    assert run("measure", "images", "-q").exit_code == 0
    assert heard == [["a cat", "a photo of <maya>"]]
    called = ("--concept", concept, "--as", "snow", "--base", base, "--steps", 1, "--size", 32)
    named = run("sample", "(snow:1.1) in snowy light", *called)
    assert named.exit_code == 0, named.stderr
    [file] = Path().glob("**/snow-1-1-*.png")
    read = run("measure", file, "-q")
    assert read.exit_code == 0, read.stderr
    assert heard[1:] == [["(<snow>:1.1) in snowy light"]], "a word is known for one, whatever it means otherwise"


def test_help_shows_every_setting_with_its_source(run: Run) -> None:
    from semblant.cli.declared import settings, shown
    from semblant.methods.index import methods

    for name, kind in methods().items():
        text = run("fit", name, "--help").stdout
        assert "--class-word" in text
        for setting in settings(kind):
            row = next(line.split() for line in text.splitlines() if line.split()[:1] == [setting.name])
            said = {*shown(setting.default).split(), setting.source.split()[0]}
            assert said <= set(row), f"{name} {setting.name}"


def test_every_setting_has_a_sentence() -> None:
    from semblant.cli.declared import settings
    from semblant.methods.index import methods

    for name, kind in methods().items():
        assert [s.name for s in settings(kind) if not s.source] == [], name


def test_list_show_and_cite(run: Run) -> None:
    from semblant.methods.index import method_class

    assert "sefi-ide" in run("list").stdout and "sefi-ide" in run("list", "tokens", "--base", "sd-1").stdout
    names = [entry["name"] for entry in json.loads(run("list", "--json").stdout)["methods"]]
    assert {"sefi-ide", "textual-inversion", "lora-dreambooth", "custom-diffusion"} <= set(names)
    assert "lora-dreambooth" in run("list", "finetune").stdout and "sefi-ide" not in run("list", "finetune").stdout
    assert run("cite", "custom-diffusion").stdout.startswith("@misc{kumari2022customdiffusion,")
    shown = run("show", "sefi-ide").stdout
    assert "2402.00631" in shown and "attention_weight" in shown and "lambda" in shown
    settings = {entry["name"]: entry for entry in json.loads(run("show", "sefi-ide", "--json").stdout)["settings"]}
    assert settings["attention_weight"]["default"] == method_class("sefi-ide")().attention_weight  # type: ignore[attr-defined]
    entry = run("cite", "sefi-ide").stdout
    assert entry.startswith("@misc{li2024sefiide,") and "author        = {Yang Li and " in entry
    assert entry.count("{") == entry.count("}")


def test_world_render_writes_pictures_with_their_labels(run: Run) -> None:
    from semblant.world.scene import Scene

    result = run("world", "render", "--n", 3, "--seed", 4, "--split", "tune", "--same-identity", "--out", "w", "--json")
    assert result.exit_code == 0, result.stderr
    names = json.loads(result.stdout)["pictures"]
    labels = [json.loads((Path("w") / name).with_suffix(".json").read_text()) for name in names]
    scenes = [Scene.from_json(json.dumps(label["scene"])) for label in labels]
    assert len({scene.people[0].identity for scene in scenes}) == 1 and len(set(scenes)) == 3
    assert len(labels[0]["landmarks"][0]) == 5 and labels[0]["facts"]["style"] == scenes[0].style
    with Image.open(Path("w") / names[0]) as picture, Image.open(Path("w") / labels[0]["parts_file"]) as parts:
        assert picture.size == parts.size == (128, 128)
        assert parts.mode == "L" and parts.getextrema()[1] < len(labels[0]["parts"])
    others = run("world", "render", "--n", 2, "--out", "x", "--json")
    assert others.exit_code == 0 and run("world", "render", "--n", 2, "--out", "x").exit_code == 3


def test_world_render_draws_animals_and_things_too(run: Run) -> None:
    from semblant.world.scene import Scene

    for kind, people in (("animal", 0), ("thing", 0), ("mixed", 1)):
        result = run("world", "render", "--n", 2, "--kind", kind, "--same-identity", "--out", kind, "--json")
        assert result.exit_code == 0, result.stderr
        names = json.loads(result.stdout)["pictures"]
        labels = [json.loads((Path(kind) / name).with_suffix(".json").read_text()) for name in names]
        scenes = [Scene.from_json(json.dumps(label["scene"])) for label in labels]
        assert len({scene.others[0].identity for scene in scenes}) == 1 and len(set(scenes)) == 2
        assert all(len(scene.people) == people for scene in scenes)
        assert labels[0]["others"][0]["facts"]["kind"] == scenes[0].others[0].kind
        assert len(labels[0]["others"][0]["box"]) == 4
    refused = run("world", "render", "--n", 1, "--kind", "plants", "--out", "y")
    assert refused.exit_code == 2 and "animal" in refused.stderr


def test_world_words(run: Run) -> None:
    said = run("world", "words").stdout.split()
    assert "guitar" in said and "sks" in said and len(said) == len(set(said))


def test_words_and_photographs_that_the_embedded_base_does_not_know_are_named(portrait: Path, caplog: Any) -> None:
    from types import SimpleNamespace

    from semblant.cli.terminal import Terminal
    from semblant.cli.vocabulary import warn_of_photographs, warn_of_unknown_words

    embedded: Any = SimpleNamespace(architecture="embedded")
    other: Any = SimpleNamespace(architecture="sd-1")
    unknown = warn_of_unknown_words(Terminal(), embedded, "a photo of <maya> and zorb on a zeppelin", ["zorb"])
    assert unknown == ["zeppelin"] and "'zeppelin'" in caplog.text
    assert warn_of_unknown_words(Terminal(), embedded, "zorb among zorbs", ["zorb"]) == ["zorbs"]
    assert warn_of_unknown_words(Terminal(), other, "a zeppelin") == []
    assert warn_of_photographs(Terminal(), embedded, [portrait]) and "never seen a photograph" in caplog.text
    assert not warn_of_photographs(Terminal(), other, [portrait])


def test_drawn_pictures_are_no_photographs(run: Run) -> None:
    from types import SimpleNamespace

    from semblant.cli.terminal import Terminal
    from semblant.cli.vocabulary import warn_of_photographs

    assert run("world", "render", "--n", 1, "--out", "w").exit_code == 0
    embedded: Any = SimpleNamespace(architecture="embedded")
    drawn = [path for path in Path("w").glob("*.png") if "parts" not in path.name]
    assert not warn_of_photographs(Terminal(), embedded, drawn)


def test_world_judges_exits_with_four_when_a_gate_is_missed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.backbones import judges
    from semblant.embedded import gates

    found = [gates.at_least("good", 0.99, 0.9), gates.stated("told", 0.5)]
    monkeypatch.setattr(gates, "calibrate", dict)
    monkeypatch.setattr(gates, "write_card", lambda measured: None)
    monkeypatch.setattr(judges, "load_judges", lambda which: None)
    monkeypatch.setattr(gates, "gates", lambda *args, **more: found)
    assert run("world", "judges").exit_code == 0
    found.append(gates.at_least("bad", 0.1, 0.9))
    missed = run("world", "judges", "--json")
    assert missed.exit_code == 4 and "bad" in missed.stderr and json.loads(missed.stdout)["passed"] is False


def test_the_help_needs_nothing_heavy() -> None:
    code = "import sys, semblant.cli.main; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]", f"imported after {time.monotonic() - began:.1f} s"


def test_rate_writes_a_page_and_adds_up_what_people_answered(run: Run, portrait: Path, tmp_path: Path) -> None:
    from semblant.data.pictures import save_png

    for name in ("ours", "theirs"):
        for k in range(2):
            save_png(Image.open(portrait), tmp_path / name / f"{k}.png", {"prompt": "a photo of <maya>"})
    result = run("rate", "ours", "theirs", "--reference", portrait, "--pairs", 1, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"page": "rating.html", "methods": ["ours", "theirs"]}
    again = run("rate", "ours", "theirs", "--pairs", 1)
    assert again.exit_code == 3 and "rating.html exists; give --out another name" in again.stderr
    page = Path("rating.html").read_text()
    assert "a photo of \\u003cmaya>" in page and "theirs" not in page
    answer = {"question": "quality", "left": "ours", "right": "theirs", "choice": "left"}
    record = {"format": "semblant-rating/1", "rater": "r", "answers": [answer]}
    Path("rating-r.json").write_text(json.dumps(record))
    result = run("rate", "--collect", "rating-r.json", "--json")
    assert json.loads(result.stdout)["shares"] == {"quality": {"ours": 1.0, "theirs": 0.0}}
    assert "quality" in run("rate", "--collect", "rating-r.json").stdout


def test_analyses_draw_a_picture_of_what_a_word_does(run: Run, base: Path, portrait: Path, concept: Path) -> None:
    assert fit(run, base, portrait, "--steps", 1, "-q", "--out", "sefi").exit_code == 0
    about = ("--base", base, "--steps", 1, "--json")
    for kind, given, rows, columns in (
        ("attention", (concept, "--word", "cup", "--word", "photo"), 2, 4),
        ("adding", ("sefi.safetensors", "-n", 1), 1, 11),
        ("exchange", ("sefi.safetensors", "sefi.safetensors", "-n", 2), 6, 2),
    ):
        result = run("analyse", kind, *given, *about)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["picture"] == f"{kind}.png"
        made = Image.open(f"{kind}.png")
        assert made.width == 2 * 16 + 150 + columns * 134 - 6 and made.height >= rows * 134
        assert json.loads(made.info["semblant"])["analysis"] == kind
    assert run("analyse", "attention", concept, "--word", "cup", *about).exit_code == 3


def test_an_analysis_that_cannot_be_written_is_not_begun(
    run: Run, base: Path, concept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant.bench import analysis

    begun: list[str] = []
    for kind in ("attention", "adding", "exchange"):
        monkeypatch.setattr(analysis, kind, lambda *_, kind=kind, **__: begun.append(kind))
    Path("taken.png").write_text("mine")
    for kind, given in (("attention", [concept]), ("adding", [concept]), ("exchange", [concept, concept])):
        for out, said in (("taken.png", "taken.png exists"), ("drawing.jpg", "the ending .png")):
            refused = run("analyse", kind, *given, "--base", base, "--out", out)
            assert refused.exit_code == 3 and said in refused.stderr, refused.stderr
    assert not begun and Path("taken.png").read_text() == "mine"


def test_analyses_draw_the_course_of_a_fit(run: Run, base: Path, portrait: Path) -> None:
    assert fit(run, base, portrait, "--steps", 2, "--keep-every", 1, "-q").exit_code == 0
    result = run("analyse", "course", "maya.run", "--base", base, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"picture": "course.svg", "analysis": "course", "steps": [1, 2]}
    assert Path("course.svg").read_text().count("<polyline") == 4
    assert run("analyse", "course", "maya.run", "--base", base).exit_code == 3
    refused = run("analyse", "frontier", "maya.run", "--subject", portrait)
    assert refused.exit_code == 2 and "embedded" in refused.stderr and not Path("frontier.svg").exists()


def test_a_sheet_of_the_world_is_one_picture(run: Run) -> None:
    result = run("world", "sheet", "--n", 7, "--columns", 4, "--size", 32, "--out", "world.jpg", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"sheet": "world.jpg", "pictures": 7, "seed": 0}
    assert Image.open("world.jpg").size == (128, 64)
    assert run("world", "sheet", "--n", 1, "--out", "world.jpg").exit_code == 3
    assert run("world", "sheet", "--n", 1, "--out", "world.txt").exit_code == 3
