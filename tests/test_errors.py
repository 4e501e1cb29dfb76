"""Every error reaches other processes as what it is."""

from __future__ import annotations

import inspect
import pickle

import pytest

from napari_swin2sr import errors

ARGUMENTS = {"WeightsError": ("a.pth", "is cut off", "Download it again")}
KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.Swin2SRError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_travel_between_processes(kind: type[errors.Swin2SRError]) -> None:
    arguments = ARGUMENTS.get(kind.__name__, ("what to do",))
    error = kind(*arguments)
    error.add_note("in block (0, 0)")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    # dask makes the object without calling the class
    bare = kind.__new__(kind, *arguments)
    assert type(bare) is kind


@pytest.mark.parametrize("kind", KINDS)
def test_errors_travel_through_dask_distributed(
    kind: type[errors.Swin2SRError],
) -> None:
    core = pytest.importorskip("distributed.core")

    error = kind(*ARGUMENTS.get(kind.__name__, ("what to do",)))
    sent = core.error_message(error)["exception"].data
    again = core.clean_exception(sent)[1]
    assert type(again) is kind
    assert str(again) == str(error)
