"""Models for other programs, checked with the programs that read them."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.golden import VARIANTS, make_network
from helpers.tiny import tiny_folder, tiny_net
from napari_swin2sr import export_model
from napari_swin2sr.cli.main import main
from napari_swin2sr.errors import (
    InferenceError,
    MissingDependencyError,
    OptionError,
    OutputError,
    WeightsError,
)
from napari_swin2sr.export import onnx as onnx_module
from napari_swin2sr.export import write
from napari_swin2sr.export.bioimageio import bioimageio_package, smallest_tile
from napari_swin2sr.export.onnx import ExportedModel
from napari_swin2sr.model import Swin2SRForImageSuperResolution


def one_stage() -> Swin2SRForImageSuperResolution:
    return tiny_net(depths=(2,), num_heads=(2,))


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, exported by the command line."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("export")
    tiny_folder(folder / "model", depths=(2,), num_heads=(2,))
    target = folder / "model.onnx"
    assert main(["export", str(folder / "model"), str(target)]) == 0
    return target


def run_onnx(source: Path | bytes, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def check_sizes(net: Swin2SRForImageSuperResolution, source: Path) -> None:
    window, channels = net.config.window_size, net.config.num_channels
    for n, height, width in ((1, 64, 64), (2, 72, 128), (1, 256, 256)):
        height, width = (side // window * window for side in (height, width))
        rng = np.random.default_rng(height + width)
        image = rng.random((n, channels, height, width), dtype=np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(image)).reconstruction.numpy()
        np.testing.assert_allclose(run_onnx(source, image), expected, rtol=0, atol=1e-5)


def test_onnx_runtime_gives_the_numbers_of_the_network(onnx_path: Path) -> None:
    assert sorted(p.name for p in onnx_path.parent.iterdir()) == ["model", "model.onnx"]
    check_sizes(one_stage(), onnx_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_within_1e_5(variant: str, tmp_path: Path) -> None:
    net = make_network(variant)
    check_sizes(net, export_model(net, tmp_path / "net.onnx"))


def test_the_file_says_how_to_use_it_and_nothing_of_this_machine(
    onnx_path: Path,
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_path)
    onnx.checker.check_model(model, full_check=True)
    assert [o.version for o in model.opset_import] == [18]
    facts = {p.key: p.value for p in model.metadata_props}
    config = one_stage().config
    assert json.loads(facts["config"]) == config.to_dict()
    assert (facts["window_size"], facts["upscale"]) == ("8", "2")
    assert facts["exact_halo"] == str(config.exact_halo)
    weights = (onnx_path.parent / "model/model.safetensors").read_bytes()
    assert facts["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert facts["model"] == "model"
    for part in (model.graph.input[0], model.graph.output[0]):
        dims = [d.dim_param or d.dim_value for d in part.type.tensor_type.shape.dim]
        unit = 8 if part is model.graph.input[0] else 16
        assert dims == ["n", 3, f"{unit}*h", f"{unit}*w"]
    assert b"/src/" not in onnx_path.read_bytes()
    assert str(onnx_path.parent).encode() not in onnx_path.read_bytes()


def test_sides_that_are_no_multiple_are_an_error_there(onnx_path: Path) -> None:
    with pytest.raises(Exception, match=r"Reshape|reshape"):
        run_onnx(onnx_path, np.zeros((1, 3, 12, 16), np.float32))


# -- bioimage.io ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(onnx_path: Path) -> Iterator[Path]:
    """The same model as a package, without exporting it once more."""
    model = ExportedModel(
        one_stage(), "a/strange name", "0" * 64, False, "MIT", ("A. Person",)
    )
    target = onnx_path.with_name("package.zip")
    target.write_bytes(bioimageio_package(model, onnx_path.read_bytes()))
    yield target
    target.unlink()


def test_the_test_of_bioimageio_passes(package: Path) -> None:
    """In a process of its own: the library leaves the package open."""
    pytest.importorskip("bioimageio.core")
    code = (
        "import sys, bioimageio.core as core\n"
        "summary = core.test_model(sys.argv[1])\n"
        "print(summary.status, [e for d in summary.details for e in d.errors])"
    )
    words = [sys.executable, "-c", code, str(package)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1:] == ["passed []"], run.stdout + run.stderr


def test_description_of_the_package(package: Path) -> None:
    import yaml

    with zipfile.ZipFile(package) as archive:
        description = yaml.safe_load(archive.read("bioimageio.yaml"))
        for part in (
            description["weights"]["onnx"],
            description["documentation"],
            description["inputs"][0]["test_tensor"],
            description["outputs"][0]["test_tensor"],
        ):
            content = archive.read(part["source"])
            assert hashlib.sha256(content).hexdigest() == part["sha256"]
        image = np.load(io.BytesIO(archive.read("test_input.npy")))
        result = np.load(io.BytesIO(archive.read("test_output.npy")))
        assert b"# Validation" in archive.read("README.md")
    assert description["format_version"].startswith("0.5.")
    assert description["name"] == "Swin2SR x2 (a_strange name)"
    assert (description["license"], description["authors"]) == (
        "MIT",
        [{"name": "A. Person"}],
    )
    config = one_stage().config
    size = description["inputs"][0]["axes"][2]["size"]
    halo = description["outputs"][0]["axes"][2]["halo"]
    assert size == {"min": 2 * config.halo() + 32, "step": 8}
    assert halo == 2 * config.halo()
    assert image.shape == (1, 3, size["min"], size["min"] + 8)
    with torch.no_grad():
        expected = one_stage()(torch.from_numpy(image)).reconstruction.numpy()
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_halo_and_tile_fit_the_rules_of_the_specification(variant: str) -> None:
    from helpers.golden import make_config

    config = make_config(variant)
    halo, scale = config.halo() * config.upscale, 1 / config.upscale
    assert halo * scale == config.halo()  # in floating point, as its reader computes
    assert int(smallest_tile(config) / scale) == smallest_tile(config) * config.upscale
    assert smallest_tile(config) > 2 * config.halo()
    assert smallest_tile(config) % config.window_size == 0


# -- one channel, other models, and what is refused ----------------------------------


@pytest.fixture
def no_exporter(monkeypatch) -> list[ExportedModel]:
    """Tests of the rest cost no export: the content is that of the model's name."""
    seen: list[ExportedModel] = []

    def content(model: ExportedModel) -> bytes:
        seen.append(model)
        return model.name.encode()

    monkeypatch.setattr(write, "onnx_file", content)
    return seen


