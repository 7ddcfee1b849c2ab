"""Nothing that learns or samples mixes tensors of two devices, and what comes of it is what comes of it on the CPU."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from semblant import verbs
from semblant.backbones import offload
from semblant.backbones.base import Base
from semblant.backbones.loading import load, miniature, miniature_xl
from semblant.backbones.running import Networks
from semblant.errors import SemblantError
from semblant.methods.finetune import custom_diffusion
from semblant.patches.weights import Offsets
from semblant.training import precision
from semblant.training.concepts import Concept


def module_at(path: Path) -> ModuleType:
    """A module from a file, for tests are in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pretend = module_at(Path(__file__).with_name("pretend.py"))
pretend.plug_in()
ROWS: dict[str, Any] = {row.name: row for row in module_at(Path(__file__).parents[1] / "methods" / "rows.py").ROWS}
MAKERS = {"sd": miniature, "xl": miniature_xl}
PAIRS = [*((name, "sd") for name in ROWS), ("lora-dreambooth", "xl"), ("textual-inversion", "xl")]
"""Methods and bases they are tried on."""
PROMPT = "a photo of <maya> on the beach"


def moved(base: Base) -> Base:
    """All of a base on the device."""
    for part in base._networks.parts.values():
        part.to(pretend.NAME)
    return base


def pixels(base: Base, concepts: list[Concept]) -> np.ndarray:
    """Two pictures of the prompt, in 0..255."""
    prompt = PROMPT if concepts else "a photo of a person"
    made = verbs.sample(base, prompt, concepts=concepts, n=2, steps=3)
    return np.stack([np.asarray(picture, dtype=float) for picture in made])


@cache
def here(name: str, kind: str) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """What a method learns on the CPU, and pictures of it."""
    base = MAKERS[kind]()
    concept = verbs.fit(ROWS[name].method, base, ROWS[name].subject(), seed=3)
    return dict(concept.tensors), pixels(base, [concept])


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """How far tensors of the same names lie from others, all together, in lengths of the others."""
    assert one.keys() == other.keys()
    differences = torch.cat([(one[name] - other[name]).flatten() for name in other])
    return float(differences.norm() / torch.cat([tensor.flatten() for tensor in other.values()]).norm())


def test_what_a_gpu_refuses_is_refused() -> None:
    here, on_it = torch.randn(3), torch.randn(3).to(pretend.NAME)
    assert str((on_it + 1).device) == str(torch.zeros(2, device=pretend.NAME).device) == "pretend:0"
    for mixed in (
        lambda: on_it + here,
        lambda: torch.cat([here, on_it]),
        lambda: torch.randn(3, generator=torch.Generator(), device=pretend.NAME),
        lambda: torch.nn.Linear(3, 2)(on_it),
        lambda: here[torch.tensor([0, 2]).to(pretend.NAME)],
        lambda: on_it.index_put_((torch.tensor([0, 2]),), here[:2]),
        lambda: torch.stack([here[0], on_it[0]]),
    ):
        with pytest.raises(RuntimeError, match=r"same device|for generator"):
            mixed()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_method_learns_there_what_it_learns_here(name: str, kind: str) -> None:
    base = moved(MAKERS[kind]())
    concept = verbs.fit(ROWS[name].method, base, ROWS[name].subject(), seed=3)
    assert all(tensor.device.type == "cpu" for tensor in concept.tensors.values())
    learned, made = here(name, kind)
    assert apart(dict(concept.tensors), learned) < 1e-3
    assert np.abs(pixels(base, [concept]) - made).max() <= 2


@pytest.mark.parametrize(
    ("name", "held"), [*((name, torch.float16) for name in ROWS), ("textual-inversion", torch.float32)]
)
def test_half_precision_learns_much_the_same(name: str, held: torch.dtype) -> None:
    base = moved(miniature())
    for part in base._networks.parts.values():
        part.to(held)
    concept = verbs.fit(ROWS[name].method, base, ROWS[name].subject(), seed=3, compute=torch.float16)
    assert concept.figures["compute"] == "float16"
    learned, made = here(name, "sd")
    assert apart(dict(concept.tensors), learned) < 0.1
    assert np.abs(pixels(base.computing(torch.float16), [concept]) - made).mean() < 1


def offloaded() -> Base:
    """A small base whose networks come to the device when they are called."""
    return miniature().offloaded(pretend.NAME)


def lie(base: Base) -> set[str]:
    """The networks that are on the device."""
    parts = base._networks.parts.items()
    return {name for name, part in parts if next(part.parameters()).device.type == pretend.NAME}


