"""Downloads against a server on loopback that speaks the hub's protocol, and fails.

Each use of the hub runs in a process of its own, because huggingface_hub reads its
environment when it is imported.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import email.message
import hashlib
import io
import json
import os
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from helpers.hub_server import COMMIT, Fault, HubServer
from helpers.shared import shared_path
from helpers.tiny import tiny_config, tiny_net
from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model import Swin2SRConfig
from napari_swin2sr.model.swin2sr import load_network
from napari_swin2sr.weights import download
from napari_swin2sr.weights.download import fetch_url

REPO = "somebody/small-x2"
NAME = f"{REPO}/model.safetensors"
WEIGHTS = safetensors.torch.save(tiny_net().state_dict(), {"format": "pt"})
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CONFIG = json.dumps(tiny_config().to_dict()).encode()

CHILD = """
    import dataclasses, json, sys, time
    from huggingface_hub import constants
    from napari_swin2sr.errors import WeightsError
    from napari_swin2sr.weights import catalog, download
    from napari_swin2sr.weights.registry import published_models

    order = json.load(sys.stdin)
    time.sleep = lambda seconds: None  # huggingface_hub waits half a minute in all
    constants.DOWNLOAD_CHUNK_SIZE = 1000  # it resumes after whole chunks
    seen = []
    if order["published"]:
        known = published_models()
        changed = dataclasses.replace(known["classical-x2"], **order["published"])
        known["classical-x2"] = changed
    if order.get("max_bytes"):
        download.MAX_BYTES = order["max_bytes"]
    if order.get("file_limit"):
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"],) * 2)
    try:
        found = catalog.resolve_model(
            order["name"],
            progress=lambda *n: seen.append(n),
            hub=download.HubOptions(**order["hub"]),
        )
        answer = {"path": str(found.path), "sha256": found.sha256, "name": found.name}
        answer["config"] = found.config and found.config.to_dict()
    except WeightsError as error:
        answer = {"error": str(error)}
    answer["listed"] = {m.name: m.downloaded for m in catalog.list_models()}
    answer["progress"] = seen
    answer["torch"] = "torch" in sys.modules
    json.dump(answer, sys.stdout)
