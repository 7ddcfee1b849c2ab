"""Training the embedded U-Net and text encoder together on cached latents."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from semblant.backbones.blueprint import Blueprint, Tokenizer, attend_explicitly, new_text_encoder, new_unet, write_part
from semblant.embedded.latents import record
from semblant.embedded.learners import LEARNING_RATE, Learners
from semblant.embedded.presentations import Presentations, Rows, Shown, Words
from semblant.embedded.reader import Reader, load_reader
from semblant.embedded.wording import Recall
from semblant.ops.schedule import Schedule

log = logging.getLogger(__name__)

WARM_UP = 60
"""Steps until the learning rate is full, after every start."""
COOL_DOWN = 0.25
"""Last share of a run in which the learning rate falls linearly to a twentieth."""
NOISIER = 4.0
"""How much noisier than Stable Diffusion's the schedule ends (see `Schedule.noisier`). With its own, the layout of
these pictures of few colours still showed at timestep 950, and samples took patches of the first noise for a layout."""
SNR_CAP = 5.0
"""From this signal-to-noise ratio on, errors of the velocity count less, as in min-SNR weighting (Hang et al. 2023,
arXiv 2303.09556); below it all count alike, so that layouts and words weigh as much as edges."""
PREDICTION = "v_prediction"
"""What the U-Net predicts. With the noise itself, a small network must copy its input to within a few percent where
nearly all is noise: after 54,000 presentations what it left of the noise still hid the picture at timestep 950."""
MIDDLE, CENTRE = 0.5, 0.33
"""Share of timesteps drawn from a logit-normal (Esser et al. 2024, arXiv 2403.03206, Sec. 3.1) around this part of the
schedule, where there is about half as much signal as noise and faces take shape; the rest is uniform."""
READ = 0.02
"""What a fact counts that the reader misses, beside the error of the velocity."""
RECALL = 0.1
"""What it counts, beside the error of the velocity, how far a caption's facts can no longer be told from the tokens
behind its end."""
READABLE = 0.15
"""Least signal, as alpha-bar, at which the reader is asked: with less there is no face to be read."""
AVERAGE = 0.999
"""Decay of the exponential moving average that is shipped; shorter in the first steps."""
SAVE_MINUTES = 10.0
STATE = "base.safetensors"
COUNTS = ("seen", "steps")
MARKS = (25_000, 50_000, 100_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_600_000)
"""Presentations after which a snapshot is kept for the learning curve."""


@dataclass
class Run:
    """Networks, their moving average, what moves them, and how many presentations they have seen."""

    unet: nn.Module
    text: nn.Module
    recall: Recall
    """Tells from what the text encoder answers which facts a caption named, so that none of them fades."""
    average: dict[str, Tensor]
    learners: Learners
    seen: int = 0
    steps: int = 0
    reader: Reader | None = None
    """Tells what the predicted pictures show of what was named, where one has been trained."""
    predict: nn.Module | None = None
    """The U-Net as it is called in training, where that is a compiled one."""

    @staticmethod
    def fresh(plan: Blueprint, tokenizer: Tokenizer, seed: int = 0, device: str | torch.device = "cpu") -> Run:
        """Untrained networks. The text encoder starts with embeddings large enough to tell words apart."""
        torch.manual_seed(seed)
        unet = new_unet(plan).to(device, memory_format=torch.channels_last)
        if torch.device(device).type == "cpu":
            attend_explicitly(unet)
        text = new_text_encoder(plan, tokenizer).to(device)
        recall = Recall(plan.width).to(device)
        named = _named(unet, text, recall)
        return Run(unet, text, recall, {k: v.detach().clone() for k, v in named.items()}, Learners(named))

    def named(self) -> dict[str, Tensor]:
        """All trained weights by name."""
        return _named(self.unet, self.text, self.recall)

    def save(self, path: Path) -> None:
        """Everything needed to go on, in one file that replaces the last one only when it is whole."""
        tensors = {f"weight.{k}": v.detach() for k, v in self.named().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        tensors |= {f"moment.{k}": v for k, v in self.learners.state().items()}
        temporary = path.with_suffix(".tmp")
        flat = {k: v.contiguous() for k, v in tensors.items()}
        save_file(flat, temporary, metadata={k: str(getattr(self, k)) for k in COUNTS})
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Go on where `save` left off."""
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            for count in COUNTS:
                setattr(self, count, int(file.metadata()[count]))
        with torch.no_grad():
            for name, weight in self.named().items():
                # States of before there was a recall have none.
                if f"weight.{name}" in tensors:
                    weight.copy_(tensors[f"weight.{name}"])
                    self.average[name].copy_(tensors[f"average.{name}"])
        self.learners.restore({k.removeprefix("moment."): v for k, v in tensors.items() if k.startswith("moment.")})

    def warm_start(self, folder: Path) -> None:
        """Start from the half-precision weights of a base in diffusers' layout; the optimiser begins anew."""
        unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        text = load_file(folder / "text_encoder" / "model.safetensors")
        own = self.named()
        with torch.no_grad():
            for name, value in {**{f"unet.{k}": v for k, v in unet.items()}, **_text_names(text, own)}.items():
                own[name].copy_(value)
                self.average[name].copy_(value)
        card = folder.parent / "card.json"
        counts = json.loads(card.read_text())["base"] if card.is_file() else {}
        self.seen = counts.get("presentations", 0)

    def text_so_far(self) -> nn.Module:
        """The text encoder with its moving average."""
        text = copy.deepcopy(self.text)
        text.load_state_dict({k.removeprefix("text."): v for k, v in self.average.items() if k.startswith("text.")})
        return text

    def learn_words(self, path: Path) -> None:
        """Take the text encoder, and what tells facts from it, that `wording.train_text` left."""
        own, learned = self.named(), load_file(path)
        recall = {name: weight for name, weight in learned.items() if name in own}
        with torch.no_grad():
            for name, value in {**_text_names(learned, own), **recall}.items():
                own[name].copy_(value)
                self.average[name].copy_(value)
        self.learners.forget("text.")

    def ship(self, folder: Path) -> None:
        """Write the moving average in half precision, as a base's U-Net and text encoder."""
        for kind, part, net in (("unet", "unet", self.unet), ("text_encoder", "text", self.text)):
            own = {k.removeprefix(f"{part}."): v for k, v in self.average.items() if k.startswith(f"{part}.")}
            write_part(folder, kind, net, own)


