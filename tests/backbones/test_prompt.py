"""From a prompt's text to tokens: weights, placeholders, positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semblant.backbones.loading import miniature
from semblant.backbones.patch import WordsPatch
from semblant.backbones.prompt import read_weights, tokenise
from semblant.backbones.vocabulary import word_tokenizer
from semblant.errors import SemblantError

TOKENIZER = miniature().tokenizer
FILLER = 99


class Word(WordsPatch):
    """A placeholder of some length."""

    def __init__(self, word: str | None, length: int = 1) -> None:
        self.word, self.length = word, length


def whole(text: str) -> list[int]:
    return TOKENIZER(text, padding="max_length", truncation=True, max_length=77).input_ids


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("a dog", [("a dog", 1.0)]),
        ("a (dog:1.2)", [("a ", 1.0), ("dog", 1.2)]),
        ("(a:1.2)(b:.5)", [("a", 1.2), ("b", 0.5)]),
        ("(a:1.2)(b:1.2) c", [("ab", 1.2), (" c", 1.0)]),
        ("(a dog: 2 )", [("a dog", 2.0)]),
        ("(a:0)", [("a", 0.0)]),
        ("(a:b:1.5)", [("a:b", 1.5)]),
        ("(a:1)", [("a", 1.0)]),
        (r"\(a:1.2\)", [("(a:1.2)", 1.0)]),
        (r"(smile \(big\):1.3)", [("smile (big)", 1.3)]),
        ("(a dog)", [("(a dog)", 1.0)]),
        ("(a:)", [("(a:)", 1.0)]),
        ("(:1.2)", [("(:1.2)", 1.0)]),
        ("(a:x)", [("(a:x)", 1.0)]),
        ("(a:-1)", [("(a:-1)", 1.0)]),
        ("(a:1.2.3)", [("(a:1.2.3)", 1.0)]),
        ("((a:1.2))", [("(", 1.0), ("a", 1.2), (")", 1.0)]),
        ("((a:1.2) b:1.3)", [("(", 1.0), ("a", 1.2), (" b:1.3)", 1.0)]),
        ("(a:1.2", [("(a:1.2", 1.0)]),
        ("a:1.2)", [("a:1.2)", 1.0)]),
        ("a\\b", [("a\\b", 1.0)]),
        (")(", [(")(", 1.0)]),
        ("(<maya>:0.7) smiling", [("<maya>", 0.7), (" smiling", 1.0)]),
    ],
)
def test_prompt_weights(text, pieces):
    assert read_weights(text) == pieces


@given(st.text("ab():.12\\ ", max_size=30))
@settings(max_examples=200)
def test_weights_never_lose_text(text):
    read = "".join(piece for piece, _ in read_weights(text))
    assert [c for c in read if c in "ab"] == [c for c in text if c in "ab"]
    if not any(weight != 1 for _, weight in read_weights(text)) and "\\" not in text and ":" not in text:
        assert read == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of a dog",
        "A Photo,of  a DOG.",
        "dog's cup, it's (smiling), \"old\"",
        "wow!-- 50%., a*, b-c; d_e 3d",
        "café 猫 …",
        "a " * 100,
        "<|endoftext|> a",
    ],
)
def test_tokens_are_those_of_the_whole_text(text):
    assert list(tokenise(TOKENIZER, text).ids) == whole(text)


@given(st.text("ab dog's,.!-*50%&é", max_size=40))
@settings(max_examples=150)
def test_tokens_of_any_text_are_those_of_the_whole_text(text):
    assert list(tokenise(TOKENIZER, text).ids) == whole(text)


@given(st.lists(st.sampled_from("a photo of the old dog".split()), max_size=12), st.integers(0, 12), st.integers(1, 4))
@settings(max_examples=100)
def test_a_placeholder_stands_at_any_slot_and_shifts_the_rest(words, slot, length):
    slot = min(slot, len(words))
    prompt = " ".join([*words[:slot], "<v>", *words[slot:]])
    encoded = tokenise(TOKENIZER, prompt, [Word("<v>", length)], FILLER)
    plain = whole(" ".join(words))[1 : len(words) + 1]
    assert list(encoded.ids[1 : len(words) + length + 1]) == plain[:slot] + [FILLER] * length + plain[slot:]
    assert encoded.positions["<v>"] == tuple(range(slot + 1, slot + 1 + length))
    assert len(encoded.ids) == 77 and encoded.end == len(words) + length + 1
    assert encoded.ids[encoded.end] == TOKENIZER.eos_token_id
    if "dog" in words:
        expected = [i + 1 + (length if i >= slot else 0) for i, word in enumerate(words) if word == "dog"]
        assert list(encoded.positions["dog"]) == expected


def test_positions_of_words_of_several_tokens():
    encoded = tokenise(TOKENIZER, "a Zebra, the zebra")
    spelled = len(TOKENIZER("zebra", add_special_tokens=False).input_ids)
    assert spelled > 1
    first = tuple(range(2, 2 + spelled))
    assert encoded.positions["zebra"] == first + tuple(p + spelled + 2 for p in first)
    assert encoded.positions[","] == (2 + spelled,)


def test_a_placeholder_touches_punctuation_but_no_letters():
    for prompt in ("(<v>)", "<v>'s", "a<v>,", "the <v>:<v>"):
        assert "<v>" in tokenise(TOKENIZER, prompt, [Word("<v>")], FILLER).positions
    encoded = tokenise(TOKENIZER, "desks of sks, skss SKS", [Word("sks")], FILLER)
    assert encoded.ids.count(FILLER) == 1
    untouched = tokenise(TOKENIZER, "desks", [Word("sks")], FILLER)
    assert untouched.words == () and list(untouched.ids) == whole("desks")


def test_of_two_placeholders_the_longer_is_found():
    short, long = Word("<v>"), Word("<v>2", 2)
    encoded = tokenise(TOKENIZER, "<v>2 <v>", [short, long], FILLER)
    assert encoded.positions["<v>2"] == (1, 2) and encoded.positions["<v>"] == (3,)


def test_only_words_in_the_prompt_touch_it():
    here, absent, always = Word("<v>"), Word("<w>"), Word(None)
    assert tokenise(TOKENIZER, "a <v>", [here, absent, always], FILLER).words == (here, always)


def test_a_placeholder_that_is_cut_off_is_refused():
    tokenise(TOKENIZER, "a " * 74 + "<v>", [Word("<v>")], FILLER)
    for prompt, length in (("a " * 75 + "<v>", 1), ("a " * 74 + "<v>", 2)):
        with pytest.raises(SemblantError, match=r"<v> stands at token 76, but this base reads only 75"):
            tokenise(TOKENIZER, prompt, [Word("<v>", length)], FILLER)


def test_a_long_prompt_is_cut_and_words_beyond_have_no_position():
    encoded = tokenise(TOKENIZER, "dog " + "a " * 80 + "cup", [])
    assert encoded.end == 76 and "cup" not in encoded.positions and encoded.positions["dog"] == (1,)
    assert max(encoded.positions["a"]) == 75


def test_weights_stand_at_their_tokens():
    encoded = tokenise(TOKENIZER, "a (<v>:0.5) of (old dog:2)", [Word("<v>", 2)], FILLER)
    assert encoded.weights[:8] == (1, 1, 0.5, 0.5, 1, 2, 2, 1) and len(encoded.weights) == 77
    assert tokenise(TOKENIZER, "a (dog:1)").weights is None


@torch.no_grad()
def test_a_weight_moves_the_encoding_from_the_empty_prompts():
    base = miniature()
    plain, empty, weighted, none = (
        base.encodings(base.text(p))[0] for p in ("a old dog", "", "a (old:1.5) dog", "a (old:0) dog")
    )
    expected = plain.clone()
    expected[2] = empty[2] + 1.5 * (plain[2] - empty[2])
    assert torch.allclose(weighted, expected, atol=1e-6)
    assert torch.allclose(none[2], empty[2], atol=1e-6)


def test_every_word_of_a_vocabulary_is_one_token():
    words = ["the", "then", "there", "teapot", "maya", "i", "basketball", "ball", "basket"]
    tokenizer = word_tokenizer(words)
    ids = tokenizer(" ".join(words), add_special_tokens=False).input_ids
    assert len(set(ids)) == len(ids) == len(words)
    assert tokenizer("THE Then", add_special_tokens=False).input_ids == ids[:2]
    assert tokenizer.convert_ids_to_tokens(ids) == [word + "</w>" for word in words]
    assert tokenizer.model_max_length == 77
    assert word_tokenizer(words[::-1]).get_vocab() == tokenizer.get_vocab()


def test_unknown_words_fall_apart_but_are_not_lost():
    tokenizer = word_tokenizer(["dog"])
    for word in ("zebra", "dogs", "42", "x-ray!"):
        ids = tokenizer(word, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == word


def test_a_vocabulary_has_the_same_numbers_whenever_it_is_made():
    from semblant.world.captions import words

    # Each call has hash tables of its own, as each run of a program does.
    first, *others = [word_tokenizer(words()).get_vocab() for _ in range(4)]
    assert all(other == first for other in others)