"""


@pytest.fixture
def hub():
    files = {NAME: WEIGHTS, f"{REPO}/config.json": CONFIG, "plain/a.pth": WEIGHTS}
    with HubServer(files) as server:
        yield server


def resolve(
    hub,
    home,
    name="classical-x2",
    published=None,
    limit=0,
    most=0,
    options=None,
    **environment,
):
    """Resolve a model in a fresh process that knows only this server and folder."""
    known = {"source": REPO, "revision": COMMIT, "sha256": SHA256}
    order = {"name": name, "published": known if published is None else published}
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS"))
        and not key.lower().endswith("_proxy")
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD)],
        input=json.dumps(
            order | {"file_limit": limit, "max_bytes": most, "hub": options or {}}
        ),
        env=clean
        | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert not answer["torch"]
    return answer


def good_files(home: Path) -> list[Path]:
    """Return what a later run would take for the weights."""
    return [p for p in home.rglob("model.safetensors") if p.exists()]


def unfinished_files(home: Path) -> list[Path]:
    return [p for p in home.rglob("*") if p.is_file() and "incomplete" in p.name]


# -- hub: what should happen ---------------------------------------------------------


def test_first_download_then_none(hub, tmp_path):
    answer = resolve(hub, tmp_path)
    path = Path(answer["path"])
    assert path.read_bytes() == WEIGHTS
    assert answer["sha256"] == SHA256
    assert answer["progress"][-1] == [len(WEIGHTS), len(WEIGHTS)]
    assert [n for n, _ in answer["progress"]] == sorted(
        n for n, _ in answer["progress"]
    )
    assert answer["listed"]["classical-x2"]
    assert not answer["listed"]["classical-x4"]
    assert load_network(path, tiny_config(), sha256=SHA256)
    requests = len(hub.requests)
    again = resolve(hub, tmp_path)
    assert again["path"] == answer["path"]
    assert len(hub.requests) == requests


def test_published_weights_by_name(tmp_path):
    content = shared_path(
        "weights", "swin2sr-lightweight-x2-64", "pytorch_model.bin"
    ).read_bytes()
    files = {"caidas/swin2SR-lightweight-x2-64/pytorch_model.bin": content}
    with HubServer(files) as hub:
        answer = resolve(hub, tmp_path, "lightweight-x2", published={})
        revision = "54e8c9c99a28e2ef06073a869eb5d387e72d6527"
        assert f"/resolve/{revision}/" in hub.requests[0][1]
    assert answer["sha256"] == hashlib.sha256(content).hexdigest()
    config = Swin2SRConfig.from_dict(answer["config"])
    net = load_network(answer["path"], config, sha256=answer["sha256"])
    assert sum(p.numel() for p in net.parameters()) == 1_005_348


def test_any_repository(hub, tmp_path):
    answer = resolve(hub, tmp_path, REPO, published={})
    assert answer["config"]["embed_dim"] == 12
    assert answer["name"] == REPO
    assert Path(answer["path"]).with_name("config.json").read_bytes() == CONFIG
    assert load_network(answer["path"]).config == tiny_config()
    pinned = resolve(hub, tmp_path, f"{REPO}@{COMMIT}", published={})
    assert pinned["path"] == answer["path"]


def test_repository_with_a_pickle_only(hub, tmp_path):
    torch.save(tiny_net().state_dict(), tmp_path / "a")
    hub.files[f"{REPO}/pytorch_model.bin"] = (tmp_path / "a").read_bytes()
    del hub.files[NAME]
    answer = resolve(hub, tmp_path, REPO, published={})
    assert answer["path"].endswith("pytorch_model.bin")
    assert load_network(answer["path"]).config == tiny_config()


def test_keywords_of_from_pretrained(hub, tmp_path):
    other = "f" * 40
    for file in ("model.safetensors", "config.json"):
        hub.files[f"{REPO}/inner/{file}"] = hub.files.pop(f"{REPO}/{file}")
    options = {"subfolder": "inner", "cache_dir": str(tmp_path / "mine")}
    options |= {"revision": other, "token": "secret"}
    answer = resolve(hub, tmp_path / "home", REPO, {}, options=options)
    assert Path(answer["path"]).is_relative_to(tmp_path / "mine")
    assert Path(answer["path"]).read_bytes() == WEIGHTS
    assert answer["config"]["embed_dim"] == 12
    asked = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert asked
    assert all(f"/resolve/{other}/inner/" in path for path in asked)
    assert good_files(tmp_path / "home") == []
    assert hub.tokens == {("/resolve/", "Bearer secret"), ("/cdn/", None)}
    requests = len(hub.requests)
    local = options | {"local_files_only": True}
    assert resolve(hub, tmp_path / "home", REPO, {}, options=local)["sha256"] == SHA256
    assert len(hub.requests) == requests
    downloads = len(hub.downloads(f"{REPO}/inner/model.safetensors"))
    again = options | {"force_download": True}
    assert resolve(hub, tmp_path / "home", REPO, {}, options=again)["sha256"] == SHA256
    assert len(hub.downloads(f"{REPO}/inner/model.safetensors")) == downloads + 1


# -- hub: what goes wrong ------------------------------------------------------------


def test_w41_cut_connection_is_resumed(hub, tmp_path):
    hub.faults[NAME] = Fault(cut_at=0.5, times=1)
    answer = resolve(hub, tmp_path)
    assert Path(answer["path"]).read_bytes() == WEIGHTS
    first, second = hub.downloads(NAME)
    resumed = int(second.removeprefix("bytes=").partition("-")[0])
    assert len(WEIGHTS) // 2 - 1000 < resumed <= len(WEIGHTS) // 2
    assert first in {None, "bytes=0-"}


def test_w41_connection_that_never_holds(hub, tmp_path):
    hub.faults[NAME] = Fault(cut_at=0.5)
    answer = resolve(hub, tmp_path)
    assert "somebody/small-x2/model.safetensors: the download failed" in answer["error"]
    assert "give the path of that file" in answer["error"]
    assert good_files(tmp_path) == []
    hub.faults.clear()
    assert resolve(hub, tmp_path)["sha256"] == SHA256


@pytest.mark.parametrize(
    ("status", "meaning"), [(404, "Not Found"), (429, "Too Many Requests"), (403, "")]
)
def test_w41_refusals(status, meaning, hub, tmp_path):
    hub.faults[NAME] = Fault(status=status)
    error = resolve(hub, tmp_path)["error"]
    assert f"the server answered {status} ({meaning}" in error
    assert f"{hub.url}/{REPO}/resolve/{COMMIT}/model.safetensors" in error
    assert good_files(tmp_path) == []


def test_w41_unknown_repository_and_file(hub, tmp_path):
    unknown = resolve(hub, tmp_path, "nobody/nothing", published={})
    assert "nobody/nothing/" in unknown["error"]
    assert "404" in unknown["error"]
    del hub.files[NAME]
    error = resolve(hub, tmp_path, REPO, published={})["error"]
    assert "somebody/small-x2/pytorch_model.bin: the server answered 404" in error


def test_w41_redirect_to_a_web_page(hub, tmp_path):
    hub.faults[NAME] = Fault(page=True)
    assert "the download failed" in resolve(hub, tmp_path)["error"]
    assert good_files(tmp_path) == []


def test_w41_web_page_instead_of_the_file(hub, tmp_path):
    hub.files[NAME] = b"<!DOCTYPE html><html>no</html>"
    error = resolve(hub, tmp_path, REPO, published={})["error"]
    assert "it is a web page" in error


def test_w41_wrong_hash_is_deleted_and_fetched_once_more(hub, tmp_path):
    hub.files[NAME] = WEIGHTS[:-1] + b"?"
    answer = resolve(hub, tmp_path)
    assert "not the expected " + SHA256 in answer["error"]
    assert not answer["listed"]["classical-x2"]
    assert len(hub.downloads(NAME)) == 2
    assert good_files(tmp_path) == []
    assert not any(p.stat().st_size == len(WEIGHTS) for p in tmp_path.rglob("*"))
    hub.files[NAME] = WEIGHTS
    assert resolve(hub, tmp_path)["sha256"] == SHA256


def test_w41_file_damaged_in_the_cache_is_fetched_again(hub, tmp_path):
    path = Path(resolve(hub, tmp_path)["path"])
    content = path.resolve()
    content.write_bytes(WEIGHTS[:-1] + b"?")
    assert resolve(hub, tmp_path)["sha256"] == SHA256
    assert path.read_bytes() == WEIGHTS


def test_a_cache_entry_that_links_to_the_users_own_file(hub, tmp_path):
    """Of snapshot or of blob: the file it leads to is never deleted."""
    path = Path(resolve(hub, tmp_path)["path"])
    mine = tmp_path / "my-weights.safetensors"
    mine.write_bytes(b"precious")
    for entry in (path.resolve(), path):  # the blob, then the snapshot's own link
        entry.unlink()
        entry.symlink_to(mine)
        answer = resolve(hub, tmp_path)
        assert f"it links to {mine}" in answer["error"]
        assert "Remove the link" in answer["error"]
        assert mine.read_bytes() == b"precious"
        assert entry.is_symlink()


def test_w41_offline(hub, tmp_path):
    error = resolve(hub, tmp_path, HF_HUB_OFFLINE="1")["error"]
    assert "is not on this machine, and HF_HUB_OFFLINE forbids downloads" in error
    assert "Unset HF_HUB_OFFLINE" in error
    assert hub.requests == []
    resolve(hub, tmp_path)
    requests = len(hub.requests)
    assert resolve(hub, tmp_path, HF_HUB_OFFLINE="1")["sha256"] == SHA256
    assert len(hub.requests) == requests


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
        {"HF_ENDPOINT": "http://no-such-host.invalid"},
        {"HTTP_PROXY": "http://127.0.0.1:9"},
    ],
    ids=["refused", "dns", "proxy"],
)
def test_w41_no_way_to_the_server(environment, hub, tmp_path):
    error = resolve(hub, tmp_path, **environment)["error"]
    assert "the download failed" in error
    assert "on any machine, and give the path" in error


def test_w41_server_falls_silent(hub, tmp_path):
    hub.faults[NAME] = Fault(stall=60, times=1)
    start = time.monotonic()
    answer = resolve(hub, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert answer["sha256"] == SHA256  # the second connection works
    assert time.monotonic() - start < 30


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_w42_full_disk(hub, tmp_path):
    answer = resolve(hub, tmp_path, limit=len(WEIGHTS) // 2)
    assert "error" in answer
    assert good_files(tmp_path) == []
    assert unfinished_files(tmp_path) == []


@pytest.mark.parametrize("length", [None, ""], ids=["stated", "without end"])
def test_a_file_too_large_for_weights_is_not_downloaded(length, hub, tmp_path):
    hub.faults[NAME] = Fault(length=length)
    answer = resolve(hub, tmp_path, most=len(WEIGHTS) // 2)
    assert "too many for weights" in answer["error"]
    assert good_files(tmp_path) == []
    assert unfinished_files(tmp_path) == []


def test_w42_cache_that_cannot_be_made(hub, tmp_path):
    (tmp_path / "taken").write_text("mine")
    assert "error" in resolve(hub, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_w40_four_processes_at_first_use(hub, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: resolve(hub, tmp_path), range(4)))
    assert {a.get("sha256") for a in answers} == {SHA256}
    assert len({a["path"] for a in answers}) == 1
    assert len(hub.downloads(NAME)) == 1
    assert Path(answers[0]["path"]).read_bytes() == WEIGHTS
    assert unfinished_files(tmp_path) == []


# -- from a URL ----------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Fail fast instead of in minutes, whatever this machine's own settings are."""
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")


