"""Prompts as text: prompt weights, placeholders, and the token positions of every word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from semblant.backbones.context import Encoded
from semblant.backbones.patch import WordsPatch
from semblant.errors import SemblantError

_WEIGHTED = re.compile(r"\\[()]|\(((?:\\[()]|[^()\\])+):\s*([0-9]*\.?[0-9]+)\s*\)|[^\\(]+|[\\(]")

_CHUNK = re.compile(r"[^\s,.;:!?\"()]+|[,.;:!?\"()]+")


def read_weights(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into pieces with their weights: `(word:1.2)` weighs, `\(` and `\)` are plain brackets.

    Brackets without a number are plain text. Nothing is renormalised and brackets do not nest. Raises SemblantError for
    a weight beyond all numbers.
    """
    pieces: list[tuple[str, float]] = []
    for found in _WEIGHTED.finditer(text):
        inner, weight = found.group(1), found.group(2)
        piece, strength = (inner, float(weight)) if inner is not None else (found.group(0), 1.0)
        if strength == float("inf"):
            raise SemblantError(f"a prompt weight is a number such as 1.2; the one of {inner!r} is too large for one")
        piece = piece.replace(r"\(", "(").replace(r"\)", ")")
        if pieces and pieces[-1][1] == strength:
            piece = pieces.pop()[0] + piece
        pieces.append((piece, strength))
    return pieces


def placeholder(words: Sequence[str]) -> re.Pattern[str]:
    """Finds placeholders, the longest first, but none inside another word: "sks" is not in "desks"."""
    bounded = [
        (r"(?<!\w)" if word[0].isalnum() else "") + re.escape(word) + (r"(?!\w)" if word[-1].isalnum() else "")
        for word in sorted(words, key=len, reverse=True)
    ]
    return re.compile("(" + "|".join(bounded) + ")")


def _plain(tokenizer: Any, text: str) -> list[tuple[str, int]]:
    """Tokens of text without placeholders, each with the word, in lower case, that it begins in.

    The text is tokenised as a whole: taken apart, runs of punctuation would become other tokens.
    """
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    named = []
    chunks = list(_CHUNK.finditer(text))
    for token, (begin, _) in zip(read.input_ids, read.offset_mapping, strict=True):
        holding = [chunk.group().lower() for chunk in chunks if chunk.start() <= begin < chunk.end()]
        named.append((holding[0] if holding else "", token))
    return named


def tokenise(tokenizer: Any, text: str, words: Sequence[WordsPatch] = (), filler: int | None = None) -> Encoded:
    """Turn a prompt into token ids, finding where every word and placeholder stands.

    `filler` is the token id put where a learned word's rows will go. A prompt longer than the encoder reads is cut, but
    a placeholder that would be cut off is refused, as is what is no text: bytes that stand for no letters.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SemblantError(f"the prompt {text!a} holds bytes that are no text; write it in letters (UTF-8)")
    for patch in words:
        if patch.word is None or placeholder([patch.word]).search(text):
            text = patch.prompt(text)
    lengths = {patch.word: patch.length for patch in words if patch.word}
    limit = tokenizer.model_max_length
    ids: list[int] = [tokenizer.bos_token_id]
    weights: list[float] = [1.0]
    positions: dict[str, tuple[int, ...]] = {}
    splitter = placeholder(list(lengths))
    for piece, weight in read_weights(text):
        for part in splitter.split(piece) if lengths else [piece]:
            if part in lengths:
                stand_in = tokenizer.unk_token_id if filler is None else filler
                named = [(part, stand_in)] * lengths[part]
                last = len(ids) + len(named) - 1
                if last > limit - 2:
                    raise SemblantError(
                        f"the word {part} stands at token {last}, but this base reads only {limit - 2} tokens. "
                        "Put it nearer to the beginning of the prompt, or make the prompt shorter."
                    )
            else:
                named = _plain(tokenizer, part)
            for name, token in named:
                positions[name] = (*positions.get(name, ()), len(ids))
                ids.append(token)
                weights.append(weight)
    end = min(len(ids), limit - 1)
    padding = limit - end - 1
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = [*ids[:end], tokenizer.eos_token_id, *[pad] * padding]
    weights = [*weights[:end], *[1.0] * (limit - end)]
    kept = {name: tuple(p for p in places if p < end) for name, places in positions.items()}
    return Encoded(
        text,
        tuple(ids),
        {name: places for name, places in kept.items() if places},
        end,
        words=tuple(patch for patch in words if patch.word is None or patch.word in kept),
        weights=tuple(weights) if any(w != 1 for w in weights) else None,
    )
