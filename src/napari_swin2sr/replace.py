"""Everything that deletes, moves or replaces files and folders; nothing else may.

What this program made is told by its name (hidden, with the target's whole name and
32 random digits) together with its content or an ownership record. Anything else is
left alone, or refused by name. A replacement moves the old aside first and removes it
last, so that a kill at any moment leaves the old or the new, whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)

RECORD = "napari_swin2sr"
"""Name of our own attributes and records: what carries it was made by us."""

ERROR_GROUP = "trust"
"""Name of the group inside an OME-Zarr that holds the error bars of its image."""

_PARTIAL, _REPLACED = ".partial", ".replaced"
_OLD, _OWNER = "old", "owner.json"  # inside a folder `.NAME.<random>.replaced`
_RANDOM = r"[0-9a-f]{32}"
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}

_METADATA = r"(?:zarr\.json|\.zgroup|\.zattrs|\.zarray|\.zmetadata)"
_CHUNK = r"(?:c|(?:c[/.])?\d+(?:[/.]\d+)*)"
_STRAY = re.compile(rf"(?:.*[/.])?{_RANDOM}\.partial")
_IN_ARRAY = re.compile(f"{_METADATA}|{_CHUNK}")
_OWN_KEY = re.compile(rf"{_METADATA}|\d+/(?:{_METADATA}|{_CHUNK})")


# -- writing beside -------------------------------------------------------------------


def draft_of(target: Path, suffix: str = "") -> Path:
    """Return a new hidden name beside the target, for what is not whole yet."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}{_PARTIAL}{suffix}")


