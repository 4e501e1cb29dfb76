"""`apply`: lazy, the same on every scheduler, bounded in memory, xarray included."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

import napari_swin2sr as nsr
from helpers.bad_inputs import Bare, pixels
from helpers.tiny import tiny_folder, tiny_net
from napari_swin2sr.engine.cpu_native import load_kernels
from napari_swin2sr.engine.upscaler import Upscaler
from napari_swin2sr.errors import InputError, OptionError, WeightsError
from napari_swin2sr.formats import as_image
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.upscale import prepare, provenance

logger = logging.getLogger(__name__)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def image() -> np.ndarray:
    return pixels(60, 75).astype(np.uint16)


class Counting(Bare):
    """An array-like that remembers what was read of it."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.reads: list[tuple[slice, ...]] = []

    def __getitem__(self, index: Any) -> Any:
        self.reads.append(index)
        return super().__getitem__(index)


# -- lazy -----------------------------------------------------------------------------


def test_building_the_graph_computes_nothing(
    image: np.ndarray, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(Upscaler, "__call__", refuse)
    source = Counting(image)
    with dask.config.set(scheduler=refuse):
        lazy = nsr.apply(source, model, tile=16, value_range=(0, 255))
        part = lazy[3:50, 7:9]
        assert not source.reads
        assert (lazy.shape, lazy.dtype) == ((120, 150), np.uint16)
        assert part.shape == (47, 2)
        assert lazy.chunks == ((32, 32, 32, 24), (32, 32, 32, 32, 22))
    assert len(lazy.__dask_graph__()) <= lazy.npartitions + 2


def test_one_chunk_reads_its_slab_and_no_more(image: np.ndarray, model: str) -> None:
    source = Counting(image)
    lazy = nsr.apply(source, model, tile=16, halo=8, value_range=(0, 255))
    lazy.blocks[1, 2].compute(scheduler="sync")
    assert source.reads == [(slice(8, 40), slice(24, 56))]


def test_a_dask_source_is_not_computed_at_once(model: str) -> None:
    computed: list[tuple] = []

    def make(block_info: Any = None) -> np.ndarray:
        location = block_info[None]["array-location"]
        computed.append(tuple(location))
        return np.ones([b - a for a, b in location], np.uint8)

    source = da.map_blocks(make, chunks=((32,) * 8, (32,) * 8), dtype=np.uint8)
    computed.clear()
    lazy = nsr.apply(source, model, tile=32, halo=8)
    assert not computed
    lazy.blocks[4, 4].compute(scheduler="sync")
    assert len(computed) == 9


def test_the_range_sample_is_bounded_and_asked_for_only_when_needed(
    model: str,
) -> None:
    large = Counting(np.zeros((1, 1), np.uint16))
    large.shape = (200_000, 200_000)
    nsr.apply(large, model, value_range="dtype")
    assert not large.reads
    with pytest.raises(InputError, match="declares shape"):
        nsr.apply(large, model)
    assert len(large.reads) <= 32


def test_results_do_not_depend_on_the_slicing(image: np.ndarray, model: str) -> None:
    lazy = nsr.apply(image, model, tile=16)
    whole = lazy.compute()
    for key in [np.s_[5:77, 3:90], np.s_[::7, ::-3], np.s_[31], np.s_[..., 149]]:
        np.testing.assert_array_equal(lazy[key].compute(), whole[key])


# -- the same everywhere --------------------------------------------------------------


def test_threads_give_what_one_thread_gives(image: np.ndarray, model: str) -> None:
    lazy = nsr.apply(image, model, tile=16)
    alone = lazy.compute(scheduler="sync")
    np.testing.assert_array_equal(
        lazy.compute(scheduler="threads", num_workers=8), alone
    )


def test_spawned_processes_give_the_same(
    image: np.ndarray, model: str, tmp_path: Path
) -> None:
    """The graph is names and numbers: memory maps by file, the model by hash."""
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    lazy = nsr.apply(mapped, model, tile=32)
    pickled = pickle.dumps(lazy)
    assert len(pickled) < 20_000
    (tmp_path / "graph").write_bytes(pickled)
    code = f"""
        import pickle, sys, numpy as np
        lazy = pickle.load(open({str(tmp_path / "graph")!r}, "rb"))
        assert "torch" not in sys.modules
        np.save({str(tmp_path / "result.npy")!r}, lazy.compute(scheduler="sync"))
        print(lazy.name)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == lazy.name
    there = np.load(tmp_path / "result.npy").astype(int)
    assert abs(there - lazy.compute()).max() <= 1
    with dask.config.set({"multiprocessing.context": "spawn"}):
        result = lazy[:40].compute(scheduler="processes", num_workers=1)
    assert abs(result.astype(int) - there[:40]).max() <= 1


def test_names_are_stable_and_change_with_what_changes_pixels(
    image: np.ndarray, model: str, tmp_path: Path
) -> None:
    def name(array: Any = image, model: str = model, **options: Any) -> str:
        return nsr.apply(array, model, **options).name

    assert name() == name(image.copy())
    other = str(tiny_folder(tmp_path / "other", seed=1))
    different = [
        name(image + 1),
        name(model=other),
        name(tile=32),
        name(halo=8),
        name(value_range=(0, 1)),
        name(dtype="float32"),
        name(precision="fp32"),
        name(nodata=3),
    ]
    assert len({name(), *different}) == len(different) + 1


def test_a_large_array_in_memory_is_not_read_to_name_it(model: str) -> None:
    large = np.broadcast_to(np.zeros(1, np.uint8), (60_000, 60_000))
    start = time.process_time()
    nsr.apply(large, model)
    assert time.process_time() - start < 2


# -- huge images ----------------------------------------------------------------------

HUGE = """
    import time, sys
    import napari_swin2sr as nsr
    import numpy as np

    class Source:
        shape, dtype = (100_000, 100_000), np.dtype("u2")
        read = []
        def __getitem__(self, index):
            rows, columns = (np.arange(part.start, part.stop) for part in index)
            self.read.append((len(rows), len(columns)))
            return (rows[:, None] * 7 + columns * 3 & 4095).astype("u2")

    def megabytes(field):  # ru_maxrss would be that of the process that started us
        lines = open("/proc/self/status").read().splitlines()
        return int(next(li for li in lines if li.startswith(field)).split()[1]) / 1024

    base = megabytes("VmRSS")
    times = time.perf_counter(), time.process_time()
    lazy = nsr.apply(Source())
    wall, cpu = time.perf_counter() - times[0], time.process_time() - times[1]
    sampled = sum(a * b for a, b in Source.read)
    Source.read.clear()
    before = "torch" in sys.modules
    chunk = lazy.blocks[40, 50].compute(scheduler="sync")
    peak = megabytes("VmHWM")
    print(lazy.shape, chunk.shape, before, Source.read, sep=";")
    print(wall, cpu, sampled, peak - base)
"""


def test_an_image_of_a_hundred_thousand_pixels_a_side() -> None:
    """20 GB in, 80 GB out: at once, one slab per chunk, 1.5 GB at most.

    Without a C compiler the network runs on PyTorch's operations, and takes more.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to measure memory")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HUGE)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    facts, numbers = done.stdout.splitlines()
    assert facts == "(200000, 200000);(2304, 2304);False;[(1232, 1232)]"
    wall, cpu, sampled, grown = map(float, numbers.split())
    logger.info("%s: %s", "apply_seconds", wall)
    logger.info("%s: %s", "grown_megabytes", grown)
    assert min(wall, cpu) < 2
    assert sampled <= 32 * 512**2
    assert grown < (1500 if load_kernels("fp32") else 1750)


# -- options --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tile": 0}, "tile=0"),
        ({"halo": 12}, r"halo=12 is no multiple.*use 16"),
        ({"halo": "all"}, "halo='all'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"device": 5}, "device=5 is not one of"),
        ({"nodata": "x"}, "nodata='x' is not a number"),
        ({"rgb": "no"}, "rgb='no' is not True, False or None"),
        ({"precision": "int4"}, "precision='int4'"),
        ({"dtype": "complex64"}, "complex64.*choose an integer or floating-point"),
        ({"dtype": "nonsense"}, "dtype='nonsense'"),
        ({"value_range": (5, 5)}, r"\(5, 5\).*lower one first"),
        ({"value_range": "percentile"}, "value_range='percentile'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_a_pixel_is_read(
    options: dict, text: str, model: str, image: np.ndarray
) -> None:
    source = Counting(image)
    with pytest.raises(OptionError, match=text):
        nsr.apply(source, model, **options)
    assert not source.reads


def test_an_unknown_model_is_refused(image: np.ndarray) -> None:
    with pytest.raises(WeightsError, match="Did you mean 'default'"):
        nsr.apply(image, "defualt")


@pytest.mark.parametrize("wrong", [None, 5, b"default"])
def test_a_model_is_named_by_text_or_a_path(image: np.ndarray, wrong: Any) -> None:
    with pytest.raises(OptionError, match=r"model=.* is no name of a model"):
        nsr.apply(image, wrong)


@pytest.mark.parametrize(
    ("shape", "axes", "match"),
    [
        ((2**36, 2**36), "YX", "tiles in all planes.*larger tile"),
        ((2**36, 5), "YX", "tiles in all planes"),
        ((2**28, 8, 8), "TYX", "268,435,456 tiles in all planes"),
        ((2**28, 8, 8), "CYX", "268,435,456 tiles in all planes"),
        ((2**22, 8, 8), "CYX", "4,194,304 channels.*another letter"),
    ],
)
def test_shapes_that_no_file_can_hold_are_refused_at_once(
    shape: tuple[int, ...], axes: str, match: str, model: str
) -> None:
    source = Bare(np.zeros((1, 1), np.uint16), shape=shape)
    start = time.process_time()
    with pytest.raises(InputError, match=match):
        nsr.apply(source, model, axes=axes)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("samples", [3, 4])
def test_a_color_image_is_recognized_and_said_so(samples: int, model: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (17, 18, samples), np.uint8)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = nsr.apply(pixels, model)
    texts = [str(warning.message) for warning in seen]
    assert f"(17, 18, {samples}) is taken as RGB{'A' * (samples - 3)}; " in texts[0]
    assert len(texts) == samples - 2  # alpha has a message of its own
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the alpha channel")
        expected = nsr.apply(pixels, model, rgb=True)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((16, 18, 3), np.uint8),
        ((18, 16, 4), np.uint8),
        ((18, 18, 3), np.uint16),
        ((18, 18, 3), np.float32),
        ((2, 18, 18, 3), np.uint8),
    ],
)
def test_other_arrays_with_three_last_are_still_refused(
    shape: tuple[int, ...], dtype: Any, model: str
) -> None:
    with pytest.raises(InputError, match=r"Say rgb=True, rgb=False or axes"):
        nsr.apply(np.zeros(shape, dtype), model)


