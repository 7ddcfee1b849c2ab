"""The recipe that trains the judges from the world: seeded, resumable judge by judge, on one core if need be.

Identity learns against the true people rather than a list of classes: an image vector has to estimate its person, as
projected numbers, among the batch and among made-up strangers who share skin and hair with it (CosFace margin, arXiv
1801.09414). So every person drawn is a new class, and cosines follow the distance between people. Identity and CLIP
start from what the attribute reader of their copy has learned to see. Copy A and copy B differ in shape, in seed and in
the order of pictures.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from semblant.backbones import judges as networks
from semblant.backbones.being_judge import Beings
from semblant.backbones.trunks import unfold
from semblant.embedded import being_bank
from semblant.embedded.judge_bank import MEASURED, fill
from semblant.embedded.judge_steps import STEPS, Step, attributes_step, vocabulary
from semblant.errors import SemblantError, closest
from semblant.world.facts import VALUES

log = logging.getLogger(__name__)

WEIGHTS = {
    "attributes-a": 2.0,
    "attributes-b": 2.5,
    "identity-a": 0.8,
    "identity-b": 1.0,
    "clip-a": 0.6,
    "clip-b": 0.8,
    "detector": 0.6,
    "beings": 1.0,
}
"""Time of each judge relative to `minutes_each`, in the order of training: what an attribute reader has learned to see,
identity and CLIP start from."""

RADIUS = 6.0
"""Of the sphere of identities, a little more than the length of the numbers of most people (4.97 on the mean)."""

SAVE_EVERY = 60.0
"""Seconds."""

SHOWN = 8
"""Batches that a judge which goes on is shown, to measure how strong its channels are."""


def network(name: str) -> nn.Module:
    """An untrained judge in its shipped shape; seed torch's generator before for reproducible weights."""
    values: dict[str, Any] = {fact: list(options) for fact, options in VALUES.items()}
    look_a: dict[str, Any] = {"picture": [20, 32, 56, 80], "face": [28, 48, 72, 96], "stem": 3, "dim": 96}
    look_b: dict[str, Any] = {"picture": [24, 40, 56, 88], "face": [32, 56, 88, 112], "stem": 4, "dim": 128}
    look_a |= {"near": 0.84, "narrow": 32, "features": 1.6}
    look_b |= {"near": 0.76, "narrow": 40, "features": 1.45}
    face_a, face_b = ({k: look[k] for k in ("face", "near", "narrow", "features")} for look in (look_a, look_b))
    made: dict[str, Callable[[], nn.Module]] = {
        "detector": networks.Detector,
        "identity-a": lambda: networks.Identity(**face_a, head=(12, 24, 40, 56), radius=RADIUS),
        "identity-b": lambda: networks.Identity(**face_b, head=(16, 28, 48, 64), radius=RADIUS),
        "attributes-a": lambda: networks.Attributes(values, look_a, MEASURED),
        "attributes-b": lambda: networks.Attributes(values, look_b, MEASURED),
        "clip-a": lambda: networks.Clip(vocabulary(), look_a, width=64, layers=2),
        "clip-b": lambda: networks.Clip(vocabulary(), look_b, width=80, layers=2),
        "beings": lambda: Beings(
            dict(being_bank.VALUES), (12, 20, 32, 40), (24, 36, 56, 72), hidden=80, dim=being_bank.DIM
        ),
    }
    if name not in made:
        raise SemblantError(f"no judge {name!r}; did you mean {closest(name, list(made))}?")
    return made[name]()