def check_name(target: Path) -> None:
    """Refuse a name that is too long for the temporary names made from it."""
    try:
        limit = os.pathconf(target.parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows, odd file systems
        limit = 255
    excess = len(os.fsencode(draft_of(target).name)) - limit
    if excess > 0:
        raise OutputError(
            f"{target}: the name is {excess} bytes too long for the temporary files "
            "that are made beside it. Choose a shorter one"
        )


@contextlib.contextmanager
def written_beside(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a name to write a file to; at the end it becomes the target, on the disk.

    After an error nothing is left and the target is as before. Without `replace` a
    target that exists by then is a FileExistsError.
    """
    with scratch_file(target) as draft:
        yield draft
        flush_to_disk(draft)
        if not replace and os.path.lexists(target):
            raise FileExistsError(f"{target} has appeared in the meantime")
        draft.replace(target)
        flush_to_disk(target.parent)


@contextlib.contextmanager
def scratch_file(target: Path) -> Iterator[Path]:
    """Give a name for a file beside the target that is deleted at the end."""
    draft = draft_of(target, target.suffix)  # libraries choose the format by it
    try:
        yield draft
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside the target that is deleted at the end."""
    draft = draft_of(target)
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    with written_beside(target) as draft:
        draft.write_bytes(content)


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """Give a name to make a folder at; at the end it becomes the target, a new one.

    A target with content is an OSError, as for `os.rename`.
    """
    draft = draft_of(target)
    try:
        yield draft
        for folder, _, names in os.walk(draft, topdown=False):
            for name in names:
                flush_to_disk(Path(folder, name))
            flush_to_disk(folder)
        draft.rename(target)
        flush_to_disk(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_drafts(target: Path) -> None:
    """Delete what killed runs left beside the target; nobody else may write it now.

    A store that is a draft itself is made from a draft of its own.
    """
    name, suffix = re.escape(target.name), re.escape(target.suffix)
    draft = rf"\.{_RANDOM}\.partial"
    pattern = re.compile(rf"\.{name}{draft}(?:{suffix})?|\.\.{name}{draft}{draft}")
    for path in list(target.parent.iterdir()):
        if not pattern.fullmatch(path.name) or path.is_symlink():
            continue
        if path.is_file():
            path.unlink(missing_ok=True)
        elif path.is_dir() and not foreign_keys(_keys(path), has_own_error(path)):
            shutil.rmtree(path, ignore_errors=True)


def flush_to_disk(place: str | Path) -> None:
    """Have the operating system write a file, or the list of files of a folder."""
    if isinstance(place, str):
        return
    try:
        handle = os.open(place, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse for folders
        if place.is_file():
            raise
    finally:
        os.close(handle)


# -- deleting what the caller made ----------------------------------------------------


def remove_file(path: Path) -> None:
    """Delete a file that the caller has made or checked; it may be gone already."""
    path.unlink(missing_ok=True)


def remove_own_folder(folder: Path) -> None:
    """Remove a folder that this process has made for itself, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def rename_over(own: Path, target: Path) -> None:
    """Give a finished file of the caller's its name, in place of an older one."""
    own.replace(target)


def set_aside(path: Path) -> Path:
    """Keep a file of unknown origin under a free name beside its own; return it."""
    number = 1
    while os.path.lexists(path.with_name(f"{path.name}.old-{number}")):
        number += 1
    return path.rename(path.with_name(f"{path.name}.old-{number}"))


def remove_strays(folder: Path) -> int:
    """Delete the files that killed Zarr writers left in a store; return how many."""
    found = folder.rglob(f"*{_PARTIAL}")
    strays = [p for p in found if _STRAY.fullmatch(p.name) and p.is_file()]
    for path in strays:
        path.unlink(missing_ok=True)
    return len(strays)


def discard_store(place: Path) -> None:
    """Delete a tile store of this program, if nothing else is in it.

    Its name is free at once.
    """
    if not os.path.lexists(place):
        return
    _refuse_foreign(place, foreign_keys(_keys(place), has_own_error(place)))
    is_ours = RECORD in _attributes(place) or _is_damaged(place)
    if place.is_symlink() or not is_ours:
        raise OutputError(
            f"{place}: was not made by this program and is in the way. Move it, or "
            "choose another name for the result"
        )
    trash = draft_of(place)
    place.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def discard_objects(
    place: str, store: Any, keys: Iterable[str], has_error: bool = False
) -> None:
    """Delete a tile store at a URL with these keys, if all are its own."""
    keys = list(keys)
    _refuse_foreign(place, foreign_keys(keys, has_error))
    delete_objects(store, sorted(keys, key=lambda key: -key.count("/")))


def delete_objects(store: Any, keys: Iterable[str]) -> None:
    """Delete objects of a Zarr store, in about the order given."""
    from zarr.core.sync import sync

    async def delete(some: list[str]) -> None:
        await asyncio.gather(*(store.delete(key) for key in some))

    keys = list(keys)
    for start in range(0, len(keys), 64):
        sync(delete(keys[start : start + 64]))


# -- replacing ------------------------------------------------------------------------


def check_replaceable(
    target: Path, *, by_file: bool = False, only_own: bool = False
) -> None:
    """Refuse to replace what is more than the one image that a user has named.

    Of a link only the link is replaced. A new file (`by_file`) replaces no folder; with
    `only_own` a folder must be an image that this program has made.
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        return
    if not stat.S_ISDIR(mode):
        raise OutputError(
            f"{target}: is neither a file nor a folder, so it cannot be replaced. "
            "Choose another name"
        )
    if by_file:
        raise OutputError(
            f"{target}: is a folder, which a file cannot replace. Choose another name"
        )
    _refuse_foreign(target, foreign_content(target))
    if only_own and any(target.iterdir()) and RECORD not in _attributes(target):
        raise OutputError(
            f"{target}: exists and was not made by this program. Choose another "
            "name, or delete it first"
        )


def replace_folder(new: Path, target: Path, *, only_own: bool = False) -> None:
    """Put a finished folder in the place of the target, which may be absent.

    The old one is moved into a hidden folder with an ownership record, by which
    `undo_replacement` and `finish_replacement` put a kill right. If it must not be
    replaced, the new one stays where it is.
    """
    if not os.path.lexists(target):
        new.rename(target)
        flush_to_disk(target.parent)
        return
    check_replaceable(target, only_own=only_own)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}{_REPLACED}")
    aside.mkdir(mode=0o700)
    record = {RECORD: {"replaced": target.name, "by": new.lstat().st_ino}}
    write_bytes(aside / _OWNER, json.dumps(record).encode())
    target.rename(aside / _OLD)
    try:
        new.rename(target)
    except OSError:
        (aside / _OLD).rename(target)
        _remove_aside(aside)
        raise
    flush_to_disk(target.parent)
    _remove_aside(aside)


def undo_replacement(target: Path) -> None:
    """Bring an old target back whose replacement was killed between two renames."""
    for aside, _ in _asides(target):
        if not os.path.lexists(target) and os.path.lexists(aside / _OLD):
            (aside / _OLD).rename(target)
            _remove_aside(aside)


def finish_replacement(target: Path) -> None:
    """Delete an old target whose replacement was killed after its renames."""
    for aside, by in _asides(target):
        if not os.path.lexists(aside / _OLD) or (
            target.exists() and target.lstat().st_ino == by
        ):
            _remove_aside(aside)
        else:
            logger.warning(
                "%s: holds an older %s, kept because what is there now is not what "
                "was to replace it",
                *(aside, target.name),
            )


def _asides(target: Path) -> list[tuple[Path, int]]:
    """Return our folders with old targets of this name, and what was to replace it."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{_RANDOM}\.replaced")
    found = []
    for path in sorted(target.parent.iterdir()):
        if not pattern.fullmatch(path.name) or path.is_symlink():
            continue
        record = _read_json(path / _OWNER).get(RECORD)
        if isinstance(record, dict) and record.get("replaced") == target.name:
            found.append((path, record.get("by", -1)))
    return found


def _remove_aside(aside: Path) -> None:
    """Delete an old target, its ownership record last."""
    old = aside / _OLD
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if not os.path.lexists(old):
            (aside / _OWNER).unlink(missing_ok=True)
            aside.rmdir()


# -- what a folder holds --------------------------------------------------------------


def foreign_keys(keys: Iterable[str], has_error: bool = False) -> list[str]:
    """Return those of the files of a tile store that no tile store has.

    With error bars of ours (`has_error`) there is a second store inside it.
    """
    head = f"{ERROR_GROUP}/" if has_error else ""
    return [
        key
        for key in keys
        if not (_OWN_KEY.fullmatch(key.removeprefix(head)) or _is_harmless(key))
    ]


def has_own_error(folder: Path) -> bool:
    """Tell whether a tile store holds error bars that this program has made."""
    inside = folder / ERROR_GROUP
    return inside.is_dir() and (RECORD in _attributes(inside) or _is_damaged(inside))


def foreign_content(folder: Path) -> list[str]:
    """Return what a folder holds besides one Zarr image; everything, if there is none.

    An image is an array, or the levels that the metadata of a group name; if they
    cannot be read, what a tile store would hold.
    """
    if not _is_zarr(folder):
        return [k for k in _keys(folder) if not _is_harmless(k)]
    if _is_damaged(folder):
        return foreign_keys(_keys(folder), has_own_error(folder))
    paths = _array_paths(folder)
    groups = {"", *(f"{p}/" for path in paths for p in _parents(path))}

    def belongs(key: str) -> bool:
        name = key.rpartition("/")[2]
        if key.removesuffix(name) in groups and re.fullmatch(_METADATA, name):
            return True
        return any(
            key.startswith(path) and _IN_ARRAY.fullmatch(key, len(path))
            for path in paths
        )

    return [k for k in _keys(folder) if not (belongs(k) or _is_harmless(k))]


def _refuse_foreign(place: str | Path, foreign: list[str]) -> None:
    if not foreign:
        return
    shown = sorted({key.split("/")[0] for key in foreign})
    if all(name.isdecimal() for name in shown):  # levels, with something in them
        shown = sorted(foreign)
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    raise OutputError(
        f"{place}: holds more than one image, and replacing it would delete "
        f"{', '.join(shown[:8])}{more}. Choose another name, or move these first"
    )


def _keys(folder: Path) -> Iterator[str]:
    """Yield every file and link of a folder, as "a/b"; links are not followed."""
    for root, folders, names in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]
        for name in [*names, *(f"{link}/" for link in links)]:
            yield f"{Path(root).relative_to(folder).as_posix()}/{name}".removeprefix(
                "./"
            )


def _is_harmless(key: str) -> bool:
    return key.rpartition("/")[2] in _LITTER or _STRAY.fullmatch(key) is not None


def _is_zarr(folder: Path) -> bool:
    return any((folder / n).is_file() for n in ("zarr.json", ".zgroup", ".zarray"))


def _is_damaged(folder: Path) -> bool:
    """Tell whether metadata of Zarr are no JSON objects, as after a power failure."""
    for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except OSError:  # absent, or not ours to read
            continue
        except (ValueError, RecursionError):
            return True
        if not isinstance(found, dict):
            return True
    return False


def _array_paths(folder: Path) -> list[str]:
    """Return "PATH/" of each level of the image at a Zarr node; "" for an array."""
    node = _read_json(folder / "zarr.json")
    if node.get("node_type") == "array" or (folder / ".zarray").is_file():
        return [""]
    attributes = _attributes(folder)
    ome = attributes.get("ome")
    owner = ome if isinstance(ome, dict) else attributes
    paths = set()
    with contextlib.suppress(TypeError, KeyError, AttributeError):
        for multiscale in owner.get("multiscales", ()):
            paths |= {str(d["path"]).strip("/") + "/" for d in multiscale["datasets"]}
    if RECORD in attributes:
        paths |= {f"{p.name}/" for p in folder.iterdir() if p.name.isdecimal()}
        if has_own_error(folder):
            inside = _array_paths(folder / ERROR_GROUP)
            paths |= {f"{ERROR_GROUP}/{path}" for path in inside}
    return sorted(paths)


def _parents(path: str) -> list[str]:
    parts = path.rstrip("/").split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _attributes(folder: Path) -> dict[str, Any]:
    attributes = _read_json(folder / "zarr.json").get("attributes")
    return {
        **_read_json(folder / ".zattrs"),
        **(attributes if isinstance(attributes, dict) else {}),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