def test_tile_and_halo(image: np.ndarray, model: str) -> None:
    def plan(**options: Any) -> tuple[int, int]:
        choices = UpscaleOptions(**{"model": model, **options})
        lazy = prepare(as_image(image, choices), choices)
        return lazy.plan.core, lazy.plan.halo

    exact = Upscaler(tiny_net(), "cpu").config.exact_halo
    assert plan() == (1024, min(48, exact))
    assert plan(model="default") == (1152, 40)
    assert plan(halo="exact") == (2048, exact)
    assert plan(halo="exact", tile=100) == (104, exact)
    assert plan(tile=17, halo=0) == (24, 0)


@pytest.mark.parametrize("dtype", ["uint8", "float32", np.float64, ">i2"])
def test_output_dtype(dtype: Any, image: np.ndarray, model: str) -> None:
    result = nsr.apply(image, model, value_range=(0, 255), dtype=dtype)
    assert result.dtype == np.dtype(dtype).newbyteorder("=")
    expected = nsr.apply(image, model, value_range=(0, 255), dtype="f8").compute()
    if result.dtype.kind in "ui":
        info = np.iinfo(result.dtype)
        expected = np.clip(np.rint(expected), info.min, info.max)
    np.testing.assert_allclose(result.compute(), expected, rtol=1e-6)