def _named(unet: nn.Module, text: nn.Module, recall: Recall) -> dict[str, Tensor]:
    parts = {"unet": unet, "text": text, "recall.facts": recall.facts}
    return {f"{part}.{name}": weight for part, net in parts.items() for name, weight in net.named_parameters()}


def _text_names(stored: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stored text-encoder weights under the names that the running networks use, whatever prefix they carry."""
    found = {}
    for key, value in stored.items():
        for candidate in (f"text.{key}", f"text.{key.removeprefix('text_model.')}"):
            if candidate in own:
                found[candidate] = value
    return found


def begun(
    work: Path,
    plan: Blueprint,
    tokenizer: Tokenizer,
    *,
    warm: Path | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Run:
    """The run whose state lies in `work`; else one from the weights of a base in `warm`; else one that knows nothing
    but the words that `wording.train_text` taught."""
    run = Run.fresh(plan, tokenizer, seed, device)
    if (work / STATE).is_file():
        run.restore(work / STATE)
    elif warm is not None:
        run.warm_start(warm)
    elif (work / "text.safetensors").is_file():
        run.learn_words(work / "text.safetensors")
    return run


def train_base(
    work: Path,
    plan: Blueprint,
    tokenizer: Tokenizer,
    *,
    minutes: float,
    batch: int = 32,
    seed: int = 0,
    warm: Path | None = None,
    compute: torch.dtype = torch.float32,
    compiled: bool = False,
    rate: float = LEARNING_RATE,
    device: str | torch.device = "cpu",
    rows: Rows | None = None,
) -> Run:
    """Train, or go on training, for some minutes on `rows`, or on the shards in `work/latents` when there are none.

    `compiled` takes minutes to start, and on two cores wins nothing back (decision 0010). State and a shippable
    half-precision copy are saved every ten minutes and at the end, loss lines go to `base.jsonl`.
    """
    run, state = begun(work, plan, tokenizer, warm=warm, seed=seed, device=device), work / STATE
    run.learners.muon.exact = compute == torch.float32
    if (reader := work / "reader.safetensors").is_file():
        run.reader = load_reader(reader).to(device)
    if rows is None:
        rows = Presentations(work / "latents", Words(tokenizer), seed)
    schedule = Schedule(Schedule.scaled_linear().noisier(NOISIER).alphas.to(device))
    rows.refresh()
    if compiled:
        run.predict = cast(nn.Module, torch.compile(run.unet, dynamic=False))
    first, smooth = run.steps, torch.zeros((), device=device)
    began = saved = time.monotonic()
    while (spent := (time.monotonic() - began) / 60) < minutes:
        full = min(1.0, (run.steps - first + 1) / WARM_UP)
        left = (1 - spent / minutes) / COOL_DOWN
        now = rate * full * max(0.05, min(1.0, left))
        loss = _step(run, rows.draw(batch, run.seen), schedule, seed, compute, now)
        smooth = loss if run.steps == first + 1 else 0.98 * smooth + 0.02 * loss
        passed = [m for m in MARKS if run.seen - batch < m <= run.seen]
        if passed:
            run.ship(work / "marks" / str(passed[0]))
        if run.steps % 50 == 0:
            # Asking for the loss waits for the device, so it is not asked at every step.
            record(work / "base.jsonl", seen=run.seen, loss=round(float(smooth), 5), minutes=round(spent, 2))
            rows.refresh()
        if time.monotonic() - saved > SAVE_MINUTES * 60:
            run.save(state)
            run.ship(work / "base")
            saved = time.monotonic()
    run.save(state)
    run.ship(work / "base")
    return run


def _step(
    run: Run, shown: Shown, schedule: Schedule, seed: int, compute: torch.dtype, rate: float = LEARNING_RATE
) -> Tensor:
    """One update; returns its loss. Noise and timesteps follow from the seed and the presentations seen; twins, which
    come one after the other, share both."""
    latents, weights, ids = shown.latents, shown.weights, shown.ids
    device, count = latents.device, len(latents)
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + run.seen)
    noise = torch.randn(latents[::2].shape, generator=generator, device=device).repeat_interleave(2, 0)
    t = _timesteps(count // 2, schedule.timesteps, generator).repeat_interleave(2)
    x = schedule.noised(latents, noise, t).contiguous(memory_format=torch.channels_last)
    # On processors torch's explicit attention is the fastest for heads as narrow as these.
    explicit = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with explicit, torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
        context = run.text(input_ids=ids).last_hidden_state
        predicted = (run.unet if run.predict is None else run.predict)(
            x, t, encoder_hidden_states=context
        ).sample.float()
        missed = _missed(run, shown, x, predicted, t, schedule)
        faded = run.recall.missed(_behind(context, ids, generator), shown.named)
    wanted = schedule.velocity(latents, noise, t)
    error = ((predicted - wanted) ** 2 * weights).mean((1, 2, 3)) / weights.mean((1, 2, 3))
    loss = (error * ((1 + SNR_CAP) / (1 + schedule.snr(t))).clamp_max(1)).mean()
    (loss + READ * missed + RECALL * faded).backward()
    nn.utils.clip_grad_norm_(list(run.named().values()), 1.0)
    run.learners.step(rate)
    run.steps += 1
    run.seen += count
    decay = min(AVERAGE, (1 + run.steps) / (10 + run.steps))
    own = run.named()
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.values()), [own[k].detach() for k in run.average], 1 - decay)
    return loss.detach()


def _missed(run: Run, shown: Shown, x: Tensor, predicted: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """What the reader does not find, in the clean latents that follow from the velocity `predicted` for the latents `x`
    at `t`, of the facts that captions name: nats a picture."""
    if run.reader is None:
        return predicted.new_zeros(())
    signal, noise = schedule.levels(t, x)
    missed = run.reader.missed(signal * x - noise * predicted, shown.frames, shown.named)
    return (missed * (signal.flatten() ** 2 >= READABLE)).mean()


def _behind(context: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    """What the text encoder answers for one token of each caption from its end on: [rows, width]."""
    length = ids.shape[1]
    end = (ids == ids[:, -1:]).int().argmax(1)
    share = torch.rand(len(ids), generator=generator, device=ids.device)
    return context[torch.arange(len(ids), device=ids.device), end + (share * (length - end)).long()].float()


def _timesteps(count: int, timesteps: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of `count` equal parts of the schedule, which makes for a quieter gradient; then `MIDDLE`
    of them are moved towards `CENTRE`."""
    device = generator.device
    part = torch.rand(count, generator=generator, device=device)
    share = (part + torch.randperm(count, generator=generator, device=device)) / count
    middle = (torch.special.ndtri(share.double()) + math.log(CENTRE / (1 - CENTRE))).sigmoid().float()
    share = torch.where(torch.rand(count, generator=generator, device=device) < MIDDLE, middle, share)
    return (share * timesteps).long().clamp_max(timesteps - 1)
