"""Threads, processes and a dask cluster give the same bits; workers may die."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from helpers import stand_in
from helpers.io_images import noise
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.errors import OptionError
from napari_swin2sr.formats import open_image
from napari_swin2sr.formats.detect import Kind, Location
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.runs.job import Job
from napari_swin2sr.runs.runner import TileDone

OPTIONS: dict[str, Any] = {"tile": 64, "value_range": (0.0, 65535.0)}


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.ome.tif"
    tifffile.imwrite(
        path, noise((2, 200, 230)), photometric="minisblack", tile=(64, 64),
        metadata={"axes": "CYX"}, compression="zlib",
    )  # fmt: skip
    return path


@pytest.fixture
def truth(tmp_path, source):
    upscale_file(source, tmp_path / "truth.ome.zarr", workers=1, **OPTIONS)
    return open_image(tmp_path / "truth.ome.zarr").data[...]


def objects(store: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in store.rglob("*")
        if p.is_file() and p.name != "zarr.json"
    }


@pytest.fixture
def cluster():
    """Two worker processes with one "GPU" each, reachable on this machine only."""
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            resources={"GPU": 1},
            host="127.0.0.1",
            dashboard_address=None,
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def test_threads_give_the_same_bits(tmp_path, source, truth):
    with ThreadPoolExecutor(3) as pool:
        upscale_file(source, tmp_path / "out.ome.zarr", executor=pool, **OPTIONS)
    assert objects(tmp_path / "out.ome.zarr") == objects(tmp_path / "truth.ome.zarr")


def test_processes_give_the_same_bits(tmp_path, source, truth):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        upscale_file(source, tmp_path / "out.ome.zarr", executor=pool, **OPTIONS)
        upscale_file(source, tmp_path / "out.tif", executor=pool, **OPTIONS)
    assert objects(tmp_path / "out.ome.zarr") == objects(tmp_path / "truth.ome.zarr")
    np.testing.assert_array_equal(open_image(tmp_path / "out.tif").data[...], truth)


def test_forked_processes_are_refused(tmp_path, source):
    context = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, mp_context=context) as pool,
        pytest.raises(OptionError, match="spawn"),
    ):
        upscale_file(source, tmp_path / "out.ome.zarr", executor=pool, **OPTIONS)


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_a_task_is_small(tmp_path, source, kind):
    """What travels per tile is names and numbers, whatever the image's size."""
    if kind == "zarr":
        big = zarr.create_array(
            tmp_path / "in.zarr", shape=(10**6, 10**6), chunks=(512, 512), dtype="u2"
        )
        assert big.size == 10**12
        source = tmp_path / "in.zarr"
    options = UpscaleOptions(value_range=(0.0, 1.0))
    lazy = upscale.prepare(open_image(source), options)
    job = Job(
        source=source,
        target=Location(tmp_path / "out.zarr"),
        kind=Kind.ZARR,
        image=SpatialImage(data=lazy, axes=lazy.axes),
    )
    sink = job.sink(job.create_store(job.target))
    assert len(pickle.dumps((lazy, sink, (0, 0)))) < 20_000
    again = pickle.loads(pickle.dumps(lazy))
    assert again.token == lazy.token


@pytest.mark.timeout(240)
def test_a_cluster_gives_the_same_bits_and_survives_a_dead_worker(
    tmp_path, source, truth, cluster
):
    cluster.run(lambda: os.environ.update({stand_in.SECONDS: "0.1"}))
    executor = cluster.get_executor(resources={"GPU": 1}, pure=False, retries=2)
    workers = sorted(cluster.run(os.getpid).values())
    killed = []

    def progress(event):
        if isinstance(event, TileDone) and event.stage == "tiles" and event.done == 6:
            os.kill(workers[0], signal.SIGKILL)
            killed.append(event.done)

    upscale_file(
        source,
        tmp_path / "out.ome.zarr",
        executor=executor,
        progress=progress,
        **OPTIONS,
    )
    assert killed == [6]
    assert workers[0] not in cluster.run(os.getpid).values()
    assert objects(tmp_path / "out.ome.zarr") == objects(tmp_path / "truth.ome.zarr")
