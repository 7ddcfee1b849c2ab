"""Bases by name: a cache in the hub's own layout, and what would be downloaded into it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from semblant.backbones import hub
from semblant.backbones.loading import load
from semblant.errors import FileProblem

COMMIT, OLD = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"


def as_snapshot(folder: Path, root: Path, commit: str, reference: str) -> Path:
    """Put a folder into a cache: files as blobs, links to them in the snapshot, and a name for the commit."""
    repository = root / "models--owner--tiny"
    for place in ("blobs", "refs"):
        (repository / place).mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{commit[:8]}{number}"
        shutil.copy(file, blob)
        link = repository / "snapshots" / commit / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs" / reference).write_text(commit)
    return root


@pytest.fixture
def folder(base, layouts, tmp_path):
    return layouts.write_folder(base, tmp_path / "written")


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
    root = as_snapshot(folder, tmp_path / "hub", COMMIT, "main")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    return root


def test_a_cached_base_is_loaded_by_its_name(base, cache):
    # The tests run under HF_HUB_OFFLINE, which the hub's client heeds by itself.
    for loaded in (load("owner/tiny"), load("owner/tiny", offline=True)):
        assert loaded.hashes() == base.hashes() and loaded.name == "owner/tiny"


def test_a_revision_is_another_base(cache, layouts, tmp_path):
    from semblant.backbones.miniature import miniature

    other = miniature(seed=5)
    as_snapshot(layouts.write_folder(other, tmp_path / "other"), cache, OLD, "old")
    loaded = load("owner/tiny@old", offline=True)
    assert loaded.hashes() == other.hashes() and loaded.name == "owner/tiny@old"
    assert load(f"owner/tiny@{OLD}", offline=True).hashes() == other.hashes() != load("owner/tiny").hashes()


def test_the_environment_says_where_the_cache_is(cache):
    told = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    code = "from semblant.backbones.hub import snapshot; print(snapshot('owner/tiny'))"
    found = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()) == cache / "models--owner--tiny" / "snapshots" / COMMIT


@pytest.mark.parametrize("name", ["owner/other", "owner/tiny@gone"])
@pytest.mark.parametrize("offline", [True, False])
def test_what_is_not_cached_is_refused_offline_in_one_sentence(cache, name, offline):
    with pytest.raises(FileProblem, match=f"no folder {name} here.*cache.*--offline or HF_HUB_OFFLINE") as caught:
        load(name, offline=offline)
    assert "\n" not in str(caught.value)


def test_half_a_base_in_the_cache_is_refused_naming_what_lacks(cache):
    for link in (cache / "models--owner--tiny" / "snapshots" / COMMIT / "vae").glob("*.safetensors"):
        link.unlink()
    with pytest.raises(FileProblem, match="vae has no safetensors weights"):
        load("owner/tiny", offline=True)


@pytest.mark.parametrize(
    "name", ["nowhere", "/abs/olute", "a/b/c", "./owner/tiny", "owner/tiny.ckpt", "owner/x.safetensors"]
)
def test_other_names_never_reach_the_hub(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(FileProblem, match=r"no base at .*owner/name"):
        load(name)


@pytest.fixture
def online(folder, tmp_path, monkeypatch):
    """A hub that holds what lies in `folder`, and gives what is asked for by pattern. Returns the names given."""
    from huggingface_hub.utils import filter_repo_objects

    given = []

    def download(name, *, revision, allow_patterns, ignore_patterns, local_files_only):
        assert name == "owner/tiny" and revision is None and not local_files_only
        there = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        for file in filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            target = tmp_path / "fetched" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, target)
            given.append(file)
        return str(tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return given


def test_only_what_a_base_is_made_of_is_downloaded_and_that_is_said(base, folder, online, monkeypatch, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder.parent / "empty"))
    for extra in ("v1-5-pruned.safetensors", "v1-5.ckpt", "pipeline.py", "unet/code.py", "README.md"):
        (folder / extra).write_text("not needed")
    for part in ("unet", "vae"):
        (folder / part / "diffusion_pytorch_model.bin").write_text("not needed")
        (folder / part / "diffusion_pytorch_model.fp16.safetensors").write_text("not needed")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_text("not needed")
    assert load("owner/tiny").hashes() == base.hashes()
    assert "owner/tiny is fetched" in caplog.text
    assert {Path(name).suffix for name in online} <= {".json", ".safetensors", ".txt"}
    assert sorted(n for n in online if n.endswith("safetensors")) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_a_variant_is_downloaded_where_there_is_nothing_else(base, folder, online):
    for part in ("unet", "vae", "text_encoder"):
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    assert load("owner/tiny").hashes() == base.hashes()


def test_configurations_come_without_weights(folder, online):
    hub.snapshot("owner/tiny", weights=False)
    assert online and not [name for name in online if name.endswith("safetensors")]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RepositoryNotFoundError, "no base of that name on the hub"),
        (GatedRepoError, "licence that has to be accepted"),
        (RevisionNotFoundError, "has no revision old"),
    ],
)
def test_the_hubs_refusals_become_a_sentence(monkeypatch, error, says):
    def refuse(*_, **__):
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileProblem, match=says):
        load("owner/tiny@old")