def test_low_precision_for_deep_output_warns_once(
    image: np.ndarray, model: str
) -> None:
    with pytest.warns(
        UserWarning, match=r"bf16.*exact to about 8 bits.*uint16"
    ) as seen:
        nsr.apply(image, model, precision="bf16")
    assert len(seen) == 1
    nsr.apply(image.astype(np.uint8), model, precision="bf16")  # no warning: an error


def test_a_gray_model_refuses_colors(tmp_path: Path) -> None:
    gray = str(tiny_folder(tmp_path / "gray", num_channels=1))
    colors = np.zeros((9, 10, 3), np.uint8)
    with pytest.raises(InputError, match=r"model is for gray images.*rgb=False"):
        nsr.apply(colors, gray, rgb=True)
    assert nsr.apply(colors, gray, axes="YXC").compute().shape == (18, 20, 3)


def test_a_restoration_model_keeps_the_size(tmp_path: Path, image: np.ndarray) -> None:
    jpeg = str(
        tiny_folder(
            tmp_path / "jpeg",
            num_channels=1,
            window_size=7,
            upscale=1,
            upsampler="",
            img_range=255.0,
        )
    )
    assert nsr.apply(image, jpeg, tile=20).compute().shape == image.shape


# -- spatial images -------------------------------------------------------------------


