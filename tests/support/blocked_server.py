"""`python -m tests.support.blocked_server --workers 2 …`: the server with an application that can be made to block.

`GET /block/python` never returns from a loop in Python, `GET /block/pattern` from a regular expression, which holds
the interpreter lock; both write a line before. Everything else is the proxy's own application.
"""

import argparse
import os
import re
from functools import partial
from typing import Any

from anthropic_proxy.app import App, load_app
from anthropic_proxy.cli.server_processes import run_server
from anthropic_proxy.plugins import Client, Receipt


class Blocking(App):
    """The application, with paths that block its event loop."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if not path.startswith("/block/"):
            await super().__call__(scope, receive, send)
            return
        receipt = Receipt(request_id="req_blocking", client=Client(), started_at=0.0, method=scope["method"], path=path)
        receipt.requested_model = "claude-blocked"
        self.peer.running.name_model(self.peer.running.begin(receipt), receipt.requested_model)
        os.write(1, b"Blocking.\n")
        if path.endswith("pattern"):
            re.fullmatch("(a*)*(a*)*(a*)*b", "a" * 60)
        while True:
            pass


def load(overrides: dict[str, object], **options: Any) -> Any:
    app = load_app(overrides, **options)
    app.__class__ = Blocking
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stop-timeout", type=float, default=3.0)
    parser.add_argument("--heartbeat-timeout", type=float, default=30.0)
    asked = parser.parse_args()
    run_server(
        partial(load, {"host": "127.0.0.1", "port": asked.port}),
        host="127.0.0.1",
        port=asked.port,
        workers=asked.workers,
        stop_timeout_seconds=asked.stop_timeout,
        heartbeat_timeout_seconds=asked.heartbeat_timeout,
    )
