"""A tokenizer in CLIP's format whose every word is one token."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
PIECE = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")
"""How CLIP cuts text before it looks tokens up: runs of letters, single digits, runs of anything else."""


def word_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer with 77 positions in which each of `words` (lower case) is exactly one token.

    A word that CLIP cuts ("close-up", "3d") becomes one token a piece. Words outside the list fall apart into single
    characters and known pieces. Raises ValueError when a word cannot be made one token.
    """
    ordered = sorted({piece for word in words for piece in PIECE.findall(word)})
    characters = sorted(
        {c for w in ordered for c in w} | set("abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-+*<>&/#$%=_")
    )
    pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    pairs.pre_tokenizer = WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000_000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=characters,
        # Last characters get their numbers here, in order. Otherwise they get them in the order of a hash table, which
        # differs from run to run, and decides between pairs that are equally frequent.
        special_tokens=[c + "</w>" for c in characters],
        show_progress=False,
    )
    # Every word often enough, and each character once alone, so that all single characters become tokens too.
    pairs.train_from_iterator([" ".join(ordered)] * 2 + [" ".join(characters)], trainer)
    learned = json.loads(pairs.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    tokens = [*characters, *[c + "</w>" for c in characters]]
    for left, right in merges:
        if left + right not in tokens:
            tokens.append(left + right)
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), START, END])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    broken = [w for w in ordered if len(tokenizer(w, add_special_tokens=False).input_ids) != 1]
    if broken:
        raise ValueError(f"these words are not one token each: {', '.join(broken[:10])}")
    return tokenizer
