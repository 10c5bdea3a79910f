"""A webhook on this machine, which can refuse its first reports or answer none of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class Webhook:
    """`failures`: statuses of its first answers. The later ones have 200. All have a large body that is no text."""

    def __init__(self, url: str, failures: tuple[int, ...]) -> None:
        self.url = url
        self.failures = failures
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers = Event()
        """It answers while this is set."""
        self.answers.set()

    @property
    def accepted(self) -> list[dict[str, Any]]:
        return self.received[len(self.failures) :]


@contextmanager
def running_webhook(*failures: int) -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            webhook.headers.append({name.lower(): value for name, value in self.headers.items()})
            webhook.received.append(json.loads(body))
            failing = failures[len(webhook.received) - 1 : len(webhook.received)]
            webhook.answers.wait()
            self.send_response(*failing or (200,))
            self.send_header("location", "http://127.0.0.1:9/other")
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(b"\xff\x00<garbage>" * 1_000_000)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    webhook = Webhook(f"http://127.0.0.1:{server.server_port}/hook/secret-path", failures)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield webhook
    finally:
        webhook.answers.set()
        server.shutdown()
        server.server_close()
