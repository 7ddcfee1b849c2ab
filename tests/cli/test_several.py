"""Several subjects by one command line: a concept each, one run to resume, and every subject named."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
QUICK = ("--face", "none", "--set", "views=2", "--precision", "float32", "--no-verdict")
TWO = ("--word", "<maya>", "--word", "<rex>", "--class-word", "person", "--class-word", "dog")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two folders, one picture in the first and two in the second, and an empty one."""
    from semblant.bench.sitter import Sitter, draw

    for folder, indices in (("maya", (3,)), ("rex", (4, 5)), ("nobody", ())):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for index in indices:
            draw([Sitter("tune", index).portrait()], 64)[0].save(tmp_path / "photos" / folder / f"{index}.png")
    return Path("photos")


@pytest.fixture
def fit(run: Run, base: Path, people: Path) -> Run:
    """`fit(*more)` learns two subjects in two steps unless told otherwise."""

    def fit(*more: Any, folders: tuple[str, ...] = ("maya", "rex"), method: str = "textual-inversion") -> Any:
        steps = () if "--steps" in more else ("--steps", 2)
        return run("fit", method, *(people / f for f in folders), "--base", base, *QUICK, *steps, *more)

    return fit


def test_each_subject_gets_the_concept_of_its_own_run(fit: Run) -> None:
    from semblant.training import concepts

    result = fit(*TWO, "--steps", 6, "--out", "people", "--consent", "asked", "--keep-every", 4)
    assert result.exit_code == 0, result.stderr
    made = {word: concepts.load(f"people/{word}.safetensors") for word in ("maya", "rex")}
    for word, option in (("maya", "person"), ("rex", "dog")):
        alone = fit("--word", f"<{word}>", "--class-word", option, "--steps", 6, "--out", word, folders=(word,))
        assert alone.exit_code == 0, alone.stderr
        one, other = concepts.load(f"{word}.safetensors"), made[word]
        rows = one.tensors["rows"]
        assert float((rows - other.tensors["rows"]).norm() / rows.norm()) < 1e-5
        assert (other.word, other.class_word, other.consent) == (f"<{word}>", option, "asked")
        assert other.pictures == one.pictures and len(one.pictures) == (1 if word == "maya" else 2)
        assert sorted(path.name for path in Path(f"people/{word}.run").glob("step-*")) == [
            "step-000004.safetensors",
            "step-000006.safetensors",
        ]
        assert f"<{word}> is in people/{word}.safetensors, after 6 steps" in result.stdout
    assert "learns <maya> (person) from 1 picture and <rex> (dog) from 2 pictures on" in result.stderr
    last = next(line for line in result.stderr.splitlines() if "fitting: 6 of 6" in line)
    assert "loss <maya> " in last and ", <rex> " in last
    assert 'sample "a photo of <maya> and <rex>" --concept people/maya.safetensors --concept' in result.stdout
    left = {path.name for path in Path("people").iterdir()}
    assert left == {
        f"{word}{end}" for word in ("maya", "rex") for end in (".safetensors", ".embedding.safetensors", ".run")
    }


def test_programs_get_one_record_for_each(fit: Run) -> None:
    result = fit(*TWO, "--json")
    assert result.exit_code == 0, result.stderr
    (maya, rex) = json.loads(result.stdout)["subjects"]
    assert maya["concept"] == "maya.safetensors" and rex["word"] == "<rex>" and rex["pictures"] == 2
    assert maya["steps"] == rex["steps"] == 2 and Path("rex.safetensors").exists()


