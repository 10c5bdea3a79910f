"""`ReplyCheck`: the checks of the tool calls of one reply.

The check of a call starts when its block is complete, beside the stream, and all calls are checked at the same time.
Only the end of the reply (`message_delta`) waits for them, at most `timeout` of `[auto_mode]` after it came. A check
is a request of its own to the engine, so that it has retries, keys, budgets, and a receipt with its verdict.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.background import is_large
from anthropic_proxy.engine.exchange.final_calls import FinalCall, decode_arguments
from anthropic_proxy.engine.exchange.inspection import open_inspection
from anthropic_proxy.engine.exchange.own_requests import OwnSink, ParentRequest
from anthropic_proxy.engine.exchange.safeguards.hidden_texts import (
    IS_REPLACED,
    MAY_BE_A_COMMAND,
    NO_PLAIN_WORD,
    find_doubt,
    find_doubt_of_earlier_calls,
)
from anthropic_proxy.engine.exchange.safeguards.prompt import (
    MAX_CALL_CHARACTERS,
    AmbiguousCallError,
    CallTooLargeError,
    HiddenTextError,
    build_check_body,
    select_context,
)
from anthropic_proxy.engine.exchange.safeguards.rules import find_harmless_rule
from anthropic_proxy.engine.exchange.safeguards.transcript import Transcript, read_transcript
from anthropic_proxy.engine.exchange.safeguards.verdict import (
    QUESTIONS,
    TYPE,
    UNAVAILABLE,
    UNSUPPORTED,
    CheckReply,
    build_results,
    combine,
    list_stored,
    read_results,
    read_verdict,
)
from anthropic_proxy.engine.hooks import CallCheck, CheckFailure, Receipt
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.messages.purpose import AGENT_HEADER
from anthropic_proxy.engine.options import AutoMode, ConfiguredRoute
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_or_repair, repair_json
from anthropic_proxy.engine.wires.purposes import CHECK_PURPOSES, CheckPurpose
from anthropic_proxy.errors import (
    ClientError,
    InspectorUnavailable,
    InvalidRequest,
    PermissionDenied,
    PolicyBlocked,
    ProxyError,
    WorkerBusy,
)

if TYPE_CHECKING:
    from anthropic_proxy.engine.exchange.inspection.inspection import Inspection

SONNET = "claude-sonnet-5-5"
"""Model id that stands for the sonnet tier."""
MAX_CALLS = 32
"""Maximum number of calls of one reply that are checked. Further calls have no verdict."""
_MAX_NAME = 200
_AMBIGUOUS = "clients may read another input of the call than the proxy"
_UNREADABLE = "the conversation cannot be read"
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
    chosen = next((safeguard for safeguard in listed if safeguard.type == TYPE), None)
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
    of_route = {"mode": route.auto_mode, "model": route.auto_mode_model, "timeout_seconds": route.auto_mode_timeout}
    return structs.replace(auto_mode, **{name: value for name, value in of_route.items() if value is not None})


async def list_check_plans(parent: ParentRequest, auto_mode: AutoMode, purpose: CheckPurpose) -> Sequence[Plan]:
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


class _CheckSink(OwnSink):
    """It reads the verdict before the request ends, so that its record has it."""

    def __init__(self, receipt: Receipt, call: FinalCall) -> None:
        super().__init__(receipt)
        self.call = call
        self.check = self._fail("no reply of the checking model")

    def _fail(self, reason: str, kind: CheckFailure = "error") -> CallCheck:
        check = structs.replace(_fail(self.call, reason, kind), request=self.receipt.request_id)
        self.receipt.checks = [check]
        return check

    async def send_message(self, response: MessagesResponse) -> None:
        self._read(response)

    def _read(self, response: CheckReply) -> None:
        if not self.has_left:
            check = read_verdict(response, self.call.id, self.call.name)
            self.check = structs.replace(check, request=self.receipt.request_id)
            self.receipt.checks = list_stored([self.check])

    async def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> None:
        try:
            response = decode_or_repair(_decode_message, data, repair_json)
        except DECODE_ERRORS:
            self.check = self._fail("the reply of the checking model is no message", "unreadable")
            return
        self._read(response)

    async def send_error_response(self, error: ProxyError) -> None:
        if not self.has_left:
            if isinstance(error, PermissionDenied):
                self.check = self._fail(_NOT_ALLOWED, "not allowed")
            elif error.code == "fidelity-strict":
                self.check = self._fail("the checking model would lose a part of the check, which its rules forbid")
            else:
                self.check = self._fail(f"the checking model failed: {error.error_type}")

    def give_up(self, reason: str, kind: CheckFailure) -> None:
        if not self.has_left and not self.ended.is_set():
            self.check = self._fail(reason, kind)
            self.leave()


def _fail(call: FinalCall, reason: str, kind: CheckFailure = "error") -> CallCheck:
    return CallCheck(call.id, call.name[:_MAX_NAME], UNAVAILABLE, reason, kind=kind)


class _RelayedMessage(Struct):
    content: list[Raw]
    stop_reason: str | None = None


_decode_message = msgspec.json.Decoder(_RelayedMessage).decode


class ReplyCheck:
    """The checks of one reply. The conversation is read from the body of `parent` when the first call is checked.

    `inspection`: what the inspectors have redacted in the conversation. None: there are no inspectors.
    """

    note = FidelityNote("emulated", "safeguards", "the proxy checks the tool calls of the reply")

    def __init__(
        self,
        parent: ParentRequest,
        context: Mapping[str, Any],
        auto_mode: AutoMode,
        inspection: "Inspection | None" = None,
    ) -> None:
        self._parent = parent
        self._engine = parent.engine
        self._incoming = parent.incoming
        self._body = parent.incoming.body
        self._is_large = parent.incoming.is_large
        self._context = context
        self._auto_mode = auto_mode
        self._placeholders: Mapping[str, str] = {} if inspection is None else inspection.values
        self._has_other_words = inspection is not None and inspection.has_replaced_call
        """True if an earlier call of the conversation has other words than what has run."""
        self._calls: list[FinalCall] = []
        self._unchecked: list[CallCheck] = []
        """Records of the calls above `MAX_CALLS`."""
        self.checks: list[CallCheck] = []
        """Of all calls, as far as they are known, with the rules that models have stated."""
        self._tasks: list[asyncio.Task[CallCheck]] = []
        self._sinks: list[_CheckSink] = []
        self._transcript: asyncio.Task[Transcript] | None = None
        self._may_have_moved = False
        """True after a command that may have changed the current directory, as in `cd /etc`."""
        self._is_answered = False
        """True once the receipt has the verdicts that the client gets."""

    def start_check(self, call: FinalCall) -> None:
        if self._auto_mode.mode != "check":
            return
        if len(self._calls) >= MAX_CALLS:
            self._unchecked.append(_fail(call, f"at most {MAX_CALLS} calls of a reply are checked", "too large"))
            return
        self._tasks.append(asyncio.create_task(self._check(call, len(self._calls))))
        self._calls.append(call)

    @property
    def is_waiting(self) -> bool:
        return not all(task.done() for task in self._tasks)

    async def finish(self, ambiguous: Collection[str] = ()) -> list[dict[str, Any]]:
        """Return the field `safeguard_results`, after the wait for the verdicts that are missing.

        `ambiguous`: ids of calls of which clients may read another input than the one that was checked.
        """
        if self._auto_mode.mode == "off":
            return UNSUPPORTED
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._auto_mode.timeout_seconds)
        if self.is_waiting:
            self._end_requests("timeout", "timeout")
        checks = [
            structs.replace(check, verdict=UNAVAILABLE, reason=_AMBIGUOUS, kind="unreadable")
            if check.call in ambiguous
            else check
            for check in self._collect("timeout", "timeout")
        ]
        self._record(checks)
        return build_results(checks)

    def take_answer(self, results: bytes, calls: Sequence[FinalCall], doubts: Mapping[str, str]) -> None:
        """Record the verdicts of a provider that checks the calls itself.

        `doubts`: id of a call about which they do not hold → the reason.
        """
        self._is_answered = True
        judged = read_results(results, [(call.id, call.name[:_MAX_NAME]) for call in calls if call.id not in doubts])
        hidden = [_fail(call, doubts[call.id], "hidden text") for call in calls if call.id in doubts]
        self._record([*judged, *hidden])

    async def find_doubt_of_conversation(self) -> str:
        """Return why the calls before the reply leave no verdict of a provider about its calls. "": they do not."""
        if self._has_other_words:
            return IS_REPLACED
        if not self._placeholders:
            return ""
        try:
            transcript = await self._wait_for_transcript()
        except InvalidRequest:
            return _UNREADABLE
        return await self._incoming.background.run_in_thread_if_large(
            transcript.is_large,
            find_doubt_of_earlier_calls,
            transcript.earlier_calls,
            self._placeholders,
            self._context,
        )

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
            first, second, *_ = [*(sink.receipt.request_id for sink in self._sinks if sink.call is call), "", ""]
            checks.append(structs.replace(_fail(call, reason, kind), request=first, confirmation=second))
        checks += self._unchecked
        self._record(checks)
        return checks

    def _record(self, checks: list[CallCheck]) -> None:
        self.checks = checks
        self._incoming.receipt.checks = list_stored(checks)

    async def _check(self, call: FinalCall, place: int) -> CallCheck:
        """`place`: number of calls of the reply before this one."""
        try:
            rule = self._find_harmless_rule(call)
            doubt = await self._find_doubt(call)
            if rule and doubt in ("", MAY_BE_A_COMMAND):  # the table has read the call as the client gets it
                return CallCheck(call.id, call.name, "harmless", rule=rule, kind="rule")
            if doubt:
                return _fail(call, doubt, "hidden text")
            if call.is_ambiguous:
                return _fail(call, _AMBIGUOUS, "unreadable")
            if self._has_other_words:
                return _fail(call, IS_REPLACED, "hidden text")
            before = self._calls[:place]
            transcript = await self._wait_for_transcript()
            purposes = CHECK_PURPOSES if self._auto_mode.confirm_with else CHECK_PURPOSES[:1]
            checks = await asyncio.gather(*(self._ask(call, before, transcript, purpose) for purpose in purposes))
            return checks[0] if len(checks) == 1 else combine(*checks)
        except CallTooLargeError as error:
            return _fail(call, str(error), "too large")
        except HiddenTextError as error:
            return _fail(call, str(error), "hidden text")
        except AmbiguousCallError as error:
            return _fail(call, str(error), "unreadable")
        except (PolicyBlocked, InspectorUnavailable, WorkerBusy) as error:
            return _fail(call, f"the call cannot be inspected: {error.error_type}")
        except (InvalidRequest, msgspec.DecodeError, UnicodeError, RecursionError):
            return _fail(call, _UNREADABLE)
        except Exception:  # noqa: BLE001  # a defect of the proxy must neither allow the call nor end the reply
            self._engine.log.write_traceback(self._incoming.receipt.request_id)
            return _fail(call, "internal error of the proxy")

    def _find_harmless_rule(self, call: FinalCall) -> str:
        """Return the row of the table for a call. "": the call is asked."""
        is_asked = bool(self._auto_mode.deny) or (call.name == "Bash" and self._may_have_moved)
        is_asked = is_asked or call.is_ambiguous or call.is_too_long or len(call.arguments) > MAX_CALL_CHARACTERS
        rule = "" if is_asked else find_harmless_rule(call.name, decode_arguments(call.arguments), self._context)
        self._may_have_moved |= call.name == "Bash" and not rule
        return rule

    async def _find_doubt(self, call: FinalCall) -> str:
        reads_long = bool(call.hidden) and is_large(len(call.shown), call.shown.count('"'))
        return await self._incoming.background.run_in_thread_if_large(
            reads_long, find_doubt, call.name, call.shown, call.hidden
        )

    async def _build_body(
        self, call: FinalCall, before: Sequence[FinalCall], transcript: Transcript, model: str
    ) -> bytes:
        build = partial(
            build_check_body,
            context=self._context,
            auto_mode=self._auto_mode,
            model=model,
            placeholders=self._placeholders,
        )
        shows_long = transcript.is_large or is_large(len(call.shown))
        return await self._incoming.background.run_in_thread_if_large(shows_long, build, call, before, transcript)

    async def _wait_for_transcript(self) -> Transcript:
        if self._transcript is None:
            self._transcript = asyncio.create_task(self._read_transcript())
        return await self._transcript

    async def _read_transcript(self) -> Transcript:
        body, self._body = self._body, b""
        is_subagent = AGENT_HEADER in self._incoming.headers or self._incoming.receipt.kind in ("subagent", "workflow")
        read = partial(read_transcript, is_subagent=is_subagent)
        return await self._incoming.background.run_in_thread_if_large(self._is_large, read, body)

    async def _ask(
        self, call: FinalCall, before: Sequence[FinalCall], transcript: Transcript, purpose: CheckPurpose
    ) -> CallCheck:
        engine = self._engine
        try:
            plans = await list_check_plans(self._parent, self._auto_mode, purpose)
        except ClientError as error:
            engine.log.write_once(f"auto mode: {error.stored_message}", "warning")
            return _fail(call, f"the checking model failed: {error.error_type}")
        if not plans:
            return _fail(call, _NOT_ALLOWED, "not allowed")
        receipt = self._parent.new_receipt(purpose)
        inspection = open_inspection(engine, receipt, plans[0].requested) if engine.inspectors else None
        asked, earlier = call, before
        if inspection is not None:
            asked, *earlier = await inspection.hide_texts((call, *before))
            if inspection.has_replaced:
                return _fail(call, NO_PLAIN_WORD, "hidden text")
            if doubt := await self._find_doubt(asked):
                return _fail(call, doubt, "hidden text")
        body = await self._build_body(asked, earlier, transcript, plans[0].requested)
        request = self._parent.new_request(purpose, receipt, body, plans, questions=QUESTIONS)
        sink = _CheckSink(request.receipt, call)
        self._sinks.append(sink)
        await self._parent.send(request, sink, inspection)
        return sink.check
