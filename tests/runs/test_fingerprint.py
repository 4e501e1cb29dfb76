"""What two fingerprints disagree on."""

from __future__ import annotations

import json

from napari_swin2sr.runs.fingerprint import as_json, differences


def test_fingerprints_name_what_is_different():
    ours = {"tile": 64, "value_range": [{"low": 0.1 + 0.2, "high": 1.0}], "halo": 48}
    assert differences(ours, ours) == []
    theirs = ours | {"value_range": [{"low": 0.3, "high": 1.0}]}
    assert differences(ours, theirs) == []  # rounding of another processor
    theirs = ours | {"tile": 32, "value_range": [{"low": 0.4, "high": 1.0}]}
    found = differences(ours, theirs)
    assert found[0] == "tile: 32 then, 64 now"
    assert found[1].startswith("value_range: ")
    assert differences(ours, ours | {"extra": 1}) == ["extra: 1 then, null now"]
    assert differences({"nodata": None}, {"nodata": 1.5}) == [
        "nodata: 1.5 then, null now"
    ]


def test_json_keeps_what_it_can():
    value = {"a": (1, 2.5), "b": float("nan"), "c": None, 3: "x"}
    assert as_json(value) == {"a": [1, 2.5], "b": "nan", "c": None, "3": "x"}
    assert json.loads(json.dumps(as_json(value))) == as_json(value)
