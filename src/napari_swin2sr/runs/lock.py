"""Who may write a target: one whole run, or several parts of one.

The reader-writer locks of the library filelock were tried instead: they do not say who
holds a lock, leave their files behind, and need SQLite (which network disks break) or
follow symbolic links.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import stat
import time
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import OutputError
from napari_swin2sr.replace import remove_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLAGS = os.O_RDWR | os.O_CREAT
for _name in ("O_NOFOLLOW", "O_NONBLOCK"):  # no links; a named pipe must not hang
    _FLAGS |= getattr(os, _name, 0)

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def locked(target: Path, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Keep a second run away from `target` while the block runs.

    Parts of one job write different tiles and may run side by side, but not the same
    part twice, and not beside a whole run.
    """
    name = "lock" if part is None else f"part-{part[0]}-of-{part[1]}.lock"
    lock = _Lock(_beside(target, name))
    owner = lock.take()
    if owner is not None:
        raise _busy(target, lock.path, owner)
    try:
        others = _others(target, lock.path)
        rivals = [o for o in others if part is None or ".part-" not in o[0].name]
        if rivals:
            raise _busy(target, *rivals[0])
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def finishing(target: Path) -> Iterator[bool]:
    """Tell one of several parts to do what is left when all tiles are there."""
    lock = _Lock(_beside(target, "finish.lock"))
    if lock.take() is not None:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _beside(target: Path, name: str) -> Path:
    """Return where a lock lies: the same for all names of one target."""
    place = target.resolve()
    return place.with_name(f".{place.name}.{name}")


class _Lock:
    """A file with process number and host, locked by the operating system as well.

    The system's lock vanishes with its process, however that ends, so a file left by
    a killed run on this host is taken over. One from another host stays locked.
    Links are not followed, and a file of another kind is not written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle: int | None = None

    def take(self, patience: float = 1.0) -> str | None:
        """Take the lock; return the text of the one who has it, or None.

        Others look at a lock by taking it for a moment, hence the `patience` [s].
        """
        until = time.monotonic() + patience
        try:
            while True:
                handle = os.open(self.path, _FLAGS, 0o666)
                text = self._text(handle)
                free = _lock_file(handle) and not _of_another_host(text)
                if free and _still_there(handle, self.path):
                    break
                os.close(handle)
                if not free and time.monotonic() > until:
                    return text or "another process"
                time.sleep(0.02)
        except OutputError:
            raise
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _in_the_way(self.path) from None
            raise OutputError(
                f"{self.path.parent}: the folder cannot be written: {error}"
            ) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        record = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.lseek(handle, 0, os.SEEK_SET)
        os.truncate(handle, 0)
        os.write(handle, json.dumps(record).encode())
        self.handle = handle
        return None

    def release(self) -> None:
        if self.handle is not None:
            with contextlib.suppress(OSError):
                if _still_there(self.handle, self.path):
                    remove_file(self.path)
            os.close(self.handle)
            self.handle = None

    def _text(self, handle: int) -> str:
        """Return what an open lock says, if it is one of ours."""
        facts = os.fstat(handle)
        data = b"x"
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink <= 1:
            data = os.read(handle, 1000)
        text = data.decode("utf-8", "replace").strip()
        if text and not _is_record(text):
            os.close(handle)
            raise _in_the_way(self.path)
        return text


def _lock_file(handle: int) -> bool:
    """Lock an open file; return False if another process on this host has it."""
    try:
        import fcntl
    except ImportError:
        return _lock_file_on_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:  # a file system without locks
            return not _is_alive(handle)
        return False
    return True


def _lock_file_on_windows(handle: int) -> bool:
    import importlib

    msvcrt: Any = importlib.import_module("msvcrt")
    try:
        os.lseek(handle, 2**30, os.SEEK_SET)  # beyond the text, which stays readable
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def _is_alive(handle: int) -> bool:
    """Tell whether the process that wrote the file still runs on this host."""
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        pid = int(json.loads(os.read(handle, 1000))["pid"])
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return pid != os.getpid()


def _is_record(text: str) -> bool:
    try:
        return bool({"pid", "host"} <= json.loads(text).keys())
    except (ValueError, AttributeError):
        return False


def _of_another_host(text: str) -> bool:
    try:
        return bool(json.loads(text)["host"] != socket.gethostname())
    except (ValueError, KeyError, TypeError):
        return False


def _still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _others(target: Path, own: Path) -> list[tuple[Path, str]]:
    """Return the locks of other runs on the same target, with what they say."""
    found = []
    name = re.escape(target.resolve().name)
    pattern = re.compile(rf"\.{name}\.(?:part-\d+-of-\d+\.)?lock")
    for path in sorted(own.parent.iterdir()):
        if path == own or not pattern.fullmatch(path.name):
            continue
        lock = _Lock(path)
        owner = lock.take(patience=0.0)
        if owner is None:
            lock.release()  # left by a run that was killed
        else:
            found.append((path, owner))
    return found


def _in_the_way(path: Path) -> OutputError:
    return OutputError(
        f"{path}: is no lock of this program and is in the way. Move it, or choose "
        "another name for the result"
    )


def _busy(target: Path, lock: Path, owner: str) -> OutputError:
    return OutputError(
        f"{target}: another run is writing it ({owner}). Wait for it, or, if that "
        f"machine is gone, delete {lock}"
    )
