"""Where the rows of a learned word come from: free parameters, or a small network that makes all from one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from semblant.ops.attention import attention_map
from semblant.patches.words import Table


class FreeRows(nn.Module):
    """A table [stages, sites, parts, length, dim] of parameters, each of its own."""

    def __init__(self, start: Table) -> None:
        super().__init__()
        self.rows = nn.Parameter(start.detach().clone())

    def forward(self, generator: Generator | None = None) -> Table:
        """The table; nothing in it is random."""
        return self.rows


class Expansion(nn.Module):
    """Spreads one row over a table: two attention layers, then a gated feed-forward layer without a skip path.

    The block of ProSpect (Zhang et al. 2023, arXiv 2305.16225, released code) with a wider output. When its only input
    is one token, every softmax is over one element: query and key weights get no gradient, and the block mixes nothing
    but makes all rows move together. `seen` [tokens, dim] is read in place of the word; the rows come from its first
    token. `residual` adds the word to every row and starts the last layer at zero, so that at first every row is the
    word. `train_input` makes what it reads a parameter too.
    """

    def __init__(
        self,
        word: Float[Tensor, " dim"],
        shape: tuple[int, int, int, int],
        *,
        generator: Generator,
        heads: int = 8,
        head_dim: int = 64,
        dropout: float = 0.1,
        residual: bool = False,
        train_input: bool = False,
        seen: Float[Tensor, "tokens dim"] | None = None,
    ) -> None:
        super().__init__()
        width, rows = len(word), shape[0] * shape[1] * shape[2] * shape[3]
        self.shape, self.dropout, self.residual = shape, dropout, residual
        self.attention = nn.ModuleList(SelfAttention(width, heads, head_dim, generator) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.gate = linear(width, 8 * width, generator)
        self.out = linear(4 * width, rows * width, generator)
        if residual:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)
        self.seen: Tensor
        start = (word[None] if seen is None else seen).detach().clone()
        if train_input:
            self.register_parameter("seen", nn.Parameter(start))
        else:
            self.register_buffer("seen", start)
        # With a trained input the rows start from where it stands, unless that is something else than the word.
        self.word: Tensor | None
        self.register_buffer("word", None if seen is None else word.detach().clone()[None])

    def forward(self, generator: Generator | None = None) -> Table:
        """The table. With a generator, dropout draws from it; without one there is no dropout."""
        x = seen = self.seen
        for layer, norm, context in zip(self.attention, self.norms, (None, seen), strict=False):
            y = norm(x)
            x = x + self._dropped(layer(y, y if context is None else context), generator)
        value, gate = self.gate(self.norms[2](x[:1])).chunk(2, -1)
        rows = self.out(self._dropped(value * F.gelu(gate), generator)).view(*self.shape, -1)
        return rows + (seen if self.word is None else self.word) if self.residual else rows

    def _dropped(self, x: Tensor, generator: Generator | None) -> Tensor:
        if generator is None or self.dropout == 0:
            return x
        kept = torch.rand(x.shape, generator=generator, device=generator.device).to(x.device) >= self.dropout
        return x * kept / (1 - self.dropout)


class SelfAttention(nn.Module):
    """Multi-head attention over a few tokens [tokens, dim]: no bias on queries, keys and values."""

    def __init__(self, width: int, heads: int, head_dim: int, generator: Generator) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (linear(width, heads * head_dim, generator, bias=False) for _ in range(3))
        self.to_out = linear(heads * head_dim, width, generator)

    def forward(
        self, x: Float[Tensor, "tokens dim"], context: Float[Tensor, "others dim"]
    ) -> Float[Tensor, "tokens dim"]:
        """What the tokens of `x` gather from `context`."""
        q, k, v = (
            layer(given).unflatten(-1, (self.heads, -1)).transpose(0, 1)[None]
            for layer, given in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out((attention_map(q, k) @ v)[0].transpose(0, 1).flatten(1))


def linear(inputs: int, outputs: int, generator: Generator, bias: bool = True) -> nn.Linear:
    """A linear layer with torch's usual initial distribution, drawn from `generator`."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    for weight in layer.parameters():
        nn.init.uniform_(weight, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


class KeyLocked(nn.Module):
    """Puts a fixed row before what `values` makes, so that keys read the class word and only values are learned."""

    def __init__(self, key: Float[Tensor, " dim"], values: nn.Module) -> None:
        super().__init__()
        self.values = values
        self.key: Tensor
        self.register_buffer("key", key.detach().clone())

    def forward(self, generator: Generator | None = None) -> Table:
        """The table [stages, sites, 2, length, dim] of keys and values."""
        values = self.values(generator)
        return torch.cat([self.key.expand_as(values), values], 2)
