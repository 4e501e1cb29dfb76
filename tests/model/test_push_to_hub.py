"""Uploads with the real client, to a server on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from helpers.hub_server import HubServer
from helpers.tiny import tiny_folder, tiny_net
from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model import (
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    Swin2SRImageProcessor,
)

UPLOAD = """
    import sys
    from napari_swin2sr.model import (
        Swin2SRConfig, Swin2SRForImageSuperResolution, Swin2SRImageProcessor
    )
    folder = sys.argv[1]
    kinds = (Swin2SRForImageSuperResolution, Swin2SRImageProcessor, Swin2SRConfig)
    for kind in kinds:
        made = kind.from_pretrained(folder)
        print(made.push_to_hub("owner/model", token="right", private=True))
    made.push_to_hub("mine", token="right", commit_message="words", revision="draft")
    for kind in kinds:
        again = kind.from_pretrained("owner/model", token="right")
        print(type(again).__name__)
    try:
        made.push_to_hub("owner/x", token="wrong")
    except Exception as error:
        print(type(error).__name__, error)
    print(Swin2SRImageProcessor.from_pretrained("owner/model", token="right").do_pad)
"""


def test_everything_goes_up_and_comes_down_again(tmp_path: Path) -> None:
    """In a process of its own: the client reads the server's address when imported."""
    tiny_folder(tmp_path / "model")
    Swin2SRImageProcessor(do_pad=False).save_pretrained(tmp_path / "model")
    with HubServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(UPLOAD), str(tmp_path / "model")],
            env=_environment(server, tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all("/owner/model/commit/" in line for line in lines[:3])
    kinds = (Swin2SRForImageSuperResolution, Swin2SRImageProcessor, Swin2SRConfig)
    assert lines[3:6] == [kind.__name__ for kind in kinds]
    assert lines[6].startswith("WeightsError owner/x: cannot be uploaded (")
    assert "hf auth login" in done.stdout
    assert lines[-1] == "False", "the processor comes back with its settings"
    commits = [(c["repo"], c["branch"], c["summary"]) for c in server.commits]
    assert commits == [
        *(("owner/model", "main", f"Upload {kind.__name__}") for kind in kinds),
        ("me/mine", "draft", "words"),
    ]
    content = server.files["owner/model/model.safetensors"]
    assert content == (tmp_path / "model/model.safetensors").read_bytes()
    assert sorted(server.files) == [
        "me/mine/config.json",
        "owner/model/config.json",
        "owner/model/model.safetensors",
        "owner/model/preprocessor_config.json",
    ]


def _environment(server: HubServer, folder: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder / "home")}
    own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE",)}
    return kept | own


@pytest.mark.parametrize("made", [tiny_net(), Swin2SRConfig(), Swin2SRImageProcessor()])
def test_offline_is_said(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"owner/x: .* HF_HUB_OFFLINE is set"):
        made.push_to_hub("owner/x")
