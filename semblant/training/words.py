"""Learning the rows of one word, and turning what was learned back into a word."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from semblant.backbones.base import Base
from semblant.backbones.context import Framing
from semblant.backbones.moment import Moment
from semblant.backbones.patch import AttentionPatch, Patch
from semblant.backbones.site import Site
from semblant.data.pictures import mask_to_tensor, to_tensor
from semblant.data.subject import Subject
from semblant.errors import SemblantError
from semblant.ops.attention import attention_map, mass_inside
from semblant.patches.words import LearnedWord
from semblant.training.bank import Augment, Bank
from semblant.training.concepts import Concept
from semblant.training.evenness import evenness
from semblant.training.learner import Batch, Example, Learner, Optimiser, denoising_error

logger = logging.getLogger(__name__)

LOOK_EVERY = 25
"""Steps between two looks at what is too costly to watch at every step."""
LONG_ROW = 10
"""A row this many times longer than the class word's is warned about: it has left the distribution of words."""


class WordMaps(AttentionPatch):
    """Records how much every place looks at a word, the mean over heads; it changes nothing, not even rounding."""

    def __init__(self, places: Bool[Tensor, "rows tokens"]) -> None:
        self.places = places

    def only(self, rows: Sequence[int]) -> WordMaps:
        """The same for some of its rows."""
        return WordMaps(self.places[list(rows)])

    @torch.no_grad()
    def rewrite(self, site: Site, moment: Moment, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Record "word map" [rows, queries] of cross-attention sites."""
        if site.kind == "cross":
            looks = (attention_map(q, k, site.module.scale).mean(1) * self.places[:, None]).sum(-1)
            moment.record("word map", site, looks)
        return q, k, v


class WordLearner(Learner):
    """Learns the table of rows that `rows` makes, from pictures under their captions or random templates.

    `rows(generator)` answers a table [stages, sites, parts, length, dim], `rows()` the same without dropout.
    `templates` hold `{}` where the word goes; a picture whose caption says where the word goes is learned under that
    instead. `stage_of` is needed when there is more than one stage. `generator` fills the bank of `views` augmented
    pictures. For `mask_loss` masks are found for pictures without one; with `even_loss` every part of the schedule
    counts alike (`evenness`). Raises SemblantError for a batch of no pictures.
    """

    def __init__(
        self,
        base: Base,
        subject: Subject,
        rows: nn.Module,
        *,
        templates: Sequence[str],
        optimiser: Optimiser,
        steps: int,
        generator: torch.Generator,
        augment: Augment | None = None,
        views: int = 128,
        batch: int = 1,
        stage_of: Int[Tensor, " timesteps"] | None = None,
        mask_loss: bool = False,
        even_loss: bool = False,
    ) -> None:
        if batch < 1:
            raise SemblantError(f"an update learns from 1 picture or more; got batch={batch}")
        rows = rows.to(base.device)
        super().__init__(dict(rows.named_parameters()), optimiser, steps)
        subject = subject.with_masks() if mask_loss else subject
        self.base, self.rows, self.templates, self.batch = base, rows, tuple(templates), batch
        self.captions = subject.templates
        self.word, self.class_word, self.class_row = (
            subject.word,
            subject.class_word,
            base.token_row(subject.class_word),
        )
        self.framings = [
            Framing.square(image.height, image.width, base.size) if base.told_sizes else None
            for image in subject.images
        ]
        images = [to_tensor(image, base.size) for image in subject.images]
        masks = [None if mask is None else mask_to_tensor(mask, base.size) for mask in subject.masks]
        self.bank = Bank(base, images, masks, size=views, augment=augment, generator=generator)
        self.stage_of, self.mask_loss = stage_of, mask_loss
        self.stages = None if stage_of is None else stage_of.tolist()
        self.done, self.warned = 0, False
        self.seen: dict[str, float] = {}
        self.chosen: tuple[str, ...] = ()
        with torch.no_grad():
            self.table: Tensor = rows()
        self.factors = evenness(self, generator) if even_loss else None
        self.chosen = ()

    @property
    def looking(self) -> bool:
        """Whether this step measures more than its loss."""
        return self.done % LOOK_EVERY == 0

    def begin(self, generator: torch.Generator) -> None:
        """Make the rows of this step, and choose its templates, which captions of the pictures drawn may replace."""
        self.table = self.rows(generator)
        which = torch.randint(len(self.templates), (self.batch,), generator=generator)
        self.chosen = tuple(self.templates[i] for i in which)

    def draw(self, generator: torch.Generator) -> Sequence[Example]:
        """Augmented pictures, each under its caption, or a template of its own when it has none, after the words that
        tell of its augmentation."""
        drawn = [self.bank.view(generator) for _ in self.chosen]
        sentences = [self.captions[view.picture] or own for view, own in zip(drawn, self.chosen, strict=True)]
        self.chosen = tuple(view.words + text for view, text in zip(drawn, sentences, strict=True))
        prompts = [text.replace("{}", self.word) for text in self.chosen]
        return [
            Example(view.latent, prompt, view.mask, framing=self.framings[view.picture])
            for view, prompt in zip(drawn, prompts, strict=True)
        ]

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every template and caption that a step may choose, each once."""
        return tuple(dict.fromkeys([*self.templates, *(text for text in self.captions if text is not None)]))

    def patches(self) -> Sequence[Patch]:
        """The word with the rows of this step; now and then also what its attention is measured with."""
        maps = [WordMaps(self.places())] if self.looking and self.bank.masked and self.chosen else []
        return [self.learned(), *maps]

    def learned(self) -> LearnedWord:
        """The word with the rows of this step."""
        return LearnedWord(self.word, self.table, self.class_row, self.stage_of)

    def places(self) -> Bool[Tensor, "rows tokens"]:
        """Where the word stands in the prompts drawn last."""
        context = self.base.patched(self.learned()).text([t.replace("{}", self.word) for t in self.chosen])
        places = torch.zeros(len(context), len(context.rows[0].ids), dtype=torch.bool)
        for row, positions in zip(places, context.positions(self.word), strict=True):
            row[list(positions)] = True
        return places.to(self.base.device)

    def loss(self, moment: Moment, prediction: Tensor, batch: Batch) -> Float[Tensor, " rows"]:
        """The denoising error, inside the mask only and in units of what is wrong at its timestep anyway when asked."""
        if batch.mask is not None and (maps := moment.recorded("word map")):
            assert isinstance(maps, list)
            # The mask of a picture that came without one is everywhere, and would always be hit.
            if known := [row for row, mask in enumerate(batch.mask) if bool((mask < 1).any())]:
                inside = _mean_inside([looks[known] for looks in maps], batch.mask[known])
                self.seen["attention inside mask"] = float(inside)
        error = denoising_error(prediction, batch, batch.mask if self.mask_loss else None)
        return error if self.factors is None else error * self.factors[batch.timestep]

    def after_step(self) -> None:
        """Look at the rows now and then, and say when they grow out of the distribution of words."""
        if self.looking:
            rows = self.table.detach()
            length = rows.norm(dim=-1) / self.class_row.norm()
            likeness = F.cosine_similarity(rows, self.class_row, dim=-1)
            self.seen |= {"longest row": float(length.max()), "likeness to class word": float(likeness.mean())}
            if self.seen["longest row"] > LONG_ROW and not self.warned:
                self.warned = True
                logger.warning(
                    "step %d: a row of %s is %.0f times as long as that of %r, so the rest of a prompt will hardly be "
                    "heard beside it. Lower the learning rate, start at the class word, or use fewer steps.",
                    self.done,
                    self.word,
                    self.seen["longest row"],
                    self.class_word,
                )
        self.done += 1

    def state(self) -> dict[str, Tensor]:
        """How many steps it has seen, and its figures."""
        seen = {f"seen.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.seen.items()}
        return {"done": torch.tensor(self.done), **seen}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on counting, with the figures of the last look."""
        self.done = int(state["done"])
        self.seen = {
            name.removeprefix("seen."): float(value) for name, value in state.items() if name.startswith("seen.")
        }

    def figures(self) -> dict[str, float]:
        """At the last look: length of the longest row in lengths of the class word's, mean cosine to it, and the share
        of the word's attention inside the subject's mask, over pictures that came with one."""
        return dict(self.seen)

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """The table as it stands, without dropout."""
        return {"rows": self.rows().detach().clone()}


def _mean_inside(maps: Sequence[Float[Tensor, "rows queries"]], mask: Float[Tensor, "rows 1 h w"]) -> Tensor:
    """Mean over sites and rows of the share of attention inside the mask."""
    shares = []
    for looks in maps:
        factor = round((mask.shape[-2] * mask.shape[-1] / looks.shape[-1]) ** 0.5)
        grid = tuple(-(-side // factor) for side in mask.shape[-2:])
        shares.append(mass_inside(looks.unflatten(1, grid), F.adaptive_avg_pool2d(mask, grid)[:, 0]))
    return torch.stack(shares).mean()


@torch.no_grad()
def encoded_word(base: Base, word: str) -> Float[Tensor, "tokens dim"]:
    """What the text encoder makes of a prompt of one word, from that word on: without the start token, which every
    prompt shares."""
    return base.encodings(base.text(word))[0, 1:].float()


def learned_word(base: Base, concept: Concept, start: Float[Tensor, "length dim"] | None = None) -> LearnedWord:
    """The word that a concept of rows stands for. Raises SemblantError when the base's words have another width.

    `start` is what it is at strength 0 when that is something else than the class word.
    """
    rows = concept.tensors["rows"]
    class_row = base.token_row(concept.class_word)
    if rows.shape[-1] != len(class_row):
        raise SemblantError(
            f"{concept.word} was learned on {concept.base.get('name', 'a base')} with words {rows.shape[-1]} wide; "
            f"{base.name} has words {len(class_row)} wide. Use a base of architecture "
            f"{concept.base.get('architecture', 'unknown')!r}, or fit the subject again on {base.name}."
        )
    stages = None if concept.stages is None else torch.tensor(concept.stages)
    return LearnedWord(
        concept.word, rows.to(class_row), class_row if start is None else start, stages, concept.strength
    )
