"""Nothing of the user's is deleted, moved or replaced that was not named for it."""

from __future__ import annotations

import ast
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
import zarr

from helpers import stand_in
from helpers.io_images import noise
from napari_swin2sr import replace, upscale, upscale_file
from napari_swin2sr.errors import OutputError
from napari_swin2sr.formats import open_image
from napari_swin2sr.replace import (
    check_replaceable,
    discard_store,
    finish_replacement,
    foreign_content,
    remove_drafts,
    remove_strays,
    replace_folder,
    undo_replacement,
    written_beside,
)
from napari_swin2sr.runs import job as work
from napari_swin2sr.runs.runner import TileDone

SOURCE = Path(__file__).parents[1] / "src" / "napari_swin2sr"
HOME = SOURCE / "replace.py"
FUNCTIONS = {
    "os": {"remove", "unlink", "rename", "renames", "replace", "rmdir", "removedirs"},
    "shutil": {"rmtree", "move"},
}
METHODS = {"unlink", "rename", "rmdir", "rmtree", "delete", "delete_dir"}
OPTIONS: dict[str, Any] = {"tile": 32, "value_range": (0.0, 65535.0)}
RANDOM = "0123456789abcdef" * 2


def dangerous(tree: ast.AST) -> list[int]:
    """Lines that delete or replace files; `a.replace(b)` with one argument is one."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (
            {alias.name for alias in node.names}
            & FUNCTIONS.get(node.module or "", set())
        ):
            lines.append(node.lineno)
        if not isinstance(node, ast.Call):
            continue
        if any(
            k.arg == "overwrite" and getattr(k.value, "value", None) is True
            for k in node.keywords
        ) and "create" in ast.unparse(node.func):
            lines.append(node.lineno)  # Zarr empties what is there
        if not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        one = len(node.args) == 1 and not node.keywords and owner != "dataclasses"
        if (
            name in METHODS
            or name in FUNCTIONS.get(owner, ())
            or (name == "replace" and one)
        ):
            lines.append(node.lineno)
    return lines


def test_one_module_deletes_and_replaces():
    found = {
        str(path.relative_to(SOURCE)): dangerous(ast.parse(path.read_text("utf-8")))
        for path in SOURCE.rglob("*.py")
        if path != HOME
    }
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert len(dangerous(ast.parse(HOME.read_text("utf-8")))) > 10


@pytest.mark.parametrize(
    "line",
    [
        "shutil.rmtree(a)",
        "os.replace(a, b)",
        "path.replace(target)",
        "path.unlink(missing_ok=True)",
        "from os import remove",
        "zarr.create_group(a, overwrite=True)",
    ],
)
def test_the_walk_sees(line):
    assert dangerous(ast.parse(line)) == [1]
    assert not dangerous(ast.parse("text.replace('a', 'b'); options.replace(a=1)"))


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, noise((60, 60)), photometric="minisblack")
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def plate(folder: Path) -> Path:
    """A plate of two wells with notes, as OME-Zarr lays it out."""
    root = zarr.create_group(
        folder, attributes={"ome": {"version": "0.5", "plate": {"wells": []}}}
    )
    for well in ("A/1/0", "B/2/0"):
        image = root.create_group(well)
        image.create_array("0", data=np.zeros((8, 8), "u1"))
    (folder / "notes.txt").write_text("mine")
    return folder


def other_image(folder: Path, path: str = "s0", zarr_format: Literal[2, 3] = 3) -> Path:
    """An OME-Zarr image that another program has made."""
    group = zarr.create_group(folder, zarr_format=zarr_format)
    group.create_array(path, data=noise((40, 40)), chunks=(16, 16))
    multiscales = [{"datasets": [{"path": path}]}]
    group.attrs.update(
        {"multiscales": multiscales}
        if zarr_format == 2
        else {"ome": {"multiscales": multiscales}}
    )
    return folder


# -- what a folder holds --------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("path", ["s0", "0", "scale0/image"])
def test_one_image_is_all_its_own(tmp_path, path, zarr_format):
    image = other_image(tmp_path / "a.zarr", path, zarr_format)
    assert foreign_content(image) == []
    (image / path / "notes.txt").write_text("mine")
    assert foreign_content(image) == [f"{path}/notes.txt"]
    zarr.create_array(image / "labels", data=noise((8, 8)))
    assert any(key.startswith("labels/") for key in foreign_content(image))
    (image / "link").symlink_to(tmp_path, target_is_directory=True)
    assert "link/" in foreign_content(image)


def test_an_array_and_folders_that_are_none(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=noise((40, 40)), chunks=(16, 16))
    assert foreign_content(tmp_path / "a.zarr") == []
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "thesis.docx").write_text("mine")
    (tmp_path / "b.zarr" / ".DS_Store").write_text("")
    assert foreign_content(tmp_path / "b.zarr") == ["thesis.docx"]
    assert foreign_content(plate(tmp_path / "p.zarr"))


# -- runs -----------------------------------------------------------------------------


def test_a_folder_of_the_users_own_beside_the_target(tmp_path, source):
    names = ("a.tif.replaced", "a.ome.zarr.replaced", ".a.tif.old.partial")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("mine")
    (tmp_path / "a.tif").write_text("precious")
    before = content(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        upscale_file(source, tmp_path / "a.tif", **OPTIONS)
    assert content(tmp_path) == before
    upscale_file(source, tmp_path / "a.tif", overwrite=True, **OPTIONS)
    upscale_file(source, tmp_path / "a.ome.zarr", **OPTIONS)
    for name in names:
        assert (tmp_path / name / "precious").read_text() == "mine"


@pytest.mark.parametrize("make", [plate, None])
@pytest.mark.parametrize("name", ["a.ome.zarr", "a.tif", "a.png"])
def test_overwriting_a_folder_that_is_more_than_an_image(tmp_path, source, name, make):
    target = tmp_path / name
    if make is None:
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    else:
        make(target)
    before = content(tmp_path)
    match = r"notes\.txt" if name.endswith("zarr") else "a file cannot replace"
    with pytest.raises(OutputError, match=match):
        upscale_file(source, target, overwrite=True, dtype="uint16", **OPTIONS)
    assert content(tmp_path) == before


def test_overwriting_an_image_of_another_program(tmp_path, source):
    target = other_image(tmp_path / "a.ome.zarr")
    upscale_file(source, target, overwrite=True, **OPTIONS)
    assert open_image(target).shape == (120, 120)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ome.zarr", "in.tif"]


def test_what_appears_during_a_run_is_kept(tmp_path, source):
    target = other_image(tmp_path / "a.ome.zarr")

    def meddle(event):
        (target / "notes.txt").write_text("mine")

    with pytest.raises(OutputError, match=r"notes\.txt"):
        upscale_file(source, target, overwrite=True, progress=meddle, **OPTIONS)
    assert (target / "notes.txt").read_text() == "mine"
    assert (target / "s0").is_dir()
    (target / "notes.txt").unlink()
    upscale_file(source, target, overwrite=True, **OPTIONS)
    assert open_image(target).shape == (120, 120)


@pytest.mark.parametrize("small", [True, False])
def test_a_file_that_appears_during_a_run_is_kept(tmp_path, source, monkeypatch, small):
    if not small:
        monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)
    target = tmp_path / "a.tif"

    def meddle(event):
        target.write_text("mine")

    with pytest.raises(OutputError, match="appeared in the meantime"):
        upscale_file(source, target, progress=meddle, **OPTIONS)
    assert target.read_text() == "mine"


def test_an_unfinished_store_of_the_users_own(tmp_path, source, monkeypatch):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)
    other_image(tmp_path / "a.tif.unfinished.zarr")
    before = content(tmp_path)
    for resume in (True, False):
        with pytest.raises(OutputError, match=r"not made by this program|s0"):
            upscale_file(source, tmp_path / "a.tif", resume=resume, **OPTIONS)
    assert content(tmp_path) == before


def test_notes_in_an_unfinished_store(tmp_path, source):
    class Stop:
        n = 0

        def __call__(self, event):
            self.n += isinstance(event, TileDone)

        def is_set(self):
            return self.n >= 2

    stop, target = Stop(), tmp_path / "a.ome.zarr"
    with pytest.raises(Exception, match="cancelled"):
        upscale_file(source, target, progress=stop, cancel=stop, **OPTIONS)
    (target / "0" / "notes.txt").write_text("mine")
    (target / "0" / "mine.partial").write_text("mine")
    with pytest.raises(OutputError, match=r"0/notes\.txt"):
        upscale_file(source, target, resume=False, **OPTIONS)
    upscale_file(source, target, **OPTIONS)
    assert (target / "0" / "notes.txt").read_text() == "mine"
    assert (target / "0" / "mine.partial").read_text() == "mine"


def test_a_store_at_a_url_begun_anew_keeps_what_is_not_its_own(tmp_path, source):
    url = f"file://{tmp_path / 'a.ome.zarr'}"
    store = replace.RECORD
    root = zarr.create_group(tmp_path / "a.ome.zarr", attributes={store: {}})
    root.create_array("0", data=noise((40, 40)), chunks=(16, 16))
    keys = [p.relative_to(tmp_path / "a.ome.zarr").as_posix() for p in
            (tmp_path / "a.ome.zarr").rglob("*") if p.is_file()]  # fmt: skip
    with pytest.raises(OutputError, match="labels"):
        replace.discard_objects(url, root.store, [*keys, "labels/0/zarr.json"])
    assert root["0"].shape == (40, 40)
    replace.discard_objects(url, root.store, keys)
    assert not content(tmp_path / "a.ome.zarr")


def test_drafts_of_other_targets_are_kept(tmp_path):
    ours = [f".x.tif.{RANDOM}.partial.tif", f".x.tif.{RANDOM}.partial"]
    theirs = [
        f".x.ome.tif.{RANDOM}.partial.tif",
        ".x.tif.mine.partial.tif",
        f".x.tif.{RANDOM[:-1]}.partial.tif",
        f"x.tif.{RANDOM}.partial.tif",
    ]
    for name in (*ours, *theirs):
        (tmp_path / name).write_text("x")
    folder = tmp_path / f".x.tif.{RANDOM[::-1]}.partial"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    remove_drafts(tmp_path / "x.tif")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {*theirs, folder.name}
    (folder / "notes.txt").rename(folder / "zarr.json")
    remove_drafts(tmp_path / "x.tif")
    assert not folder.exists()


def test_a_draft_that_was_killed_while_it_was_made_from_a_draft(tmp_path):
    draft = replace.draft_of(tmp_path / "x.zarr")
    inner = replace.draft_of(draft)
    zarr.create_group(inner).create_array("0", shape=(4, 4), dtype="u1")
    other = replace.draft_of(replace.draft_of(tmp_path / "y.zarr"))
    zarr.create_group(other)
    remove_drafts(tmp_path / "x.zarr")
    assert [p.name for p in tmp_path.iterdir()] == [other.name]


def test_strays_are_told_by_their_whole_name(tmp_path):
    (tmp_path / f"0.{RANDOM}.partial").write_text("x")
    (tmp_path / "draft.partial").write_text("mine")
    assert remove_strays(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["draft.partial"]


def test_discarding_a_link_or_what_is_not_ours(tmp_path):
    image = other_image(tmp_path / "real.zarr", "0")
    (tmp_path / "a.zarr").symlink_to(image, target_is_directory=True)
    for path in (image, tmp_path / "a.zarr"):
        with pytest.raises(OutputError, match="not made by this program"):
            discard_store(path)
    assert (image / "zarr.json").exists()
    discard_store(tmp_path / "absent.zarr")


# -- replacing ------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing may tidy up after it."""