@pytest.mark.parametrize("kind", MAKERS)
def test_one_kind_of_network_is_there_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, seen = MAKERS[kind]().offloaded(pretend.NAME), []
    run = Networks.run

    def watched(self: Networks, part: str, *args: Any, **kwargs: Any) -> Any:
        made = run(self, part, *args, **kwargs)
        seen.append((part, lie(base)))
        return made

    monkeypatch.setattr(Networks, "run", watched)
    made = pixels(base, [])
    assert {part for part, _ in seen} == set(base._networks.parts)
    assert all(there == {name for name in base._networks.parts if name[:4] == part[:4]} for part, there in seen)
    assert lie(base) == {"autoencoder"}
    assert np.abs(made - pixels(MAKERS[kind](), [])).max() <= 2


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair != ("lora-dreambooth", "xl")])
def test_a_fit_needs_the_autoencoder_only_for_pictures(name: str, kind: str) -> None:
    base, during = MAKERS[kind]().offloaded(pretend.NAME), []
    settings = {"seed": 3, "progress": lambda _: during.append(lie(base))}
    concept = verbs.fit(ROWS[name].method, base, ROWS[name].subject(), **settings)
    assert during and all(there == {*base._networks.parts} - {"autoencoder"} for there in during)
    learned, made = here(name, kind)
    assert apart(dict(concept.tensors), learned) < 1e-3
    assert np.abs(pixels(base, [concept]) - made).max() <= 2
    assert lie(base) == {"autoencoder"}


def test_measuring_precisions_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "hopeless", lambda *_: False)
    base = offloaded()
    assert precision.choose(base) in (torch.float32, torch.bfloat16, torch.float16)
    pixels(base, [])
    assert lie(base) == {"autoencoder"}


@pytest.mark.parametrize("name", ROWS)
def test_what_is_learned_lies_where_it_is_computed(name: str) -> None:
    base = offloaded()
    learner = ROWS[name].method.learner(base, ROWS[name].subject(), torch.Generator())
    assert {parameter.device.type for parameter in learner.parameters.values()} == {pretend.NAME}


def test_what_computes_in_ordinary_memory_is_not_offloaded() -> None:
    for device in ("cpu", torch.device("mps")):
        with pytest.raises(SemblantError, match="none of its own"):
            miniature().offloaded(torch.device(device))
    with pytest.raises(SemblantError, match="leave it out"):
        load("embedded", offload=True)
    with pytest.raises(SemblantError, match="already"):
        offloaded().offloaded(pretend.NAME)


@pytest.mark.parametrize("towards", [pretend.NAME, "cpu"])
def test_who_left_or_came_half_way_is_found_again(towards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, made = offloaded(), pixels(miniature(), [])
    to = torch.nn.Module.to

    def interrupted(self: torch.nn.Module, device: torch.device, **how: Any) -> torch.nn.Module:
        children = [child for child in self.children() if any(True for _ in child.parameters())]
        if device.type == towards and len(children) > 2:
            to(children[0], device)
            raise KeyboardInterrupt
        return to(self, device, **how)

    monkeypatch.setattr(torch.nn.Module, "to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pixels(base, [])
    assert towards == "cpu" or not lie(base)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    assert np.abs(pixels(base, []) - made).max() <= 2
    assert lie(base) == {"autoencoder"}


@pytest.mark.parametrize("name", ["lora-dreambooth", "textual-inversion"])
def test_a_fit_moves_nothing_between_steps_and_makes_room_for_pictures(name: str) -> None:
    base, moves, counts, alone = offloaded(), [], [], []
    move, method = base._networks.offload._move, replace(ROWS[name].method, steps=3)
    base._networks.offload._move = lambda kind, device: (moves.append(kind), move(kind, device))
    verbs.fit(method, base, ROWS[name].subject(), progress=lambda _: counts.append(len(moves)))
    assert len(counts) == 3 and len(set(counts)) == 1

    def draw(_: Any) -> None:
        base.decode(torch.zeros(1, base.channels, 8, 8, device=base.device))
        alone.append(lie(base))

    verbs.fit(method, base, ROWS[name].subject(), progress=draw)
    assert alone == [{"autoencoder"}] * 3


def test_what_was_known_before_is_not_taken_for_what_lies_there() -> None:
    base = miniature()
    context = base.text("a photo of a person")
    before = base.encodings(context)
    assert apart({"": base.offloaded(pretend.NAME).encodings(context).cpu()}, {"": before}) < 1e-5


def test_hashes_outlive_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    base = offloaded()
    known, computed = base.hashes(), []
    assert known == miniature().hashes()
    monkeypatch.setattr(offload, "known", lambda network: computed.append(network))
    pixels(base, [])
    assert base.hashes() == known and not computed


def test_changes_of_several_are_merged_there() -> None:
    method, subject = ROWS["custom-diffusion"].method, ROWS["custom-diffusion"].subject()
    base = miniature()
    concepts = [verbs.fit(method, base, replace(subject, word=word)) for word in ("<ada>", "<bea>")]
    merged, there = (custom_diffusion.merged(b, concepts, ["a photo of a dog"]) for b in (base, offloaded()))
    [one], [other] = ([p for p in patches if isinstance(p, Offsets)] for patches in (merged, there))
    assert apart({n: d.cpu() for n, d in other.offsets.items()}, dict(one.offsets)) < 1e-3
