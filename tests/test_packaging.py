"""What gets installed: the wheel is complete, and its manifest is found and valid."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
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
def built(tmp_path_factory):
    """Build the source archive, and the wheel from it, without network."""
    folder = tmp_path_factory.mktemp("built")
    run("-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def installed(built):
    """Unpack the wheel as an installer would."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


@pytest.fixture(scope="module")
def metadata(installed):
    """Return what package indexes read."""
    (file,) = installed.glob("napari_swin2sr-*.dist-info/METADATA")
    return file.read_text("utf-8")


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
    (about,) = installed.glob("napari_swin2sr-*.dist-info")
    tops = {path.name for path in installed.iterdir()}
    assert tops == {"napari_swin2sr", "napari_swin2sr_manifest", about.name}
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


def test_wheel_and_source_archive_have_one_version(built, metadata):
    version = re.search(r"^Version: (.+)$", metadata, re.MULTILINE)[1]
    (archive,) = built.glob("*.tar.gz")
    assert archive.name == f"napari_swin2sr-{version}.tar.gz"
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert names >= {"LICENSE", "CHANGELOG.md", "CITATION.cff", "tests/conftest.py"}


def test_an_archive_without_history_can_be_built(tmp_path):
    names = ["LICENSE", "README.md", "napari.yaml", "pyproject.toml", "hatch_build.py"]
    for name in [*names, "src/napari_swin2sr/__init__.py"]:
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    out = ["--wheel", "--no-isolation", "--outdir", tmp_path]
    run("-m", "build", *out, tmp_path / "copy", GIT_CEILING_DIRECTORIES=str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    fallback = settings["tool"]["hatch"]["version"]["fallback-version"]
    assert wheel.name == f"napari_swin2sr-{fallback}-py3-none-any.whl"


def test_links_on_the_package_index_are_absolute(metadata):
    page = metadata.partition("\n\n")[2]
    targets = re.findall(r"\]\(([^)\s]+)", page)
    assert len(targets) > 10
    assert [target for target in targets if "://" not in target] == []


def test_the_address_of_the_repository_is_the_same_everywhere():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    source = settings["project"]["urls"]["Source"]
    owned = re.compile(r"[\w-]+/napari-swin2sr(?![\w-])")
    files = ["CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "mkdocs.yml"]
    paths = [ROOT / name for name in [*files, "pyproject.toml"]]
    paths += [*ROOT.glob(".github/**/*.yml"), *ROOT.glob("recipe/*.yaml")]
    addresses = [
        (path.name, found)
        for path in paths
        for found in re.findall(
            r"github(?:usercontent)?\.com/([\w-]+/[\w.-]+)", path.read_text("utf-8")
        )
        if owned.fullmatch(found)
    ]
    assert len({name for name, _ in addresses}) > 3
    assert {found for _, found in addresses} == {
        source.removeprefix("https://github.com/")
    }


def test_the_conda_recipe_asks_for_the_same_libraries():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    recipe = (ROOT / "recipe/meta.yaml").read_text("utf-8")
    run = recipe.partition("  run:")[2].partition("\ntest:")[0]
    found = re.findall(r"^    - (\S+) >=(\S+)$", run, re.MULTILINE)
    in_conda = {"dask[array]": "dask-core", "torch": "pytorch"}
    wanted = [("python", settings["project"]["requires-python"].removeprefix(">="))]
    for dependency in settings["project"]["dependencies"]:
        name, bound = dependency.split(">=")
        wanted.append((in_conda.get(name, name), bound))
    assert found == wanted
