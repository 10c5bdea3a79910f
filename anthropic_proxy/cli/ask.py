"""Command `ask`: sends one question to a model, and prints the reply while it arrives."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.cli import EXIT_FAILED
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.local_proxy import LocalProxy, open_proxy
from anthropic_proxy.cli.output import Output, write_errors
from anthropic_proxy.cli.proxy_client import stream_message
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import ConfigurationError, UpstreamError, UpstreamUnreachable
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.telemetry.log.columns import count_columns
from anthropic_proxy.gateway.telemetry.log.lines import (
    describe_remedies,
    escape_terminal_controls,
    format_tokens,
)
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.secrets import Secret

DEFAULT_MODEL = "claude-sonnet-5-5"
"""Requested model if the option `--model` is not used. The settings map this Claude model to a model of a provider."""
_MAX_TOKENS = 4096
_RECEIPT_SECONDS = 0.5
"""Maximum time in seconds until the proxy has noted a request that has ended."""
_POLL_SECONDS = 0.05
_QUIET_SECONDS = 1.0
"""Time without a reply after which a terminal shows that the command waits."""
_CLIENT_TOKEN = "ANTHROPIC_AUTH_TOKEN"
"""Variable with the credential of Claude Code and other clients."""
_WORDS = compile_later(r" *[^ \n]+| *\n\s*| +")
"""A word with the spaces before it, or line ends with the indentation after them."""


class _Delta(Struct):
    text: str = ""
    stop_reason: str | None = None


class _Usage(Struct, omit_defaults=True):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None


class _Message(Struct):
    model: str = ""
    usage: _Usage | None = None


class _Event(Struct):
    """The fields of an event that the command shows."""

    type: str
    message: _Message = msgspec.field(default_factory=_Message)
    delta: _Delta = msgspec.field(default_factory=_Delta)
    usage: _Usage | None = None


def ask(question: str | None = None, *, model: str = DEFAULT_MODEL, as_json: bool = False) -> None:
    """Parameters
    ----------
    question
        Text of the question; by default standard input.
    model
        Model to request: a Claude model, or a model with the prefix of its provider.
    as_json
        Print the events of the reply as JSON, one per line.
    """
    if question is None and sys.stdin.isatty():
        end = "Ctrl+Z and Enter" if sys.platform == "win32" else "Ctrl+D"
        Output().write_notice(f"Write the question, and end it with {end} on a line of its own.")
    text = sys.stdin.read() if question is None else question
    if not text.strip():
        raise ConfigurationError('The question is empty. Example:  anthropic-proxy ask "hello"', code="command-line")
    messages = [{"role": "user", "content": text}]
    body = json.dumps({"model": model, "max_tokens": _MAX_TOKENS, "stream": True, "messages": messages}).encode()
    settings = load_command_settings(is_client=True)
    with open_proxy(settings, "ask") as proxy:
        client_token = copy_environment().get(_CLIENT_TOKEN, "")
        if client_token not in ("", proxy.token):
            used = {"": "no key", "local": "no key, because it requires none"}
            key = used.get(proxy.token) or f"the first key of PROXY_API_KEY, {Secret(proxy.token)}"
            Output().write_notice(f"{_CLIENT_TOKEN} of the environment is not used. The proxy gets {key}.")
        failed = print_reply(proxy, body, as_json=as_json, has_ledger=settings.server_has_ledger())
    if failed is not None:
        sys.exit(EXIT_FAILED)


class FailedRequest(Struct, frozen=True):
    receipt: Receipt | None
    """None: the proxy did not tell it in time."""


def print_reply(proxy: LocalProxy, body: bytes, *, as_json: bool, has_ledger: bool) -> FailedRequest | None:
    """Send a request and print the reply on stdout while it arrives, then its models, tokens and stop reason on stderr.

    With `as_json`, print the SSE events instead, one per line. An error is printed and returned. `has_ledger`: the
    command `explain` has its reason.
    """
    is_terminal = sys.stdout.isatty()
    started = time.time()
    events = stream_message(proxy.host, proxy.port, body, proxy.token, proxy.certificate_file)
    reply = _Reply(Output().width)
    used: dict[str, int] = {}
    model = stop_reason = ""
    try:
        for raw, event in _announce_wait(events, announces=not as_json):
            if as_json:
                _write(json.dumps(raw) + "\n")
            elif event.type == "content_block_delta":
                reply.write(escape_terminal_controls(event.delta.text) if is_terminal else event.delta.text)
            model = event.message.model or model
            used |= msgspec.to_builtins(event.message.usage or event.usage or _Usage())
            stop_reason = event.delta.stop_reason or stop_reason
    except UpstreamError as error:
        if (request_id := error.headers.get("request-id")) is None:
            raise
        write_errors([error.message])
        receipt = _find_receipt(proxy, lambda receipt: receipt.request_id == request_id)
        for line in describe_remedies(receipt, has_ledger=has_ledger) if receipt is not None else ():
            Output().write_notice(line)
        return FailedRequest(receipt)
    if not as_json:
        reply.end()
        sent = sum(count for name, count in used.items() if name != "output_tokens")
        tokens = format_tokens(sent, used.get("output_tokens", 0))
        receipt = _find_receipt(
            proxy,
            lambda receipt: bool(receipt.model) and receipt.requested_model == model and receipt.started_at >= started,
        )
        target = model if receipt is None else f"{receipt.prefix}/{receipt.model}"
        models = f"{model} → {target}" if target != model else model
        failed = [] if receipt is None else receipt.failed_attempts
        Output().write_notice("  ".join([models, tokens, stop_reason, *([f"↻ {', '.join(failed)}"] if failed else [])]))
    return None


def _announce_wait(events: Iterator[Any], *, announces: bool) -> Iterator[tuple[Any, _Event]]:
    """Yield the events of a reply, as they are and decoded. A terminal shows a line if no text arrives for a while."""
    timer = threading.Timer(_QUIET_SECONDS, Output().write_notice, ["Waiting for the reply …"])

    def stop() -> None:
        timer.cancel()
        if timer.ident is not None:
            timer.join()  # its line is complete before the reply

    if announces and sys.stderr.isatty():
        timer.start()
    try:
        for raw in events:
            event = msgspec.convert(raw, _Event)
            if event.delta.text:
                stop()
            yield raw, event
    except msgspec.ValidationError as error:
        raise UpstreamUnreachable(f"The reply of the proxy cannot be read: {error}", code="proxy-connection") from None
    finally:
        stop()


class _Reply:
    """The text of a reply on stdout. A line wider than `columns` ends between words; a terminal would divide a word."""

    def __init__(self, columns: int | None) -> None:
        self._columns = sys.maxsize if columns is None else columns
        self._used = 0
        """Number of characters in the current line."""
        self._waiting = ""
        """The beginning of a word, or the spaces before it: the rest may follow."""

    def write(self, text: str) -> None:
        words = _WORDS.findall(self._waiting + text)
        self._waiting = words.pop() if words else ""
        for word in words:
            self._write(word)

    def end(self) -> None:
        self._write(self._waiting)
        _write("\n")

    def _write(self, word: str) -> None:
        if "\n" in word:
            self._used = count_columns(word.rpartition("\n")[2])
        elif word.startswith(" ") and self._used and self._used + count_columns(word) > self._columns:
            word = word.lstrip(" ")
            self._used = count_columns(word)
            word = f"\n{word}"
        else:
            self._used += count_columns(word)
        _write(word)


def _find_receipt(proxy: LocalProxy, is_wanted: Callable[[Receipt], bool]) -> Receipt | None:
    """Return the receipt of the last wanted request. None: the proxy does not tell it in time."""
    deadline = time.monotonic() + _RECEIPT_SECONDS
    while time.monotonic() < deadline:
        for request in reversed(proxy.get_recent_requests().finished):
            if is_wanted(request.receipt):
                return request.receipt
        time.sleep(_POLL_SECONDS)
    return None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
