"""Teaching the text encoder what captions say, before any picture is drawn.

A diffusion model teaches its text encoder slowly: words matter to the error of the noise only through pictures that
hardly exist yet. So the encoder first learns to tell, after every word of a caption, which facts were named so far, and
who a named person is. It is to the base what CLIP's own training on captions is to Stable Diffusion.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from semblant.backbones.blueprint import Blueprint, Tokenizer, new_text_encoder
from semblant.backbones.vocabulary import PIECE
from semblant.embedded.latents import record
from semblant.embedded.presentations import Words
from semblant.embedded.processes import company
from semblant.world.captions import phrases_of, write
from semblant.world.facts import IDENTITY_FACTS, VALUES, facts
from semblant.world.names import name_of
from semblant.world.scene import NAMED_PEOPLE, Person, Scene, draw_training_scene, named_person

LEARNING_RATE, AGAIN = 1e-3, 6e-4
"""Of an encoder that knows nothing, and of one that a U-Net has learned with."""
NEAR = 0.1
"""What the squared distance to its earlier states [width] counts for an encoder that learns again, beside the nats
summed over all facts (decision 0016)."""
BATCH = 32
FIRST_CAPTION = 10**7
"""Captions of scenes far behind those whose pictures the U-Net sees."""
PADS = 6
"""Positions after the end of a caption that must know it all, beside the end itself."""


NUMBER = {fact: {value: i + 1 for i, value in enumerate(values)} for fact, values in VALUES.items()}
"""The label of every value of every fact; 0 is a fact that was not named."""


class Recall(nn.Module):
    """Reads off hidden states [..., width] which value of every fact was named, and the numbers of a named person."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(values) + 1 for values in VALUES.values()]
        self.facts = nn.Linear(width, sum(self.sizes))
        self.person = nn.Linear(width, len(named_person(0).numbers()))

    def error(self, states: Tensor, named: Tensor, numbers: Tensor) -> Tensor:
        """Mean cross-entropy over the facts `named` [..., facts] (0 where a fact was not named) plus the mean squared
        error of `numbers` [..., 24] where a person was named (the others are NaN)."""
        parts = self.facts(states).split(self.sizes, -1)
        wrong = [F.cross_entropy(p.flatten(0, -2), n.flatten()) for p, n in zip(parts, named.unbind(-1), strict=True)]
        known = ~numbers.isnan()
        far = (self.person(states) - numbers.nan_to_num())[known].square().sum() / known.sum().clamp_min(1)
        return torch.stack(wrong).sum() + 4 * len(VALUES) * far / 10

    def missed(self, states: Float[Tensor, "rows width"], named: Int[Tensor, "rows facts"]) -> Float[Tensor, ""]:
        """Mean cross entropy over the facts of the place of the value that was named, or of none (-1); facts below that
        are not asked for."""
        parts = self.facts(states).split(self.sizes, -1)
        wrong = [
            F.cross_entropy(part, (place + 1).clamp_min(-1), ignore_index=-1, reduction="sum")
            for part, place in zip(parts, named.unbind(-1), strict=True)
        ]
        return torch.stack(wrong).sum() / (named >= -1).sum().clamp_min(1)

    @torch.no_grad()
    def accuracy(self, states: Tensor, named: Tensor) -> float:
        """Share of named facts that are told right."""
        parts = self.facts(states).split(self.sizes, -1)
        told = torch.stack([part.argmax(-1) for part in parts], -1)
        return float((told == named)[named > 0].float().mean())


@cache
def _who(name: str) -> tuple[dict[str, str], tuple[float, ...]]:
    """Facts and numbers, around zero, of a named person."""
    index = {name_of(i): i for i in range(NAMED_PEOPLE)}[name]
    identity = named_person(index)
    said = facts(Scene(people=(Person(identity=identity),)))
    return {fact: said[fact] for fact in IDENTITY_FACTS}, tuple(x - 0.5 for x in identity.numbers())