def train_judges(
    out: Path,
    minutes_each: float,
    autoencoder: Callable[[Tensor], Tensor] | None = None,
    only: tuple[str, ...] | None = None,
    *,
    work: Path,
    pictures: int = 12_000,
    seed: int = 0,
    device: str = "cpu",
    more: bool = False,
    warm: Path | None = None,
) -> dict[str, float]:
    """Train the judges (`only` those named) into `out`, each for about `minutes_each`; the last loss of each.

    `autoencoder` gives pictures back (0..1) as an encoder and decoder leave them; some of the pictures are then seen
    so. `work` keeps the drawn pictures and half-trained judges: interrupted training goes on from there. Judges that
    were trained to the end stay as they are, or with `more` go another round. Judges that were not begun go on from
    those in `warm` that have their shape. Raises SemblantError for an unknown name.
    """
    for name in only or ():
        if name not in WEIGHTS:
            raise SemblantError(f"no judge {name!r}; did you mean {closest(name, list(WEIGHTS))}?")
    bank = fill(work / "bank", "train", pictures, device, autoencoder, crowds=pictures // 4, marks=True)
    losses = {}
    for place, (name, weight) in enumerate(WEIGHTS.items()):
        if only and name not in only:
            continue
        own_seed = seed * 1000 + place
        torch.manual_seed(own_seed)
        judge = network(name).to(device)
        if name == "beings":
            beings = being_bank.fill_beings(work / "bank", "train", pictures // 2, device)
            step: Step = being_bank.beings_step(beings, own_seed, device)
        else:
            step = STEPS[name.partition("-")[0]](bank, own_seed, device)
        begun = 0
        if warm is not None and not (work / f"{name}.state.safetensors").exists():
            begun = int(_go_on_from(judge, warm / f"{name}.safetensors", step))
        if not begun and isinstance(judge, networks.Identity | networks.Clip):
            reader = f"attributes-{name[-1]}"
            shipped = None
            if warm is not None and not (work / f"{reader}.state.safetensors").exists():
                shipped = network(reader).to(device)
                if not _go_on_from(shipped, warm / f"{reader}.safetensors", attributes_step(bank, own_seed, device)):
                    shipped = None
            _start_from_reader(judge, work / f"{reader}.state.safetensors", shipped)
        losses[name] = _train(name, judge, step, minutes_each * weight, work, own_seed, more, begun)
        networks.save(judge, out / f"{name}.safetensors")
    return losses


def _go_on_from(judge: nn.Module, shipped: Path, step: Step) -> bool:
    """Give a judge the weights in a file, if there are any of its shape."""
    if not shipped.is_file():
        return False
    folded = networks.load(shipped).state_dict()
    own = networks.fold(judge).state_dict()
    if {name: weight.shape for name, weight in own.items()} != {name: weight.shape for name, weight in folded.items()}:
        log.info("%s is of another shape; it is not gone on from", shipped.name)
        return False

    def show() -> None:
        for look in range(SHOWN):
            step(judge, torch.Generator().manual_seed(look))

    unfold(judge, folded, show)
    return True


def _start_from_reader(judge: nn.Module, state: Path, shipped: nn.Module | None = None) -> None:
    """Give identity the face, and CLIP the whole look, of the attribute reader of its copy: of the one whose state lies
    there, or of the `shipped` one."""
    start = {networks.Identity: ("face.", "marks."), networks.Clip: ("look.",)}.get(type(judge))
    if start is None:
        return
    if state.exists():
        with safe_open(state, framework="pt") as file:
            learned = {key.removeprefix("model."): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    elif shipped is not None:
        learned = shipped.state_dict()
    else:
        log.warning("%s is missing: this judge starts from nothing; train its attribute reader first", state.name)
        return
    look = {key.removeprefix("look."): weight for key, weight in learned.items() if key.startswith("look.")}
    own = judge.state_dict()
    judge.load_state_dict(own | {key: look[key.removeprefix("look.")] for key in own if key.startswith(start)})


LEARNING_RATE = 2e-3


def _optimizer(judge: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.02, betas=(0.9, 0.98))


@dataclass(frozen=True)
class Schedule:
    """How many steps fit into the time, decided once and kept with the state, so that a resumed run ends the same."""

    total: int
    bf16: bool
    round: int = 0
    """How often it was trained to the end before."""


def _train(
    name: str, judge: nn.Module, step: Step, minutes: float, work: Path, seed: int, more: bool, begun: int = 0
) -> float:
    """AdamW, a short warm-up and a linear way down to zero; the state is saved every minute. A judge that has learned
    before is in its round `begun`."""
    judge.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = work / f"{name}.state.safetensors"
    optimizer = _optimizer(judge)
    done, loss_now, schedule = _restore(path, judge, optimizer) if path.exists() else (0, math.nan, None)
    if schedule is not None and more and done >= schedule.total:
        optimizer = _optimizer(judge)
        done, loss_now, schedule = 0, math.nan, _plan(judge, step, minutes, seed, schedule.round + 1)
    schedule = schedule or _plan(judge, step, minutes, seed, begun)
    lr = LEARNING_RATE * (0.6 if schedule.round else 1.0)
    seed += 500_009 * schedule.round  # other batches in every round
    log.info("%s: %d of %d steps, %s", name, done, schedule.total, "bf16" if schedule.bf16 else "float32")
    saved = time.monotonic()
    for at in range(done, schedule.total):
        warm, left = min(1.0, (at + 1) / 100), 1 - at / schedule.total
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * left
        loss = _loss(judge, step, seed, at, schedule.bf16)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 2.0)
        optimizer.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SemblantError(
                f"training {name} met a loss of {value} at step {at}; its last good state is {path.name}"
            )
        loss_now = value if math.isnan(loss_now) else 0.98 * loss_now + 0.02 * value
        if at % 100 == 99:
            log.info("%s: step %d of %d, loss %.4f", name, at + 1, schedule.total, loss_now)
        if time.monotonic() - saved >= SAVE_EVERY or at + 1 == schedule.total:
            _keep(path, judge, optimizer, at + 1, loss_now, schedule)
            saved = time.monotonic()
    return loss_now


def _loss(judge: nn.Module, step: Step, seed: int, at: int, bf16: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + at)
    torch.manual_seed(seed * 1_000_003 + at)  # what is left out while learning is drawn from torch's own
    device = next(judge.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        return step(judge, generator)


def _plan(judge: nn.Module, step: Step, minutes: float, seed: int, round: int) -> Schedule:
    """Time a few steps in both precisions, without learning from them: time of the processor, so that a busy machine
    trains no less."""
    on_cpu = next(judge.parameters()).device.type == "cpu"
    clock = time.process_time if on_cpu else time.monotonic
    threads = torch.get_num_threads() if on_cpu else 1
    kept = {name: value.clone() for name, value in judge.state_dict().items()}
    speed = {}
    for bf16 in (False, True):
        for at in range(4):
            if at == 1:
                start = clock()
            _loss(judge, step, seed, at, bf16).backward()
        speed[bf16] = (clock() - start) / 3 / threads
    judge.zero_grad()
    judge.load_state_dict(kept)
    bf16 = speed[True] < 0.9 * speed[False]
    return Schedule(max(8, int(minutes * 60 / speed[bf16])), bf16, round)


def _keep(
    path: Path, judge: nn.Module, optimizer: torch.optim.Optimizer, done: int, loss: float, schedule: Schedule
) -> None:
    tensors = {f"model.{name}": value.contiguous() for name, value in judge.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    about = {"done": done, "loss": loss, "schedule": asdict(schedule)}
    save_file(tensors, partial, {"about": json.dumps(about)})
    partial.replace(path)


def _restore(path: Path, judge: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float, Schedule]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["about"])
    judge.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, part = name.split(".")
            state.setdefault(int(index), {})[part] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about["done"], about["loss"], Schedule(**about["schedule"])
