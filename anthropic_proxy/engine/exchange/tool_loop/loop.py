"""Replies to the client that may consist of several upstream responses: `ToolLoop`, and `RepeatableStream`.

Theory of operation. The reply is a sequence of steps. A step (`ModelStep`) is one reply of the model: one upstream
response, or several if the provider splits it. Its deltas are sent to the client as they arrive, except calls of tools
that the proxy runs: such a call is collected, and becomes one block of a server tool. At the end of a response,
`_end_answer` decides what follows:

- The provider has split the reply: another call continues the step, with the provider's token.
- The model called only tools of the proxy: they are run, their results are sent to the client and added to the
  history, and another call begins the next step.
- It also called tools of the client: the results are sent, and the message ends with `tool_use`.
- Otherwise the message ends with the stop reason of the step.

The next call is sent by the next `read` (`_call_pending`), so that the client receives the results before. All calls
together may use the client's `max_tokens`, reasoning included unless the calls have a reserve for it.

Each call has a count of its own. It is final when its response has ended, before anything else happens (`_end_call`),
and a `Usage` delta with another sum of the ended calls (`Usage.earlier`) tells the writer that what follows belongs to
the next call. `SchemaCheckedStream` and `RepeatableStream` do the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.attempt import Attempt
from anthropic_proxy.engine.exchange.attempts import Attempts
from anthropic_proxy.engine.exchange.tool_loop.proxy_calls import ProxyToolCall
from anthropic_proxy.engine.exchange.upstream_stream import DeltaStream, SingleToolCallFilter
from anthropic_proxy.engine.messages.deltas import (
    CHARACTERS_PER_TOKEN,
    NO_USAGE,
    Block,
    Delta,
    Stop,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
    merge_latest,
    merge_stops,
    sum_usages,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.fold import Fold
from anthropic_proxy.engine.messages.models import Message, MessagesRequest
from anthropic_proxy.engine.messages.models.decode import decode_blocks
from anthropic_proxy.engine.messages.models.raw_json import is_json_text_too_deep
from anthropic_proxy.engine.messages.models.tool_arguments import build_arguments_object
from anthropic_proxy.engine.messages.preparation import ProxyTool, find_pending_calls, resolve_proxy_tools
from anthropic_proxy.engine.messages.server_blocks import SERVER_TOOL_ID_PREFIX, encode_server_tool_call
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.errors import LimitReached, UnreadableReply

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.tool_loop.runner import ProxyToolRunner

_CUT = Stop("max_tokens")


class RepeatableStream(DeltaStream):
    """The reply of one upstream call, which is repeated if it is unreadable after thinking only, or ends with it at the
    output limit.

    The client is told the output of both calls, but the input once.
    """

    has_one_call = True

    def __init__(self, attempts: Attempts, attempt: Attempt) -> None:
        self._attempts = attempts
        self.attempt = attempt
        """The call whose reply is read."""
        self._stream = attempt.decoded()
        self.default_signature = self._stream.default_signature
        # until something else than thinking is read, or the call is repeated
        self.may_send_again = True
        self._usage = NO_USAGE
        """What the provider has reported of the present call."""
        self._earlier = attempts.records.ended
        self._thoughts = 0
        """Characters of the thinking so far."""
        self._ending: list[Delta] = []
        """End of a reply without a word, which is held back until its usage is known and a repetition has failed."""
        self._signatures: list[Delta] = []
        """Signatures of the thinking so far, until something follows it. They are dropped with a failed call: the
        provider would miss the rest of its reply. The client keeps the text of the thinking."""

    @property
    def complete(self) -> bool:
        return self._stream.complete and not self._ending

    @property
    def continuation(self) -> str | None:
        return self._stream.continuation

    async def read(self) -> list[Delta] | None:
        try:
            deltas = await self._stream.read()
        except UnreadableReply as error:
            if not self.may_send_again:
                raise
            await self.close()
            return self._begin_again(await self._attempts.repeat_call(self.attempt, error, self._usage, self._thoughts))
        if deltas is None and self._ending:
            ending, self._ending = self._ending, []
            attempt = await self._attempts.repeat_with_reserve(self.attempt, self._usage, self._thoughts)
            if attempt is None:
                self.may_send_again = False
                return [*self._pop_signatures(), *ending]
            await self.close()
            return self._begin_again(attempt)
        if deltas and self._earlier is not None and Usage in map(type, deltas):
            deltas = [replace(one, earlier=self._earlier) if isinstance(one, Usage) else one for one in deltas]
        if not self.may_send_again and not self._signatures:
            return deltas
        for delta in deltas or ():
            if isinstance(delta, Usage):
                self._usage = merge_latest(self._usage, delta)
            elif isinstance(delta, Thinking):
                self._thoughts += len(delta.text)
            elif delta != _CUT:
                self.may_send_again = False
        if self.may_send_again and deltas and (self._ending or _CUT in deltas):
            self._ending += [delta for delta in deltas if not isinstance(delta, Thinking)]
            deltas = [delta for delta in deltas if isinstance(delta, Thinking)]
        return self._hold_signatures(deltas) if deltas else deltas

    def _hold_signatures(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Return `deltas` without signatures at their end, which are held back until something follows them."""
        found: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Thinking) and delta.signature and self.may_send_again:
                if delta.text:
                    found += [*self._pop_signatures(), Thinking(delta.text)]
                self._signatures.append(Thinking(signature=delta.signature))
            elif isinstance(delta, Usage):
                found.append(delta)
            else:
                found += [*self._pop_signatures(), delta]
        return found

    def _pop_signatures(self) -> list[Delta]:
        held, self._signatures = self._signatures, []
        return held

    def _begin_again(self, attempt: Attempt) -> list[Delta]:
        """Read the reply of another call, which the returned deltas begin."""
        self._signatures.clear()
        self.attempt = attempt
        self._stream = attempt.decoded()
        self._earlier = self._attempts.records.ended
        self.may_send_again = False
        return [Usage(earlier=self._earlier)]

    def flush_pending(self) -> list[Delta]:
        return [*self._pop_signatures(), *self._stream.flush_pending()]

    def release_request(self) -> None:
        self._stream.release_request()

    async def close(self) -> None:
        await self._stream.close()


