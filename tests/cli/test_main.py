"""The command line: what it hands on, and what people and scripts see of it."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_swin2sr import files
from napari_swin2sr.cli import console
from napari_swin2sr.cli import main as cli
from napari_swin2sr.errors import Cancelled, InputError, TilesFailedError
from napari_swin2sr.options import RunOptions, UpscaleOptions
from napari_swin2sr.runs.runner import RunFinished, RunStarted, TileDone, TileFailed
from napari_swin2sr.weights import catalog

FIELDS = [field.name for field in dataclasses.fields(UpscaleOptions)]
PARAMETERS = inspect.signature(files.upscale_file).parameters


@pytest.fixture
def calls(monkeypatch):
    """Replace `upscale_file`; the list holds the keyword arguments of each call.

    A test may set `calls.behave` to a function of the keyword arguments. `models` are
    the models fetched before, each with what is told of the progress.
    """

    class Calls(list):
        behave = staticmethod(lambda **_: None)

        def __init__(self):
            self.models: list[Any] = []

    recorded = Calls()

    def resolve_model(name, *, progress=None):
        recorded.models.append((name, progress))
        return SimpleNamespace(sha256="0" * 64)

    def upscale_file(source, target, **kwargs):
        recorded.append({"source": source, "target": target} | kwargs)
        recorded.behave(**kwargs)
        return Path(target)

    monkeypatch.setattr("napari_swin2sr.files.upscale_file", upscale_file)
    monkeypatch.setattr(catalog, "resolve_model", resolve_model)
    return recorded


@pytest.mark.parametrize("quiet", [True, False])
def test_model_is_fetched_first_and_silently_if_asked(calls, quiet):
    def behave(**_):
        assert len(calls.models) == 1

    calls.behave = behave
    flags = ["--quiet"] if quiet else []
    cli.main(["upscale", "in.png", "out.png", "--model", "classical-x2", *flags])
    ((name, progress),) = calls.models
    assert name == "classical-x2"
    assert (progress is not None) == quiet


def fails_with(error):
    """Return a behavior that raises."""

    def behave(**_):
        raise error

    return behave


def json_lines(text):
    """Parse every line of some text as JSON."""
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------ options


def test_every_option_is_a_flag_with_its_own_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["upscale", "--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in (*dataclasses.fields(UpscaleOptions), *dataclasses.fields(RunOptions)):
        assert "--" + field.name.replace("_", "-") in text
        assert field.metadata["help"].split(":")[0] in text
    assert "130 interrupted" in text


def test_without_flags_every_option_keeps_its_default(calls):
    assert cli.main(["upscale", "in.png", "out.png"]) == 0
    (call,) = calls
    options = {name: call[name] for name in FIELDS}
    assert UpscaleOptions(**options) == UpscaleOptions()
    assert (call["source"], call["target"]) == ("in.png", "out.png")


def test_command_line_and_function_have_the_same_options_and_defaults(calls):
    cli.main(["upscale", "in.png", "out.png"])
    by_hand = {"executor", "progress", "cancel"}
    assert calls[0].keys() == PARAMETERS.keys() - {"executor"}
    for name in calls[0].keys() - by_hand - {"source", "target"}:
        assert calls[0][name] == PARAMETERS[name].default, name


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ("--model folder/net", "model", "folder/net"),
        ("--axes CYX", "axes", "CYX"),
        ("--rgb", "rgb", True),
        ("--no-rgb", "rgb", False),
        ("--value-range 0,4095", "value_range", (0.0, 4095.0)),
        ("--value-range=-1,1", "value_range", (-1.0, 1.0)),
        ("--value-range 0,1,0,65535", "value_range", [(0.0, 1.0), (0.0, 65535.0)]),
        ("--value-range dtype", "value_range", "dtype"),
        ("--value-range data", "value_range", "data"),
        ("--nodata -9999", "nodata", -9999.0),
        ("--nodata=nan", "nodata", pytest.approx(float("nan"), nan_ok=True)),
        ("--tile 256", "tile", 256),
        ("--halo 32", "halo", 32),
        ("--halo exact", "halo", "exact"),
        ("--device cuda:1", "device", "cuda:1"),
        ("--precision bf16", "precision", "bf16"),
        ("--dtype float32", "dtype", "float32"),
        ("--no-resume", "resume", False),
        ("--overwrite", "overwrite", True),
        ("--part 0/16", "part", "0/16"),
        ("--workers 2", "workers", 2),
        ("--verify", "verify", True),
        ("--series 1", "series", 1),
        ("--level 2", "level", 2),
        ("--ome-version 0.4", "ome_version", "0.4"),
        ("--cog", "cog", True),
        ("--no-check-space", "check_space", False),
    ],
)
def test_flag_reaches_the_function(calls, flags, name, value):
    assert cli.main(["upscale", "in.tif", "out.zarr", *flags.split()]) == 0
    assert calls[0][name] == value


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "--halo wide",
            "'wide' is neither a whole number of pixels nor the word exact",
        ),
        ("--value-range 0,1,2", "'0,1,2' is not LOW,HIGH"),
        ("--value-range low", "'low' is not LOW,HIGH"),
        ("--tile big", "invalid int value: 'big'"),
        ("--tile 0", "--tile 0 is not a positive whole number"),
        ("--precision fp8", "--precision fp8 is not one of auto, fp32, bf16, fp16"),
        ("--device tpu", "--device tpu is not one of auto, cpu, cuda, mps, cuda:N"),
        ("--scale 2", "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(calls, capsys, flags, words):
    code: Any
    try:
        code = cli.main(["upscale", "in.tif", "out.tif", *flags.split()])
    except SystemExit as exit_:  # what argparse itself refuses
        code = exit_.code
    assert code == console.EXIT_USAGE
    assert words in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize("argv", [[], ["upscale", "in.png"], ["enlarge", "a", "b"]])
def test_incomplete_command_is_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == console.EXIT_USAGE
    assert "usage: napari-swin2sr" in capsys.readouterr().err


# ---------------------------------------------------------- errors and exits


def test_an_error_is_one_line(calls, capsys):
    calls.behave = fails_with(InputError("axes='XX' names X twice;\n  use YX"))
    assert cli.main(["upscale", "in.png", "out.png"]) == console.EXIT_FAILURE
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "napari-swin2sr: in.png: --axes XX names X twice; use YX\n"


def test_debug_shows_the_traceback(calls, capsys):
    calls.behave = fails_with(InputError("no pixels"))
    assert cli.main(["upscale", "in.png", "out.png", "--debug"]) == console.EXIT_FAILURE
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("napari-swin2sr: in.png: no pixels\n")


def test_an_unforeseen_error_names_its_type_and_the_way_to_more(calls, capsys):
    calls.behave = fails_with(KeyError("conv_first"))
    assert cli.main(["upscale", "in.png", "out.png"]) == console.EXIT_FAILURE
    assert "KeyError: 'conv_first' (--debug shows where)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TilesFailedError("2 of 9 tiles failed", failed={}), 3),
        (Cancelled("cancelled; 3 of 9 tiles are finished"), 130),
        (KeyboardInterrupt(), 130),
        (FileNotFoundError(2, "No such file", "in.png"), 1),
    ],
)
def test_exit_codes(calls, capsys, error, code):
    calls.behave = fails_with(error)
    assert cli.main(["upscale", "in.png", "out.png"]) == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_warnings_and_logs_are_single_lines(calls, capsys):
    def behave(**_):
        warnings.warn("the alpha channel is\ninterpolated", stacklevel=2)
        logging.getLogger("napari_swin2sr.runs.runner").warning(
            "tile %s failed", (0, 1)
        )

    calls.behave = behave
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["upscale", "in.png", "out.png"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "napari-swin2sr: warning: the alpha channel is interpolated",
        "napari-swin2sr: warning: tile (0, 1) failed",
    ]
    assert logging.getLogger("napari_swin2sr").handlers == []


# ------------------------------------------------------- progress and output


def run_of_two_tiles(progress, **_):
    """Report what a run of two tiles would, the second failing once."""
    progress(RunStarted(total=2, done=0))
    progress(TileDone((0, 0), 1, 2, 0.5))
    progress(TileFailed((0, 1), ValueError("bad tile"), final=False))
    progress(TileDone((0, 1), 2, 2, 0.5))
    progress(RunFinished(2, 2, seconds=1.25))


def test_result_path_is_all_that_a_pipe_gets(calls, capsys):
    calls.behave = run_of_two_tiles
    assert cli.main(["upscale", "in.png", "out.png"]) == 0
    assert capsys.readouterr() == ("out.png\n", "")


def test_quiet_prints_nothing(calls, capsys):
    calls.behave = run_of_two_tiles
    assert cli.main(["upscale", "in.png", "out.png", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self):
        return True


def test_bar_on_a_terminal_shows_count_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    report = console.Report()
    report(RunStarted(4, 1, expected_seconds=3600, pixel_overhead=1.1292))
    assert "about 1:00:00, halos add 13%" in sys.stderr.getvalue()
    report(TileDone((0, 1), 2, 4, 0.5))
    report._bar.refresh()
    text = sys.stderr.getvalue().rsplit("\r", 1)[-1]
    report(RunFinished(4, 4))
    assert "tiles:  50%" in text
    assert "2/4" in text
    assert "tile" in text.split("<", 1)[1]  # [elapsed<left, rate]
    assert report._bar is None


def test_quiet_shows_no_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    run_of_two_tiles(console.Report(quiet=True))
    assert sys.stderr.getvalue() == ""


def test_json_is_one_record_per_line(calls, capsys):
    calls.behave = run_of_two_tiles
    assert cli.main(["upscale", "in.png", "out.png", "--json"]) == 0
    records = json_lines(capsys.readouterr().out)
    assert [record["event"] for record in records] == [
        "run_started",
        "tile_done",
        "tile_failed",
        "tile_done",
        "run_finished",
        "result",
    ]
    assert records[1]["index"] == [0, 0]
    assert records[2]["error"] == "ValueError: bad tile"
    assert records[-1]["output"] == "out.png"


def test_json_ends_with_the_error(calls, capsys):
    calls.behave = fails_with(InputError("no pixels"))
    assert cli.main(["upscale", "in.png", "out.png", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json_lines(out) == [
        {
            "event": "error",
            "type": "InputError",
            "message": "in.png: no pixels",
            "source": "in.png",
            "output": "out.png",
            "exit_code": 1,
        }
    ]
    assert err == "napari-swin2sr: in.png: no pixels\n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "in.png: say rgb=True, rgb=False or axes=..., as",
            "--rgb, --no-rgb or --axes",
        ),
        ("in.png: value_range=(5.0, 2.0) is", "in.png: --value-range 5.0,2.0 is"),
        ("replace it with --overwrite (overwrite=True)", "it with --overwrite\n"),
        ("check_space=False runs in.png", "--no-check-space runs in.png"),
        ("in.png: config.axes=YX, my_rgb=True, width=3", "config.axes=YX, my_rgb=True"),
        ("in.png: names 3 axes", "napari-swin2sr: in.png: names 3 axes"),
    ],
)
def test_messages_speak_of_flags_and_name_the_file(calls, capsys, said, shown):
    calls.behave = fails_with(InputError(said))
    assert cli.main(["upscale", "in.png", "out.png"]) == 1
    assert shown in capsys.readouterr().err
    calls.behave = lambda **_: logging.getLogger("napari_swin2sr").warning(said)
    assert cli.main(["upscale", "in.png", "out.png"]) == 0
    assert shown.removeprefix("napari-swin2sr: ") in capsys.readouterr().err


def test_names_cannot_drive_the_terminal(calls, capsysbinary, monkeypatch):
    name = "in\x1b]0;owned\x07\u202e\udcff.png"
    calls.behave = fails_with(InputError(f"{name}: {'x' * 900_000}\n\x9b2J"))
    assert cli.main(["upscale", name, "out.png"]) == 1
    err = capsysbinary.readouterr().err.decode()
    assert err.removesuffix("\n").isprintable()
    assert "in\\x1b]0;owned\\x07\\u202e\\udcff.png: xxx" in err
    assert len(err) < 5000
    calls.behave = lambda **_: None
    assert cli.main(["upscale", "in.png", name]) == 0
    assert capsysbinary.readouterr().out == os.fsencode(f"{name}\n")  # to a pipe
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["upscale", "in.png", name]) == 0
    assert capsysbinary.readouterr().out == b"in\\x1b]0;owned\\x07\\u202e\\udcff.png\n"


def test_first_signal_sets_the_token_and_the_second_interrupts(capfd):
    before = signal.getsignal(signal.SIGINT)
    with console.interruptible() as token:
        signal.raise_signal(signal.SIGTERM)
        assert token.is_set()
        assert token.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping; press Ctrl-C again" in capfd.readouterr().err


# ------------------------------------------------------------ models and info


def test_models_lists_the_embedded_default(capsys):
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().out.startswith("default ")
    assert cli.main(["models", "--json"]) == 0
    records = json_lines(capsys.readouterr().out)
    assert records[0]["name"] == "default"
    assert records[0]["downloaded"] is True


def test_info_says_what_a_bug_report_needs(capsys):
    assert cli.main(["info", "--json"]) == 0
    (facts,) = json_lines(capsys.readouterr().out)
    assert facts["versions"]["numpy"] == np.__version__
    assert "threads" in facts["devices"]["cpu"]
    assert len(facts["default model"]["sha256"]) == 64
    assert cli.main(["info"]) == 0
    assert facts["default model"]["sha256"] in capsys.readouterr().out


# --------------------------------------------------------- as its own process


def command(*argv, **kwargs):
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "napari_swin2sr", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **kwargs,
    )


def test_help_is_quick_because_it_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from napari_swin2sr.cli.main import main\n"
        "try: main(['upscale', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'dask', 'zarr', 'napari'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version():
    process = command("--version")
    expected = f"napari-swin2sr {version('napari-swin2sr')}\n"
    assert process.communicate() == (expected, "")
    assert process.returncode == 0


def test_reader_that_leaves_is_no_traceback():
    process = command("models")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) in (0, console.EXIT_FAILURE)


def test_upscale_doubles_a_real_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (24, 40), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", image)
    process = command("upscale", tmp_path / "in.tif", tmp_path / "out.tif")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert Path(out.strip()) == tmp_path / "out.tif"
    result = tifffile.imread(tmp_path / "out.tif")
    assert (result.shape, result.dtype) == ((48, 80), np.uint8)


def test_missing_input_is_one_line_and_exit_code_1(tmp_path):
    process = command("upscale", tmp_path / "none.tif", tmp_path / "out.tif")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (console.EXIT_FAILURE, "")
    assert len(err.splitlines()) == 1
    assert "none.tif" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a child alone")
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_ctrl_c_ends_within_a_tile_and_leaves_nothing_half_written(tmp_path, suffix):
    image = np.random.default_rng(0).integers(0, 256, (640, 640), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", image)
    target = tmp_path / f"out{suffix}"
    flags = ("--tile", "64", "--no-resume", "--json")
    process = command("upscale", tmp_path / "in.tif", target, *flags)
    for line in process.stdout:
        if '"tile_done"' in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json_lines(out)[-1]["exit_code"] == 130
    assert not target.exists()
    done = sum(record["event"] == "tile_done" for record in json_lines(out))
    assert done < 20  # of 100: those in work, not the rest
