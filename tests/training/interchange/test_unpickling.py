"""Pickles, hostile and not: what runs in the process that reads them, and what comes back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from semblant.errors import FileProblem
from semblant.training.interchange import pickled, unpickling
from semblant.training.interchange.reading import read


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def test_a_web_uis_pickle_becomes_rows(tmp_path: Path) -> None:
    rows = torch.randn(3, 768, generator=torch.Generator().manual_seed(0))
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(rows).half()},
        "name": "maya",
        "step": 500,
        "sd_checkpoint": None,
    }
    torch.save(content, tmp_path / "maya.pt")
    held = pickled.read(tmp_path / "maya.pt")
    assert list(held.tensors) == [("string_to_param", "*")]
    assert set(held.others) == {("string_to_token", "*"), ("name",), ("step",), ("sd_checkpoint",)}
    assert held.tensors[("string_to_param", "*")].dtype == torch.float16
    assert not held.tensors[("string_to_param", "*")].requires_grad


@pytest.mark.parametrize("form", ["archive", "bare"])
def test_a_hostile_pickle_does_nothing_but_give_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    sprung, file = tmp_path / "sprung", tmp_path / "maya.pt"
    # Whoever set this for other programs has not set it for us.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    name = os.fsencode(sprung)
    if form == "archive":
        torch.save({"string_to_param": {"*": torch.ones(1, 768)}, "name": Trap(sprung)}, file)
    else:
        file.write_bytes(b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c" + bytes([len(name)]) + name + b"\x85R.")
    with pytest.raises(FileProblem, match=r"maya\.pt was not read: the pickle asks for more than tables of") as caught:
        read(file)
    assert "\n" not in str(caught.value)
    assert not sprung.exists() and os.listdir(tmp_path) == ["maya.pt"]


def test_tensors_that_are_none_to_copy_are_refused() -> None:
    endless = torch.zeros(1).expand(2**30, 768)
    with pytest.raises(MemoryError):
        unpickling.by_names({"<maya>": endless})
    deep: dict[str, Any] = {}
    for _ in range(20):
        deep = {"a": deep}
    for strange in (deep, {3: torch.ones(1)}, {"a": torch.eye(3).to_sparse()}):
        with pytest.raises(ValueError):
            unpickling.by_names(strange)
    tensors, others = unpickling.by_names({"a": {"b": torch.ones(2, 3).T}, "c": [torch.ones(1)], "d": None})
    assert list(tensors) == [("a", "b")] and tensors["a", "b"].is_contiguous() and others == [("c",), ("d",)]


def test_large_files_are_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickling, "LARGEST", 100)
    (tmp_path / "model.ckpt").write_bytes(b"PK\x03\x04" + bytes(300))
    began = time.monotonic()
    with pytest.raises(FileProblem, match=r"model\.ckpt was not read: the pickle holds more than"):
        read(tmp_path / "model.ckpt")
    assert time.monotonic() - began < 0.5


def test_a_pickle_has_only_so_much_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "SECONDS", 0.01)
    torch.save({"<maya>": torch.ones(768)}, tmp_path / "maya.bin")
    with pytest.raises(FileProblem, match=r"maya\.bin was not read: as a pickle it took more than 0\.01 seconds"):
        read(tmp_path / "maya.bin")


def test_a_process_that_dies_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = tmp_path / "dying.py"
    dying.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(unpickling, "__file__", str(dying))
    torch.save({"<maya>": torch.ones(768)}, tmp_path / "maya.bin")
    with pytest.raises(FileProblem, match="the process that reads pickles ended with -"):
        read(tmp_path / "maya.bin")


def test_safetensors_are_no_pickles_whatever_they_are_called(tmp_path: Path) -> None:
    save_file({"<maya>": torch.ones(1, 768)}, tmp_path / "maya.pt")
    assert not pickled.is_pickle(tmp_path / "maya.pt") and read(tmp_path / "maya.pt").form == "embedding"
    with pytest.raises(FileProblem, match="there is no file"):
        read(tmp_path / "gone.pt")
