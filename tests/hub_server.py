"""A Hugging Face Hub on the loopback: what huggingface_hub asks for when it downloads a file or a snapshot, or uploads.

with serve_hub({"owner/name": folder}) as hub: ... hub.url, hub.requests
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves local folders as repositories; ``truncate`` cuts what it sends of files with that name, at ``truncate_at``
    bytes or at half."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.requests: list[str] = []
        self.created: set[str] = set()
        self.uploaded: dict[str, bytes] = {}
        self.truncate: str | None = None
        self.truncate_at: int | None = None
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"POST {path}")
        if path.endswith("/repos/create"):
            wanted = json.loads(data)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.server.created.add(name)
            self.send_json({"url": f"{self.server.url}/{name}", "name": name})
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]
            ]
            self.send_json({"files": files})
        elif "/commit/" in path:
            for line in data.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.uploaded[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.send_json(
                {"commitUrl": f"{self.server.url}/me/x/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        elif path.endswith("/validate-yaml"):
            self.send_json({"errors": [], "warnings": []})
        else:
            self.send_json({"error": path}, 404)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        for name, folder in self.server.repositories.items():
            if path.startswith(f"/{name}/resolve/"):
                self.send_file(folder / path.split("/", 5)[5], body)
                return
            if path.startswith(f"/api/models/{name}"):
                files = sorted(p for p in folder.rglob("*") if p.is_file())
                if "/tree/" in path:
                    self.send_json([self.tree_entry(p, folder) for p in files])
                else:
                    siblings = [{"rfilename": p.relative_to(folder).as_posix()} for p in files]
                    self.send_json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []})
                return
        if path.removeprefix("/api/models/").startswith(tuple(self.server.created)):
            self.send_json({"id": path, "sha": COMMIT, "siblings": [], "tags": [], "xetEnabled": False})
            return
        self.send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def tree_entry(self, path: Path, folder: Path) -> dict[str, object]:
        name = path.relative_to(folder).as_posix()
        return {"type": "file", "path": name, "oid": digest(path), "size": path.stat().st_size}

    def send_file(self, path: Path, body: bool) -> None:
        if not path.is_file():
            self.send_json(
                {"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            )
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{digest(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            cut = path.name == self.server.truncate
            at = len(content) // 2 if self.server.truncate_at is None else self.server.truncate_at
            self.wfile.write(content[:at] if cut else content)
            self.close_connection = cut

    def send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for key, header in (headers or {}).items():
            self.send_header(key, header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serve_hub(repositories: dict[str, Path]) -> Iterator[Hub]:
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def run_python(code: str, url: str, home: Path, **variables: str) -> str:
    """The last line that the code prints, with the Hub at ``url`` and its cache under ``home``."""
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **variables}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "2"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.stdout, result.stderr
    return result.stdout.strip().splitlines()[-1]
