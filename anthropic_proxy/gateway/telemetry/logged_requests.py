"""Requests as views such as `logs` get them from the proxy, in JSON."""

import json
from collections.abc import Sequence

import msgspec
from msgspec import Struct, field

from anthropic_proxy.plugins import Receipt


class LoggedRequest(Struct, frozen=True):
    receipt: Receipt
    is_exchange: bool = True
    """True for an accepted `POST /v1/messages`, which has two log lines. False: a request with one log line."""
    cost: int | None = None
    """Cost in nano-dollars, as the ledger stores it. None: unknown, or not calculated."""


class RequestSnapshot(Struct):
    finished: list[LoggedRequest] = field(default_factory=list)
    """Finished requests, the latest last."""
    running: list[Receipt] = field(default_factory=list)
    """Receipts of running exchanges, the latest last. Fields about the reply are still empty."""
    unresponsive_workers: int = 0
    """Number of workers that did not send their requests in time."""
    windows: dict[str, int] = {}
    """Model of a finished request, with the prefix of its provider → input limit in tokens. Absent: unknown."""
    chosen_models: dict[str, str] = {}
    """Session of the reader → model that was chosen for it. Absent: none."""
    sums: list[str] = []
    """Paths of sums that are served to the reader: `/api/usage` with a ledger, `/api/budget` if `BUDGET` is set."""


def encode_requests(value: RequestSnapshot | LoggedRequest | Sequence[Receipt]) -> bytes:
    """Characters that JSON cannot contain (lone surrogates from provider headers) become `?`."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")
