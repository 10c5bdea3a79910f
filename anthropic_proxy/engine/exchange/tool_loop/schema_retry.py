"""`SchemaCheckedStream`: the stream of a reply that the proxy checks against the client's JSON Schema.

It is used if the provider does not enforce the schema. The text is buffered until the reply is complete. After a
mismatch, the model is called once more.
"""

from anthropic_proxy.engine.background import PayerWork
from anthropic_proxy.engine.exchange.tool_loop.loop import ToolLoop
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream
from anthropic_proxy.engine.messages.deltas import (
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    TextEnd,
    ToolCall,
    Usage,
    merge_stops,
)
from anthropic_proxy.engine.messages.reply_schema import REPLY_PATH, ReplySchema
from anthropic_proxy.engine.wires.failures.quoted_prompts import describe_quotes
from anthropic_proxy.errors import UpstreamProtocolError

_COMPLETE = "end_turn"
"""Stop reason of complete replies, the only ones that are checked. Truncated and refused replies are not checked."""
_AGAIN = "That is not the JSON that was asked for: {}. Answer again, with the JSON value alone."
_TEXT_DELTAS = (Text, TextEnd, Citation)


class SchemaCheckedStream(DeltaStream):
    def __init__(self, reply: ToolLoop, reply_schema: ReplySchema, background: PayerWork) -> None:
        self._reply = reply
        self.default_signature = reply.default_signature
        self._reply_schema = reply_schema
        self._background = background
        self._held: list[Delta] = []
        """Buffered deltas since the first text, in order, until the schema check."""
        self._stop: Stop | None = None
        self._calls_client = False
        """True if the model called a tool of the client. Such a reply is not checked against the schema."""
        self._call_count = 1
        self._finished = False

    async def read(self) -> list[Delta] | None:
        """Return the next deltas for the client. None: the reply is complete.

        Raises `UpstreamProtocolError` if neither the reply nor its retry matches the schema.
        """
        while not self._finished:
            deltas = await self._reply.read()
            forwarded = await self._end() if deltas is None else self._apply(deltas)
            if forwarded:
                return forwarded
        return None

    def flush_pending(self) -> list[Delta]:
        # not checked against the schema
        forwarded = self._apply(self._reply.flush_pending())
        held, self._held = self._held, []
        return [*held, *forwarded]

    async def close(self) -> None:
        await self._reply.close()

    def _apply(self, deltas: list[Delta]) -> list[Delta]:
        forwarded: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Stop):
                self._stop = merge_stops(self._stop, delta)
            elif self._calls_client or isinstance(delta, Usage):
                forwarded.append(delta)
            elif isinstance(delta, ToolCall):
                self._calls_client = True
                forwarded += [*self._held, delta]
                self._held = []
            elif self._held or isinstance(delta, Text):
                self._held.append(delta)
            else:
                forwarded.append(delta)
        return forwarded

    async def _end(self) -> list[Delta]:
        """Check the buffered text at the end of a reply, and return the deltas for the client.

        After a first mismatch, prepare the second call of the model and return the deltas without text.
        """
        stop, held = self._stop, self._held
        if stop is None or self._calls_client or stop.reason != _COMPLETE:
            return self._finish(held, stop)
        text = "".join(delta.text for delta in held if isinstance(delta, Text))
        json, problem = await self._background.run_in_thread(self._find_json)
        if problem:
            if self._call_count > 1:
                provider = self._reply.provider
                has_value = problem.startswith(REPLY_PATH)
                raise UpstreamProtocolError(
                    f"{provider} returned no valid reply for the schema in output_config.format in two attempts: "
                    f"{problem}.",
                    provider=provider,
                    retryable=False,
                    code="schema-not-followed",
                    quotes=describe_quotes([problem] if has_value else [], "reply"),
                )
            self._call_count += 1
            if not self._reply.prepare_schema_retry(_AGAIN.format(problem)):
                return self._finish(self._held, Stop("max_tokens"))
            beside = self._held_beside_text()
            self._held = []
            self._stop = None
            return beside
        if json == text:
            return self._finish(held, stop)
        # text around the JSON is removed, because the client's SDK decodes all text as JSON
        return self._finish([*self._held_beside_text(), Text(json)], stop)

    def _finish(self, deltas: list[Delta], stop: Stop | None) -> list[Delta]:
        self._finished = True
        return [*deltas, *([stop] if stop else [])]

    def _held_beside_text(self) -> list[Delta]:
        return [delta for delta in self._held if not isinstance(delta, _TEXT_DELTAS)]

    def _find_json(self) -> tuple[str, str]:
        """Return the JSON text of the reply and its validation error. Error "": the JSON is valid.

        Text before a call of a server tool may be a comment of the model, so the last text is tried first.
        """
        texts: list[list[str]] = [[]]
        for delta in self._held:
            if isinstance(delta, Text):
                texts[-1].append(delta.text)
            elif isinstance(delta, Block):
                texts.append([])
        passages = [text for text in map("".join, texts) if text.strip()] or [""]
        found, problem = self._reply_schema.extract_json(passages[-1])
        if problem and len(passages) > 1 and not (joined := self._reply_schema.extract_json("".join(passages)))[1]:
            return joined
        return found, problem