def test_a_spatial_image_brings_its_axes_and_no_data(model: str) -> None:
    values = pixels(2, 20, 30).astype(np.int16)
    values[0, :3] = -1
    image = SpatialImage(
        data=values, axes="CYX", pixel_size={"Y": 0.5, "X": 0.5}, nodata=-1
    )
    result = nsr.apply(image, model).compute()
    assert result.shape == (2, 40, 60)
    assert (result[0, :6] == -1).all()
    assert (result[1] != -1).all()
    assert as_image(image).pixel_size == image.pixel_size


def test_the_options_overrule_what_an_image_says(model: str) -> None:
    image = SpatialImage(data=np.zeros((3, 20, 30), np.uint8), axes="CYX")
    assert as_image(image, UpscaleOptions(rgb=True)).axes == "SYX"
    assert as_image(image, UpscaleOptions(axes="ZYX")).axes == "ZYX"
    color = SpatialImage(data=np.zeros((20, 30, 3), np.uint8), axes="YXS")
    assert as_image(color, UpscaleOptions(rgb=False)).axes == "YXC"
    with pytest.raises(InputError, match="contradict"):
        as_image(np.zeros((20, 30)), UpscaleOptions(axes="YX", rgb=True))


def test_provenance_can_be_written_as_json(image: np.ndarray, model: str) -> None:
    options = UpscaleOptions(model=model, value_range=(0, 100))
    record = provenance(prepare(as_image(image, options), options))
    assert json.loads(json.dumps(record)) == record
    assert record["software"] == f"napari-swin2sr {nsr.__version__}"
    assert (record["upscale"], record["tile"], record["precision"]) == (2, 1024, "fp32")
    assert record["value_range"] == [{"low": 0.0, "high": 100.0, "top": 1.0}]
    assert len(record["sha256"]) == 64


# -- memory-mapped files --------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [
        np.s_[:],
        np.s_[3:20],
        np.s_[5:9, 4:30],
        np.s_[::2, ::-1],
    ],
    ids=str,
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_maps_and_their_views_pickle(
    view: Any, order: Any, tmp_path: Path
) -> None:
    values = pixels(24, 40).astype(">u2")
    path = tmp_path / "raw.bin"
    path.write_bytes(b"header" + values.tobytes(order))
    mapped = np.memmap(path, ">u2", "r", 6, (24, 40), order)[view]
    source = as_image(mapped).data
    again = pickle.loads(pickle.dumps(source))
    assert (again.shape, again.dtype) == (mapped.shape, mapped.dtype)
    everything = tuple(slice(0, n) for n in mapped.shape)
    np.testing.assert_array_equal(again[everything], values[view])
