"""`ReplyCheck`: the checks of the tool calls of one reply.

The check of a call starts when its block is complete, beside the stream, and all calls are checked at the same time.
Only the end of the reply (`message_delta`) waits for them, at most `AUTO_MODE_TIMEOUT` seconds after it came. A check
is a request of its own to the engine, so that it has retries, keys, budgets, and a receipt with its verdict.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, assert_never

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.engine import is_large_request
from anthropic_proxy.engine.exchange.client_side import CollectingSink
from anthropic_proxy.engine.exchange.own_requests import ParentRequest
from anthropic_proxy.engine.exchange.safeguards.prompt import (
    MAX_CALL_CHARACTERS,
    CallTooLargeError,
    OpenCall,
    ToolCallToCheck,
    build_check_body,
    decode_arguments,
    select_context,
)
from anthropic_proxy.engine.exchange.safeguards.rules import find_harmless_rule
from anthropic_proxy.engine.exchange.safeguards.transcript import Transcript, read_transcript
from anthropic_proxy.engine.exchange.safeguards.verdict import (
    QUESTIONS,
    TYPE,
    UNAVAILABLE,
    UNSUPPORTED,
    build_results,
    combine,
    read_results,
    read_verdict,
)
from anthropic_proxy.engine.hooks import CallCheck, CheckFailure, Receipt
from anthropic_proxy.engine.messages.events import BlockStop, Event, InputDelta, ToolCallStart
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.messages.purpose import AGENT_HEADER
from anthropic_proxy.engine.options import AutoMode, ConfiguredRoute
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.wires.bound_requests import OwnPurpose
from anthropic_proxy.errors import ClientError, PermissionDenied, ProxyError

SONNET = "claude-sonnet-5-5"
"""Model id that stands for the sonnet tier."""
CHECK_PURPOSES: Sequence[OwnPurpose] = ("auto_mode_check", "confirmation")
"""The questions about a call. The second is that to the model which must agree, if there is one."""
MAX_CALLS = 32
"""Maximum number of calls of one reply that are checked. Further calls have no verdict."""
_MAX_NAME = 200
BY_PROXY = FidelityNote("emulated", "safeguards", "the proxy checks the tool calls of the reply")
_NOT_ALLOWED = "the rules of the request allow no model that could check it"


class _Safeguard(Struct):
    type: str = ""
    classifier_context: Raw = Raw()  # immutable


_decode_safeguards = msgspec.json.Decoder(list[_Safeguard]).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def read_safeguards(safeguards: Raw) -> Mapping[str, Any] | None:
    """Return the `classifier_context` of a request for checks. None: the client requests none.

    A context that is no object is empty, so the calls are checked without it.
    """
    try:
        listed = _decode_safeguards(safeguards)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    chosen = next((one for one in listed if one.type == TYPE), None)
    if chosen is None:
        return None
    try:
        return select_context(_decode_members(chosen.classifier_context))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def find_auto_mode(auto_mode: AutoMode, route: ConfiguredRoute | None) -> AutoMode:
    """Return the settings of a request: those of its route take precedence."""
    if route is None:
        return auto_mode
    own = {"mode": route.auto_mode, "model": route.auto_mode_model, "timeout_seconds": route.auto_mode_timeout}
    return structs.replace(auto_mode, **{name: value for name, value in own.items() if value is not None})


async def list_check_plans(parent: ParentRequest, auto_mode: AutoMode, purpose: OwnPurpose) -> Sequence[Plan]:
    """Return the plans of a question about a call. Empty: no model is allowed, or none is set. Raises `ClientError`.

    `auto_mode`: settings of the request, with those of its route.
    """
    match purpose:
        case "auto_mode_check":
            return await parent.list_plans(
                "auto_mode_check",
                route_model=parent.route_model_of_checks,
                setting_model=auto_mode.model,
                default_model=SONNET,
            )
        case "confirmation":
            return await parent.list_plans("auto_mode_check", setting_model=auto_mode.confirm_with)
    assert_never(purpose)


class _CheckSink(CollectingSink):
    """It reads the verdict before the request ends, so that its record has it."""

    def __init__(self, receipt: Receipt, call: ToolCallToCheck) -> None:
        super().__init__(receipt)
        self.call = call
        self._closed = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when the request has ended."""
        self.check = self._fail("no reply of the checking model")

    def _fail(self, reason: str, kind: CheckFailure = "error") -> CallCheck:
        check = structs.replace(_fail(self.call, reason, kind), request=self.receipt.request_id)
        self.receipt.checks = [check]
        return check

    async def send_message(self, response: MessagesResponse) -> None:
        if not self._closed.is_set():
            check = read_verdict(response, self.call.id, self.call.name)
            self.check = structs.replace(check, request=self.receipt.request_id)
            self.receipt.checks = [self.check]

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        try:
            response = msgspec.json.decode(data, type=_RelayedMessage)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.check = self._fail("the reply of the checking model is no message", "unreadable")
            return
        await self.send_message(response)  # type: ignore[arg-type]  # it has what a verdict needs

    async def send_error_response(self, error: ProxyError) -> None:
        if not self._closed.is_set():
            if isinstance(error, PermissionDenied):
                self.check = self._fail(_NOT_ALLOWED, "not allowed")
            elif error.code == "fidelity-strict":
                self.check = self._fail("FIDELITY=strict: the checking model would lose a part of the check")
            else:
                self.check = self._fail(f"the checking model failed: {error.error_type}")

    async def wait_disconnected(self) -> None:
        await self._closed.wait()

    def give_up(self, reason: str, kind: CheckFailure) -> None:
        """End the request like a client that disconnects."""
        if not self._closed.is_set() and not self.ended.is_set():
            self.check = self._fail(reason, kind)
            self._closed.set()


