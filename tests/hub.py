"""A small hub on this machine: what huggingface-hub asks of huggingface.co, answered from a folder; some of it is gated."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_let_in"


class _Hub(BaseHTTPRequestHandler):
    """/api/models/ORG/REPO/auth-check and /ORG/REPO/resolve/REVISION/FILE; a repository named gated-... asks for the token."""

    def __init__(self, root: Path, *others: object) -> None:
        self.root = root
        super().__init__(*others)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def _answer(self) -> None:
        parts = self.path.strip("/").split("/")
        is_api = parts[0] == "api"
        repository = parts[2:4] if is_api else parts[:2]
        folder = self.root.joinpath(*repository)
        if len(repository) < 2 or not folder.is_dir():
            self._send(404, {"X-Error-Code": "RepoNotFound"})
        elif repository[1].startswith("gated-") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(403, {"X-Error-Code": "GatedRepo"})
        elif is_api:
            self._send(200, {}, b"{}")
        elif not (folder / parts[-1]).is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound"})
        else:
            content = (folder / parts[-1]).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            self._send(200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, content)

    def _send(self, code: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def hub_of(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let huggingface-hub in this process find the repositories ORG/REPO of a folder, and keep its cache and token elsewhere."""
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, root))
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
