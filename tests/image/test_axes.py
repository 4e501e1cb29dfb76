"""Axes: every order of TCZYXS, no guess from a length, errors with the numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_swin2sr.errors import InputError
from napari_swin2sr.image.axes import LETTERS, AxisLayout, resolve_axes
from napari_swin2sr.image.box import Box

ORDERS = [
    "".join(order)
    for extra in range(5)
    for rest in itertools.combinations("TCZS", extra)
    for order in itertools.permutations((*rest, "Y", "X"))
]


def layout_of(axes: str, samples: int = 3) -> AxisLayout:
    sizes = {"T": 2, "C": 5, "Z": 3, "Y": 7, "X": 4, "S": samples}
    return resolve_axes([sizes[letter] for letter in axes], axes)


def test_the_list_of_orders_is_complete():
    assert len(ORDERS) == sum(
        np.prod(range(1, n + 3)) * [1, 4, 6, 4, 1][n] for n in range(5)
    )


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ORDERS), st.sampled_from([1, 3, 4]), st.randoms())
def test_planes_are_what_numpy_says(axes, samples, random):
    layout = layout_of(axes, samples)
    array = np.arange(np.prod(layout.shape)).reshape(layout.shape)
    stack = tuple(random.randrange(n) for n in layout.stack_shape)
    # The oracle: einops-like, by moving axes one at a time.
    letters = [a for a in axes if a not in "YXS"]
    want = np.moveaxis(array, [axes.index(a) for a in letters], range(len(letters)))[
        stack
    ]
    rest = [a for a in axes if a in "YXS"]
    if "S" not in rest:
        want, rest = want[None], ["S", *rest]
    want = want.transpose([rest.index(a) for a in "SYX"])

    block = array[layout.plane_index(stack, Box(0, 0, 7, 4))]
    plane = layout.to_plane(block)
    np.testing.assert_array_equal(plane, want)
    back = layout.from_plane(plane)
    assert back.shape == block.shape
    np.testing.assert_array_equal(back, block)
    part = array[layout.plane_index(stack, Box(2, 1, 5, 3))]
    np.testing.assert_array_equal(layout.to_plane(part), want[:, 2:5, 1:3])


@given(st.sampled_from(ORDERS))
@settings(deadline=None)
def test_derived_facts(axes):
    layout = layout_of(axes)
    assert layout.axes[layout.y] == "Y"
    assert layout.axes[layout.x] == "X"
    assert layout.plane_shape == (7, 4)
    assert layout.samples == (3 if "S" in axes else 1)
    assert layout.is_rgb == ("S" in axes)
    assert layout.n_channels == (5 if "C" in axes else 1)
    assert layout.n_planes * 7 * 4 * layout.samples == np.prod(layout.shape)
    assert layout.output_shape(3) == tuple(
        n * 3 if a in "YX" else n for a, n in zip(axes, layout.shape, strict=True)
    )
    for stack in np.ndindex(layout.stack_shape):
        if layout.c is not None:
            index = layout.plane_index(stack, Box(0, 0, 1, 1))[layout.c]
            assert index == slice(
                layout.channel_of(stack), layout.channel_of(stack) + 1
            )
        else:
            assert layout.channel_of(stack) == 0


@pytest.mark.parametrize(
    ("shape", "rgb", "axes"),
    [
        ((9, 9), None, "YX"),
        ((9, 3), None, "YX"),
        ((3, 4), None, "YX"),
        ((3, 9, 9), None, "ZYX"),
        ((2, 3, 9, 9), None, "TZYX"),
        ((2, 3, 4, 9, 9), None, "TCZYX"),
        ((9, 9, 2), None, "ZYX"),
        ((9, 9, 5), None, "ZYX"),
        ((9, 9, 1), None, "ZYX"),
        ((9, 9, 3), False, "ZYX"),
        ((9, 9, 3), True, "YXS"),
        ((9, 9, 4), True, "YXS"),
        ((2, 9, 9, 3), True, "ZYXS"),
        ((2, 2, 9, 9, 3), True, "TZYXS"),
        ((2, 2, 2, 9, 9, 3), True, "TCZYXS"),
        ((0, 0), None, "YX"),
    ],
)
def test_without_axes_the_last_are_the_plane(shape, rgb, axes):
    assert resolve_axes(shape, None, rgb).axes == axes


@pytest.mark.parametrize("shape", [(9, 9, 3), (9, 9, 4), (3, 3, 3), (2, 16, 24, 3)])
def test_a_last_axis_of_3_or_4_is_not_guessed(shape):
    with pytest.raises(
        InputError, match=rf"length {shape[-1]}.*rgb=True, rgb=False or"
    ):
        resolve_axes(shape)


def test_small_letters_and_numpy_integers_are_fine():
    layout = resolve_axes(np.array([2, 5, 6]), "cyx")
    assert layout == AxisLayout("CYX", (2, 5, 6))
    assert all(type(n) is int for n in layout.shape)


@pytest.mark.parametrize("axes", ["", "Y", "YY", "YXQ", "ZX", "YXY", "TCZS", 5])
def test_wrong_letters_are_refused(axes):
    with pytest.raises(InputError, match=rf"axes={axes!r} must be.*{LETTERS}"):
        resolve_axes((4, 5), axes)


@pytest.mark.parametrize(
    ("shape", "axes", "rgb", "match"),
    [
        ((), None, None, r"shape \(\) has 0 axes"),
        ((5,), None, None, r"shape \(5,\) has 1 axes"),
        ((4, 5), "ZYX", None, r"names 3 axes.*\(4, 5\) has 2"),
        ((4, 5), None, True, r"rgb=True needs at least three axes.*\(4, 5\)"),
        ((4, 5, 3), "ZYX", True, "contradict"),
        ((4, 5, 3), "YXS", False, "contradict"),
        ((4, 5, 2), "YXS", None, r"\(4, 5, 2\) has 2 samples.*Call it C"),
        ((4, 5, 7), None, True, "has 7 samples"),
        ((1, 1, 1, 1, 5, 5), None, None, r"has 6 axes; say which is what"),
        ((4, float("nan")), None, None, r"compute_chunk_sizes\(\)"),
        ((4, None), None, None, "not known in whole numbers"),
        ((4, -5), None, None, "negative"),
    ],
)
def test_wrong_arrays_are_refused(shape, axes, rgb, match):
    with pytest.raises(InputError, match=match):
        resolve_axes(shape, axes, rgb)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 5), max_size=7),
    st.none() | st.text(alphabet="TCZYXSQ", max_size=7),
    st.none() | st.booleans(),
)
def test_any_call_gives_a_layout_or_an_input_error(shape, axes, rgb):
    try:
        layout = resolve_axes(shape, axes, rgb)
    except InputError:
        return
    assert layout.shape == tuple(shape)
    assert len(layout.axes) == len(shape)