class _IncompleteCall(Struct):
    """A call of a proxy tool (run by the proxy) of which some arguments have not arrived."""

    proxy_tool: ProxyTool
    arguments: list[str]


class ModelStep:
    """One reply of the model, after which the proxy may run tools and call the model again.

    It has several upstream responses if the provider splits the reply.
    """

    def __init__(
        self,
        proxy_tools: Mapping[str, ProxyTool],
        signature: str,
        new_id: Callable[[str], str],
        earlier: Usage | None,
        *,
        one_call: bool,
    ) -> None:
        """`earlier`: see `Usage.earlier`."""
        self._proxy_tools = proxy_tools
        self._new_id = new_id
        self._call_filter = SingleToolCallFilter() if one_call else None
        self.writer = MessageWriter(message_id="", model="", signature=signature)
        """It has the usage and the characters of the present call."""
        self._fold = Fold(self.writer)
        """Assembler of the deltas of this step into one message, as a client would assemble them."""
        self._incomplete_calls: dict[int | str, _IncompleteCall] = {}
        self._continuations = 0
        self.calls: list[ProxyToolCall] = []
        """Complete calls of proxy tools in this step, in the order of the reply."""
        self.calls_client = False
        """True if the model also called a tool that the client runs."""
        self.stop: Stop | None = None
        """Stop reason of the reply in this step. None: not received yet."""
        self.begin_call(earlier)

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Process the deltas of one network read, and return those for the client.

        Complete calls of proxy tools are added to `calls`.
        """
        if self._call_filter is not None:
            deltas = self._call_filter.feed(deltas)
        forwarded: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Usage):
                self._fold.feed([delta])
            elif isinstance(delta, Stop):
                self.stop = merge_stops(self.stop, delta)
            elif not isinstance(delta, ToolCall | ToolArgs | ToolEnd):
                forwarded.append(delta)
            elif isinstance(delta, ToolCall) and (proxy_tool := self._proxy_tools.get(delta.name)) is not None:
                self._incomplete_calls[delta.key] = _IncompleteCall(proxy_tool, [])
            elif (incomplete := self._incomplete_calls.get(delta.key)) is None:
                self.calls_client = True
                key = f"{self._continuations} {delta.key}"
                forwarded.append(replace(delta, key=key) if self._continuations else delta)
            elif isinstance(delta, ToolArgs):
                incomplete.arguments.append(delta.json)
            elif isinstance(delta, ToolEnd):
                del self._incomplete_calls[delta.key]
                call, block = self._encode_call(incomplete)
                self.calls.append(call)
                forwarded.append(block)
        self._fold.feed(forwarded)
        return forwarded

    def finish(self) -> list[Delta]:
        """End the step, and return a block for each call of a proxy tool that has incomplete arguments.

        The client receives these calls, but the proxy does not run them.
        """
        forwarded: list[Delta] = [self._encode_call(incomplete)[1] for incomplete in self._incomplete_calls.values()]
        self._incomplete_calls = {}
        self._fold.feed(forwarded)
        return forwarded

    def begin_call(self, earlier: Usage | None) -> None:
        self._fold.feed([Usage(earlier=earlier)])

    def begin_continuation(self, earlier: Usage | None) -> None:
        """Prepare for another upstream response of the same reply, which the provider has split."""
        self._continuations += 1
        self.begin_call(earlier)
        self.stop = None

    def sent_blocks(self) -> list[Raw]:
        """Return the blocks that the client received in this step, as JSON."""
        self._fold.feed([Stop("end_turn")])
        return self._fold.finish().content

    def _encode_call(self, incomplete: _IncompleteCall) -> tuple[ProxyToolCall, Block]:
        identifier = self._new_id(SERVER_TOOL_ID_PREFIX)
        arguments = build_arguments_object("".join(incomplete.arguments))
        if is_json_text_too_deep(bytes(arguments)):  # no proxy tool accepts this, and no history
            arguments = Raw(b"{}")
        block = encode_server_tool_call(identifier, incomplete.proxy_tool.name, arguments)
        return ProxyToolCall(identifier, incomplete.proxy_tool, arguments), block


MAX_CALLS_PER_REPLY = 10
"""Maximum number of upstream calls for one reply. A longer reply ends with the stop reason `pause_turn`, as in the API.
"""
_MAX_CONTINUATIONS = 64
"""Maximum number of upstream responses for one split reply, because a faulty provider could continue without end."""
_NORMAL_STOPS = ("end_turn", "tool_use")
_ASKED_AGAIN = FidelityNote(
    "emulated", "output_config.format", "the first reply did not match the schema; it was requested again"
)


class ToolLoop(DeltaStream):
    """Stream of one reply that joins several upstream responses.

    Between them the proxy runs tools, or continues a reply that the provider split. `ahead`: tool results that `read`
    returns first, as deltas, if the request resumes a reply that ended with `pause_turn`.
    """

    def __init__(
        self,
        attempts: Attempts,
        runner: "ProxyToolRunner",
        request: MessagesRequest,
        attempt: Attempt,
        ahead: list[Delta],
    ) -> None:
        self._attempts = attempts
        self._runner = runner
        self._request = request
        """Client request, with all reply blocks received so far at its end. Input of the next upstream call."""
        self._max_tokens = request.max_tokens
        self._stream = RepeatableStream(attempts, attempt)
        self.default_signature = self._stream.default_signature
        self._ahead = ahead
        self._step = self._new_step()
        self._call_count = 1
        self._continuation_count = 1
        self._used_tokens = 0
        """Output tokens of ended upstream calls that count toward the client's limit. The end of a reply with a reserve
        for reasoning uses what the client has received of it."""
        self._token = ""
        """Token with which the next call continues a split reply. "": the next call follows tool results or a retry."""
        self._call_pending = False
        """True if another upstream call must be sent before the next deltas can be read."""
        self._repeats_reply = False
        """True if this call repeats a reply that does not match the schema of the client."""
        self._finished = False

    @property
    def provider(self) -> str:
        """Prefix of the provider's model ids, such as `openai`. Error messages name the provider by this text."""
        return self._stream.attempt.target.provider.prefix

    async def read(self) -> list[Delta] | None:
        if self._ahead:
            ahead, self._ahead = self._ahead, []
            return ahead
        while not self._finished:
            if self._call_pending:
                await self._stream.close()
                try:
                    attempt = await self._attempts.open_next_call(self._stream.attempt, self._request, self._token)
                except LimitReached as error:
                    if self._repeats_reply:
                        raise
                    self._attempts.log_rejected_call(error)
                    # the client may resume the reply by another request, which is rejected with the reason
                    return self._end_split_reply() if self._token else self._finish(Stop("pause_turn"))
                self._stream = RepeatableStream(self._attempts, attempt)
                self._call_pending = False
                if self._token:
                    self._step.begin_continuation(self._attempts.records.ended)
                else:
                    self._call_count += 1
                    self._step = self._new_step()
            deltas = await self._stream.read()
            if deltas is None:
                forwarded = await self._end_answer()
            else:
                forwarded = self._step.feed(deltas)
                if any(isinstance(delta, Usage) for delta in deltas):
                    forwarded.append(self._usage())
            if forwarded:
                return forwarded
        return None

    def flush_pending(self) -> list[Delta]:
        # incomplete tool calls are not run
        if self._call_pending or self._finished:  # between two answers
            return []
        return [*self._step.feed(self._stream.flush_pending()), *self._step.finish()]

    async def close(self) -> None:
        await self._stream.close()

    def prepare_schema_retry(self, feedback: str) -> bool:
        """Prepare another call of the model, after a reply that does not match the requested JSON Schema.

        In this call, the user message `feedback` follows the reply. Return False without a further call if the reply
        has used up `max_tokens`.
        """
        self._add_to_history([])
        if self._is_exhausted():
            return False
        messages = [*self._request.messages, Message("user", feedback)]
        self._request = replace(self._request, messages=messages)
        self._attempts.receipt.fidelity.add_notes([_ASKED_AGAIN])
        self._token = ""
        self._call_pending = self._repeats_reply = True
        self._finished = False
        self._ahead = [self._begin_next_call(repeats_input=True)]
        return True

    def _new_step(self) -> ModelStep:
        choice = self._request.tool_choice
        one_call = choice is not None and bool(choice.disable_parallel_tool_use)
        proxy_tools = self._stream.attempt.proxy_tools
        new_id = self._stream.attempt.decoded().call.new_id
        ended = self._attempts.records.ended
        return ModelStep(proxy_tools, self._stream.default_signature, new_id, ended, one_call=one_call)

    def _usage(self) -> Usage:
        """Return the usage of the present call, and of the tools."""
        return sum_usages(self._runner.usage, self._step.writer.usage)

    def _begin_next_call(self, *, repeats_input: bool = False) -> Usage:
        """`repeats_input`: True if the model is called again because of its reply, and not because of tool results."""
        begun = self._attempts.records.tell_ended_call(self._step.writer.usage, repeats_input=repeats_input)
        return sum_usages(self._runner.usage, begun)

    async def _end_answer(self) -> list[Delta]:
        """Process the end of an upstream response: run its calls of proxy tools, and prepare the next upstream call.

        Returns the remaining deltas for the client: tool results, or usage and stop reason.
        """
        step = self._step
        self._attempts.records.end_attempt()
        if step.stop is not None or self._stream.continuation:
            self._end_call()
        if step.stop is None:
            if self._stream.continuation:
                # the provider has split the reply, and names the position of the next part
                self._continuation_count += 1
                is_empty = step.writer.usage.output_tokens == 0
                if self._is_exhausted() or self._continuation_count >= _MAX_CONTINUATIONS or is_empty:
                    return self._end_split_reply()
                self._token = self._stream.continuation
                self._call_pending = True
                return [self._begin_next_call(repeats_input=True)]
            self._finished = True
            return []  # no stop reason: the writer raises
        forwarded = step.finish()
        choice = self._request.tool_choice
        is_forbidden = choice is not None and choice.type == "none"
        if not step.calls or is_forbidden or step.stop.reason not in _NORMAL_STOPS:
            return [*forwarded, *self._finish(step.stop)]
        accepts_pdf = self._stream.attempt.decoded().call.request.accepts_pdf
        results = await self._runner.run_calls(
            step.calls, self._request.messages, self._stream.attempt.deferred_tools, accepts_pdf=accepts_pdf
        )
        if step.calls_client:
            return [*forwarded, *results, *self._finish(Stop("tool_use"))]
        self._add_to_history(results)
        if self._call_count >= MAX_CALLS_PER_REPLY:
            return [*forwarded, *results, *self._finish(Stop("pause_turn"))]
        if self._is_exhausted():
            return [*forwarded, *results, *self._finish(Stop("max_tokens"))]
        self._token, self._call_pending = "", True
        return [*forwarded, *results, self._begin_next_call()]

    def _end_split_reply(self) -> list[Delta]:
        reply_filter = self._stream.attempt.decoded().reply_filter
        return [*(reply_filter.flush() if reply_filter is not None else ()), *self._finish(Stop("max_tokens"))]

    def _finish(self, stop: Stop) -> list[Delta]:
        self._finished = True
        return [self._usage(), stop]

    def _add_to_history(self, results: Sequence[Delta]) -> None:
        """Append the reply blocks of this step and `results` to the next upstream request.

        A step is one reply of the model within the loop.
        """
        blocks = [*self._step.sent_blocks(), *(result.raw for result in results if isinstance(result, Block))]
        request = without_forced_tool(append_assistant_blocks(self._request, blocks))
        left = None if self._max_tokens is None else max(self._max_tokens - self._used_tokens, 1)
        self._request = replace(request, max_tokens=left)

    def _end_call(self) -> None:
        """Make the count of the present call final."""
        step = self._step
        characters = step.writer.call_characters
        is_partial = step.stop is not None and step.stop.reason == "stop_sequence"
        usage = self._attempts.end_call(step.writer.usage, self._request, characters, is_partial=is_partial)
        step.feed([usage])
        used = usage.output_tokens or 0
        if step.stop is not None and self._stream.attempt.decoded().call.request.reply_limit is not None:
            used = min(used, -(-characters // CHARACTERS_PER_TOKEN))
        self._used_tokens += used

    def _is_exhausted(self) -> bool:
        return self._max_tokens is not None and self._used_tokens >= self._max_tokens


def append_assistant_blocks(request: MessagesRequest, raws: Sequence[Raw]) -> MessagesRequest:
    """Return the request with the blocks of the reply so far at the end of its messages.

    `raws` are the blocks as JSON.
    """
    if not raws:
        return request
    blocks = decode_blocks(Raw(msgspec.json.encode(list(raws))), "messages")
    messages = [*request.messages]
    last = messages[-1]
    if last.role == "assistant":
        messages[-1] = Message("assistant", [*last.blocks, *blocks])
    else:
        messages.append(Message("assistant", blocks))
    size = request.body_bytes and request.body_bytes + sum(memoryview(raw).nbytes for raw in raws)
    return replace(request, messages=messages, body_bytes=size)


def without_forced_tool(request: MessagesRequest) -> MessagesRequest:
    """Return the request with `tool_choice: auto`, if it forces the model to call a tool.

    Otherwise the model would have to call the tool again in each further upstream call.
    """
    choice = request.tool_choice
    if choice is None or choice.type not in ("any", "tool"):
        return request
    return replace(request, tool_choice=replace(choice, type="auto", name=None))


async def run_pending_calls(
    engine: Engine, runner: "ProxyToolRunner", request: MessagesRequest, plan: Plan
) -> tuple[MessagesRequest, list[Delta]]:
    """Run those calls of the proxy's tools that have no result yet, when a client resumes a paused reply.

    Return the request with the results at the end of its messages, and the results as deltas for the client.
    """
    target = plan.targets[0]
    if target.is_relayed:
        return request, []
    limits = engine.find_target_limits(target, runner.origin.servers)
    tools = {tool.name: tool for tool in resolve_proxy_tools(request, limits).values()}
    if not tools:
        return request, []
    request = without_forced_tool(request)
    pending = find_pending_calls(request.messages, tools)
    calls = [ProxyToolCall(call.id, tools[call.name], call.input) for call in pending]
    deferred = [tool for tool in request.tools if tool.defer_loading]
    results = await runner.run_calls(calls, request.messages, deferred, accepts_pdf=limits.accepts_pdf)
    if results:
        request = append_assistant_blocks(request, [result.raw for result in results if isinstance(result, Block)])
    return request, results
