"""The upscaler: its contract, memory, precision, devices, threads and cache."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_config, tiny_folder, tiny_net
from napari_swin2sr.engine import upscaler as module
from napari_swin2sr.engine.backends import SWITCH
from napari_swin2sr.engine.cpu_native import load_kernels
from napari_swin2sr.engine.upscaler import Upscaler, load_model, splits
from napari_swin2sr.errors import (
    Cancelled,
    InferenceError,
    InputError,
    MemoryLimitError,
    OptionError,
)

CLOSE = {"rtol": 0, "atol": 2e-6}


def tiles(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def whole(x: np.ndarray, **changes: Any) -> np.ndarray:
    """What the network itself gives."""
    with torch.no_grad():
        return tiny_net(**changes).upscale_tile(torch.from_numpy(x)).numpy()


@pytest.fixture
def fake_prepare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace what runs the network; the fake gets the network's own function."""

    def install(wrap: Callable[[Callable[[Tensor], Tensor], str], object]) -> None:
        monkeypatch.setattr(
            module, "prepare", lambda net, _, how: wrap(net.upscale_tile, how)
        )

    return install


# -- contract -------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_gives_what_the_network_gives(channels: int) -> None:
    x = tiles(2, channels, 16, 24)
    before = x.copy()
    x.flags.writeable = False
    result = Upscaler(tiny_net(), "cpu")(x)
    assert result.dtype == np.float32
    assert result.shape == (2, channels, 32, 48)
    np.testing.assert_allclose(result, whole(before), **CLOSE)
    np.testing.assert_array_equal(x, before)
    result += 1  # a new array, ours to change


def test_facts() -> None:
    upscaler = Upscaler(tiny_net(), "cpu", name="tiny")
    assert (upscaler.upscale, upscaler.window_size) == (2, 8)
    assert upscaler.config == tiny_config()
    assert upscaler.precision == "fp32"
    assert repr(upscaler) == "Upscaler('tiny', x2, cpu, fp32)"


def test_values_outside_the_range_are_not_clipped() -> None:
    x = 8 * tiles(1, 3, 16, 16) - 4
    np.testing.assert_allclose(
        Upscaler(tiny_net(), "cpu")(x), whole(x), rtol=0, atol=2e-5
    )


