"""What gets installed: the wheel is complete, and its manifest is found and valid."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*argv, **env):
    """Run a module of this Python; fail with its output."""
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=env.pop("cwd", ROOT),
        env=os.environ | env,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel without network and unpack it as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_what_works_offline(installed):
    package = installed / "napari_swin2sr"
    sources = sorted((ROOT / "src" / "napari_swin2sr").rglob("*.py"))
    names = [path.relative_to(ROOT / "src").as_posix() for path in sources]
    assert [name for name in names if not (installed / name).exists()] == []
    assert (package / "py.typed").exists()
    assert (package / "embedded" / "default" / "config.json").exists()
    assert (package / "embedded" / "default" / "model.safetensors").exists()
    assert (installed / "napari_swin2sr_manifest" / "napari.yaml").exists()


def test_wheel_holds_nothing_else(installed):
    tops = {path.name for path in installed.iterdir()}
    assert tops == {
        "napari_swin2sr",
        "napari_swin2sr_manifest",
        "napari_swin2sr-0.1.0.dist-info",
    }
    size = sum(path.stat().st_size for path in installed.rglob("*") if path.is_file())
    assert size < 10e6


def test_installed_wheel_works_away_from_the_sources(installed, tmp_path):
    code = (
        "import numpy, napari_swin2sr as nsr\n"
        "print(nsr.__file__)\n"
        "print(nsr.apply(numpy.eye(9, dtype='uint8')).compute().shape)\n"
    )
    out = run("-c", code, PYTHONPATH=str(installed), cwd=tmp_path).splitlines()
    assert Path(out[0]).is_relative_to(installed)
    assert out[1] == "(18, 18)"


@pytest.mark.parametrize("install", ["editable", "wheel"])
def test_manifest_is_found_and_valid(install, installed, tmp_path):
    path = {"PYTHONPATH": str(installed)} if install == "wheel" else {}
    out = run(
        "-m",
        "npe2",
        "validate",
        "napari-swin2sr",
        "--imports",
        cwd=tmp_path,
        **path,
    )
    assert "valid" in out.lower()
