"""`doctor`, kept steps, `checkpoints` and the verdict, on a miniature base."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
QUICK = ("--set", "views=2", "--precision", "float32", "--word", "<maya>", "--class-word", "person")


def fit(run: Run, base: Any, pictures: Path, *more: Any) -> Any:
    return run("fit", "textual-inversion", pictures, *QUICK, "--base", base, *more)


@pytest.fixture
def embedded(base: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The miniature in the place of the embedded base, which would take longer."""
    from semblant import verbs
    from semblant.backbones.loading import from_folder

    def load(*_: Any, **__: Any) -> Any:
        made = from_folder(base)
        made.architecture = made.name = "embedded"
        return made

    monkeypatch.setattr(verbs, "load", load)
    return "embedded"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three readable pictures of nobody, one that is none, and one there twice."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(cells).resize((128, 128), Image.Resampling.NEAREST).save(folder / f"{name}.png")
    (folder / "d.jpg").write_text("no picture")
    return folder


def test_doctor_finds_nothing_in_the_way_of_a_good_fit(run: Run, base: Path, portrait: Path) -> None:
    result = run("doctor", portrait, "--face", "none", "--base", base, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["fit_can_run"] and answer["base"]["size"] == 16 and answer["environment"]["precision"] is None
    assert [f for f in answer["findings"] if f["level"] == "error"] == []
    alone = run("doctor", "--base", base, "--measure-precision")
    assert alone.exit_code == 0 and "a fit can run" in alone.stdout and "give pictures" in alone.stdout
    assert "precision:   float32" in alone.stdout or "precision:   bfloat16" in alone.stdout


def test_doctor_names_every_file_and_exits_with_two_when_a_fit_cannot_run(run: Run, base: Path, photos: Path) -> None:
    bad = run("doctor", photos, "--base", base)
    assert bad.exit_code == 2 and "a fit cannot run: 3 errors" in bad.stdout and "Traceback" not in bad.output
    for name, says in (("a.png", "no face"), ("c.png", "the same file as"), ("d.jpg", "leave it out")):
        [line] = [text for text in bad.stdout.splitlines() if text.split(": ")[1:2] and name in text and says in text]
        assert line.startswith(("error", "warning"))
    good = run("doctor", photos, "--base", base, "--face", "none", "--json")
    assert good.exit_code == 0, good.stdout
    found = [(Path(f["file"]).name, f["kind"]) for f in json.loads(good.stdout)["findings"] if "photos" in f["file"]]
    assert found == [("c.png", "copy"), ("d.jpg", "unreadable")]
    assert run("doctor", photos, "--base", base, "--class-word", "teapot", "-q").exit_code == 0
    quiet = run("doctor", photos, "--base", base, "-q")
    assert quiet.exit_code == 2 and not quiet.stdout and quiet.stderr.count("error: ") == 3
    assert "3 errors" not in run("doctor", "gone.png", "--base", base).stdout
    assert run("doctor", "gone.png", "--base", base).exit_code == 2


def test_doctor_says_how_a_gpu_is_used(run: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.data import environment

    gpu = {"kind": "mps", "name": "Apple GPU", "memory": None, "count": 1}
    monkeypatch.setattr(environment, "accelerator", lambda: gpu)
    assert "Apple GPU; commands run on the processor unless `--device mps`" in run("doctor", "--base", base).stdout


def test_doctor_says_when_the_base_does_not_load(run: Run, tmp_path: Path) -> None:
    (tmp_path / "half" / "unet").mkdir(parents=True)
    result = run("doctor", "--base", "half", "--json")
    answer = json.loads(result.stdout)
    [error] = [f for f in answer["findings"] if f["level"] == "error"]
    assert result.exit_code == 2 and answer["base"] is None and "vae" in error["problem"]


@pytest.mark.parametrize(("option", "value"), [("--face", "left"), ("--class-word", "a dog"), ("--word", "two words")])
def test_doctor_refuses_what_fit_would(run: Run, base: Path, option: str, value: str) -> None:
    result = run("doctor", "--base", base, option, value)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stdout == ""


def test_fit_warns_first_and_learns_what_is_left(run: Run, base: Path, photos: Path) -> None:
    (photos / "a.txt").write_text("{} on the beach")
    (photos / "b.txt").write_text("somebody on the beach")
    result = fit(run, base, photos, "--face", "none", "--steps", 2)
    assert result.exit_code == 0, result.output
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert len([line for line in warned if "c.png" in line and "same file" in line]) == 1
    assert len([line for line in warned if "d.jpg" in line]) == 1
    assert len([line for line in warned if "b.png" in line and "{}" in line]) == 1
    assert warned and result.stderr.index("warning") < result.stderr.index("learns")


def test_fit_names_every_picture_that_stops_it(run: Run, base: Path, photos: Path) -> None:
    result = fit(run, base, photos, "--steps", 2)
    assert result.exit_code == 2 and result.stderr.count("error: ") == 1 and not Path("maya.safetensors").exists()
    said = [line for line in result.stderr.splitlines() if "o face was found" in line]
    assert {
        Path(name).name
        for line in said
        for name in line.replace(":", " ").replace(". ", " ").split()
        if name.endswith("png")
    } >= {
        "b.png",
        "c.png",
    } and any("a.png" in line for line in said)


def test_steps_are_kept_listed_and_not_measured_where_no_judge_knows_the_base(
    run: Run, base: Path, portrait: Path
) -> None:
    from semblant.training import concepts

    kept = fit(run, base, portrait, "--face", "none", "--steps", 5, "--keep-every", 2, "--json")
    assert kept.exit_code == 0, kept.output
    answer = json.loads(kept.stdout)
    names = [f"maya.run/step-{n:06d}.safetensors" for n in (2, 4, 5)]
    assert answer["kept"] == names and answer["verdict"] is None and "no judge here knows" in kept.stderr
    assert not Path("maya.run/verdict.json").exists()
    last, whole = concepts.load(names[-1]), concepts.load("maya.safetensors")
    assert last.tensors["rows"].equal(whole.tensors["rows"]) and last.steps == 5
    listed = run("checkpoints", "maya.run", "--json")
    assert listed.exit_code == 0, listed.output
    answer = json.loads(listed.stdout)
    assert [(s["step"], s["identity"]) for s in answer["steps"]] == [(2, None), (4, None), (5, None)]
    assert all(s["loss"] > 0 and s["figures"]["longest row"] > 0 for s in answer["steps"])
    assert answer["keep"] is None and "no judge here knows" in answer["why"]
    assert "step is named" in run("checkpoints", "maya.run", "--no-measure").stdout


def test_kept_steps_of_an_earlier_run_are_not_mixed_with_new_ones(run: Run, base: Path, portrait: Path) -> None:
    given = ("--face", "none", "--keep-every", 1)
    assert fit(run, base, portrait, *given, "--steps", 3, "-q").exit_code == 0
    Path("maya.safetensors").unlink()
    refused = fit(run, base, portrait, *given, "--steps", 1)
    assert refused.exit_code == 3 and "maya.run" in refused.stderr and "--force" in refused.stderr
    assert fit(run, base, portrait, *given, "--steps", 1, "--force", "-q").exit_code == 0
    assert sorted(path.name for path in Path("maya.run").iterdir()) == ["run.json", "step-000001.safetensors"]


def test_a_resumed_run_keeps_what_a_whole_one_keeps(
    run: Run, base: Path, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant.cli import fitting
    from semblant.training import concepts

    given = ("--face", "none", "--steps", 4, "--keep-every", 1, "-q")
    assert fit(run, base, portrait, *given, "--out", "whole").exit_code == 0
    told = fitting.Teller.__call__

    def stop_at_two(self: Any, progress: Any) -> None:
        told(self, progress)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(fitting.Teller, "__call__", stop_at_two)
        assert fit(run, base, portrait, *given, "--out", "half").exit_code == 130
    assert len(list(Path("half.run").glob("step-*"))) == 2
    assert fit(run, base, portrait, *given, "--out", "half", "--resume").exit_code == 0
    for number in (1, 2, 3, 4):
        name = f"step-{number:06d}.safetensors"
        one, other = (concepts.load(f"{run_of}.run/{name}").tensors["rows"] for run_of in ("whole", "half"))
        assert one.equal(other), name


def test_a_verdict_ends_a_fit_on_the_embedded_base(
    run: Run, embedded: str, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant.bench import verdict

    files: list[bytes] = []
    judge = verdict.judge

    def watched(*given: Any, **more: Any) -> Any:
        files.append(Path("maya.safetensors").read_bytes())
        return judge(*given, **more)

    monkeypatch.setattr(verdict, "judge", watched)
    result = fit(run, embedded, portrait, "--face", "none", "--steps", 1, "--keep-every", 1)
    assert result.exit_code == 0, result.output
    stored = json.loads(Path("maya.run/verdict.json").read_text())
    assert stored["sentence"] in result.stdout and stored["sentence"].startswith("identity ")
    assert stored["scores"]["n"] == 4 and stored["prompts"][0].startswith("a photo of <maya>")
    # Whatever is sampled and measured, the concept is what it was before anybody looked.
    assert files == [Path("maya.safetensors").read_bytes()]
    skipped = fit(run, embedded, portrait, "--face", "none", "--steps", 1, "--out", "other", "--no-verdict", "--json")
    assert json.loads(skipped.stdout)["verdict"] is None and len(files) == 1 and not Path("other.run").exists()


def test_checkpoints_measure_on_the_embedded_base_and_name_a_step(
    run: Run, embedded: str, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semblant import verbs

    given = ("--face", "none", "--steps", 2, "--keep-every", 1, "--no-verdict", "-q")
    assert fit(run, embedded, portrait, *given).exit_code == 0
    before = {path.name: path.read_bytes() for path in Path("maya.run").iterdir()}
    sampled: list[tuple[int, int]] = []
    sample = verbs.sample

    def counted(base: Any, prompts: Any, **more: Any) -> Any:
        sampled.append((len(prompts), more["steps"]))
        return sample(base, prompts, **more)

    monkeypatch.setattr(verbs, "sample", counted)
    result = run("checkpoints", "maya.run", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert sampled == [(2, 12), (2, 12)] and all(0 <= step["obeys"] <= 1 for step in answer["steps"])
    assert answer["keep"] in (1, 2) and answer["file"].endswith(f"{answer['keep']:06d}.safetensors") and answer["why"]
    assert {path.name: path.read_bytes() for path in Path("maya.run").iterdir()} == before
    shown = run("checkpoints", "maya.run")
    assert f"keep step {answer['keep']}: " in shown.stdout and "<- keep" in shown.stdout
    drawn = run("analyse", "frontier", "maya.run", "-n", 1, "--json")
    assert drawn.exit_code == 0, drawn.output
    [steps] = json.loads(drawn.stdout)["runs"].values()
    assert [step["step"] for step in steps] == [1, 2] and Path("frontier.svg").read_text().startswith("<svg")
    Path("maya.run/run.json").unlink()
    lost = run("checkpoints", "maya.run")
    assert lost.exit_code == 0 and "--subject" in lost.stdout
    assert json.loads(run("checkpoints", "maya.run", "--subject", portrait, "--json").stdout)["keep"] in (1, 2)


def test_checkpoints_refuse_a_folder_without_any(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        result = run("checkpoints", folder)
        assert result.exit_code == 3 and "--keep-every" in result.stderr and result.stdout == ""
