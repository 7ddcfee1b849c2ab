"""Text encoders: what each reads of a prompt, and what the U-Net reads of it.

Stable Diffusion 1 and 2 have one. Stable Diffusion XL has two (Podell et al. 2023, arXiv 2307.01952, Sec. 2.1): of both
it reads the state before the last layer, without a norm, side by side; of the second also its projection of a prompt as
a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from semblant.backbones.context import Encoded, Encoding, Variant
from semblant.backbones.twin import Hook
from semblant.errors import SemblantError

TextPart = Literal["text", "text_2"]
"""How canonical names of a text encoder's weights begin."""
Request = tuple[Encoded, Variant]
SIZES = 6
"""Numbers that say how a picture came to its size."""


@dataclass(frozen=True, eq=False)
class Reader:
    """One text encoder and how it is read."""

    part: TextPart
    encoder: Any
    pad: int | None = None
    """The token that fills a prompt after its end; None keeps the tokenizer's own."""
    penultimate: bool = False
    """Whether the state before the last layer is read, instead of the last one after its norm."""
    pools: bool = False
    """Whether the projection that sums a prompt up is read too."""

    @property
    def table(self) -> Any:
        """The module that turns token ids into rows."""
        return self.encoder.get_input_embeddings()

    @property
    def width(self) -> int:
        """Numbers of a row, and of what is read at a token."""
        return int(self.table.weight.shape[-1])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of its weights."""
        return tuple(name for name, _ in self.encoder.named_parameters())

    @cached_property
    def table_name(self) -> str:
        """Name of the table inside the encoder."""
        return next(name for name, module in self.encoder.named_modules() if module is self.table)

    @cached_property
    def last_layers(self) -> tuple[str, str]:
        """Names of the last layer but one and of the last. Raises SemblantError when there is only one layer."""
        count = int(self.encoder.config.num_hidden_layers)
        if count < 2:
            raise SemblantError(f"the text encoder {self.part} has {count} layer, and the last but one is read of it")
        names = [name for name, _ in self.encoder.named_modules()]
        before, last = (next(n for n in names if n.endswith(f"encoder.layers.{count - i}")) for i in (2, 1))
        return before, last

    def reads(self, name: str) -> bool:
        """Whether the weight of this name inside the encoder has a part in what is read."""
        after = (f"{self.last_layers[1]}.", "final_layer_norm.") if self.penultimate and not self.pools else ()
        return not any(part in f".{name}" for part in after)

    def ids(self, prompt: Encoded) -> tuple[int, ...]:
        """The prompt's token ids, filled up with this encoder's own token."""
        if self.pad is None:
            return prompt.ids
        end = prompt.end + 1
        return (*prompt.ids[:end], *[self.pad] * (len(prompt.ids) - end))

    def read(self, call: Callable[..., Any], ids: Tensor, rows: Tensor | None) -> Encoding:
        """What is read of tokens. `call(part, hooks, **inputs)` runs the encoder; `rows` replace those of its table."""
        hooks: dict[str, list[Hook]] = {} if rows is None else {self.table_name: [lambda _m, _i, _rows: rows]}
        seen: list[Tensor] = []
        if self.penultimate:
            hooks[self.last_layers[0]] = [lambda _m, _i, out: seen.append(out if isinstance(out, Tensor) else out[0])]
        output = call(self.part, hooks, input_ids=ids)
        return Encoding(seen[-1] if seen else output.last_hidden_state, output.text_embeds if self.pools else None)


def read_all(
    readers: Sequence[Reader], requests: Sequence[Request], call: Callable[..., Any], changed: Callable[..., Tensor]
) -> Encoding:
    """What all encoders make of (prompt, variant) requests, one row for each, before words touch it afterwards.

    Words see the rows of all encoders side by side. `changed(part, name, weight)` answers the weight that holds now.
    """
    device = readers[0].table.weight.device
    ids = [torch.tensor([reader.ids(prompt) for prompt, _ in requests], device=device) for reader in readers]
    rows: Sequence[Tensor | None] = [None] * len(readers)
    if any("embed" in word.hooks() for prompt, _ in requests for word in prompt.words):
        tables = [changed(reader.part, f"{reader.table_name}.weight", reader.table.weight) for reader in readers]
        together = torch.cat([F.embedding(own, table) for own, table in zip(ids, tables, strict=True)], -1)
        together = torch.stack([_embedded(r, *request) for r, request in zip(together, requests, strict=True)])
        rows = together.split([reader.width for reader in readers], -1)
    made = [reader.read(call, own, given) for reader, own, given in zip(readers, ids, rows, strict=True)]
    pooled = [encoding.pooled for encoding in made if encoding.pooled is not None]
    return Encoding(torch.cat([encoding.features for encoding in made], -1), pooled[0] if pooled else None)


def rows_of(readers: Sequence[Reader], ids: Sequence[int]) -> Float[Tensor, "tokens dim"]:
    """What the tables of all encoders hold for tokens, side by side."""
    tables = [reader.table.weight for reader in readers]
    return torch.cat([table[torch.tensor(ids, device=table.device)] for table in tables], -1).detach()


def _embedded(rows: Float[Tensor, "tokens dim"], prompt: Encoded, variant: tuple[Hashable, ...]) -> Tensor:
    for word, of_word in zip(prompt.words, variant, strict=True):
        rows = word.embed(rows, prompt, of_word)
    return rows


def readers_of(
    unet: Any, text_encoder: Any, tokenizer: Any, text_encoder_2: Any = None, tokenizer_2: Any = None
) -> tuple[Reader, ...]:
    """The text encoders that a U-Net reads. Raises SemblantError for networks that do not go together."""
    config = unet.config
    if getattr(config, "addition_embed_type", None) != "text_time":
        if text_encoder_2 is not None:
            raise SemblantError("there are two text encoders, and a U-Net that reads one; leave the second out")
        return (Reader("text", text_encoder),)
    if text_encoder_2 is None or tokenizer_2 is None or not hasattr(text_encoder_2, "text_projection"):
        raise SemblantError(
            "the U-Net is one of Stable Diffusion XL, which reads two text encoders, the second with a projection "
            "(CLIPTextModelWithProjection), and these are not given; the refiner of XL, which has one, is not supported"
        )
    if tokenizer.get_vocab() != tokenizer_2.get_vocab() or tokenizer.model_max_length != tokenizer_2.model_max_length:
        raise SemblantError(
            "the two tokenizers cut prompts into other tokens, so a word would stand at two places; give tokenizers of "
            "one vocabulary, and teach new tokens to both"
        )
    readers = (
        Reader("text", text_encoder, penultimate=True),
        Reader("text_2", text_encoder_2, tokenizer_2.pad_token_id, penultimate=True, pools=True),
    )
    for reader in readers:
        assert reader.last_layers
    widths, pooled = [reader.width for reader in readers], int(text_encoder_2.config.projection_dim)
    told = pooled + SIZES * int(config.addition_time_embed_dim)
    if sum(widths) != config.cross_attention_dim or told != config.projection_class_embeddings_input_dim:
        raise SemblantError(
            f"text encoders {widths[0]} and {widths[1]} wide that sum a prompt up in {pooled} numbers do not go with a "
            f"U-Net that reads {config.cross_attention_dim} and, with {SIZES} numbers of a picture's size, "
            f"{config.projection_class_embeddings_input_dim}; give the parts of one Stable Diffusion XL base"
        )
    return readers