def killed_replacement(target: Path, new: Path, at: int) -> None:
    """Replace, but stop before the rename number `at` of the folder's two."""
    original, calls = Path.rename, []

    def rename(self, other):
        calls.append(self)
        if len(calls) == at:
            raise Killed
        return original(self, other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(shutil, "rmtree", lambda *a, **k: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            replace_folder(new, target)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_replacement_killed_at_any_moment(tmp_path, at):
    """Before, between and after its two renames; the next run puts it right."""
    target = other_image(tmp_path / "a.zarr")
    new = other_image(tmp_path / "b.zarr", "new")
    before = content(target)
    after = content(new)
    killed_replacement(target, new, at)
    undo_replacement(target)
    assert content(target) == (after if at == 3 else before)
    finish_replacement(target)
    assert content(target) == (after if at == 3 else before)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == ({"a.zarr"} if at == 3 else {"a.zarr", "b.zarr"})
    replace_folder(new, target) if at < 3 else None
    assert content(target) == after
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_an_old_target_is_kept_when_something_else_has_its_name(tmp_path, caplog):
    target = other_image(tmp_path / "a.zarr")
    new = other_image(tmp_path / "b.zarr", "new")
    before = content(target)
    killed_replacement(target, new, 2)
    target.mkdir()
    undo_replacement(target)
    finish_replacement(target)
    (aside,) = tmp_path.glob(".a.zarr.*.replaced")
    assert content(aside / "old") == before
    assert "kept" in caplog.text


def test_hidden_folders_without_our_record_are_left_alone(tmp_path):
    folder = tmp_path / f".a.zarr.{RANDOM}.replaced"
    (folder / "old").mkdir(parents=True)
    (folder / "old" / "precious").write_text("mine")
    for record in (None, {"napari_swin2sr": {"replaced": "other"}}):
        if record is not None:
            (folder / "owner.json").write_text(json.dumps(record))
        undo_replacement(tmp_path / "a.zarr")
        (tmp_path / "a.zarr").mkdir(exist_ok=True)
        finish_replacement(tmp_path / "a.zarr")
        (tmp_path / "a.zarr").rmdir()
        assert (folder / "old" / "precious").read_text() == "mine"


def test_special_files_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(OutputError, match="neither a file nor a folder"):
        check_replaceable(tmp_path / "a.tif", by_file=True)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")

    def fail():
        with written_beside(target) as draft:
            draft.write_text("half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]
