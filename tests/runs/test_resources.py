"""The tile that a model gets where nobody asks for another."""

from __future__ import annotations

import pytest

from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.model import Swin2SRConfig
from napari_swin2sr.runs import resources as limits
from napari_swin2sr.tiles.plan import default_tile, plan_tiles

LIGHT = Swin2SRConfig(embed_dim=60, depths=(6,) * 4, num_heads=(6,) * 4)
WIDE = Swin2SRConfig(embed_dim=180, depths=(6,) * 6, num_heads=(6,) * 6)


@pytest.fixture(autouse=True)
def any_machine(monkeypatch):
    """A run may go on elsewhere, so nobody may ask what this machine has."""

    def refuse():
        raise AssertionError("a default tile that depends on the machine")

    monkeypatch.setattr(limits, "available_memory", refuse)
    monkeypatch.setattr(limits, "_only_a_cpu", refuse)


@pytest.mark.parametrize("config", [ModelHandle.open("default").config, LIGHT])
def test_halos_cost_less_than_15_percent(config):
    halo = config.halo(None)
    core = default_tile(config, None)
    plan = plan_tiles((100 * core, 100 * core), core=core, halo=halo)
    assert 1.10 < plan.pixel_overhead < 1.15


@pytest.mark.parametrize(
    ("config", "halo", "tile"),
    [
        (LIGHT, None, 1408),
        (LIGHT, 0, 1024),
        (LIGHT, 40, 1152),
        (LIGHT, 104, 1536),  # more would need too much memory
        (LIGHT, "exact", 2048),
        (WIDE, None, 1024),
        (WIDE, 96, 1024),
    ],
)
def test_the_tile_follows_from_model_and_halo(config, halo, tile):
    assert default_tile(config, halo) == tile
