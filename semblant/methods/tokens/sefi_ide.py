"""SeFi-IDE: one face photo as five stages of key and value words.

Li et al., 2024. arXiv 2402.00631
Learns   a small network that spreads the class word's row over 5 stages x {key, value}
Loss     denoising error + 0.003 x face-wise attention error (Eq. 1)
Leaves   every base weight as it was
Notes    No code was released; the network is that of ProSpect, which the paper follows. Algorithm 1 prints the error of
         A_t with itself; Eq. 1 compares A_t with A_r, which is what we do. The paper says both that the input word is
         trained and that it is not (`train_input`), and describes one map in the loss but adopts all of them
         (`attention_tokens`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semblant.backbones.base import Base
from semblant.backbones.moment import Moment
from semblant.backbones.patch import Patch
from semblant.data import augmentation
from semblant.data.subject import PERSONS, Subject
from semblant.data.templates import SEFI_TEMPLATES, without_face
from semblant.errors import SemblantError
from semblant.methods.method import Card, FittingMethod
from semblant.ops.losses import Reduction
from semblant.ops.schedule import stage_of_timestep
from semblant.patches.looks import ComparedLooks, Space
from semblant.training.balance import balance, compare
from semblant.training.concepts import Concept
from semblant.training.expansion import Expansion, FreeRows, KeyLocked
from semblant.training.learner import Batch, Optimiser
from semblant.training.words import WordLearner, encoded_word, learned_word

BALANCED = 0.003
"""The published weight of the attention error, taken for the one that balances it with the denoising error."""


@dataclass(frozen=True)
class SeFiIDE(FittingMethod):
    """One subject as stages of key and value words."""

    steps: int = 1000
    """Updates (paper: about five minutes; its epochs over one picture are updates)."""
    lr: float = 0.005
    """Learning rate of Adam (paper)."""
    batch: int = 1
    """Pictures per update; unpublished, and only 1 fits the published time."""
    stages: int = 5
    """Equal parts of the schedule, each with rows of its own (paper; its ablation tries 1 and 10)."""
    split: bool = True
    """Whether keys and values read different rows (paper)."""
    expansion: Literal["module", "direct"] = "module"
    """What makes the rows: the network, or nothing (every row is a parameter and starts at the class word)."""
    residual: bool = False
    """Whether the network starts at the class word; as published it starts at random rows."""
    dropout: float = 0.1
    """Dropout in the network (ProSpect's code)."""
    expansion_input: Literal["token", "encoder_output"] = "token"
    """What the network reads: the class word's row (one token, as the paper's sizes have it), or all the text encoder
    makes of the class word (its Fig. 2 encodes first); then its attention is over many tokens."""
    train_input: bool = False
    """Whether the network's input, the class word's row, is learned too."""
    key_lock: bool = False
    """Whether keys stay the class word's: the limit of an infinite attention weight."""
    attention_weight: float = 0.003
    """Weight of the face-wise error, lambda (paper). 0 leaves it out."""
    attention_calibrate: bool = True
    """Whether 0.003 is taken to mean that both losses pull equally hard on the keys at the start, other weights in
    proportion; the published number means little, since the paper leaves open how the error is summed."""
    calibration_draws: int = 16
    """Draws of noise and timestep behind that balance."""
    attention_tokens: Literal["all", "prompt", "placeholder"] = "all"
    """Whose maps are compared: options 3, 2 and 1 of the paper's ablation."""
    attention_space: Space = "softmax"
    """Compare maps after (Eq. 1) or before the softmax ("attention score" in Algorithm 1)."""
    attention_reduction: Reduction = "sum"
    """Squared norm (Eq. 1) or mean squared error (Algorithm 1) of a map."""
    attention_sites: tuple[float, float] = (0.0, 1.0)
    """Which cross-attention sites are compared, from and to as fractions of their execution order."""
    attention_size: int = 32
    """Side to which maps are resized (Algorithm 1), or the base's largest map where that is smaller."""
    flip: float = 0.5
    """Chance of a mirrored picture (paper)."""
    scale: tuple[float, float] = (0.1, 1.0)
    """Least and largest side of the picture on its canvas (paper)."""
    aspect: tuple[float, float] = (0.9, 1.1)
    """Narrowest and widest picture there, in parts of its own width, as far as the canvas is wide (Celeb Basis)."""
    canvas: Literal["black", "mean", "reflect"] = "black"
    """What surrounds a picture made smaller (black in the code of Celeb Basis, whose wording the paper shares)."""
    jitter: bool = True
    """Change colours a little (paper; amounts of Celeb Basis)."""
    mask_loss: bool = False
    """Whether the denoising error counts inside the subject's mask only."""
    even_loss: bool = False
    """Whether every part of the schedule counts alike; as published nearly all of the error is where the least noise
    is."""
    views: int = 128
    """Augmented views of the pictures, made and encoded once before the updates draw from them."""

    card: ClassVar[Card] = Card(
        title="SeFi-IDE: Semantic-Fidelity Identity Embedding for Personalized Diffusion-Based Generation",
        authors="Yang Li, Songlin Yang, Wei Wang, Jing Dong",
        year=2024,
        arxiv="2402.00631",
        family="tokens",
        needs="one picture of a face, or of an animal or thing",
        bases=("sd-1", "sd-2", "sdxl", "embedded"),
    )
    # benchmarks/flagship/tune.json, 400 steps on close-ups of three people of `tune`: identity gain .419 and .477 at
    # 5e-5 and 1e-4 with `mask_loss` and `even_loss`, .470 and .467 without, where half of the pictures had the
    # background too (here none). Under the paper's augmentation rows grew and bleached the pictures.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "embedded": {
            "residual": True,
            "lr": 1e-4,
            "scale": (1.0, 1.0),
            "flip": 0.0,
            "jitter": False,
            "mask_loss": True,
            "even_loss": True,
        }
    }

    def learner(self, base: Base, subject: Subject, generator: torch.Generator) -> SeFiLearner:
        """The rows of the subject's word. Raises SemblantError for a class word that is not one token."""
        return SeFiLearner(self, base, subject, generator)

    def concept_patches(self, base: Base, concept: Concept) -> Sequence[Patch]:
        """The word; the attention error has no part in sampling."""
        return [learned_word(base, concept)]

    def augment(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One more view of a picture and its mask: mirrored, recoloured, and pasted on a canvas."""
        image, mirrored = augmentation.flip(image, mask, generator, self.flip)
        image = augmentation.jitter(image, generator) if self.jitter else image
        image, moved = augmentation.canvas(image, mirrored, generator, self.scale, self.aspect, self.canvas)
        assert moved is not None
        return image, moved

    def rows(
        self, class_row: Float[Tensor, " dim"], generator: torch.Generator, seen: Tensor | None = None
    ) -> nn.Module:
        """What makes the table of rows [stages, 1, keys and values, 1, dim]; stage 0 has the highest noise.

        `seen` [tokens, dim] is what the network reads in place of the class word's row, that word first.
        """
        shape = (self.stages, 1, 2 if self.split and not self.key_lock else 1, 1)
        network = {name: getattr(self, name) for name in ("dropout", "residual", "train_input")}
        made: nn.Module = FreeRows(class_row.expand(*shape, -1))
        if self.expansion == "module":
            made = Expansion(class_row, shape, generator=generator, seen=seen, **network)
        return KeyLocked(class_row, made) if self.key_lock else made


class SeFiLearner(WordLearner):
    """Rows that denoise the subject while places look at its word as they would at the class word."""

    def __init__(self, settings: SeFiIDE, base: Base, subject: Subject, generator: torch.Generator) -> None:
        person = subject.class_word.lower() in PERSONS
        seen = encoded_word(base, subject.class_word) if settings.expansion_input == "encoder_output" else None
        super().__init__(
            base,
            subject,
            settings.rows(base.token_row(subject.class_word), generator, seen),
            templates=SEFI_TEMPLATES if person else [without_face(template) for template in SEFI_TEMPLATES],
            optimiser=Optimiser("adam", lr=settings.lr),
            steps=settings.steps,
            generator=generator,
            augment=settings.augment,
            views=settings.views,
            batch=settings.batch,
            stage_of=stage_of_timestep(settings.stages, base.schedule.timesteps),
            mask_loss=settings.mask_loss,
            even_loss=settings.even_loss,
        )
        self.settings = settings
        # With keys locked to the class word the maps agree anyway.
        self.weight = 0.0 if settings.key_lock else settings.attention_weight
        self.references = {t: self.reference(t) for t in self.sentences} if self.weight else {}
        if self.weight and settings.attention_calibrate:
            self.weight *= balance(self, self.errors, settings.calibration_draws, generator) / BALANCED
        self.seen["attention weight"] = self.weight

    def reference(self, template: str) -> tuple[Float[Tensor, "tokens dim"], Bool[Tensor, " tokens"]]:
        """The encoding of a template about the class word, and whose maps are compared.

        Raises SemblantError when the class word takes more tokens than the word does: the maps would not align.
        """
        target = self.base.patched(self.learned()).text(template.replace("{}", self.word))
        reference = self.base.text(template.replace("{}", self.class_word))
        if (end := target.rows[0].end) != reference.rows[0].end:
            raise SemblantError(
                f"{self.class_word!r} is more than one token, so its attention maps do not line up with those of "
                f"{self.word}. Choose a class word of one token, such as person, or attention_weight 0."
            )
        tokens = torch.arange(len(target.rows[0].ids), device=self.base.device)
        places = torch.tensor(target.rows[0].positions[self.word], device=self.base.device)
        compared = {"all": tokens >= 0, "prompt": tokens <= end, "placeholder": torch.isin(tokens, places)}
        with torch.no_grad():
            return self.base.encodings(reference)[0], compared[self.settings.attention_tokens]

    def patches(self) -> Sequence[Patch]:
        """The word, and the comparison while there is something to compare."""
        if not (self.weight and self.chosen):
            return super().patches()
        chosen = [self.references[template] for template in self.chosen]
        reference, compared = (torch.stack(part) for part in zip(*chosen, strict=True))
        comparison = ComparedLooks(
            reference,
            compared,
            self.base.cross_sites(),
            within=self.settings.attention_sites,
            size=self.settings.attention_size,
            space=self.settings.attention_space,
            reduction=self.settings.attention_reduction,
        )
        return [*super().patches(), comparison]

    def errors(self, moment: Moment, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Denoising error and face-wise error per row, the latter the mean over sites."""
        maps = moment.recorded("look error")
        assert isinstance(maps, list)
        return super().loss(moment, prediction, batch), torch.stack(maps).mean(0)

    def loss(self, moment: Moment, prediction: Tensor, batch: Batch) -> Float[Tensor, " rows"]:
        """Denoising error plus the weighted face-wise error."""
        if not self.weight:
            return super().loss(moment, prediction, batch)
        denoising, attention = self.errors(moment, prediction, batch)
        if self.looking and denoising.requires_grad:
            errors = {"denoising error": denoising, "face-wise error": attention}
            self.seen |= compare(errors, self.weight, self.table)
        return denoising + self.weight * attention

    def state(self) -> dict[str, Tensor]:
        """The steps seen, and the weight that was found."""
        return {**super().state(), "weight": torch.tensor(self.weight, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the same weight."""
        super().restore(state)
        self.weight = self.seen["attention weight"] = float(state["weight"])