def test_each_is_judged(fit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.bench import verdict

    asked: list[tuple[str, int]] = []

    def judge(base: Any, concept: Any, pictures: Any, **more: Any) -> Any:
        asked.append((concept.word, len(pictures)))
        return verdict.Verdict(0.5 if concept.word == "<maya>" else 0.25, 1.0, (), (), 0, 1)

    monkeypatch.setattr(verdict, "judge", judge)
    line = [word for word in (*TWO, "--json") if word != "--no-verdict"]
    monkeypatch.setitem(globals(), "QUICK", tuple(word for word in QUICK if word != "--no-verdict"))
    result = fit(*line)
    assert asked == [("<maya>", 1), ("<rex>", 2)]
    verdicts = [record["verdict"]["sentence"] for record in json.loads(result.stdout)["subjects"]]
    assert verdicts == ["identity .50, obeys 1.00, copies nothing", "identity .25, obeys 1.00, copies nothing"]
    assert json.loads(Path("rex.run/verdict.json").read_text())["identity"] == 0.25


def test_one_that_stops_early_is_told_and_the_other_goes_on(fit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.methods.method import FittingMethod
    from semblant.training import course
    from semblant.training.stopping import Settling

    monkeypatch.setattr(FittingMethod, "settling", lambda self: Settling(2, 0.1, every=1))
    steady = lambda learner: 1 if learner.word == "<rex>" else 9
    monkeypatch.setattr(course, "look", lambda base, it, *given, **more: float(max(0, steady(it) - it.done)))
    result = fit(*TWO, "--steps", 4, "--early-stop")
    assert result.exit_code == 0, result.stderr
    assert "<rex> is done after 2 steps; the others go on" in result.stderr
    assert "it stopped at step 2 of 4" in result.stdout and result.stdout.count("it stopped") == 1


def test_an_interrupted_run_of_both_goes_on_to_the_same_bits(fit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.cli import fitting
    from semblant.training import concepts

    assert fit(*TWO, "--steps", 4, "--out", "whole").exit_code == 0
    told = fitting.Teller.__call__

    def stop_at_two(self: Any, progress: Any) -> None:
        told(self, progress)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    half = (*TWO, "--steps", 4, "--out", "half")
    with monkeypatch.context() as patched:
        patched.setattr(fitting.Teller, "__call__", stop_at_two)
        stopped = fit(*half)
    assert stopped.exit_code == 130 and "`--resume`" in stopped.stderr and "step 2 of 4" in stopped.stderr
    assert [path.name for path in Path("half").iterdir()] == ["maya+rex.checkpoint"]
    anew = fit(*half)
    assert anew.exit_code == 3 and "maya+rex.checkpoint holds a run that was interrupted" in anew.stderr
    other = fit(*half, "--resume", "--seed", 5)
    assert other.exit_code == 2 and "seed was 0, is 5" in other.stderr
    swapped = fit(*half, "--resume", folders=("rex", "maya"))
    assert swapped.exit_code == 2 and "subjects.1.pictures" in swapped.stderr
    resumed = fit(*half, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    for word in ("maya", "rex"):
        one, same = (concepts.load(f"{place}/{word}.safetensors") for place in ("whole", "half"))
        assert one.tensors["rows"].equal(same.tensors["rows"])
    assert not list(Path("half").glob("*.checkpoint")) and not list(Path("half").glob("*lock"))


def test_a_second_concept_that_cannot_be_written_is_written_later(fit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from semblant.errors import FileProblem
    from semblant.training import concepts

    save = concepts.save

    def full(concept: Any, path: Any, strip: bool = False) -> None:
        if concept.word == "<rex>":
            raise FileProblem(f"{path} cannot be written: no space left")
        save(concept, path, strip)

    with monkeypatch.context() as patched:
        patched.setattr(concepts, "save", full)
        failed = fit(*TWO)
    assert failed.exit_code == 3 and "`--resume --force` writes the concepts" in failed.stderr
    before = concepts.load("maya.safetensors").tensors["rows"]
    again = fit(*TWO, "--resume", "--force")
    assert again.exit_code == 0, again.stderr
    assert concepts.load("rex.safetensors").steps == 2 and not Path("maya+rex.checkpoint").exists()
    assert concepts.load("maya.safetensors").tensors["rows"].equal(before)


ALIKE = ("--word", "<maya>", "--word", "maya", "--class-word", "person")
WRONG: list[tuple[tuple[str, ...], dict[str, Any], int, str]] = [
    (("--word", "<a>", "--word", "<a>", "--class-word", "person"), {}, 2, "two subjects are called <a>"),
    (TWO, {"folders": ("maya",)}, 2, "2 words (<maya>, <rex>) for 1 PICTURES"),
    (TWO, {"folders": ("maya", "rex", "rex")}, 2, "2 words (<maya>, <rex>) for 3 PICTURES"),
    ((*TWO, "--word", "<ada>"), {"folders": ("maya", "rex", "rex")}, 2, "--class-word is given 2 times for 3 subjects"),
    ((*TWO, "--consent", "a", "--consent", "b", "--consent", "c"), {}, 2, "--consent is given 3 times for 2 subjects"),
    ((*TWO[:4], "--class-word", "a dog"), {}, 2, "class word"),
    (("--word", "<maya>", "--word", "two words", "--class-word", "person"), {}, 2, "'two words' cannot be"),
    (TWO, {"folders": ("maya", "nobody")}, 3, "nobody"),
    (TWO, {"folders": ("maya", "missing")}, 3, "missing"),
    (ALIKE, {}, 3, "<maya> and maya would both be written to maya.safetensors"),
    ((*ALIKE[:2], "--word", "MAYA", *ALIKE[4:]), {}, 3, "<maya> and MAYA would both"),
    ((*TWO, "--out", "people.safetensors"), {}, 3, "give --out a folder"),
    ((*TWO, "--out", "photos/maya/3.png"), {}, 3, "give --out a folder"),
    (TWO, {"method": "lora-dreambooth"}, 2, "leaves the base as it is: sefi-ide, textual-inversion"),
    (TWO, {"method": "custom-diffusion"}, 2, "custom-diffusion changes the base"),
]


@pytest.mark.parametrize(("given", "more", "code", "says"), WRONG, ids=[says[:40] for *_, says in WRONG])
def test_what_does_not_go_together_is_refused_in_a_sentence(
    fit: Run, given: tuple[str, ...], more: dict[str, Any], code: int, says: str
) -> None:
    before = {*Path().rglob("*")}
    result = fit(*given, **more)
    assert result.exit_code == code and says in result.stderr, result.output
    assert result.stderr.count("error: ") == 1 and "Traceback" not in result.output and result.stdout == ""
    assert {*Path().rglob("*")} == before


def test_what_is_there_is_not_lost(fit: Run) -> None:
    Path("rex.safetensors").write_bytes(b"mine")
    refused = fit(*TWO)
    assert refused.exit_code == 3 and "rex.safetensors exists already" in refused.stderr
    assert Path("rex.safetensors").read_bytes() == b"mine" and not Path("maya.safetensors").exists()
    Path("rex.safetensors").unlink()
    Path("rex.checkpoint").mkdir()
    Path("rex.checkpoint/checkpoint-000001.safetensors").write_bytes(b"a run of rex alone")
    for more in ((), ("--resume",)):
        refused = fit(*TWO, *more)
        assert refused.exit_code == 3 and "an interrupted run of <rex> alone" in refused.stderr
    assert fit(*TWO, "--force").exit_code == 0 and not Path("rex.checkpoint").exists()


def test_another_run_of_one_of_them_is_kept_out(fit: Run) -> None:
    from semblant.cli.outputs import Outputs
    from semblant.errors import FileProblem
    from semblant.training.lock import lock_name

    both = Outputs.of(None, ["<maya>", "<rex>"], resume=False, force=False)
    with both.held():
        assert sorted(path.name for path in Path().glob("*lock")) == [
            lock_name(name) for name in ("maya+rex", "maya", "rex")
        ]
    assert not list(Path().glob("*lock"))
    Path(lock_name("rex")).write_text(json.dumps({"pid": 1, "thread": 1, "host": "elsewhere"}))
    refused = fit(*TWO)
    assert refused.exit_code == 3 and "rex.safetensors is being made by another run" in refused.stderr
    with pytest.raises(FileProblem), both.held():
        pass
    assert not Path(lock_name("maya")).exists()


def test_many_subjects_share_a_name_that_any_disk_takes() -> None:
    from semblant.cli.outputs import Outputs

    words = [f"<{'a' * 30}{number}>" for number in range(12)]
    shared = Outputs.of(Path("nowhere"), words, resume=False, force=False).checkpoint
    assert shared == Path("nowhere") / f"{'a' * 30}0+11.checkpoint"
