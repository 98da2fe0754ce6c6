"""A stand-in for a model hub on loopback: it answers the requests that an upload makes, in the form
that ``huggingface_hub`` expects, and keeps what it was sent. It knows no accounts, limits or
histories, and is no proof of what the hub itself would say."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What was asked and sent, and how it answers.

    Attributes:
        asked: "METHOD /path" of every request, in order.
        created: bodies of requests to make a repository.
        files: path → bytes, of what was committed.
        fails: beginning of a path → status, of requests that are refused.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.fails: dict[str, int] = {}
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """(status, JSON) of one request."""
        refused = next((s for begin, s in self.fails.items() if path.startswith(begin)), None)
        if refused is not None:
            return refused, {"error": "said by the stand-in"}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            self.created.append(wanted)
            return 200, {"url": f"{self.url}/{wanted['organization']}/{wanted['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self._place(one) for one in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        if path.startswith("/stored/"):
            self.stored[path.removeprefix("/stored/")] = body
            return 200, {}
        if "/commit/" in path:
            self._commit(body)
            return 200, {"commitUrl": f"{self.url}/me/it/commit/abc", "commitOid": "a" * 40}
        if "/branch/" in path:
            return 200, {}
        return 404, {"error": f"the stand-in knows no {method} {path}"}

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.url}/stored/{one['oid']}"}
        return {"oid": one["oid"], "size": one["size"], "actions": {"upload": upload}}

    def _commit(self, body: bytes) -> None:
        for line in body.decode().splitlines():
            said = json.loads(line)
            if said["key"] == "file":
                self.files[said["value"]["path"]] = base64.b64decode(said["value"]["content"])
            elif said["key"] == "lfsFile":
                self.files[said["value"]["path"]] = self.stored[said["value"]["oid"]]


@contextmanager
def standing_in() -> Iterator[Hub]:
    """The stand-in at work, at ``hub.url``."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            status, value = hub.answer(self.command, path, body)
            data = json.dumps(value).encode()
            self.send_response(status)
            if status >= 400:
                self.send_header("X-Error-Message", value["error"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = _any

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