@pytest.fixture
def fetch(hub, tmp_path, quick):
    target = tmp_path / "cache" / "a.pth"

    def fetch(**options):
        return fetch_url(f"{hub.url}/plain/a.pth", target, **options)

    def rests():
        return [p for p in target.parent.iterdir() if "part" in p.name]

    vars(fetch).update(target=target, rests=rests)
    return fetch


def test_url_first_download_then_none(hub, fetch, caplog):
    seen = []
    path = fetch(sha256=SHA256, progress=lambda *n: seen.append(n))
    assert path.read_bytes() == WEIGHTS
    assert seen[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert caplog.text == ""
    assert fetch(sha256=SHA256) == path
    assert len(hub.requests) == 1
    assert fetch.rests() == []


def test_url_without_a_published_hash_says_so(fetch, caplog):
    assert fetch().read_bytes() == WEIGHTS
    assert f"give no hash to compare with; its SHA-256 is {SHA256}" in caplog.text


def test_url_cut_connection_leaves_nothing(hub, fetch):
    hub.faults["plain/a.pth"] = Fault(cut_at=0.5, times=1)
    with pytest.raises(WeightsError, match=r"connection broke after \d+ of \d+ bytes"):
        fetch(sha256=SHA256)
    assert not fetch.target.exists()
    assert fetch.rests() == []
    assert fetch(sha256=SHA256).read_bytes() == WEIGHTS


def test_url_file_without_end(hub, fetch, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", len(WEIGHTS) // 2)
    hub.faults["plain/a.pth"] = Fault(length="")
    with pytest.raises(WeightsError, match="too many for weights"):
        fetch()
    assert not fetch.target.exists()
    assert fetch.rests() == []


@pytest.mark.parametrize("length", ["abc", "-5", "\u00b2"])
def test_url_length_that_is_no_number(length, hub, fetch):
    hub.faults["plain/a.pth"] = Fault(length=length)
    with contextlib.suppress(WeightsError):  # urllib may refuse it
        assert fetch(sha256=SHA256).read_bytes() == WEIGHTS


def test_url_is_not_followed_to_an_unencrypted_connection():
    request = urllib.request.Request("https://example.org/a.pth")
    headers = email.message.Message()
    follow = download._NoDowngrade().redirect_request
    there = follow(
        request, io.BytesIO(), 302, "Found", headers, "https://example.com/b"
    )
    assert there is not None
    with pytest.raises(ConnectionError, match="unencrypted"):
        follow(request, io.BytesIO(), 302, "Found", headers, "http://example.org/a.pth")


@pytest.mark.parametrize("status", [404, 403, 429, 503])
def test_url_refusals(status, hub, fetch):
    hub.faults["plain/a.pth"] = Fault(status=status)
    with pytest.raises(WeightsError, match=f"the server answered {status}") as caught:
        fetch()
    assert caught.value.path == f"{hub.url}/plain/a.pth"
    assert "give the path of that file" in caught.value.advice
    assert len(hub.requests) == 1


def test_url_web_page(hub, fetch):
    hub.faults["plain/a.pth"] = Fault(page=True)
    with pytest.raises(WeightsError, match="not usable: it is a web page"):
        fetch()
    assert not fetch.target.exists()
    assert fetch.rests() == []


def test_url_wrong_hash(hub, fetch):
    with pytest.raises(WeightsError, match="what arrived is not usable: it is damaged"):
        fetch(sha256="0" * 64)
    assert not fetch.target.exists()
    assert fetch.rests() == []


def test_url_file_damaged_later_is_fetched_again(hub, fetch):
    fetch(sha256=SHA256)
    fetch.target.write_bytes(b"broken")
    assert fetch(sha256=SHA256).read_bytes() == WEIGHTS
    assert len(hub.downloads("plain/a.pth")) == 2


def test_url_offline(hub, fetch, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids downloads"):
        fetch()
    assert hub.requests == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fetch()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch().read_bytes() == WEIGHTS


@pytest.mark.parametrize("fault", [Fault(stall=30), Fault(trickle=0.05)])
def test_url_slow_server(fault, hub, fetch, monkeypatch):
    hub.faults["plain/a.pth"] = fault
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"timed out|only \d+ bytes in 1 s"):
        fetch()
    assert time.monotonic() - start < 10
    assert not fetch.target.exists()


def test_url_folder_that_cannot_be_made(hub, tmp_path, quick):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(WeightsError, match="the download failed"):
        fetch_url(f"{hub.url}/plain/a.pth", tmp_path / "taken" / "a.pth")


def test_url_four_at_once_download_once(hub, fetch):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(sha256=SHA256), range(4)))
    assert {p.read_bytes() for p in paths} == {WEIGHTS}
    assert len(hub.requests) == 1


def test_release_file_by_name(hub, tmp_path):
    """The named model with a URL, by the same way as a person."""
    published = {
        "source": f"{hub.url}/plain/a.pth",
        "filename": "a.pth",
        "sha256": None,
    }
    answer = resolve(hub, tmp_path, published=published)
    assert answer["sha256"] == SHA256
    assert answer["listed"]["classical-x2"]
    assert Path(answer["path"]).is_relative_to(tmp_path)
    assert len(resolve(hub, tmp_path, published=published)["progress"]) == 0
