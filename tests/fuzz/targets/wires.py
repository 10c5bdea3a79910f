"""The decoder of each wire: a provider's reply as a stream, as a whole body, as an error."""

from collections.abc import Iterator
from typing import Any

from anthropic_proxy.engine.exchange.client_side import encode_error, encode_events, error_headers
from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.reply_filter import ReplyFilter
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.engine.wires.calls import Call, TranslatedCall
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.framing import FRAME_READERS
from anthropic_proxy.errors import ProxyError
from tests.fuzz.targets.scenarios import MAX_SEED_BYTES, WIRES, call_of, complete_replies, playable, scenario_of
from tests.fuzz.targets.target import Target, cuts_of, expect, expect_bounded, expect_ours, split_headline
from tests.support.event_grammar import check_bytes

MODES = ("stream", "body", "error")
_STATUSES = (400, 401, 403, 404, 413, 422, 429, 500, 502, 503, 529)
_WAITS = ("-", "7", "0", "-1", "1e400", "nan", "Wed, 21 Oct 2099 07:28:00 GMT", "9" * 400, "½", "2 s")


class _Listener:
    """A client that checks the received stream by the grammar, for all bytes of the provider."""

    def __init__(self, call: Call, signature: str) -> None:
        self._writer = MessageWriter(message_id="msg_fuzz", model="claude", signature=signature)
        request = call.request if isinstance(call, TranslatedCall) else None
        ends_early = request is not None and request.may_end_early
        self._cutter = ReplyFilter(request.stop_sequences, request.reply_limit) if ends_early else None
        self._sent = encode_events(self._writer.start(100))

    def feed(self, deltas: list[Delta]) -> None:
        events = self._writer.feed(self._cutter.feed(deltas) if self._cutter else deltas)
        self._sent += encode_events(events)

    def finish(self) -> None:
        remaining_events = self._writer.feed(self._cutter.flush()) if self._cutter else []
        self._sent += encode_events([*remaining_events, *self._writer.finish()])

    def fail(self, error: ProxyError) -> None:
        self._sent += encode_events(self._writer.fail(error), "req_fuzz")

    def expect_grammar(self, given: int) -> None:
        blamed = check_bytes(self._sent, requires_json_arguments=False)
        expect(not blamed, f"the client was sent {blamed[:3]}")
        expect_bounded(len(self._sent), given)


def _check(wire_name: str, data: bytes) -> None:
    words, payload = split_headline(data)
    names = playable(wire_name)
    name = words[0] if words[0] in names else names[sum(words[0].encode()) % len(names)]
    mode = words[1] if len(words) > 1 and words[1] in MODES else MODES[0]
    call, wire = call_of(wire_name, name), scenario_of(wire_name, name).target.wire
    if mode == "error":
        _check_error(wire, call, words[2:], payload)
        return
    decoder = wire.new_decoder(call)
    listener = _Listener(call, decoder.default_signature)
    try:
        for deltas in _whole(decoder, payload) if mode == "body" else _streamed(wire, decoder, payload):
            if not wire.is_relay:  # a relay reads along only for usage and the end
                listener.feed(deltas)
        if wire.is_relay:
            return
        listener.finish()
    except ProxyError as error:
        expect_ours(error)
        listener.fail(error)
        _expect_tellable(error)
    listener.expect_grammar(len(payload))


def _whole(decoder: Any, payload: bytes) -> Iterator[list[Delta]]:
    yield decoder.decode_body(payload)
    yield decoder.decode_end()


def _streamed(wire: Wire, decoder: Any, payload: bytes) -> Iterator[list[Delta]]:
    reader = FRAME_READERS[wire.framing](foreign=decoder.open_foreign())
    for chunk in (*cuts_of(payload), b""):
        for frame in reader.feed(chunk) if chunk else reader.finish():
            yield decoder.decode_frame(frame)
            if decoder.finished:
                break
        if decoder.finished:
            break
    yield decoder.decode_kept()
    yield decoder.decode_end()


def _check_error(wire: Wire, call: Call, words: list[str], payload: bytes) -> None:
    status = int(words[0]) if words and words[0].isascii() and words[0].isdecimal() and len(words[0]) == 3 else 400
    wait = " ".join(words[1:])
    headers = {} if wait in ("", "-") else {"retry-after": wait}
    try:
        outcome = wire.decode_error(call, status, headers, payload)
    except ProxyError as error:
        outcome = error
    if isinstance(outcome, Exception):
        expect(isinstance(outcome, ProxyError), f"{type(outcome).__name__} is not of our tree")
        assert isinstance(outcome, ProxyError)
        expect_ours(outcome)
        _expect_tellable(outcome)
        if healing := wire.find_adaptation(call, outcome):
            wire.apply_adaptation(call.dialect, healing.name)
        return
    listener = _Listener(call, "")
    listener.feed(outcome)
    listener.finish()
    listener.expect_grammar(len(payload))


def _expect_tellable(error: ProxyError) -> None:
    expect_bounded(len(encode_error(error, "req_fuzz")), 0)
    expect(400 <= error.status <= 599, f"status {error.status}")
    for value in error_headers(error, "req_fuzz").values():
        value.encode("latin-1")
        expect(value.isprintable(), f"header {value!r}")


def _seeds(wire: str) -> Iterator[bytes]:
    for name in playable(wire):
        scenario = scenario_of(wire, name)
        if scenario.upstream is None or len(scenario.upstream) > MAX_SEED_BYTES:
            continue
        status = scenario.fields.get("status", 200)
        mode = f"error {status}" if status != 200 else "stream" if scenario.streams else "body"
        yield f"{name} {mode}\n".encode() + scenario.upstream
    for position, body in enumerate(complete_replies(wire)):
        name = playable(wire)[position % len(playable(wire))]
        yield (
            f"{name} {'body' if body.lstrip().startswith(b'{') and b'data:' not in body else 'stream'}\n".encode()
            + body
        )


def _headlines(wire: str) -> list[bytes]:
    lines = [f"{name} {mode}" for name in playable(wire) for mode in MODES[:2]]
    some = playable(wire)[::7]
    lines += [f"{name} error {status}" for name in some for status in _STATUSES]
    return [line.encode() for line in [*lines, *(f"{some[0]} error 429 {wait}" for wait in _WAITS)]]


def _target(wire: str) -> Target:
    return Target(wire, lambda data: _check(wire, data), lambda: _seeds(wire), _headlines(wire))


TARGETS = [_target(wire) for wire in WIRES]
