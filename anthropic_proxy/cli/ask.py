"""Command `ask`: one question to a model through the complete proxy, with the streamed reply on stdout."""

import http.client
import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, Any

from cyclopts import Parameter

from anthropic_proxy.errors import ConfigurationError, ProxyError

DEFAULT_MODEL = "claude-sonnet-5-5"
"""Requested model if the option `--model` is not used. The settings map it to a model of a provider."""
_MAX_TOKENS = 4096
_STDIN = "-"


class AskFailed(ProxyError):
    """The proxy or the provider returned an error instead of a reply."""


def ask(
    question: str, *, model: str = DEFAULT_MODEL, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """Send one question through the proxy and print the reply while it arrives.

    The proxy on PORT is used if it runs. Otherwise a proxy is started and stopped afterwards.

    Parameters
    ----------
    question
        Text of the question; - reads it from standard input.
    model
        Model to request: a Claude model, or a model with the prefix of its provider.
    as_json
        Print the events of the reply as JSON, one per line.
    """
    from anthropic_proxy.cli.local_proxy import open_proxy  # noqa: PLC0415  # --help needs none of it
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415

    text = sys.stdin.read() if question == _STDIN else question
    if not text.strip():
        raise ConfigurationError('The question is empty. Example:  anthropic-proxy ask "hello"')
    settings = load_settings(os.environ, PROVIDERS)
    with open_proxy(settings) as proxy:
        events = _stream(proxy.host, proxy.port, proxy.token, _encode_request(text, model))
        _print_reply(events, as_json=as_json)


def _encode_request(question: str, model: str) -> bytes:
    messages = [{"role": "user", "content": question}]
    return json.dumps({"model": model, "max_tokens": _MAX_TOKENS, "stream": True, "messages": messages}).encode()


def _stream(host: str, port: int, token: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Send a request of the Messages API and yield the events of the reply. Raises `AskFailed` for an error."""
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01", "user-agent": "anthropic-proxy"}
    if token:
        headers["x-api-key"] = token
    with closing(http.client.HTTPConnection(host, port)) as connection:
        try:
            connection.request("POST", "/v1/messages", body, headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise AskFailed(_error_message(json.loads(response.read())))
            for line in response:
                if line.startswith(b"data:"):
                    event: dict[str, Any] = json.loads(line[5:])
                    if event["type"] == "error":
                        raise AskFailed(_error_message(event))
                    yield event
        except (OSError, http.client.HTTPException) as error:
            raise AskFailed(f"The connection to the proxy at {host}:{port} broke: {error}") from None


def _print_reply(events: Iterator[dict[str, Any]], *, as_json: bool) -> None:
    """Print the text of a reply, then its model, tokens and stop reason on stderr. `as_json`: print the events."""
    used: dict[str, Any] = {}
    model = stop_reason = ""
    for event in events:
        if as_json:
            _write(json.dumps(event) + "\n")
        elif event["type"] == "content_block_delta":
            _write(event["delta"].get("text", ""))
        message = event.get("message") or {}
        model = message.get("model", model)
        used |= message.get("usage") or event.get("usage") or {}
        stop_reason = event.get("delta", {}).get("stop_reason") or stop_reason
    if not as_json:
        _write("\n")
        tokens = f"in {used.get('input_tokens', 0)} out {used.get('output_tokens', 0)}"
        sys.stderr.write(f"{model}  {tokens}  {stop_reason}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _error_message(body: dict[str, Any]) -> str:
    return str(body["error"]["message"])
