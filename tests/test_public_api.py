"""The public names: what people's scripts rely on must not change by accident.

`api_surface.json` is changed by hand, together with the changelog.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path

import pytest

import napari_swin2sr
from napari_swin2sr import errors, model, options

SURFACE = json.loads(
    Path(__file__).with_name("api_surface.json").read_text(encoding="utf-8")
)


def test_the_package_offers_exactly_these_names() -> None:
    assert sorted(napari_swin2sr.__all__) == SURFACE["napari_swin2sr"]
    for name in napari_swin2sr.__all__:
        assert getattr(napari_swin2sr, name) is not None


def test_the_model_package_offers_these_names() -> None:
    assert sorted(model.__all__) == SURFACE["napari_swin2sr.model"]
    for name in model.__all__:
        assert inspect.isclass(getattr(model, name))


@pytest.mark.parametrize("name", SURFACE["signatures"])
def test_signatures(name: str) -> None:
    """Parameters, their kinds and their defaults, as Python writes them."""
    function = getattr(napari_swin2sr, name)
    parameters = inspect.signature(function).parameters.values()
    written = [str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert {"parameters": written, "keyword_only": keywords} == SURFACE["signatures"][
        name
    ]


def test_options_and_their_defaults() -> None:
    fields = {f.name: f.default for f in dataclasses.fields(options.UpscaleOptions)}
    assert fields == SURFACE["options"]


def test_every_option_is_a_parameter_of_apply() -> None:
    parameters = set(inspect.signature(napari_swin2sr.apply).parameters)
    assert parameters == {"array", *SURFACE["options"]}


def test_errors_and_what_they_can_be_caught_as() -> None:
    kinds = {
        name: sorted(b.__name__ for b in kind.__mro__[1:-3] if b is not object)
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.Swin2SRError)
    }
    expected = SURFACE["errors"]
    assert {name: kinds.get(name) for name in expected} == expected


def test_public_functions_say_what_they_take_give_and_raise() -> None:
    for name in SURFACE["signatures"]:
        text = inspect.getdoc(getattr(napari_swin2sr, name)) or ""
        for parameter in inspect.signature(getattr(napari_swin2sr, name)).parameters:
            assert parameter in text, f"{name} does not document {parameter}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'aply'"):
        napari_swin2sr.aply  # noqa: B018
