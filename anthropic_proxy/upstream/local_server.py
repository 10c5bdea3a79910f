"""HTTP client of commands for a proxy on this machine. Uses the standard library only, to start quickly."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from anthropic_proxy.errors import UpstreamError, UpstreamUnreachable

PROBE_TIMEOUT_SECONDS = 2.0
"""Maximum time of `get_json`."""


def get_json(host: str, port: int, path: str, token: str = "") -> Any | None:
    """Return the decoded JSON of `GET` of a path. None: no response in time, a status other than 200, or no JSON.

    `token`: credential for the proxy; "": none.
    """
    with closing(http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_SECONDS)) as connection:
        try:
            connection.request("GET", path, headers=_headers(token))
            response = connection.getresponse()
            return json.loads(response.read()) if response.status == http.client.OK else None
        except (OSError, http.client.HTTPException, ValueError):
            return None


def stream_message(host: str, port: int, body: bytes, token: str) -> Iterator[dict[str, Any]]:
    """Send a streaming request of the Messages API and yield the events of the reply.

    Raises `UpstreamError` with the message of the proxy for an error, and `UpstreamUnreachable` if the connection
    breaks.
    """
    with closing(http.client.HTTPConnection(host, port)) as connection:
        try:
            headers = {"content-type": "application/json", "anthropic-version": "2023-06-01", **_headers(token)}
            connection.request("POST", "/v1/messages", body, headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise _error(json.loads(response.read()))
            for line in response:
                if line.startswith(b"data:"):
                    event: dict[str, Any] = json.loads(line[5:])
                    if event["type"] == "error":
                        raise _error(event)
                    yield event
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamUnreachable(f"The connection to the proxy at {host}:{port} broke: {error}") from None


def _headers(token: str) -> dict[str, str]:
    return {"user-agent": "anthropic-proxy", **({"x-api-key": token} if token else {})}


def _error(body: dict[str, Any]) -> UpstreamError:
    return UpstreamError(str(body["error"]["message"]))
