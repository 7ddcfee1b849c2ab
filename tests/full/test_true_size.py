"""The laws of patches and methods on a base of true size: 860 million random weights in the U-Net, 64 px."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.speed.checkpoint import SHAPES, pipeline_of
from semblant.backbones import twin as twin_module
from semblant.backbones.base import Base
from semblant.backbones.loading import miniature
from semblant.backbones.miniature import WORDS
from semblant.backbones.moment import Moment
from semblant.backbones.vocabulary import word_tokenizer

SHAPE = replace(SHAPES["sd15"], resolution=64)


def laws_of(folder: str) -> ModuleType:
    """The laws in another folder of tests, as a module of its own that another base can be put into."""
    path = Path(__file__).parents[1] / folder / "test_laws.py"
    spec = importlib.util.spec_from_file_location(f"full_{folder}_laws", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pipeline() -> StableDiffusionPipeline:
    made = pipeline_of(SHAPE, seed=0)
    # The laws' words are one token each here too.
    made.tokenizer = word_tokenizer(WORDS)
    return made


@cache
def true_base() -> Base:
    """The one that the laws are tried on."""
    return Base.wrap(pipeline())


@pytest.fixture(scope="session")
def base() -> Base:
    return true_base()


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Any:
    return request.param


patches, methods = laws_of("patches"), laws_of("methods")
methods.base = true_base
methods.miniature = lambda **given: miniature(**given) if given else Base.wrap(pipeline())
each_method = pytest.mark.parametrize("row", methods.ROWS, ids=lambda row: row.name, indirect=True)


def law(check: Callable[..., None]) -> Any:
    return staticmethod(check)


class TestPatches:
    test_taken_off_it_leaves_no_trace = law(patches.test_taken_off_it_leaves_no_trace)
    test_neutral_strength_is_the_base = law(patches.test_neutral_strength_is_the_base)
    test_it_comes_off_after_an_error_too = law(patches.test_it_comes_off_after_an_error_too)
    test_it_composes_with_low_rank = law(patches.test_it_composes_with_low_rank)
    test_nested_views_keep_both = law(patches.test_nested_views_keep_both)
    test_weights_of_the_autoencoder_can_be_patched = law(patches.test_weights_of_the_autoencoder_can_be_patched)


@each_method
class TestMethods:
    test_fits_with_a_finite_loss = law(methods.test_fits_with_a_finite_loss)
    test_what_it_declares_does_change = law(methods.test_what_it_declares_does_change)
    test_has_an_effect = law(methods.test_has_an_effect)
    test_neutral_strength_is_the_base = law(methods.test_neutral_strength_is_the_base)
    test_strength_is_gradual = law(methods.test_strength_is_gradual)
    test_taken_off_it_leaves_no_trace = law(methods.test_taken_off_it_leaves_no_trace)
    test_saved_and_loaded_it_makes_the_same_image = law(methods.test_saved_and_loaded_it_makes_the_same_image)
    test_a_wrong_base_is_refused_in_one_sentence = law(methods.test_a_wrong_base_is_refused_in_one_sentence)
    test_composes_with_low_rank_weights = law(methods.test_composes_with_low_rank_weights)


@each_method
def test_the_base_is_what_it_was(row: Any) -> None:
    methods.fitted(row.name)
    assert true_base().hashes() == methods.before()
    assert not true_base().patches


def test_the_unet_is_as_large_as_that_of_stable_diffusion() -> None:
    count = sum(weight.numel() for weight in true_base().unet.parameters())
    assert count == 859_520_964


def test_it_is_read_into_memory_once(tmp_path: Path) -> None:
    """From a folder: the same weights, and never much more in memory than they are."""
    pipeline().save_pretrained(tmp_path, safe_serialization=True)
    program = (
        "import re, sys, torch\n"
        "from semblant.backbones.loading import load\n"
        "read = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        "before, base = read(), load(sys.argv[1])\n"
        "size = sum(weight.nbytes for _, weight in base.named_parameters())\n"
        "print((read() - before) / size, *base.hashes().values())\n"
    )
    if sys.platform != "linux":
        pytest.skip("the kernel's high-water mark is read, as Linux tells it")
    told = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    share, *hashes = told.stdout.split()
    assert hashes == list(true_base().hashes().values())
    assert float(share) < 1.3, f"{share} times the weights were held"


def test_bfloat16_answers_as_autocast_does(monkeypatch: pytest.MonkeyPatch) -> None:
    x, at = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), Moment.of(torch.tensor([500]))

    def answer() -> torch.Tensor:
        view = true_base().computing(torch.bfloat16)
        with torch.no_grad():
            return view.denoise(x, at, view.text("a photo of a person"))

    ours = answer()
    monkeypatch.setattr(twin_module, "narrowed", lambda network, _dtype: network)
    assert torch.equal(ours, answer())
