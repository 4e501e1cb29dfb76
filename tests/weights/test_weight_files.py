"""Each bad weight file ends in one `WeightsError`, soon, cheaply, with nothing run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.bad_weights import ROWS, put, saved, state
from helpers.tiny import tiny_config, tiny_net
from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model.swin2sr import load_network
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.checkpoint import read_weights

LIMIT = 2.0  # seconds
GROWTH = 64 << 20  # bytes beyond the size of the file


def bad_files(folder: Path) -> list[tuple[str, Path, str]]:
    """Write the whole catalogue, one folder per row."""
    found = []
    for identifier, writer, reason in ROWS:
        place = folder / identifier
        place.mkdir()
        found.append((identifier, writer(place), reason))
    return found


@pytest.mark.filterwarnings("ignore:.*nothing tells the window size")
@pytest.mark.parametrize(
    ("identifier", "writer", "reason"), ROWS, ids=[name for name, *_ in ROWS]
)
def test_file(identifier, writer, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = writer(tmp_path)
    before = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}
    start = time.perf_counter()
    with pytest.raises(WeightsError, match=f"(?s){reason}") as caught:
        load_network(path)
    assert time.perf_counter() - start < LIMIT
    error = caught.value
    assert path in {Path(error.path), Path(error.path).parent}
    assert error.advice.endswith(".")
    assert str(error) == f"{error.path}: {error.reason}. {error.advice}"
    assert len(str(error)) < 700
    assert str(error).isprintable()
    assert "weights_only" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    assert {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")} == before  # no PWNED


ONLY_PYTORCH_SEES = ("W04-2", "W11", "W15", "W16", "W17-missing", "W17-short", "W37")
SEEN_EARLY = [r for r in ROWS if not r[0].startswith(ONLY_PYTORCH_SEES)]


@pytest.mark.parametrize(
    ("identifier", "writer", "reason"),
    SEEN_EARLY,
    ids=[name for name, *_ in SEEN_EARLY],
)
def test_file_is_refused_where_it_is_found_too(identifier, writer, reason, tmp_path):
    """Finding a model loads nothing, yet refuses what can be seen without PyTorch."""
    path = writer(tmp_path)
    if path.suffix == ".pth" and identifier.startswith(("W36", "W38")):
        assert resolve_model(path).config is None  # only its pickle would tell
        return
    if identifier.startswith("W36"):
        assert resolve_model(path).config == tiny_config()
        return
    with pytest.raises(WeightsError):
        resolve_model(path)


MEASURE = """
    import json, re, resource, sys
    from pathlib import Path
    from napari_swin2sr.errors import WeightsError
    from napari_swin2sr.weights.checkpoint import read_weights

    def status(name):
        text = Path("/proc/self/status").read_text()
        return int(re.search(name + r":\\s+(\\d+) kB", text)[1]) << 10

    limit = status("VmSize") + (1 << 30) + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    grown = {}
    for identifier, path in json.load(sys.stdin):
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest use
        before = status("VmRSS")
        try:
            read_weights(path)
        except WeightsError:
            grown[identifier] = status("VmHWM") - before
    json.dump(grown, sys.stdout)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
def test_memory(tmp_path):
    files = bad_files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE)],
        input=json.dumps([(identifier, str(path)) for identifier, path, _ in files]),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    grown = json.loads(done.stdout)
    assert grown.keys() == {identifier for identifier, *_ in files}
    sizes = {
        identifier: path.stat().st_size if path.is_file() else 1 << 20
        for identifier, path, _ in files
    }
    too_much = {i: n for i, n in grown.items() if n > sizes[i] + GROWTH}
    assert too_much == {}


# -- rows that are no bad file -------------------------------------------------------


def test_w05_known_hash_finds_a_flipped_bit_in_any_format(tmp_path):
    for kind in ("safetensors", "legacy", "zip"):
        if kind == "safetensors":
            content = safetensors.torch.save(state(), {"a": "b"})
        else:
            content = saved(state(), _use_new_zipfile_serialization=kind == "zip")
        good = put(tmp_path, content)
        sha256 = resolve_model(good).sha256
        config = tiny_config()
        read_weights(good, config, sha256=sha256.upper())
        bad = bytearray(content)
        bad[-3000] ^= 1
        with pytest.raises(WeightsError, match=f"damaged or was replaced.*{sha256}"):
            read_weights(put(tmp_path, bytes(bad), "bad"), config, sha256=sha256)


