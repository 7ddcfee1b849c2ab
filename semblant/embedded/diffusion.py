"""Training the embedded U-Net and text encoder together on cached latents."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from semblant.backbones.blueprint import Blueprint, Tokenizer, attend_explicitly, new_text_encoder, new_unet, write_part
from semblant.backbones.vocabulary import PIECE
from semblant.embedded.latents import SHARD, Shard, load_shard, record
from semblant.ops.schedule import Schedule
from semblant.world.captions import write

log = logging.getLogger(__name__)

LEARNING_RATE = 8e-4
"""For steps of 32; at 2e-3 and 16 a step the error rose."""
MOMENTUM = 0.95
"""Of the orthogonalised updates (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks")."""
WARM_UP = 60
"""Steps until the learning rate is full, after every start."""
COOL_DOWN = 0.25
"""Last share of a run in which the learning rate falls linearly to a twentieth."""
EMPTY_CAPTIONS = 0.1
NOISIER = 4.0
"""How much noisier than Stable Diffusion's the schedule ends (see `Schedule.noisier`). With its own, the layout of
these pictures of few colours still showed at timestep 950, and samples took patches of the first noise for a layout."""
SNR_CAP = 5.0
"""From this signal-to-noise ratio on, errors of the velocity count less, as in min-SNR weighting (Hang et al. 2023,
arXiv 2303.09556); below it all count alike, so that layouts and words weigh as much as edges."""
PREDICTION = "v_prediction"
"""What the U-Net predicts. With the noise itself, a small network must copy its input to within a few percent where
nearly all is noise: after 54,000 presentations what it left of the noise still hid the picture at timestep 950."""
MIDDLE = 0.5
"""Share of timesteps drawn from a logit-normal around the middle of the schedule (Esser et al. 2024, arXiv 2403.03206,
Sec. 3.1), where figures take shape; the rest is uniform. At either end there is less to learn: grain, or a mean."""
AVERAGE = 0.999
"""Decay of the exponential moving average that is shipped; shorter in the first steps."""
SAVE_MINUTES = 10.0
NO_MATRICES = ("conv_in", "conv_out", "embedding")
"""Weights with these in their names are learned by AdamW, whatever their shape: tables of words and the two ends."""
COUNTS = ("seen", "steps")
MARKS = (25_000, 50_000, 100_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_600_000)
"""Presentations after which a snapshot is kept for the learning curve."""


class Words:
    """Fast tokenising of captions whose every piece is one token; equal to the tokenizer on such captions."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab()
        self.known = {k.removesuffix("</w>"): v for k, v in vocabulary.items() if k.endswith("</w>")}
        self.start, self.end, self.length = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Token ids [captions, 77]."""
        rows = []
        for caption in captions:
            ids = [self.known[piece] for piece in PIECE.findall(caption)][: self.length - 2]
            rows.append([self.start, *ids, *[self.end] * (self.length - 1 - len(ids))])
        return torch.tensor(rows)


class Presentations:
    """An endless, seeded stream of training rows over the shards that exist; new shards join as they appear."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.shards: dict[str, Shard] = {}

    def refresh(self) -> None:
        """Take in shards written since the last call."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self.shards:
                self.shards[path.name] = load_shard(path)

    def draw(self, count: int, seen: int) -> tuple[Tensor, Tensor, list[str]]:
        """Latents, cell weights and freshly written captions of the rows after `seen` presentations."""
        rng = random.Random(f"presentation {self.seed} {seen}")
        names = sorted(self.shards)
        latents, weights, captions = [], [], []
        for _ in range(count):
            shard = self.shards[names[rng.randrange(len(names))]]
            row = rng.randrange(SHARD)
            latents.append(shard.latents[row])
            weights.append(shard.weights[row])
            captions.append("" if rng.random() < EMPTY_CAPTIONS else write(shard.scenes[row], rng))
        return torch.stack(latents).float(), torch.stack(weights).float() / 32, captions


class Learners:
    """Two optimisers over one set of weights: hidden matrices and convolutions are moved along orthogonalised momentum
    (Muon), at the size that AdamW's steps have (Liu et al. 2025, arXiv 2502.16982, Sec. 2.2); the rest by AdamW.

    Going on for 4,800 presentations from the same weights, Muon took the error further than AdamW (decision 0010).
    """

    def __init__(self, named: dict[str, Tensor]) -> None:
        self.named = named
        self.matrices = {
            name: nn.Parameter(_as_matrix(weight.detach()))
            for name, weight in named.items()
            if weight.ndim > 1 and not any(part in name for part in NO_MATRICES)
        }
        self.rest = {name: weight for name, weight in named.items() if name not in self.matrices}
        self.muon = torch.optim.Muon(
            self.matrices.values(),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=0.01,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adam = torch.optim.AdamW(
            self.rest.values(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )

    def step(self, rate: float) -> None:
        """One update with the gradients that lie at the weights, which are taken off."""
        for group in (*self.muon.param_groups, *self.adam.param_groups):
            group["lr"] = rate
        for name, matrix in self.matrices.items():
            gradient = self.named[name].grad
            matrix.grad = None if gradient is None else _as_matrix(gradient)
        self.muon.step()
        self.adam.step()
        for weight in self.named.values():
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments of both, as `key.name of the weight`."""
        found: dict[str, Tensor] = {}
        for optimiser, weights in ((self.muon, self.matrices), (self.adam, self.rest)):
            states = optimiser.state_dict()["state"]
            for i, name in enumerate(weights):
                found |= {f"{key}.{name}": value for key, value in states.get(i, {}).items()}
        return found

    def restore(self, moments: dict[str, Tensor]) -> None:
        """Take the moments that `state` gave."""
        both: tuple[tuple[torch.optim.Optimizer, dict[str, Any]], ...]
        both = ((self.muon, self.matrices), (self.adam, self.rest))
        for optimiser, weights in both:
            packed = optimiser.state_dict()
            for i, (name, weight) in enumerate(weights.items()):
                stored = {k.split(".", 1)[0]: v for k, v in moments.items() if k.split(".", 1)[1] == name}
                # The fused update walks memory, not indices: moments must lie in memory as their weight does.
                packed["state"][i] = {
                    key: value if key == "step" else torch.empty_like(weight).copy_(value)
                    for key, value in stored.items()
                }
            optimiser.load_state_dict(packed)


def _as_matrix(weight: Tensor) -> Tensor:
    """A weight as [outputs, everything else], in the same memory where a convolution's channels come last."""
    return (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1)


@dataclass
class Run:
    """Networks, their moving average, what moves them, and how many presentations they have seen."""

    unet: nn.Module
    text: nn.Module
    average: dict[str, Tensor]
    learners: Learners
    seen: int = 0
    steps: int = 0
    predict: nn.Module | None = None
    """The U-Net as it is called in training, where that is a compiled one."""

    @staticmethod
    def fresh(plan: Blueprint, tokenizer: Tokenizer, seed: int = 0) -> Run:
        """Untrained networks. The text encoder starts with embeddings large enough to tell words apart."""
        torch.manual_seed(seed)
        unet = new_unet(plan).to(memory_format=torch.channels_last)
        attend_explicitly(unet)
        text = new_text_encoder(plan, tokenizer)
        named = _named(unet, text)
        return Run(unet, text, {k: v.detach().clone() for k, v in named.items()}, Learners(named))

    def named(self) -> dict[str, Tensor]:
        """All trained weights by name."""
        return _named(self.unet, self.text)

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

    def learn_words(self, path: Path) -> None:
        """Take the text encoder that `wording.train_text` left."""
        own = self.named()
        with torch.no_grad():
            for name, value in _text_names(load_file(path), own).items():
                own[name].copy_(value)
                self.average[name].copy_(value)

    def ship(self, folder: Path) -> None:
        """Write the moving average in half precision, as a base's U-Net and text encoder."""
        for kind, part, net in (("unet", "unet", self.unet), ("text_encoder", "text", self.text)):
            own = {k.removeprefix(f"{part}."): v for k, v in self.average.items() if k.startswith(f"{part}.")}
            write_part(folder, kind, net, own)


def _named(unet: nn.Module, text: nn.Module) -> dict[str, Tensor]:
    return {f"{part}.{k}": v for part, net in (("unet", unet), ("text", text)) for k, v in net.named_parameters()}


def _text_names(stored: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stored text-encoder weights under the names that the running networks use, whatever prefix they carry."""
    found = {}
    for key, value in stored.items():
        for candidate in (f"text.{key}", f"text.{key.removeprefix('text_model.')}"):
            if candidate in own:
                found[candidate] = value
    return found


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
) -> Run:
    """Train, or go on training, for some minutes on the shards in `work/latents`.

    `compiled` takes minutes to start and up to a sixth off each step. State and a shippable half-precision copy are
    saved every ten minutes and at the end, loss lines go to `base.jsonl`.
    """
    run = Run.fresh(plan, tokenizer, seed)
    state = work / "base.safetensors"
    if state.is_file():
        run.restore(state)
    elif warm is not None:
        run.warm_start(warm)
    elif (work / "text.safetensors").is_file():
        run.learn_words(work / "text.safetensors")
    rows, words, schedule = (
        Presentations(work / "latents", seed),
        Words(tokenizer),
        Schedule.scaled_linear().noisier(NOISIER),
    )
    rows.refresh()
    began = saved = time.monotonic()
    first, smooth = run.steps, 0.0
    if compiled:
        run.predict = cast(nn.Module, torch.compile(run.unet, dynamic=False))
    while (spent := (time.monotonic() - began) / 60) < minutes:
        full = min(1.0, (run.steps - first + 1) / WARM_UP)
        left = (1 - spent / minutes) / COOL_DOWN
        rate = LEARNING_RATE * full * max(0.05, min(1.0, left))
        loss = _step(run, *rows.draw(batch, run.seen), words, schedule, seed, compute, rate)
        smooth = loss if run.steps == first + 1 else 0.98 * smooth + 0.02 * loss
        passed = [m for m in MARKS if run.seen - batch < m <= run.seen]
        if passed:
            run.ship(work / "marks" / str(passed[0]))
        if run.steps % 50 == 0:
            record(work / "base.jsonl", seen=run.seen, loss=round(smooth, 5), minutes=round(spent, 2))
            rows.refresh()
        if time.monotonic() - saved > SAVE_MINUTES * 60:
            run.save(state)
            run.ship(work / "base")
            saved = time.monotonic()
    run.save(state)
    run.ship(work / "base")
    return run


def _step(
    run: Run,
    latents: Tensor,
    weights: Tensor,
    captions: list[str],
    words: Words,
    schedule: Schedule,
    seed: int,
    compute: torch.dtype,
    rate: float = LEARNING_RATE,
) -> float:
    """One update; returns its loss. Noise and timesteps follow from the seed and the presentations seen."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + run.seen)
    count = len(latents)
    noise = torch.randn(latents.shape, generator=generator)
    # One timestep from each of `count` equal parts of the schedule: the same expectation, a quieter gradient.
    part = torch.rand(count, generator=generator) + torch.randperm(count, generator=generator)
    share = part / count
    middle = torch.special.ndtri(share.double()).sigmoid().float()
    share = torch.where(torch.rand(count, generator=generator) < MIDDLE, middle, share)
    t = (share * schedule.timesteps).long().clamp_max(schedule.timesteps - 1)
    x = schedule.noised(latents, noise, t).contiguous(memory_format=torch.channels_last)
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=compute == torch.bfloat16):
        context = run.text(input_ids=words(captions)).last_hidden_state
        predicted = (run.unet if run.predict is None else run.predict)(
            x, t, encoder_hidden_states=context
        ).sample.float()
    wanted = schedule.velocity(latents, noise, t)
    error = ((predicted - wanted) ** 2 * weights).mean((1, 2, 3)) / weights.mean((1, 2, 3))
    loss = (error * ((1 + SNR_CAP) / (1 + schedule.snr(t))).clamp_max(1)).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(list(run.named().values()), 1.0)
    run.learners.step(rate)
    run.steps += 1
    run.seen += count
    decay = min(AVERAGE, (1 + run.steps) / (10 + run.steps))
    own = run.named()
    with torch.no_grad():
        torch._foreach_lerp_(list(run.average.values()), [own[k].detach() for k in run.average], 1 - decay)
    return float(loss.detach())
