"""Plays one scenario through the real router, preparation, wire, framing, filter and writer, without a socket."""

import contextlib
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.client_side import encode_error, encode_events, encode_message, error_headers
from anthropic_proxy.engine.messages.call_states import HiddenThinking
from anthropic_proxy.engine.messages.deltas import Block, Delta, Stop, Text, Thinking, ToolCall, TrailingThinkingBuffer
from anthropic_proxy.engine.messages.events import Ping
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.messages.loaded_tools import CALLER, LoadedToolCalls
from anthropic_proxy.engine.messages.models import MessagesRequest, decode_envelope, decode_request
from anthropic_proxy.engine.messages.preparation import prepare
from anthropic_proxy.engine.messages.reply_filter import ReplyFilter
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target, build_target_limits
from anthropic_proxy.engine.upstream.http.url import join_url
from anthropic_proxy.engine.wires.calls import Call, TranslatedCall
from anthropic_proxy.engine.wires.foreign_lines import ForeignLines
from anthropic_proxy.engine.wires.framing import FRAME_READERS
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import ClientError, ProxyError
from tests.support import golden_relay as relay
from tests.support.fold import fold
from tests.support.golden_relay import readable
from tests.support.harness import load_variables
from tests.support.paths import GOLDEN

ESTIMATE = 100
"""Input tokens that `message_start` reports in every scenario: how well they are counted is proven elsewhere."""
_FIELDS_WITH_OWN_FORM = frozenset({"path", "body", "headers", "method", "notes", "compute_headers"})
"""Fields of an upstream request that the expected file shows under another name, or in another form. It shows each
other field that is not the default."""
_PLAIN = UpstreamRequest(path="", body=b"")
UPSTREAM_FILES = ("upstream.sse", "upstream.ndjson", "upstream.json")


def find_cases(wire: str = "*", name: str = "*") -> list[Path]:
    return sorted(path.parent for path in GOLDEN.glob(f"{wire}/*/{name}/case.toml"))


@cache
def read_fields(folder: Path) -> dict[str, Any]:
    """Return the content of `case.toml`. Do not change it."""
    return tomllib.loads((folder / "case.toml").read_text(encoding="utf-8"))


def read_request(folder: Path) -> bytes:
    """Return `request.json` of a case, or of the nearest parent folder with one."""
    return next(path for place in (folder, *folder.parents) if (path := place / "request.json").exists()).read_bytes()


def find_upstream(folder: Path) -> Path | None:
    """Return the provider's response of a case, or of the nearest parent folder with one. None: the request is refused
    before anything is sent.
    """
    if read_fields(folder).get("is_refused"):
        return None
    places = (folder, *folder.parents)
    return next(path for place in places for name in UPSTREAM_FILES if (path := place / name).exists())


