"""Access of commands to the ledger."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from anthropic_proxy.cli.ledger_access import require_stored_request
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import load_settings


@contextmanager
def proxy_of_another_version(recent: object) -> Iterator[int]:
    """Yield the port of a server that replies to `GET /health` as a proxy does, and to other paths with `recent`."""

    class Reply(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"status": "ok", "version": "9.0"} if self.path == "/health" else recent
            encoded = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Reply) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "recent",
    [{}, {"requests": []}, {"finished": [{}]}, {"finished": [{"receipt": {"path": "/v1/messages"}}]}, [], None],
)
def test_a_proxy_of_another_version_does_not_stop_a_command_that_reads_the_ledger(
    tmp_path: Path, recent: object
) -> None:
    with proxy_of_another_version(recent) as port:
        environ = {"PORT": str(port), "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db", "LEDGER": "true"}
        settings = load_settings(environ, PROVIDERS, env_file=None)
        with pytest.raises(ConfigurationError, match=r"^The ledger has no requests yet\. Send one: "):
            require_stored_request(settings, "1")