def test_w21_renamed_files_load(tmp_path):
    safetensors.torch.save_file(state(), tmp_path / "a.pth")
    torch.save(state(), tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        assert load_network(path, tiny_config()).config == tiny_config()


def test_w39_file_replaced_after_it_was_found(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tiny_net(0).state_dict(), path)
    tiny_config().save_pretrained(tmp_path)
    found = resolve_model(tmp_path)
    load_network(found.path, found.config, sha256=found.sha256)
    safetensors.torch.save_file(tiny_net(1).state_dict(), path)
    with pytest.raises(WeightsError, match="damaged or was replaced"):
        load_network(found.path, found.config, sha256=found.sha256)


def test_w39_hash_and_load_are_of_the_same_bytes(tmp_path, monkeypatch):
    """A file that changes between two readings cannot be noticed: there is one."""
    path = put(tmp_path, saved(state()))
    opened = []
    true_open = os.open
    monkeypatch.setattr(
        os, "open", lambda p, *a, **k: opened.append(p) or true_open(p, *a, **k)
    )
    load_network(path, tiny_config(), sha256=resolve_model(path).sha256)
    assert opened.count(path) == 2  # once to find it, once to load it


def test_an_error_leaves_a_loaded_model_alone(tmp_path):
    safetensors.torch.save_file(state(), tmp_path / "model.safetensors")
    tiny_config().save_pretrained(tmp_path)
    net = load_network(tmp_path)
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        before = net.upscale_tile(x)
    (tmp_path / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(WeightsError):
        load_network(tmp_path)
    with torch.no_grad():
        assert torch.equal(net.upscale_tile(x), before)


ELSEWHERE = {
    "W40": ("test_download.py", "test_w40_"),
    "W41": ("test_download.py", "test_w41_"),
    "W42": ("test_checkpoint.py", "test_full_disk_leaves_nothing"),
}


def test_every_row_has_a_test():
    here = Path(__file__)
    covered = {identifier[:3] for identifier, *_ in ROWS} | {"W21", "W39"}
    for identifier, (file, name) in ELSEWHERE.items():
        assert f"def {name}" in here.with_name(file).read_text()
        covered.add(identifier)
    assert covered == {f"W{n:02}" for n in range(1, 43)}


# -- properties ----------------------------------------------------------------------

VALID = {
    "zip": saved(state()),
    "legacy": saved(state(), _use_new_zipfile_serialization=False),
    "safetensors": safetensors.torch.save(state(), {"format": "pt"}),
}


@pytest.mark.parametrize("kind", VALID)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_edited_bytes_give_a_weights_error_or_a_network(kind, data, tmp_path):
    content = bytearray(VALID[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        # half of the edits in the description, where they matter most
        end = data.draw(st.sampled_from([2000, len(content)]))
        at = data.draw(st.integers(-end, end - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = put(tmp_path, bytes(content))
    try:
        found, _, _ = read_weights(path, tiny_config())
    except WeightsError as error:
        said = str(error)
        assert "weights_only" not in said
    else:
        assert {k: v.shape for k, v in found.items()} == {
            k: v.shape for k, v in state().items()
        }
        assert all(v.isfinite().all() for v in found.values())
        if kind == "zip":
            assert all(torch.equal(v, found[k]) for k, v in state().items())


def test_a_damaged_name_is_a_weights_error(tmp_path):
    content = VALID["legacy"].replace(b"ctorch._utils\n", b"ctorch.\\Rtils\n", 1)
    assert content != VALID["legacy"]
    with pytest.raises(WeightsError, match="truncated or damaged"):
        read_weights(put(tmp_path, content), tiny_config())


# -- the source ----------------------------------------------------------------------


def test_nothing_in_the_source_can_run_a_pickle():
    root = Path(__file__).parents[2] / "src"
    loads = 0
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {a.name.split(".")[0] for a in node.names}
                names.add((getattr(node, "module", "") or "").split(".")[0])
                bad = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal"}
                assert not names & bad, where
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "jit"), where
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.hub.load"}, where
            if called == "torch.load":
                loads += 1
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert safe.get("weights_only") == "True", where
            if called in {"np.load", "numpy.load"}:
                assert not any(k.arg == "allow_pickle" for k in node.keywords), where
    assert loads >= 1
