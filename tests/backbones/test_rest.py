"""Networks at rest: out of memory while nobody needs them, and back as they were."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from semblant.backbones import rest
from semblant.backbones.base import Base
from semblant.backbones.loading import load, miniature
from semblant.backbones.rest import give_back, resting, using
from semblant.errors import FileProblem


@pytest.fixture(autouse=True)
def worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks rest too."""
    monkeypatch.setattr(rest, "WORTHWHILE", 1)


@pytest.fixture
def folder(base: Base, layouts: Any, tmp_path: Path) -> Path:
    return layouts.write_folder(base, tmp_path / "base")


@pytest.fixture
def loaded(folder: Path) -> Base:
    return load(folder)


def held(base: Base) -> int:
    """Numbers of its autoencoder that are in memory."""
    return sum(weight.numel() for weight in base.autoencoder.parameters())


@torch.no_grad()
def test_weights_leave_memory_and_come_back_as_they_were(loaded: Base, x: torch.Tensor) -> None:
    before, seen, layout = held(loaded), loaded.decode(x), loaded.autoencoder.decoder.conv_in.weight.stride()
    hashes = loaded.hashes()
    with resting(loaded.autoencoder):
        assert held(loaded) == 0
        assert loaded.hashes() == hashes and held(loaded) == 0, "what it was is known without looking"
    assert held(loaded) == before and loaded.hashes() == hashes
    assert loaded.autoencoder.decoder.conv_in.weight.stride() == layout
    assert torch.equal(loaded.decode(x), seen)
    with resting(loaded.autoencoder):
        assert held(loaded) == 0, "it can rest again"


@torch.no_grad()
@pytest.mark.parametrize("way", ["base", "view", "half", "network"])
def test_whoever_calls_it_wakes_it(loaded: Base, x: torch.Tensor, way: str) -> None:
    ways = {
        "base": lambda: loaded.decode(x),
        "view": lambda: loaded.patched().encode(torch.zeros(1, 3, 16, 16)),
        "half": lambda: loaded.computing(torch.bfloat16).decode(x),
        "network": lambda: loaded.autoencoder.decode(x).sample,
    }
    before, wanted = held(loaded), ways[way]()
    with resting(loaded.autoencoder):
        assert torch.equal(ways[way](), wanted)
        assert held(loaded) == before, "and it stays awake"
        assert torch.equal(ways[way](), wanted)


def test_a_single_file_rests_too(layouts: Any, sd1: Base, tmp_path: Path) -> None:
    file = layouts.write_original(sd1, tmp_path / "base.safetensors")
    companion = layouts.write_companion(sd1, tmp_path / "companion")
    base = load(file, config=companion)
    before, hashes = held(base), base.hashes()
    with resting(base.autoencoder):
        assert held(base) == 0
    assert held(base) == before and base.hashes() == hashes


def test_weights_that_no_file_holds_do_not_rest(loaded: Base) -> None:
    with torch.no_grad():
        loaded.autoencoder.decoder.conv_in.bias.add_(1)
    changed = loaded.autoencoder.decoder.conv_in.bias.clone()
    for base in (loaded, miniature()):
        before = held(base)
        with resting(base.autoencoder):
            assert held(base) == before
    assert torch.equal(loaded.autoencoder.decoder.conv_in.bias, changed)


def test_changes_that_torch_does_not_count_are_not_lost(loaded: Base) -> None:
    loaded.hashes()
    weight = loaded.autoencoder.decoder.conv_in.bias
    weight.data.add_(1)
    changed = weight.detach().clone()
    with resting(loaded.autoencoder):
        assert held(loaded)
    assert torch.equal(weight, changed)


def test_one_whose_files_are_gone_stays(loaded: Base, folder: Path, x: torch.Tensor) -> None:
    shutil.rmtree(folder)
    with resting(loaded.autoencoder):
        assert held(loaded)
    assert torch.isfinite(loaded.decode(x)).all()


def test_interrupted_while_it_is_laid_down_it_comes_back(loaded: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    before, hashes, calls = held(loaded), loaded.hashes(), []
    empty = torch.empty

    def interrupted(*given: Any, **named: Any) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 3 and given == (0,):
            raise KeyboardInterrupt
        return empty(*given, **named)

    monkeypatch.setattr(torch, "empty", interrupted)
    with pytest.raises(KeyboardInterrupt), resting(loaded.autoencoder):
        pytest.fail("it never began")
    monkeypatch.undo()
    assert held(loaded) == before and loaded.hashes() == hashes


def test_woken_without_gradients_it_has_them_afterwards(loaded: Base, x: torch.Tensor) -> None:
    with resting(loaded.autoencoder), torch.inference_mode():
        loaded.decode(x)
    x = x.clone().requires_grad_()
    assert torch.autograd.grad(loaded.decode(x).sum(), x)[0].abs().sum() > 0


def test_hashes_asked_for_meanwhile_are_right(loaded: Base) -> None:
    right, found, over = loaded.hashes(), [], threading.Event()

    def ask() -> None:
        while not over.is_set():
            found.append(loaded.hashes())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        with resting(loaded.autoencoder):
            pass
    over.set()
    for thread in threads:
        thread.join()
    assert found and all(hashes == right for hashes in found)


def test_small_networks_do_not_rest(loaded: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "WORTHWHILE", 2**26)
    with resting(loaded.autoencoder):
        assert held(loaded)


def test_one_in_use_does_not_rest(loaded: Base) -> None:
    with using(loaded.autoencoder), resting(loaded.autoencoder):
        assert held(loaded)
    with resting(loaded.autoencoder):
        assert not held(loaded)


def test_two_who_let_it_rest_at_once(loaded: Base, x: torch.Tensor) -> None:
    before = held(loaded)
    with resting(loaded.autoencoder):
        with resting(loaded.autoencoder):
            assert not held(loaded)
        assert not held(loaded), "the first to let it rest wakes it"
    assert held(loaded) == before


def test_threads_that_call_it_meanwhile_get_what_they_would(loaded: Base, x: torch.Tensor) -> None:
    with torch.no_grad():
        wanted = loaded.decode(x)
    found: list[bool] = []

    @torch.no_grad()
    def look() -> None:
        for _ in range(20):
            found.append(torch.equal(loaded.decode(x), wanted))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        with resting(loaded.autoencoder):
            pass
    for thread in threads:
        thread.join()
    assert found == [True] * 60


def test_files_that_changed_are_not_taken_for_those_of_before(
    loaded: Base, folder: Path, x: torch.Tensor, caplog
) -> None:
    [file] = (folder / "vae").glob("*.safetensors")
    tensors = load_file(file)
    with resting(loaded.autoencoder):
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, file)
        with pytest.raises(FileProblem, match="other weights than when it was loaded"):
            loaded.decode(x)
        assert not held(loaded)
        file.unlink()
        with pytest.raises(FileProblem, match="cannot be read again"):
            loaded.decode(x)
    assert "cannot be read again" in caplog.text, "what was learned meanwhile is not lost"
    save_file(tensors, file)
    with torch.no_grad():
        assert torch.isfinite(loaded.decode(x)).all(), "and once they are there again it wakes"


@pytest.mark.parametrize("lacking", [OSError, TypeError, AttributeError])
def test_where_memory_cannot_be_given_back_nothing_happens(lacking: type, monkeypatch: pytest.MonkeyPatch) -> None:
    give_back()

    def library(name: None) -> None:
        raise lacking

    monkeypatch.setattr(rest.ctypes, "CDLL", library)
    give_back()
