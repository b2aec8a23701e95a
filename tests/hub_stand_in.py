"""A Hugging Face hub of one folder, for tests: the parts of its HTTP interface that a push and a load need."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

COMMIT = "0123456789abcdef" * 2 + "01234567"
TOKEN = "hf_test"


@contextmanager
def serve_hub(root: Path) -> Iterator[str]:
    """Serve the repositories that are folders OWNER/NAME of `root`; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.resolve(body=False)

        def do_GET(self) -> None:
            self.resolve(body=True)

        def resolve(self, body: bool) -> None:
            owner, name, *rest = self.path.partition("?")[0].strip("/").split("/")
            file = root / owner / name / (rest[-1] if rest else "")
            if not (root / owner / name).is_dir():
                return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            if not file.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            data = file.read_bytes()
            about = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.answer(200, data, about, body)

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, b'{"error": "Invalid username or password."}', {})
            if self.path == "/api/validate-yaml":
                return self.tell({"warnings": [], "errors": []})
            if self.path == "/api/repos/create":
                asked = json.loads(data)
                (root / asked["organization"] / asked["name"]).mkdir(parents=True, exist_ok=True)
                return self.tell({"url": f"{self.base}/{asked['organization']}/{asked['name']}"})
            _, _, _, owner, name, action, *_ = self.path.split("/")
            if action == "preupload":
                files = json.loads(data)["files"]
                modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                return self.tell({"files": modes})
            for row in map(json.loads, data.splitlines()):
                if row["key"] == "file":
                    (root / owner / name / row["value"]["path"]).write_bytes(base64.b64decode(row["value"]["content"]))
            self.tell({"commitUrl": f"{self.base}/{owner}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

        @property
        def base(self) -> str:
            return f"http://127.0.0.1:{self.server.server_address[1]}"

        def tell(self, what: Any) -> None:
            self.answer(200, json.dumps(what).encode(), {})

        def answer(self, status: int, data: bytes, headers: dict[str, str], body: bool = True) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