def _fail(call: ToolCallToCheck, reason: str, kind: CheckFailure = "error") -> CallCheck:
    return CallCheck(call.id, call.name, UNAVAILABLE, reason, kind=kind)


class _RelayedMessage(Struct):
    content: list[Raw]
    stop_reason: str | None = None


class ReplyCheck:
    """The checks of one reply. The conversation is read from the body of `parent` when the first call is checked."""

    def __init__(
        self,
        parent: ParentRequest,
        context: Mapping[str, Any],
        auto_mode: AutoMode,
        hide: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`hide` returns arguments with placeholders, if the client gets the texts of redactions."""
        self._parent = parent
        self._engine = parent.engine
        self._incoming = parent.incoming
        self._body = parent.incoming.body
        self._context = context
        self._auto_mode = auto_mode
        self._hide = hide
        self._calls: list[ToolCallToCheck] = []
        self._unchecked: list[CallCheck] = []
        """Records of the calls above `MAX_CALLS`."""
        self._open: dict[int, OpenCall] = {}
        """Index of a block → its call."""
        self._tasks: list[asyncio.Task[CallCheck]] = []
        self._sinks: list[_CheckSink] = []
        self._transcript: asyncio.Task[Transcript] | None = None
        self._may_have_moved = False
        """True after a command that may have changed the current directory, as in `cd /etc`."""
        self._is_answered = False
        """True once the receipt has the verdicts that the client gets."""

    def observe(self, events: Iterable[Event]) -> None:
        """Start the check of each call that is complete after these events of the reply."""
        for event in events:
            if type(event) is InputDelta:
                if (found := self._open.get(event.index)) is not None:
                    found.add(event.json)
            elif type(event) is ToolCallStart:
                self._open[event.index] = OpenCall(event.id, event.name)
            elif type(event) is BlockStop and (found := self._open.pop(event.index, None)) is not None:
                self.start_check(found.build())

    def observe_message(self, message: MessagesResponse) -> None:
        """Start the checks of all calls of a complete message."""
        for raw in message.content:
            block = msgspec.json.decode(raw, type=_ToolUse)
            if block.type == "tool_use":
                self.start_check(ToolCallToCheck(block.id, block.name, bytes(block.input).decode(errors="replace")))

    def start_check(self, call: ToolCallToCheck) -> None:
        if self._auto_mode.mode != "check":
            return
        if len(call.name) > _MAX_NAME:
            call = structs.replace(call, name=call.name[:_MAX_NAME])  # no record keeps a longer one
        if len(self._calls) >= MAX_CALLS:
            self._unchecked.append(_fail(call, f"at most {MAX_CALLS} calls of a reply are checked", "too large"))
            return
        self._tasks.append(asyncio.create_task(self._check(call, len(self._calls))))
        self._calls.append(call)

    @property
    def is_waiting(self) -> bool:
        return not all(task.done() for task in self._tasks)

    async def finish(self) -> list[dict[str, Any]]:
        """Return the field `safeguard_results`, after the wait for the verdicts that are missing."""
        if self._auto_mode.mode == "off":
            return UNSUPPORTED
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._auto_mode.timeout_seconds)
        if self.is_waiting:
            self._end_requests("timeout", "timeout")
        return build_results(self._collect("timeout", "timeout"))

    def take_answer(self, results: bytes, calls: Iterable[ToolCallToCheck]) -> None:
        """Record the verdicts of a provider that checks the calls itself."""
        self._is_answered = True
        self._incoming.receipt.checks = read_results(results, [(call.id, call.name[:_MAX_NAME]) for call in calls])

    def close(self) -> None:
        """End what still runs, because the reply has ended, also by a failure."""
        self._end_requests("the reply ended before", "cancelled")
        if not self._is_answered:
            self._collect("the reply ended before", "cancelled")
        for task in self._tasks:
            task.cancel()
        if self._transcript is not None:
            self._transcript.cancel()
        self._body = b""

    def _end_requests(self, reason: str, kind: CheckFailure) -> None:
        for sink in self._sinks:
            sink.give_up(reason, kind)

    def _collect(self, reason: str, kind: CheckFailure) -> list[CallCheck]:
        """Record and return the checks of all calls. One that still runs has no verdict, for the given reason."""
        self._is_answered = True
        checks = list[CallCheck]()
        for call, task in zip(self._calls, self._tasks, strict=True):
            if task.done() and not task.cancelled():
                checks.append(task.result())
                continue
            first, second, *_ = [*(one.receipt.request_id for one in self._sinks if one.call is call), "", ""]
            checks.append(structs.replace(_fail(call, reason, kind), request=first, confirmation=second))
        checks += self._unchecked
        self._incoming.receipt.checks = checks
        return checks

    async def _check(self, call: ToolCallToCheck, place: int) -> CallCheck:
        """`place`: number of calls of the reply before this one."""
        try:
            if rule := self._find_harmless_rule(call):
                return CallCheck(call.id, call.name, "harmless", rule=rule, kind="rule")
            before = self._calls[:place]
            if self._transcript is None:
                self._transcript = asyncio.create_task(self._read_transcript())
            transcript = await self._transcript
            purposes = CHECK_PURPOSES if self._auto_mode.confirm_with else CHECK_PURPOSES[:1]
            found = await asyncio.gather(*(self._ask(call, before, transcript, purpose) for purpose in purposes))
            return found[0] if len(found) == 1 else combine(*found)
        except CallTooLargeError as error:
            return _fail(call, str(error), "too large")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return _fail(call, "the conversation cannot be read")
        except Exception:  # noqa: BLE001  # a defect of the proxy must neither allow the call nor end the reply
            self._engine.log.write_traceback(self._incoming.receipt.request_id)
            return _fail(call, "internal error of the proxy")

    def _find_harmless_rule(self, call: ToolCallToCheck) -> str:
        """Return the row of the table for a call. "": the call is asked."""
        is_asked = bool(self._auto_mode.deny) or (call.name == "Bash" and self._may_have_moved)
        is_asked = is_asked or call.is_too_long or len(call.arguments) > MAX_CALL_CHARACTERS
        rule = "" if is_asked else find_harmless_rule(call.name, decode_arguments(call.arguments), self._context)
        self._may_have_moved |= call.name == "Bash" and not rule
        return rule

    async def _read_transcript(self) -> Transcript:
        body, self._body = self._body, b""
        is_large = is_large_request(body)
        is_subagent = AGENT_HEADER in self._incoming.headers or self._incoming.receipt.kind in ("subagent", "workflow")
        read = partial(read_transcript, is_subagent=is_subagent)
        return await self._engine.background.run_in_thread_if_large(is_large, read, body)

    def _hide_texts(self, call: ToolCallToCheck) -> ToolCallToCheck:
        if self._hide is None:
            return call
        return structs.replace(call, arguments=self._hide(call.arguments.encode(errors="replace")).decode())

    async def _ask(
        self, call: ToolCallToCheck, before: Sequence[ToolCallToCheck], transcript: Transcript, purpose: OwnPurpose
    ) -> CallCheck:
        engine = self._engine
        try:
            plans = await list_check_plans(self._parent, self._auto_mode, purpose)
        except ClientError as error:
            engine.log.write_once(f"auto mode: {error.message}", "warning")
            return _fail(call, f"the checking model failed: {error.error_type}")
        if not plans:
            return _fail(call, _NOT_ALLOWED, "not allowed")
        is_large = is_large_request(call.arguments.encode(errors="replace"))
        build = partial(build_check_body, context=self._context, auto_mode=self._auto_mode, model=plans[0].requested)
        asked, *earlier = (self._hide_texts(one) for one in (call, *before))
        body = await engine.background.run_in_thread_if_large(is_large, build, asked, earlier, transcript)
        request = self._parent.new_request(purpose, body, plans, questions=QUESTIONS)
        sink = _CheckSink(request.receipt, call)
        self._sinks.append(sink)

        async def run() -> None:
            try:
                await self._parent.send(request, sink)
            finally:
                sink.ended.set()

        engine.background.start_task(run())  # it outlives this task, so that its record is complete
        await sink.ended.wait()
        return sink.check


class _ToolUse(Struct):
    type: str = ""
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")  # immutable
