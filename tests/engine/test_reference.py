"""The handle: a model by reference, for graphs and other processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from dask.base import tokenize

from helpers.tiny import tiny_config, tiny_folder, tiny_net
from napari_swin2sr.engine import reference as module
from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.errors import WeightsError

X = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "tiny")


def test_knows_the_geometry_and_gives_what_the_network_gives(folder: Path) -> None:
    handle = ModelHandle.open(folder)
    assert (handle.upscale, handle.window_size) == (2, 8)
    assert handle.config == tiny_config()
    assert len(handle.sha256) == 64
    with torch.no_grad():
        expected = tiny_net().upscale_tile(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(handle(X), expected, rtol=0, atol=2e-6)
    assert handle.load() is handle.load()


def test_opening_a_known_model_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from napari_swin2sr.engine.reference import ModelHandle; "
        f"h = [ModelHandle.open('default'), ModelHandle.open({str(folder)!r})]; "
        "assert all(h.upscale == 2 for h in h); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_pickle_is_small_and_holds_no_weights(folder: Path) -> None:
    handle = ModelHandle.open(folder)
    handle(X)
    pickled = pickle.dumps(handle)
    assert len(pickled) < 5000
    assert pickle.loads(pickled) == handle


def test_the_token_names_the_numbers_not_the_place(
    folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    handle = ModelHandle.open(folder)
    assert tokenize(handle) == tokenize(ModelHandle.open(folder))
    assert tokenize(handle) == tokenize(pickle.loads(pickle.dumps(handle)))
    assert tokenize(handle) == tokenize(ModelHandle.open(copy))
    assert tokenize(ModelHandle.open(folder, precision="bf16")) != tokenize(handle)
    other = ModelHandle.open(tiny_folder(tmp_path / "other", seed=1))
    assert tokenize(other) != tokenize(handle)


def test_a_spawned_process_loads_the_same_model(folder: Path) -> None:
    handle = ModelHandle.open(folder)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        result = pool.submit(handle, X).result(timeout=120)
        token = pool.submit(tokenize, handle).result(timeout=120)
    assert token == tokenize(handle)
    np.testing.assert_allclose(result, handle(X), rtol=0, atol=2e-6)


def test_on_another_machine_the_model_is_found_by_name_and_checked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = ModelHandle.open(folder)
    here = dataclasses.replace(handle.resolved, name="lightweight")
    there = dataclasses.replace(here, path=tmp_path / "not here")
    monkeypatch.setattr(module, "resolve_model", lambda name: here)
    far = ModelHandle(there)
    np.testing.assert_array_equal(far(X), handle(X))
    changed = dataclasses.replace(here, sha256="0" * 64)
    monkeypatch.setattr(module, "resolve_model", lambda name: changed)
    with pytest.raises(WeightsError, match=r"other weights.*000000000000"):
        far(X)