def fold_events(events: bytes) -> dict[str, Any]:
    """Return the message that a client builds from a stream."""
    message: dict[str, Any] = {}
    arguments: dict[int, str] = {}
    for line in events.decode().split("\n"):  # the texts of a model may have other ends of lines
        event = msgspec.json.decode(line[5:]) if line.startswith("data:") else {"type": ""}
        if event["type"] == "message_start":
            message = event["message"]
        elif event["type"] == "content_block_start":
            message["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            block, delta = message["content"][event["index"]], event["delta"]
            if delta["type"] == "input_json_delta":
                arguments[event["index"]] = arguments.get(event["index"], "") + delta["partial_json"]
            elif delta["type"] == "citations_delta":
                block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
            elif delta["type"] == "compaction_delta":
                block["content"] = delta["content"]
            else:
                name = delta["type"].removesuffix("_delta")
                block[name] += delta[name]
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
    for place, text in arguments.items():
        with contextlib.suppress(msgspec.DecodeError):  # arguments that were cut off are no JSON
            message["content"][place]["input"] = msgspec.json.decode(text)
    return message


def read_message(folder: Path) -> dict[str, Any]:
    """Return the expected message: from `expected_message.json`, else folded from `expected_events.sse`."""
    path = folder / "expected_message.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes())
    return fold_events((folder / "expected_events.sse").read_bytes())


@cache
def _resolve_target(folder: Path) -> Target:
    """Return the target to which the real router sends the request, with the dialect that the scenario asks for."""
    fields = read_fields(folder)
    row = PROVIDERS.find(fields["provider"])
    environ = {"BIG_MODEL": f"{row.prefix}/{fields['model']}"}
    if row.key_variable:
        environ[row.key_variable] = "golden"
    if row.offered_to_users:
        environ["PREFERRED_PROVIDER"] = row.name
    settings = load_variables({**environ, **fields.get("settings", {})})
    target = build_plan(RoutingQuery(_read(read_request(folder)).model), settings, Catalog()).targets[0]
    capabilities = {name: _frozen(value) for name, value in fields.get("capabilities", {}).items()}
    changes = {name: _frozen(value) for name, value in fields.get("dialect", {}).items()}
    return structs.replace(
        target,
        dialect=structs.replace(target.dialect, **changes),
        capabilities=structs.replace(target.capabilities, **capabilities),
    )


class ReplayResult(Struct, kw_only=True):
    """Everything that a client received; None: nothing of that kind."""

    events: bytes | None = None
    message: bytes | None = None
    error: bytes | None = None
    """Status, headers and envelope of the answer that a client gets which does not stream."""


class GoldenCase:
    """One folder. Whether its client has asked for thinking decides nothing here: `hides_thinking` does."""

    def __init__(self, folder: Path, *, hides_thinking: bool = False) -> None:
        self.folder = folder
        self.hides_thinking = hides_thinking
        self.kept_states: dict[str, str] = {}
        """Id of a call in the streamed reply → its kept state."""
        self.fields = read_fields(folder)
        self.provider = PROVIDERS.find(self.fields["provider"])
        self.posted = read_request(folder)
        self.request = _read(self.posted)
        self.request.citation_key = b"golden"
        file = find_upstream(folder)
        self.upstream = None if file is None else file.read_bytes()
        """None: nothing is sent, because the request is refused before."""
        self.streams = file is not None and file.suffix != ".json"
        """True if the upstream streams; a refusal never does."""
        self.target = _resolve_target(folder)
        self.finished_at: int | None = None
        """Number of frames after which the reply is finished. None: not yet replayed, or it has no such frame."""

    def change_target(self, target: Target) -> None:
        """Play for another target than the router's."""
        self.target = target

    def call(self) -> Call:
        """Return the prepared call; its identifiers count from 1."""
        target = self.target
        if target.is_relayed:
            client = self.fields.get("client", {})
            return relay.new_call(target, self.request, self.posted, client.get("headers", {}), client.get("query", ""))
        prepared = prepare(self.request, build_target_limits(target))
        prepared.request.shows_thinking = not self.hides_thinking
        count = iter(range(1, 1_000))
        return TranslatedCall(
            request=prepared.request,
            model=target.model,
            dialect=target.dialect,
            streams_upstream=self.request.stream or prepared.request.may_end_early or target.dialect.always_stream,
            client_tool_names=prepared.aliases,
            new_id=lambda prefix: f"{prefix}{next(count):022d}",
            provider_prefix=target.provider.prefix,
            responses_setting=target.provider.responses_setting,
            base_url=target.base_url,
            context_window=target.capabilities.context_window if target.capabilities.known else None,
            max_input_tokens=target.capabilities.max_input if target.capabilities.known else None,
            estimate_input_tokens=lambda: ESTIMATE,
        )

    def common_notes(self) -> Sequence[FidelityNote]:
        return () if self.target.is_relayed else prepare(self.request, build_target_limits(self.target)).notes

    def upstream_request(self) -> bytes:
        """Return the upstream request without secrets, as a readable file with its notes at the end."""
        target, call = self.target, self.call()
        request: UpstreamRequest = target.wire.encode_request(call)
        url = join_url(target.base_url, request.path)
        headers = dict(request.headers)
        if request.compute_headers is not None:
            computed = request.compute_headers(method=request.method, url=url, headers=headers, body=request.body)
            headers = {**computed, **headers}
        encoded: dict[str, Any] = {
            "method": request.method,
            "url": url,
            "headers": headers,
            "body": msgspec.json.decode(request.body),
        }
        for name in UpstreamRequest.__struct_fields__:
            if name not in _FIELDS_WITH_OWN_FORM and (value := getattr(request, name)) != getattr(_PLAIN, name):
                encoded[name] = value
        report = FidelityReport()
        report.add_notes([*self.common_notes(), *request.notes])
        if report.notes:
            encoded["notes"] = [f"{note.handling} {note.field}: {note.reason}" for note in report.notes]
        return readable(encoded)

    def play(self, chunks: Sequence[bytes]) -> ReplayResult:
        """Return the response that the client receives when the upstream's bytes arrive in these fragments."""
        try:
            call = self.call()
            self.target.wire.encode_request(call)
        except ProxyError as error:
            return ReplayResult(error=_refusal(error))
        if self.target.is_relayed:
            status, headers = self.fields.get("status", 200), self.fields.get("headers", {})
            return ReplayResult(**relay.play(self.target, call, status, headers, chunks))
        reads = _Reads(self, call, chunks)
        writer = MessageWriter(
            message_id="msg_golden",
            model=self.request.model,
            signature=reads.signature,
            hidden=(hidden := self._hide_thinking()),
        )
        if hidden is not None:
            self.kept_states = hidden.unsaved
        sent: list[Any] = []
        deltas: list[Delta] = []
        try:
            for some in reads:
                deltas += some
                if not writer.started and any(map(_delivers, deltas)):
                    sent += [*writer.start(ESTIMATE), Ping()]
                    sent += writer.feed(deltas)
                elif writer.started:
                    sent += writer.feed(some)
            sent += writer.finish()
        except ProxyError as error:
            played = ReplayResult(error=_refusal(error))
            if writer.started:
                sent += [*writer.feed(reads.flush_pending()), *writer.fail(error)]
                played.events = encode_events(sent, "req_golden")
            return played
        whole = fold(
            deltas,
            message_id="msg_golden",
            model=self.request.model,
            signature=reads.signature,
            estimated_input_tokens=ESTIMATE,
            hidden=self._hide_thinking(),
        )
        return ReplayResult(events=encode_events(sent), message=readable(msgspec.json.decode(encode_message(whole))))

    def _hide_thinking(self) -> HiddenThinking | None:
        count = iter(range(1, 1_000))
        return HiddenThinking(lambda prefix: f"{prefix}{next(count):022d}") if self.hides_thinking else None

    def list_decoded(self, chunks: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return what is decoded if the upstream's bytes arrive in these fragments. It determines the response.

        A decoder gets a body as a whole, and a stream by frames, up to the end of the network read in which the reply
        is finished. A relay gets the fragments. Needs a replay before, in which the end of the reply is found.
        """
        if self.target.is_relayed:
            return tuple(chunks)
        if self.fields.get("status", 200) != 200 or not self.streams:
            return (b"".join(chunks),)
        foreign = ForeignLines()
        reader = FRAME_READERS[self.target.wire.framing](foreign=foreign)
        frames = list[bytes]()
        for chunk in chunks:
            frames += reader.feed(chunk)
            if self.finished_at is not None and len(frames) >= self.finished_at:
                return tuple(frames)
        return (*frames, *reader.finish(), foreign.build_last_frame())


class _Reads:
    """The lists of deltas of one answer, one for each network read."""

    def __init__(self, scenario: GoldenCase, call: Call, chunks: Sequence[bytes]) -> None:
        self._scenario = scenario
        self._call = call
        self._chunks = chunks
        self._wire = scenario.target.wire
        self._decoder = self._wire.new_decoder(call)
        self._late_thinking = TrailingThinkingBuffer()
        self.signature = self._decoder.default_signature
        request = call.request
        self._filter = ReplyFilter(request.stop_sequences, request.reply_limit, request.sources, request.prefill)
        loaded = {tool.name for tools in call.request.loaded_tools.values() for tool in tools}
        offers_caller = any(tool is CALLER for tool in call.request.tools)
        self._loaded_calls = LoadedToolCalls(loaded) if offers_caller else None

    def flush_pending(self) -> list[Delta]:
        deltas = [*self._late_thinking.feed(self._decoder.flush_pending()), *self._late_thinking.flush_pending()]
        return [*self._filter.feed(deltas), *self._filter.flush()]

    def __iter__(self) -> Iterator[list[Delta]]:
        reply_filter = self._filter
        for unbuffered in self._uncut():
            unconverted = self._late_thinking.feed(unbuffered)
            deltas = unconverted if self._loaded_calls is None else self._loaded_calls.feed(unconverted)
            yield reply_filter.feed(deltas)
            if reply_filter.matched:
                return
        yield reply_filter.flush()

    def _uncut(self) -> Iterable[list[Delta]]:
        status = self._scenario.fields.get("status", 200)
        if status != 200:
            outcome = self._wire.decode_error(
                self._call, status, self._scenario.fields.get("headers", {}), b"".join(self._chunks)
            )
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome
        elif not self._call.streams_upstream:
            yield self._decoder.decode_body(b"".join(self._chunks))
            yield self._decoder.decode_end()
        else:
            yield from self._streamed()

    def _streamed(self) -> Iterable[list[Delta]]:
        reader = FRAME_READERS[self._wire.framing](foreign=self._decoder.open_foreign())
        count = 0
        for chunk in (*self._chunks, b""):
            for frame in reader.feed(chunk) if chunk else reader.finish():
                yield self._decoder.decode_frame(frame)
                count += 1
                if self._decoder.finished and self._scenario.finished_at is None:
                    self._scenario.finished_at = count
            if self._decoder.finished:
                break
        yield self._decoder.decode_kept()
        yield self._decoder.decode_end()


def _read(posted: bytes) -> MessagesRequest:
    try:
        return decode_request(posted)
    except ClientError as refusal:  # only a relay passes it on
        return decode_envelope(posted, refusal)


def _refusal(error: ProxyError) -> bytes:
    headers = {name: value for name, value in error_headers(error, "req_golden").items() if name != "content-type"}
    envelope = msgspec.json.decode(encode_error(error, "req_golden"))
    return readable({"status": error.status, "headers": headers, "body": envelope})


def _delivers(delta: Delta) -> bool:
    if isinstance(delta, Text):
        return bool(delta.text)
    if isinstance(delta, Thinking):
        return bool(delta.text or delta.signature)
    return isinstance(delta, ToolCall | Block | Stop)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
