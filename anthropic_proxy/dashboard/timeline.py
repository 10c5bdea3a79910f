"""Timeline of one request: a bar for each call to a provider, and for each content block of the reply.

`build_timeline` returns the `Timeline`, which consists of a `Bar` for each call or block. `list_attempts` returns the
calls as texts (`Attempt`). `list_client_events` returns the events of the streamed reply (`ClientEvent`).
`sum_failed_attempt_time` returns the time that failed calls cost.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.rows import decode_json_list
from anthropic_proxy.ledger.attempt_times import AttemptTime, decode_attempt_times
from anthropic_proxy.ledger.block_times import BlockTime, decode_block_times
from anthropic_proxy.ledger.request_queries import StoredRequest
from anthropic_proxy.ledger.units import MICROSECONDS

MAX_BLOCK_BARS = 40
"""Maximum number of content blocks of the reply that have a bar."""
_MAX_STEPS = 6
_ROLES = {"text": "text", "thinking": "thinking", "tool call": "tool", "server tool": "tool"}
"""Kind of a content block → CSS class of the color of its bar."""


class Bar(Struct, frozen=True):
    """One bar of the timeline. `start` and `share` are beginning and length as fractions (0 to 1) of the time scale."""

    name: str
    role: str
    """CSS class of the color: `bad`, `wait`, `text`, `thinking` or `tool`."""
    start: float
    share: float
    begins: str
    """Time from the start of the request to the start of the bar, as text."""
    time: str
    """Duration of the bar, as text."""
    text: str = ""


class Attempt(Struct, frozen=True):
    """One call to a provider, as texts for the page."""

    provider: str
    model: str
    failure: str
    """HTTP status and duration of a failed attempt: `429 after 0.21 s`. "": the attempt succeeded."""
    error: str


class Timeline(Struct, frozen=True):
    """The bars of one request, and their time scale."""

    bars: Sequence[Bar]
    ticks: Sequence[str]
    """Times at the steps of the time scale, as texts."""
    first_token: float | None
    """Position of the first token on the time scale, 0 to 1. None: the reply has no content."""


def build_timeline(row: StoredRequest) -> Timeline:
    """Return the timeline of the stored request `row`."""
    attempts = decode_attempt_times(row.attempt_times)
    end = max([row.duration, 1, *(one.offset + one.duration for one in attempts)])
    step = _find_step(end)
    steps = -(-end // step)
    scale = float(step * steps)
    bars = _attempt_bars(row, attempts, scale) if attempts else _phase_bars(row, scale)
    ticks = [_tick(number * step, step) for number in range(steps)]
    return Timeline(list(bars), ticks, row.first_token / scale if row.first_token else None)


def sum_failed_attempt_time(row: StoredRequest) -> int:
    """Return the time that was lost by failed calls to providers before the first token of the reply, in microseconds.

    `row` is the stored request.
    """
    first = row.first_token or row.duration
    failed = [one for one in decode_attempt_times(row.attempt_times) if one.error_type]
    return sum(one.duration for one in failed if one.offset + one.duration <= first)


def _find_step(end: int) -> int:
    """Return the length of a step of the time scale: 1, 2 or 5 times a power of ten, in microseconds.

    `end`: end of the scale in microseconds.
    """
    power = 1
    while True:
        for factor in (1, 2, 5):
            if end <= factor * power * _MAX_STEPS:
                return factor * power
        power *= 10


def _tick(time: int, step: int) -> str:
    if step < 10_000:
        return f"{time / 1_000:g} ms"
    return f"{time / MICROSECONDS:g} s"


def _bar(name: str, role: str, span: tuple[int, int], scale: float, text: str = "") -> Bar:
    """Return a bar with `name` and the CSS class `role`. `span`: beginning and end in microseconds.

    `scale`: length of the time scale in microseconds. `text`: text beside the bar.
    """
    start, end = span
    begins, time = formats.seconds(start), formats.seconds(end - start)
    return Bar(name, role, start / scale, (end - start) / scale, begins, time, text)


def _attempt_bars(row: StoredRequest, attempts: Sequence[AttemptTime], scale: float) -> Iterator[Bar]:
    for number, one in enumerate(attempts, 1):
        end, name = one.offset + one.duration, f"attempt {number}"
        first = row.first_token or end
        if one.error_type and not one.offset < first < end:
            yield _bar(name, "bad", (one.offset, end), scale, f"{one.provider}: {_failure(one)}")
        elif one.offset < first < end:
            yield _bar(name, "wait", (one.offset, first), scale, f"{one.provider}: wait for the first token")
            if one.error_type:
                yield _bar("reply", "bad", (first, end), scale, _failure(one))
            else:
                yield from _reply_bars(row, (first, end), scale)
        else:
            yield _bar(name, "text", (one.offset, end), scale, one.provider)


def list_attempts(row: StoredRequest) -> list[Attempt]:
    """Return the calls to providers of a stored request, as texts for the page.

    The list is empty if the ledger has no times of these calls.
    """
    return [
        Attempt(
            one.provider,
            one.model,
            f"{_failure(one)} after {formats.seconds(one.duration)}" if one.error_type else "",
            one.error,
        )
        for one in decode_attempt_times(row.attempt_times)
    ]


def _failure(one: AttemptTime) -> str:
    return str(one.status) if one.status else one.error_type


def _phase_bars(row: StoredRequest, scale: float) -> Iterator[Bar]:
    """Yield bars for waiting and reply of the request `row`, if the times of its calls to providers are not stored.

    `scale`: length of the time scale in microseconds.
    """
    total = max(row.duration, 1)
    first = min(row.first_token, total) if row.first_token else total
    failures = decode_json_list(row.failed_attempts)
    name = "failed attempts and wait" if failures else "wait for the first token" if row.first_token else "wait"
    role = "bad" if row.outcome_class == "error" and not row.first_token else "wait"
    yield _bar(name, role, (0, first), scale, ", ".join(failures))
    if first < total:
        yield from _reply_bars(row, (first, total), scale)


def _reply_bars(row: StoredRequest, span: tuple[int, int], scale: float) -> Iterator[Bar]:
    """Yield a bar for each content block of the reply, or one for the whole reply if the blocks are not stored.

    `span`: beginning and end of the reply in microseconds. `scale`: length of the time scale in microseconds.
    """
    blocks = decode_block_times(row.reply_blocks)
    last = max(span[1], min(row.duration, int(scale)))  # blocks of a tool loop arrive in several attempts
    if not blocks:
        yield _bar("reply", "text", span, scale, f"{formats.count(row.output_tokens)} tokens")
    for one in blocks[:MAX_BLOCK_BARS]:
        begin = min(one.offset, last)
        end = min(one.offset + one.duration, int(scale)) if one.duration else last
        text = formats.plural(one.characters, "character") if one.characters else ""
        yield _bar(one.name or one.kind, _ROLES[one.kind], (begin, max(begin, end)), scale, text)
    if len(blocks) > MAX_BLOCK_BARS:
        hidden = blocks[MAX_BLOCK_BARS].offset
        text = formats.plural(len(blocks) - MAX_BLOCK_BARS, "block")
        yield _bar("more", "text", (min(hidden, last), last), scale, text)


class ClientEvent(NamedTuple):
    """One event of a streamed reply, as texts for the page."""

    time: str
    """Time from the start of the request: `0.613 s`."""
    name: str
    """Type of the event: `content_block_start`. `–`: the client disconnected."""
    description: str


def list_client_events(row: StoredRequest) -> list[ClientEvent]:
    """Return the events of a streamed reply as the client received them, without deltas.

    The list is empty if the reply was not streamed, or if the ledger has no times of its content blocks.
    """
    blocks = decode_block_times(row.reply_blocks)
    if not (blocks and row.stream and row.first_token):
        return []
    found = [ClientEvent(_moment(row.first_token), "message_start", f"model {row.requested_model}")]
    for index, one in enumerate(blocks):
        found.append(ClientEvent(_moment(one.offset), "content_block_start", f"{index} {_describe_block(one)}"))
        if one.duration:
            size = f", {formats.plural(one.characters, 'character')}" if one.characters else ""
            found.append(ClientEvent(_moment(one.offset + one.duration), "content_block_stop", f"{index}{size}"))
    if row.outcome_class == "error":
        return [*found, ClientEvent(_moment(row.duration), "error", row.error_type)]
    if row.outcome_class == "cancelled":
        return [*found, ClientEvent(_moment(row.duration), "–", "the client disconnected")]
    end = f"stop reason {row.outcome}, {formats.count(row.output_tokens)} output tokens"
    moment = _moment(row.duration)
    return [*found, ClientEvent(moment, "message_delta", end), ClientEvent(moment, "message_stop", "")]


def _describe_block(one: BlockTime) -> str:
    return {"tool call": f"tool_use {one.name}", "server tool": "block of a server tool"}.get(one.kind, one.kind)


def _moment(microseconds: int) -> str:
    return f"{microseconds / MICROSECONDS:.3f} s"
