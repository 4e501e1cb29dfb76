"""How a network runs on the CPU is measured once, remembered, and can be forced."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

import pytest
import torch

from napari_swin2sr.cli import info
from napari_swin2sr.engine import backends, cpu_native, upscaler
from napari_swin2sr.engine.backends import SWITCH, prepare_cpu
from napari_swin2sr.engine.cpu_native import NativeForward
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.engine.upscaler import Upscaler, choose_precision
from napari_swin2sr.errors import OptionError
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    cpu_native.find_compiler() is None or not cpu_native.instruction_sets(),
    reason="no C compiler, or no vectors that the kernels know",
)
needs_bfloat16 = pytest.mark.skipif(
    not cpu_native.instruction_sets("bf16"),
    reason="the processor has no bfloat16 products",
)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Compile into a folder of its own, once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv(SWITCH, raising=False)
        cpu_native.load_kernels.cache_clear()
        yield folder / "napari-swin2sr"
        cpu_native.load_kernels.cache_clear()


@pytest.fixture
def choices(cache):
    """Return the file of the choices, which does not exist yet."""
    file = cache / backends.CHOICES
    file.unlink(missing_ok=True)
    return file


@pytest.fixture
def net():
    torch.manual_seed(0)
    config = Swin2SRConfig(
        embed_dim=12, depths=(2,), num_heads=(2,), upsampler="pixelshuffledirect"
    )
    return Swin2SRForImageSuperResolution(config).eval()


@pytest.fixture
def measured(monkeypatch):
    """Let the times be given: name -> seconds; and count the measurements."""

    def give(**seconds):
        calls = []

        def measure(forwards):
            calls.append(list(forwards))
            given = {k.replace("_", " "): v for k, v in seconds.items()}
            return {k: given.get(k.partition(",")[0], 9.0) for k in forwards}

        monkeypatch.setattr(backends, "measure", measure)
        return calls

    return give


# -- the measurement -------------------------------------------------------------------


@needs_compiler
def test_every_way_is_measured_and_the_fastest_runs(net, choices):
    forward, choice = prepare_cpu(net, "fp32")
    sets = [x for x in cpu_native.instruction_sets() if x != "sse"] or ["sse"]
    assert choice.seconds.keys() == {*(f"{x} kernels, fp32" for x in sets)} | {
        "PyTorch, fp32"
    }
    assert choice.seconds[choice.name] == min(choice.seconds.values()) > 0
    assert isinstance(forward, NativeForward) == ("kernels" in choice.name)


@needs_compiler
def test_kernels_that_are_slower_than_pytorch_are_not_used(net, choices, measured):
    measured(PyTorch=1.0, avx2_kernels=1.1)
    forward, choice = prepare_cpu(net, "fp32")
    assert choice.name == "PyTorch, fp32"
    assert not isinstance(forward, NativeForward)


def test_a_slow_way_is_seen_in_its_time(net, monkeypatch):
    """What the processor does in a sample is counted, and PyTorch has one thread."""
    fast_one, slow_one = CpuForward(net), CpuForward(net)
    threads = []

    def slow():
        sample = CpuForward.sample(fast_one)

        def run():
            threads.append(torch.get_num_threads())
            for _ in range(20):
                sample()

        return run

    slow_one.sample = slow
    with backends.one_thread():
        found = backends.measure({"fast": fast_one, "slow": slow_one})
    assert 5 * found["fast"] < found["slow"]
    assert set(threads) == {1}


def test_pytorch_keeps_its_threads(net, choices):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        prepare_cpu(net, "fp32")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_wrong_kernels_are_not_used(net, choices, monkeypatch, caplog):
    right = cpu_native.norm_weights
    monkeypatch.setattr(cpu_native, "norm_weights", lambda norm: 2 * right(norm))
    with caplog.at_level(logging.WARNING):
        forward, choice = prepare_cpu(net, "fp32")
    assert not isinstance(forward, NativeForward)
    assert choice.seconds.keys() == {"PyTorch, fp32"}
    assert "kernels, fp32 is off by" in caplog.text
    monkeypatch.undo()
    assert len(prepare_cpu(net, "fp32")[1].seconds) > 1  # not remembered


def test_if_nothing_is_right_the_network_itself_runs(net, choices, monkeypatch):
    monkeypatch.setattr(backends, "TOLERANCE", {"fp32": -1.0})
    x = torch.rand(1, 3, 16, 16)
    forward, choice = prepare_cpu(net, "fp32")
    with torch.inference_mode():
        assert torch.equal(forward(x), net.upscale_tile(x))
    assert choice.name == "plain network"


# -- its memory ------------------------------------------------------------------------


@needs_compiler
def test_a_choice_is_remembered(net, choices, measured):
    calls = measured(PyTorch=1.0)
    first = prepare_cpu(net, "fp32")[1]
    second = prepare_cpu(net, "fp32")[1]
    assert len(calls) == 1
    assert (first.name, first.seconds) == (second.name, second.seconds)
    assert "now" in first.reason
    assert "before" in second.reason
    assert choices.stat().st_mode & 0o077 == 0


@needs_compiler
@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (cpu_native, "processor", lambda: "another"),
        (torch, "__version__", "9.9.9"),
    ],
)
def test_it_holds_for_this_processor_and_pytorch(
    where, name, value, net, choices, measured, monkeypatch
):
    calls = measured(PyTorch=1.0)
    prepare_cpu(net, "fp32")
    monkeypatch.setattr(where, name, value)
    prepare_cpu(net, "fp32")
    assert len(calls) == 2
    assert len(json.loads(choices.read_text())) == 2


@needs_compiler
def test_it_holds_for_these_kernels(net, choices, measured, monkeypatch):
    calls = measured(PyTorch=1.0)
    prepare_cpu(net, "fp32")
    monkeypatch.setattr(cpu_native, "FLAGS", (*cpu_native.FLAGS, "-DOTHER=1"))
    cpu_native.load_kernels.cache_clear()
    prepare_cpu(net, "fp32")
    assert len(calls) == 2
    cpu_native.load_kernels.cache_clear()


@needs_compiler
def test_it_holds_for_this_shape(choices, measured):
    calls = measured(PyTorch=1.0)
    for changes in ({}, {"depths": (1,)}, {"mlp_ratio": 3.0}, {"embed_dim": 16}):
        values: dict[str, Any] = {
            "embed_dim": 12,
            "depths": (2,),
            "num_heads": (2,),
            **changes,
        }
        config = Swin2SRConfig(**values, upsampler="pixelshuffledirect")
        net = Swin2SRForImageSuperResolution(config).eval()
        prepare_cpu(net, "fp32")
    assert len(calls) == 3  # a network of fewer layers has the same layers


def entries(change):
    """Change the times in a file of choices."""

    def spoil(file):
        kept = json.loads(file.read_text())
        for entry in kept.values():
            entry["seconds"] = change(entry["seconds"])
        file.write_text(json.dumps(kept))

    return spoil


@needs_compiler
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(b"\xff\xfe\x00"),
        lambda file: file.write_text("[" * 100_000),
        lambda file: file.write_text("[1]"),
        lambda file: file.chmod(0o666),
        entries(lambda seconds: list(seconds)),
        entries(lambda seconds: {"PyTorch, fp32": 1.0}),
        entries(lambda seconds: {**seconds, "another": 1.0}),
        entries(lambda seconds: dict.fromkeys(seconds, "1")),
        entries(lambda seconds: dict.fromkeys(seconds, float("nan"))),
        entries(lambda seconds: dict.fromkeys(seconds, -1.0)),
        pytest.param(
            lambda file: os.chown(file, 12345, -1),
            marks=pytest.mark.skipif(
                getattr(os, "getuid", lambda: 1)() != 0,
                reason="only root gives files away",
            ),
        ),
    ],
)
def test_a_damaged_or_foreign_memory_is_written_anew(spoil, net, choices, measured):
    calls = measured(PyTorch=1.0)
    prepare_cpu(net, "fp32")
    good = choices.read_text()
    spoil(choices)
    assert prepare_cpu(net, "fp32")[1].name == "PyTorch, fp32"
    assert len(calls) == 2
    assert choices.read_text() == good
    assert cpu_native.is_private(choices)


@needs_compiler
def test_a_memory_that_cannot_be_written_is_done_without(net, choices, measured):
    calls = measured(PyTorch=1.0)
    choices.mkdir()
    try:
        assert prepare_cpu(net, "fp32")[1].name == "PyTorch, fp32"
        prepare_cpu(net, "fp32")
    finally:
        choices.rmdir()
    assert len(calls) == 2


def test_the_memory_does_not_grow_for_ever(choices, monkeypatch):
    choices.parent.mkdir(exist_ok=True, mode=0o700)
    backends.write_choices(
        choices, {str(i): i for i in range(3 * backends.MOST_CHOICES)}
    )
    kept = backends.read_choices(choices)
    assert list(kept.values()) == list(
        range(2 * backends.MOST_CHOICES, 3 * backends.MOST_CHOICES)
    )


# -- what can be forced ----------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("name", ["0", "1", *cpu_native.instruction_sets()])
def test_the_environment_forces_a_way(name, net, choices, measured, monkeypatch):
    calls = measured(PyTorch=1.0)
    monkeypatch.setenv(SWITCH, name)
    forward, choice = prepare_cpu(net, "fp32")
    first = cpu_native.instruction_sets()[0]
    expected = {"0": "PyTorch, fp32", "1": f"{first} kernels, fp32"}
    assert choice.name == expected.get(name, f"{name} kernels, fp32")
    assert choice.reason == f"{SWITCH}={name}"
    assert isinstance(forward, NativeForward) == (name != "0")
    assert not calls


def test_zero_keeps_the_compiler_out_of_it(net, choices, monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    monkeypatch.setattr(cpu_native, "load_kernels", None)  # calling it would fail
    assert prepare_cpu(net, "fp32")[1].name == "PyTorch, fp32"


@pytest.mark.parametrize("value", ["avx1024", "yes", "AVX2"])
def test_what_the_environment_cannot_mean_is_an_error(value, net, monkeypatch):
    monkeypatch.setenv(SWITCH, value)
    with pytest.raises(OptionError, match=rf"{SWITCH}='{value}'.*auto, 0, 1"):
        prepare_cpu(net, "fp32")


def test_instructions_that_the_processor_lacks_are_an_error(net, monkeypatch):
    """They would end the process."""
    monkeypatch.setattr(cpu_native, "features", lambda: frozenset({"fma", "avx2"}))
    monkeypatch.setenv(SWITCH, "avx512")
    with pytest.raises(OptionError, match=r"avx512.*choose one of auto, 0, 1, avx2,"):
        prepare_cpu(net, "fp32")


@needs_compiler
def test_kernels_that_cannot_serve_say_so(choices, monkeypatch, caplog):
    config = Swin2SRConfig(
        embed_dim=12,
        depths=(2,),
        num_heads=(2,),
        window_size=7,
        upsampler="pixelshuffledirect",
    )
    monkeypatch.setenv(SWITCH, "1")
    with caplog.at_level(logging.WARNING):
        prepare_cpu(Swin2SRForImageSuperResolution(config).eval(), "fp32")
    assert f"{SWITCH}=1: there are no such kernels here; PyTorch" in caplog.text


# -- bfloat16 --------------------------------------------------------------------------


@needs_compiler
@needs_bfloat16
def test_bfloat16_kernels_are_measured_too(net, choices, measured):
    measured()
    _, choice = prepare_cpu(net, "bf16")
    assert {"avx512 kernels, bf16", "PyTorch, bf16", "PyTorch, fp32"} <= set(
        choice.seconds
    )


@needs_bfloat16
def test_float32_runs_where_it_is_faster_and_says_so(net, choices, monkeypatch, caplog):
    times = {"PyTorch, fp32": 1.0}
    monkeypatch.setattr(
        backends, "measure", lambda made: {name: times.get(name, 2.0) for name in made}
    )
    with caplog.at_level(logging.WARNING):
        forward, _ = prepare_cpu(net, "bf16")
    assert "precision bf16: PyTorch, fp32 runs" in caplog.text
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(forward(x), net.upscale_tile(x))


def test_without_such_arithmetic_float32_runs_and_says_so(net, choices, monkeypatch):
    monkeypatch.setattr(upscaler, "has_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match=r"'bf16'.*no bfloat16.*float32 runs"):
        made = Upscaler(net, "cpu", "bf16")
    assert made.precision == "fp32"
    tile = torch.rand(1, 3, 16, 16).numpy()
    assert (made(tile) == Upscaler(net, "cpu", "fp32")(tile)).all()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fpu avx2 fma", False),
        ("avx512f avx512_bf16", True),
        ("amx_bf16", True),
        ("fp asimd bf16", True),
    ],
)
def test_who_has_bfloat16(words, expected, monkeypatch):
    monkeypatch.setattr(cpu_native, "_cpuinfo", lambda *keys: [words])
    found = cpu_native.features.__wrapped__()
    monkeypatch.setattr(cpu_native, "features", lambda: found)
    assert cpu_native.has_bfloat16() is expected


def test_pytorch_tells_where_linux_does_not(monkeypatch):
    monkeypatch.setattr(cpu_native, "_cpuinfo", lambda *keys: [])
    monkeypatch.setattr(cpu_native.platform, "machine", lambda: "AMD64")
    known = {"avx2": True, "fma3": True, "avx512_f": False, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    found = cpu_native.features.__wrapped__()
    assert found == {"avx2", "fma", "x86-64"}


# -- what is said ----------------------------------------------------------------------


@needs_compiler
def test_info_says_which_way_runs_and_why(choices):
    start = time.monotonic()
    found = info.environment()["default model on the cpu"]
    assert time.monotonic() - start < 60
    assert " kernels, fp32 (the fastest, measured now)" in found["runs"]
    assert "ms of CPU time" in found["PyTorch, fp32"]
    assert found["compiler"] == cpu_native.find_compiler()
    again = info.environment()["default model on the cpu"]
    assert again["PyTorch, fp32"] == found["PyTorch, fp32"]
    assert "measured before" in again["runs"]


def test_auto_and_fp32_need_nothing():
    assert choose_precision("auto", CPU) == choose_precision("fp32", CPU) == "fp32"
