"""A server on loopback that speaks the protocol of the Hugging Face hub, and fails.

`/OWNER/NAME/resolve/REVISION/FILE` answers with the commit and the hash in headers and
a redirect to `/cdn/...`, as the hub does for large files; byte ranges are served. Files
under `/plain/` are served directly, as release files are.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@dataclass
class Fault:
    """What goes wrong with the transfer of a file.

    Attributes
    ----------
    status : answer with this code instead
    cut_at : close the connection after this share of the file
    page : send a web page instead
    stall : say nothing for so many seconds, after half of the file
    trickle : send single bytes, one in so many seconds
    length : say that the file has this length; "" says nothing
    times : how often, from now on
    """

    status: int = 0
    cut_at: float = 1.0
    page: bool = False
    stall: float = 0.0
    trickle: float = 0.0
    length: str | None = None
    times: int = 1_000_000


@dataclass
class HubServer:
    """Serves `files` ("owner/name/file" or "plain/file" to content) until closed.

    Attributes
    ----------
    url, cdn : where it is, set on entering
    requests : method, path and Range header of every request for a file so far
    faults : by the same names as `files`
    tokens : part of the path and Authorization header of every request for a file
    ranges : whether parts of files are served
    commits : what was uploaded: header, and the files, which are served from then on
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[tuple[str, str | None]] = field(default_factory=set)
    ranges: bool = True
    commits: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> HubServer:
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = False  # joined when the server closes
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        # Clients tell the hub from the host of its large files by their names.
        self.url = f"http://localhost:{self._server.server_port}"
        self.cdn = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def downloads(self, name: str) -> list[str | None]:
        """Return the Range header of every transfer of a file so far."""
        ends = (f"/cdn/{name}", f"/{name}")
        return [
            r for method, path, r in self.requests if method == "GET" and path in ends
        ]

    def take_fault(self, name: str) -> Fault:
        """Return what goes wrong this time."""
        fault = self.faults.get(name, Fault())
        if fault.times == 0:
            return Fault()
        fault.times -= 1
        return fault


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """Make a repository, or take a commit, as far as the client goes."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name, _, call = self.path.split("?")[0].removeprefix("/api/").rpartition("/")
        if self.headers.get("Authorization") != "Bearer right":
            self._send_json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            made = json.loads(body)
            repo = f"{made.get('organization') or 'me'}/{made['name']}"
            self._send_json({"url": f"{self.hub.url}/{repo}", "name": repo})
        elif name.endswith("/preupload"):
            files = json.loads(body)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._send_json({"files": [{"path": f["path"], **mode} for f in files]})
        else:
            repo = name.removeprefix("models/").removesuffix("/commit")
            records = [json.loads(line) for line in body.splitlines()]
            files = {
                r["value"]["path"]: base64.b64decode(r["value"]["content"])
                for r in records
                if r["key"] == "file"
            }
            header = records[0]["value"]
            self.hub.commits.append({"repo": repo, "branch": call, **header})
            self.hub.files |= {f"{repo}/{path}": c for path, c in files.items()}
            url = f"{self.hub.url}/{repo}/commit/{COMMIT}"
            answer = {"success": True, "commitOid": COMMIT, "commitUrl": url}
            self._send_json(answer)

    def _send_json(self, content: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        if not path.startswith("/api/"):  # of no file: the client's own business
            self.hub.requests.append((self.command, path, self.headers.get("Range")))
            kind = "/cdn/" if path.startswith("/cdn/") else "/resolve/"
            self.hub.tokens.add((kind, self.headers.get("Authorization")))
        try:
            if path.startswith("/cdn/"):
                self._send_file(path.removeprefix("/cdn/"))
            elif path.startswith("/plain/"):
                self._send_file(path.removeprefix("/"))
            elif "/resolve/" in path:
                self._resolve(path)
            else:
                self._send_status(404)
        except ConnectionError:
            self.close_connection = True

    def _resolve(self, path: str) -> None:
        repo, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        name, commit = f"{repo}/{file}", revision if len(revision) == 40 else COMMIT
        fault = self.hub.faults.get(name, Fault())
        if fault.status and fault.times:
            self._send_status(fault.status)
        elif fault.page and fault.times:
            self._send_page()
        elif name in self.hub.files:
            content = self.hub.files[name]
            self.send_response(302)
            self.send_header("Location", f"{self.hub.cdn}/cdn/{name}")
            self.send_header("X-Repo-Commit", commit)
            digest = hashlib.sha256(content).hexdigest()
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            known = any(file.startswith(f"{repo}/") for file in self.hub.files)
            error = "EntryNotFound" if known else "RepoNotFound"
            self._send_status(404, {"X-Error-Code": error, "X-Repo-Commit": commit})

    def _send_status(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_page(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(PAGE)

    def _send_file(self, name: str) -> None:
        content = self.hub.files.get(name)
        fault = self.hub.take_fault(name) if self.command == "GET" else Fault()
        if content is None or fault.status:
            self._send_status(fault.status or 404)
            return
        if fault.page:
            self._send_page()
            return
        start = self._start(len(content))
        if start is None:
            self._send_status(416)
            return
        self.send_response(206 if start else 200)
        length = str(len(content) - start) if fault.length is None else fault.length
        if length:
            self.send_header("Content-Length", length)
        if start:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._send_body(content, start, fault)

    def _start(self, size: int) -> int | None:
        asked = self.headers.get("Range")
        if not asked or not self.hub.ranges:
            return 0
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        return start if start < size else None

    def _send_body(self, content: bytes, start: int, fault: Fault) -> None:
        if fault.trickle:
            for i in range(start, len(content)):
                self.wfile.write(content[i : i + 1])
                if self.hub.closing.wait(fault.trickle):
                    break
        elif fault.stall:
            self.wfile.write(content[start : len(content) // 2])
            self.hub.closing.wait(fault.stall)
        else:
            self.wfile.write(content[start : int(len(content) * fault.cut_at)])
        if fault.trickle or fault.stall or fault.cut_at < 1 or fault.length is not None:
            self.close_connection = True