def labels(caption: str, length: int) -> tuple[list[list[int]], list[list[float]]]:
    """For each of `length` tokens, the start token first: the facts named so far (0, or 1 + which value), and the
    numbers of who was named (NaN before). What is said outright goes before what a name implies."""
    nothing = [float("nan")] * len(named_person(0).numbers())
    said: dict[str, str] = {}
    implied: dict[str, str] = {}
    person = list(nothing)
    named, numbers = [[0] * len(VALUES)], [nothing]
    for words, facts_here, name in phrases_of(caption):
        pieces = sum(len(PIECE.findall(word)) for word in words)
        named += [named[-1]] * (pieces - 1)
        numbers += [numbers[-1]] * (pieces - 1)
        for fact, value in facts_here.items():
            said.setdefault(fact, value)
        if name:
            implied, who = _who(name)
            person = list(who)
        now = {**implied, **said}
        named.append([NUMBER[fact].get(now.get(fact, ""), 0) for fact in VALUES])
        numbers.append(person)
    missing = length - len(named)
    return (named + [named[-1]] * missing)[:length], (numbers + [numbers[-1]] * missing)[:length]


def lesson(words: Words, captions: Sequence[str], rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [captions, tokens] with some padding behind the longest, and the labels of every token."""
    ids: Tensor = words(captions)
    longest = max(len(PIECE.findall(caption)) for caption in captions) + 2
    length = min(ids.shape[1], longest + PADS + rng.randrange(ids.shape[1] // 3))
    named, numbers = zip(*(labels(caption, length) for caption in captions), strict=True)
    return ids[:, :length], torch.tensor(named, dtype=torch.int16), torch.tensor(numbers)


def _lesson(task: tuple[int, int, int, Words]) -> tuple[Tensor, Tensor, Tensor]:
    """The lesson of one step: `batch` captions of scenes that no other step has."""
    step, batch, seed, words = task
    rng = random.Random(f"wording {seed} {step}")
    captions = [write(draw_training_scene(FIRST_CAPTION + step * batch + i), rng) for i in range(batch)]
    return lesson(words, captions, rng)


def train_text(
    work: Path,
    plan: Blueprint,
    tokenizer: Tokenizer,
    *,
    minutes: float,
    seed: int = 0,
    batch: int = BATCH,
    compute: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    workers: int = 0,
    start: nn.Module | None = None,
) -> nn.Module:
    """Train a text encoder for some minutes; `text.safetensors` in `work` keeps its weights and those of its `Recall`.

    `workers` processes write the captions (0: this one does). With `start`, an encoder that a U-Net has learned with,
    it goes on from there and stays near, so that the U-Net understands it.
    """
    torch.manual_seed(seed)
    device, words = torch.device(device), Words(tokenizer)
    network: Any = new_text_encoder(plan, tokenizer).to(device)
    if start is not None:
        network.load_state_dict(start.state_dict())
        start.to(device).requires_grad_(False)
    recall = Recall(plan.width).to(device)
    parameters = [*network.parameters(), *recall.parameters()]
    rate = LEARNING_RATE if start is None else AGAIN
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    explicit = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with company(workers) as share, explicit:
        lessons = share(_lesson, ((step, batch, seed, words) for step in count()))
        began = time.monotonic()
        for step, parts in enumerate(lessons):
            if (spent := (time.monotonic() - began) / 60) >= minutes:
                break
            ids, named, numbers = (part.to(device) for part in parts)
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 200) * max(0.02, 1 - spent / minutes)
            with torch.autocast(device.type, torch.bfloat16, enabled=compute == torch.bfloat16):
                states = network(input_ids=ids).last_hidden_state.float()
            error = recall.error(states, named.long(), numbers)
            if start is not None:
                with torch.no_grad():
                    known = start(input_ids=ids).last_hidden_state.float()
                error = error + NEAR * (states - known).square().sum(-1).mean()
            optimiser.zero_grad()
            error.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            if step % 50 == 49:
                told = recall.accuracy(states[:, -1], named[:, -1].long())
                record(
                    work / "text.jsonl",
                    captions=(step + 1) * batch,
                    loss=round(float(error.detach()), 4),
                    told=round(told, 4),
                    minutes=round(spent, 2),
                )
    network = network.cpu()
    learned = {**network.state_dict(), **{f"recall.{name}": weight for name, weight in recall.state_dict().items()}}
    save_file({k: v.detach().cpu().contiguous() for k, v in learned.items()}, work / "text.safetensors")
    return network