def test_gray_is_the_mean_of_the_channels(
    no_exporter: list[ExportedModel], tmp_path: Path
) -> None:
    export_model(one_stage(), tmp_path / "x.onnx", gray=True)
    (model,) = no_exporter
    assert (model.channels_in, model.channels_out) == (1, 1)
    image = np.random.default_rng(0).random((2, 1, 16, 24), dtype=np.float32)
    with torch.no_grad():
        wide = one_stage()(torch.from_numpy(image).expand(-1, 3, -1, -1))
    expected = wide.reconstruction.mean(1, keepdim=True).numpy()
    np.testing.assert_allclose(model.upscale(image), expected, atol=1e-6)


def test_embedded_models_bring_license_and_authors(
    no_exporter: list[ExportedModel], tmp_path: Path
) -> None:
    assert export_model("default", tmp_path / "d.onnx") == tmp_path / "d.onnx"
    assert (tmp_path / "d.onnx").read_bytes() == b"default"
    export_model("default", tmp_path / "e.onnx", license="MIT", authors=["A"])
    first, second = no_exporter
    assert first.license == "BSD-3-Clause"
    assert first.authors == ("The napari-swin2sr developers",)
    assert (second.license, second.authors) == ("MIT", ("A",))


def test_the_network_given_stays_as_it_is(
    no_exporter: list[ExportedModel], tmp_path: Path
) -> None:
    net = one_stage().half().train()
    export_model(net, tmp_path / "x.onnx")
    assert (net.dtype, net.training) == (torch.float16, True)
    exported = no_exporter[0].net
    assert (exported.dtype, exported.training) == (torch.float32, False)


@pytest.mark.parametrize(
    ("target", "options", "error", "words"),
    [
        ("x.onnx", {"format": "tflite"}, OptionError, "'tflite' is not one of onnx"),
        ("x.pt", {}, OptionError, "neither .onnx nor .zip"),
        ("there.onnx", {}, OutputError, "exists already"),
        ("absent/x.onnx", {}, OutputError, "absent does not exist"),
        ("folder.onnx", {"overwrite": True}, OutputError, "is a folder"),
        ("n" * 250 + ".onnx", {}, OutputError, "too long"),
    ],
)
def test_bad_targets_are_refused_before_the_work(
    target: str,
    options: dict,
    error: type[Exception],
    words: str,
    tmp_path: Path,
    monkeypatch,
) -> None:
    monkeypatch.setattr(write, "_load", None)  # nobody gets that far
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(error, match=words):
        export_model("default", tmp_path / target, **options)
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"


def test_overwrite_replaces_a_file(no_exporter: list, tmp_path: Path) -> None:
    target = tmp_path / "x.onnx"
    target.write_bytes(b"old")
    export_model(one_stage(), target, overwrite=True)
    assert target.read_bytes() == b"network"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_model_and_a_missing_extra(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(WeightsError, match="absent"):
        export_model(tmp_path / "absent", tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"napari-swin2sr\[export\]"):
        export_model(one_stage(), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_gives_other_numbers_is_not_left(onnx_path: Path) -> None:
    other = tiny_net(seed=1, depths=(2,), num_heads=(2,))
    model = ExportedModel(other, "other", None, False, None, ())
    with pytest.raises(InferenceError, match="differs from the network"):
        onnx_module._compare(model, onnx_path.read_bytes())


def test_command_line(
    no_exporter: list[ExportedModel], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--gray", "--license", "MIT", "--author", "A", "--author", "B", "--json"]
    assert main(["export", "default", "x.onnx", *words]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == {
        "event": "exported",
        "model": "default",
        "output": "x.onnx",
        "n_bytes": len("default"),
    }
    assert no_exporter[0].gray
    assert no_exporter[0].authors == ("A", "B")
    for arguments, code, said in (
        (["default", "x.onnx"], 1, "--overwrite"),
        (["default", "y", "--format", "coreml"], 2, "--format coreml"),
        (["nothing", "y.onnx"], 1, "nothing"),
        (["default", "no/y.onnx"], 1, "does not exist"),
    ):
        assert main(["export", *arguments]) == code
        assert said in capsys.readouterr().err