def test_an_empty_batch_runs_nothing(fake_prepare: Callable[[object], None]) -> None:
    fake_prepare(lambda run, how: pytest.fail)
    assert Upscaler(tiny_net(), "cpu")(tiles(0, 3, 8, 8)).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (tiles(3, 8, 8), r"shape \(3, 8, 8\).*expected \(N, C, H, W\) float32"),
        (tiles(1, 3, 8, 8).astype(np.float64), "type float64"),
        ([[1.0]], "type list"),
        (tiles(1, 2, 8, 8), "2 channels; this model takes 1 or 3"),
        (tiles(1, 3, 8, 12), "8 x 12 px.*multiple of the window, 8 px"),
    ],
)
def test_refuses_what_is_no_batch_of_tiles(bad: np.ndarray, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Upscaler(tiny_net(), "cpu")(bad)


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_cancelled_forward_ends_before_its_next_windows(
    switch: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Token:
        """Is set when it is looked at for the fifth time."""

        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks >= 5

    monkeypatch.setenv(SWITCH, switch)
    token, upscaler, before = (
        Token(),
        Upscaler(tiny_net(), "cpu"),
        torch.get_num_threads(),
    )
    torch.set_num_threads(threads)
    try:
        with pytest.raises(Cancelled):
            upscaler(tiles(1, 1, 128, 128), cancel=token)
        assert token.looks <= 16  # groups of windows in a layer
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    x = tiles(1, 1, 16, 16)  # what was given up harms nobody
    np.testing.assert_allclose(upscaler(x, cancel=threading.Event()), whole(x), **CLOSE)


# -- memory ---------------------------------------------------------------------------

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]


def limited(pixels: int, error: Exception, seen: list[int]) -> object:
    """Make a network that has memory for so many pixels per forward."""

    def wrap(run: Callable[[Tensor], Tensor], how: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            seen.append(x.shape[0] * x.shape[2] * x.shape[3])
            if seen[-1] > pixels:
                raise error
            return run(x)

        return forward

    return wrap


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_out_of_memory_halves_the_batch(
    error: Exception, fake_prepare: Callable[[object], None]
) -> None:
    seen: list[int] = []
    fake_prepare(limited(2 * 32 * 32, error, seen))
    x = tiles(5, 3, 32, 32)
    np.testing.assert_allclose(Upscaler(tiny_net(), "cpu")(x), whole(x), **CLOSE)
    assert [n // 32**2 for n in seen] == [5, 3, 2, 2, 1]


@pytest.mark.parametrize("changes", [{}, {"window_size": 7}, {"depths": (2, 1)}])
def test_out_of_memory_splits_the_tile_with_the_same_pixels(
    changes: dict, fake_prepare: Callable[[object], None]
) -> None:
    config = tiny_config(**changes)
    fits = (2 * config.exact_halo + 2 * config.window_size) ** 2
    side = 2 * config.exact_halo + 4 * config.window_size
    seen: list[int] = []
    fake_prepare(limited(fits, OUT_OF_MEMORY[0], seen))
    x = tiles(2, 1, side, side + config.window_size)
    result = Upscaler(tiny_net(**changes), "cpu")(x)
    np.testing.assert_allclose(result, whole(x, **changes), **CLOSE)
    assert seen[0] == 2 * side * (side + config.window_size)
    assert max(seen[-4:]) <= fits


def test_a_limit_once_met_is_remembered_and_announced_once(
    fake_prepare: Callable[[object], None], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    fake_prepare(limited(2 * 32 * 32, MemoryError(), seen))
    upscaler = Upscaler(tiny_net(), "cpu", name="tiny")
    x = tiles(4, 3, 32, 32)
    with caplog.at_level(logging.WARNING):
        upscaler(x)
        assert [n // 32**2 for n in seen] == [4, 2, 2]
        upscaler(x)
    assert [n // 32**2 for n in seen[3:]] == [2, 2]
    assert len(caplog.records) == 1
    assert "no memory on cpu for 4 x 32 x 32 pixels" in caplog.text
    assert "same pixels" in caplog.text


def test_nothing_fits(fake_prepare: Callable[[object], None]) -> None:
    seen: list[int] = []
    fake_prepare(limited(1, MemoryError(), seen))
    with pytest.raises(MemoryLimitError, match=r"smaller tile.*device='cpu'") as caught:
        Upscaler(tiny_net(), "cpu")(tiles(4, 3, 128, 128))
    assert "128 x 128 px" in str(caught.value)
    assert isinstance(caught.value, MemoryError)
    assert len(seen) < 12


def test_memory_is_free_again_before_the_retry(
    fake_prepare: Callable[[object], None],
) -> None:
    """An exception keeps the frames alive that hold tensors; it must be gone."""
    held: list[weakref.ref] = []

    def wrap(run: Callable[[Tensor], Tensor], how: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            assert all(ref() is None for ref in held)
            if len(x) > 1:
                activation = torch.zeros(10)
                held.append(weakref.ref(activation))
                raise torch.OutOfMemoryError("out of memory")
            return run(x)

        return forward

    fake_prepare(wrap)
    gc.disable()
    try:
        Upscaler(tiny_net(), "cpu")(tiles(4, 3, 16, 16))
    finally:
        gc.enable()
    assert len(held) == 2


@pytest.mark.parametrize("way", ["PyTorch", "kernels"])
def test_real_memory_runs_out(way: str, tmp_path: Path) -> None:
    """With too little address space for the batch, the result is still the same.

    The way is forced: memory that the measurement has left behind would serve.
    """
    resource = pytest.importorskip("resource", reason="no RLIMIT_AS on this system")
    assert resource
    if way == "kernels" and load_kernels("fp32") is None:
        pytest.skip("no C compiler, or no vectors that the kernels know")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, resource, logging
            sys.path.insert(0, {str(Path(__file__).parents[1])!r})
            import numpy as np, torch
            from helpers.tiny import tiny_net
            from napari_swin2sr.engine.upscaler import Upscaler
            torch.set_num_threads(1)
            upscaler = Upscaler(tiny_net(), "cpu")
            said = []
            handler = logging.Handler()
            handler.emit = lambda record: said.append(record.getMessage())
            logging.getLogger("napari_swin2sr").addHandler(handler)
            x = np.random.default_rng(0).random((8, 3, 384, 384), np.float32)
            upscaler(x[:1, :, :64, :64])
            used = int(open("/proc/self/statm").read().split()[0]) * 4096
            for megabytes in range(300, 90, -10):
                y = None  # the last result would take from the next one's space
                resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, -1))
                y = upscaler(x)
                resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
                if said:
                    break
            assert abs(y[:1] - upscaler(x[:1])).max() <= 2e-6
            print(megabytes, *said)
            """
        )
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure the address space")
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {SWITCH: "0" if way == "PyTorch" else "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "smaller sub-tiles" in done.stdout


def test_splits_get_smaller_down_to_one_window() -> None:
    ways = list(splits(4, (512, 256), window=8, halo=24, upscale=2))
    assert [way.batch for way in ways[:3]] == [4, 2, 1]
    pixels = [way.pixels for way in ways]
    assert pixels == sorted(set(pixels), reverse=True)
    assert ways[-1].largest == (56, 56)  # one window and the halo around it


# -- failures and precision -----------------------------------------------------------


def test_other_failures_say_where(fake_prepare: Callable[[object], None]) -> None:
    def wrap(run: object, how: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: an illegal access")

        return forward

    fake_prepare(wrap)
    with pytest.raises(InferenceError, match=r"tiny failed on cpu.*\(1, 3, 8, 8\)"):
        Upscaler(tiny_net(), "cpu", name="tiny")(tiles(1, 3, 8, 8))


def overflowing(in_precisions: tuple[str, ...]) -> object:
    def wrap(run: Callable[[Tensor], Tensor], how: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            y = run(x)
            return y * torch.inf if how in in_precisions else y

        return forward

    return wrap


def test_an_overflow_is_computed_again_in_float32_with_one_warning(
    fake_prepare: Callable[[object], None],
) -> None:
    fake_prepare(overflowing(("bf16",)))
    upscaler = Upscaler(tiny_net(), "cpu", "bf16", name="tiny")
    x = tiles(1, 3, 16, 16)
    with pytest.warns(UserWarning, match="tiny: a tile overflowed in bf16") as caught:
        first, second = upscaler(x), upscaler(x)
    assert len(caught) == 1
    np.testing.assert_allclose(first, whole(x), **CLOSE)
    np.testing.assert_array_equal(first, second)


def test_what_is_not_finite_in_float32_either_is_an_error(
    fake_prepare: Callable[[object], None],
) -> None:
    fake_prepare(overflowing(("bf16", "fp32")))
    with pytest.raises(InferenceError, match=r"not finite.*even in float32"):
        Upscaler(tiny_net(), "cpu")(tiles(1, 3, 8, 8))
    with (
        pytest.warns(UserWarning, match="overflowed"),
        pytest.raises(InferenceError, match=r"even in float32\. Set value_range"),
    ):
        Upscaler(tiny_net(), "cpu", "bf16")(tiles(1, 3, 8, 8))


def test_nan_in_gives_nan_out() -> None:
    x = tiles(1, 3, 16, 16)
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(Upscaler(tiny_net(), "cpu")(x)).any()


def test_bf16_is_close_to_float32() -> None:
    x = tiles(1, 3, 32, 32)
    result = Upscaler(tiny_net(), "cpu", "bf16")(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, whole(x), rtol=0, atol=0.02)


# -- devices --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_float32_runs_where_16_bits_are_slower_and_says_so_once(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_bfloat16", lambda: False)
    folder, x = tiny_folder(tmp_path), tiles(1, 3, 16, 16)
    exact = load_model(folder, device="cpu", precision="fp32")
    text = rf"precision='{precision}'.*float32 runs instead"
    with pytest.warns(UserWarning, match=text):
        model = load_model(folder, device="cpu", precision=precision)
    assert model.precision == "fp32"
    np.testing.assert_array_equal(model(x), exact(x))
    assert load_model(folder, device="cpu", precision=precision) is model  # no warning


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(OptionError, match=r"'int8' is not one of auto, fp32, bf16"):
        Upscaler(tiny_net(), "cpu", "int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_device_is_named_with_those_that_exist() -> None:
    with pytest.raises(OptionError, match=r"device='cuda:3' does not exist.*cpu"):
        Upscaler(tiny_net(), "cuda:3")


@pytest.mark.parametrize("wrong", ["fails", "differs"])
def test_a_device_that_cannot_be_trusted(
    wrong: str, monkeypatch: pytest.MonkeyPatch, fake_prepare: Callable[[object], None]
) -> None:
    """With "auto" the CPU takes over and says so; asked for by name it is an error."""
    monkeypatch.setattr(module, "choose_device", lambda device: torch.device("mps"))
    if wrong == "differs":
        fake_prepare(lambda run, how: run)
        monkeypatch.setattr(
            Upscaler, "_run", lambda self, x, forward: forward(x).detach() + 0.01
        )
    problem = "wrong by 0.01" if wrong == "differs" else "failed on a test tile"
    with pytest.warns(UserWarning, match=f"device mps is not used: .*{problem}"):
        upscaler = Upscaler(tiny_net(), "auto")
    assert upscaler.device == torch.device("cpu")
    with pytest.raises(InferenceError, match=f"mps cannot be trusted: .*{problem}"):
        Upscaler(tiny_net(), "mps")


# -- threads and processes ------------------------------------------------------------


def test_a_thread_computes_without_gradients_or_autocast(
    fake_prepare: Callable[[object], None],
) -> None:
    states: list[tuple[bool, bool]] = []

    def wrap(run: Callable[[Tensor], Tensor], how: str) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            enabled = torch.is_autocast_enabled("cpu")
            states.append((torch.is_inference_mode_enabled(), enabled))
            return run(x)

        return forward

    fake_prepare(wrap)
    upscaler = Upscaler(tiny_net(), "cpu")
    thread = threading.Thread(target=upscaler, args=(tiles(1, 3, 8, 8),))
    thread.start()
    thread.join()
    with torch.autocast("cpu", torch.bfloat16):
        upscaler(tiles(1, 3, 8, 8))
    assert states == [(True, False)] * 2


def test_threads_share_a_model() -> None:
    upscaler = Upscaler(tiny_net(), "cpu")
    shapes = [
        (1, c, 8 * h, 8 * w) for c in (1, 3) for h in (1, 2, 3) for w in (1, 2, 4)
    ]
    inputs = [tiles(*shape, seed=i) for i, shape in enumerate(shapes)]
    alone = [upscaler(x) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(upscaler, inputs))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_forked_process_says_so_instead_of_hanging() -> None:
    script = f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import numpy as np
        from helpers.tiny import tiny_net
        from napari_swin2sr.errors import InferenceError
        from napari_swin2sr.engine.upscaler import Upscaler
        upscaler = Upscaler(tiny_net(), "cpu")
        x = np.zeros((1, 3, 64, 64), np.float32)
        upscaler(x)
        if os.fork() == 0:
            try:
                upscaler(x)
            except InferenceError as error:
                os._exit(7 if "spawn" in str(error) else 1)
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    if not hasattr(sys, "abiflags") or sys.platform == "win32":
        pytest.skip("no fork on this system")
    code = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(code, timeout=120).returncode == 7


# -- cache ----------------------------------------------------------------------------


def test_a_model_is_loaded_once_per_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny_folder(tmp_path / "tiny", seed=3))
    loads: list[object] = []
    load_network = module.load_network

    def counted(*args: Any, **more: Any) -> object:
        loads.append(args)
        return load_network(*args, **more)

    monkeypatch.setattr(module, "load_network", counted)
    with ThreadPoolExecutor(8) as pool:
        models = list(pool.map(load_model, [folder] * 8))
    assert len(loads) == 1
    assert all(model is models[0] for model in models)
    assert load_model(folder, precision="fp32") is models[0]
    assert load_model(folder, precision="bf16") is not models[0]
    x = tiles(1, 3, 16, 16)
    np.testing.assert_allclose(models[0](x), whole(x, seed=3), **CLOSE)


def test_other_weights_under_the_same_name_are_another_model(tmp_path: Path) -> None:
    first = load_model(tiny_folder(tmp_path, seed=1))
    second = load_model(tiny_folder(tmp_path, seed=2))
    assert first is not second
