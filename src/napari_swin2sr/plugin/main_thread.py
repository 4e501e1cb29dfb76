"""Calls from other threads to the main thread, safe when the receiver is gone.

Emitting a signal of a Qt object that is being deleted crashes the process. So there
is one object that is never deleted, and receivers are known to it by weak reference.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]


class _Mailbox(QObject):
    posted = Signal(object, object)

    def __init__(self) -> None:
        super().__init__()
        self.posted.connect(_deliver)


def _deliver(receiver: Callable[[], Callable[..., None] | None], args: Any) -> None:
    method = receiver()
    if method is not None:
        method(*args)


@functools.cache
def _mailbox() -> _Mailbox:
    return _Mailbox()


def posted(method: Callable[..., None]) -> Callable[..., None]:
    """Return a function that any thread may call to run `method` on the main thread.

    To be called on the main thread itself. The bound method is held weakly: once its
    object is gone, calls do nothing.
    """
    mailbox, receiver = _mailbox(), weakref.WeakMethod(method)
    return lambda *args: mailbox.posted.emit(receiver, args)
