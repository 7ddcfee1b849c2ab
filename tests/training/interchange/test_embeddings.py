"""Files of one word: what is an embedding, as tensors and as a pickle's entries, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from semblant.errors import FileProblem
from semblant.training.interchange import embedding_file
from semblant.training.interchange.embedding_file import read_pickled
from semblant.training.interchange.pickled import Pickled
from semblant.training.interchange.reading import read

WRONG_EMBEDDINGS: dict[str, tuple[dict[str, Tensor], str]] = {
    "half of XL": ({"clip_g": torch.ones(1, 1280)}, "half an embedding .* lacks clip_l"),
    "XL and more": (
        {"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280), "t5": torch.ones(1, 9)},
        "t5 is unkn",
    ),
    "unlike rows": ({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(2, 1280)}, "1 rows in clip_l and 2 in clip_g"),
    "two words": ({"<a>": torch.ones(1, 768), "<b>": torch.ones(1, 768)}, "2 tensors, <a>, <b>"),
    "too many sides": ({"<a>": torch.ones(1, 1, 768)}, r"\[1, 1, 768\]"),
    "empty": ({"<a>": torch.ones(0, 768)}, r"\[0, 768\]"),
    "whole numbers": ({"<a>": torch.ones(1, 768).long()}, "<a> in int64"),
    "infinity": ({"<a>": torch.full((1, 768), float("inf"))}, "<a> holds NaN or infinity"),
}


@pytest.mark.parametrize("case", WRONG_EMBEDDINGS)
def test_other_tensors_are_no_embedding(case: str) -> None:
    tensors, says = WRONG_EMBEDDINGS[case]
    with pytest.raises(FileProblem, match=says):
        embedding_file.read(tensors, "x.safetensors")


ROWS = torch.arange(8.0).view(2, 4)
WEBUI = {("string_to_param", "*"): ROWS}
BESIDE = (("string_to_token", "*"), ("name",), ("step",), ("sd_checkpoint",), ("sd_checkpoint_name",))


def test_three_forms_of_pickles_are_embeddings() -> None:
    found, said = read_pickled(Pickled(WEBUI, BESIDE), "x.pt")
    assert torch.equal(found.rows, ROWS) and found.word is None
    assert said == [
        "name, sd_checkpoint, sd_checkpoint_name, step, string_to_token of x.pt say how it was made and are left there"
    ]
    found, said = read_pickled(Pickled({("<cat>",): ROWS[0].half()}, ()), "learned_embeds.bin")
    assert torch.equal(found.rows, ROWS[:1]) and found.word == "<cat>" and not said
    both = Pickled({("clip_l",): ROWS.half(), ("clip_g",): ROWS + 1}, ())
    found, said = read_pickled(both, "x.pt")
    assert torch.equal(found.rows, torch.cat([ROWS, ROWS + 1], 1)) and found.widths == (4, 4) and not said


WRONG_PICKLES: dict[str, tuple[Pickled, str]] = {
    "unknown tensor": (Pickled({**WEBUI, ("extra",): ROWS}, BESIDE), "nothing may be dropped: extra is unknown"),
    "unknown entry": (Pickled(WEBUI, (*BESIDE, ("hash",))), "hash is unknown"),
    "two embeddings": (Pickled({**WEBUI, ("string_to_param", "b"): ROWS}, ()), r"string_to_param\.b is unknown"),
    "no rows": (Pickled({("string_to_param", "b"): ROWS}, ()), r"string_to_param\.b is unknown"),
    "no tensor": (Pickled({}, (("string_to_param", "*"), ("name",))), r"lacks string_to_param\.\*"),
    "two words": (Pickled({("a",): ROWS, ("b",): ROWS}, ()), "a pickle of a, b;"),
    "word and more": (Pickled({("a",): ROWS}, (("step",),)), "a pickle of a, step;"),
    "nothing": (Pickled({}, ()), "a pickle of nothing"),
    "lone tensor": (Pickled({(): ROWS}, ()), "a pickle of one tensor"),
    "half of XL": (Pickled({("clip_l",): ROWS}, ()), "lacks clip_g"),
    "Custom Diffusion": (
        Pickled({("unet", "x.to_k.weight"): ROWS, ("modifier_token", "<a>"): ROWS}, ()),
        "not supported yet",
    ),
    "Custom Diffusion of diffusers": (Pickled({("a.to_k_custom_diffusion.weight",): ROWS}, ()), "Custom Diffusion"),
}


@pytest.mark.parametrize("case", WRONG_PICKLES)
def test_other_pickles_are_refused_by_their_entries(case: str) -> None:
    pickled, says = WRONG_PICKLES[case]
    with pytest.raises(FileProblem, match=says) as caught:
        read_pickled(pickled, "x.pt")
    assert "x.pt" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"word": 3}', '{"spell": "x"}', '{"base": {}}', '{"base": {"architecture": "sd-1", "width": "768"}}'],
)
def test_our_own_account_in_a_file_is_not_trusted(tmp_path: Path, text: str) -> None:
    save_file({"<a>": torch.ones(1, 768)}, tmp_path / "x.safetensors", {"semblant": text})
    with pytest.raises(FileProblem, match="damaged"):
        read(tmp_path / "x.safetensors")
