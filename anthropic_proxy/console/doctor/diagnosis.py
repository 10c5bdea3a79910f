"""Examination of one backend (a model of a provider) by probes, the test requests of the doctor.

The probes run in a fixed order, because later probes use what earlier ones have found. At a server with an unknown
dialect, a failed probe is repeated with other values of dialect fields. The first value with which it succeeds is used
from then on, and becomes evidence for the report.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, get_args

import msgspec
from msgspec import structs

from anthropic_proxy.console.doctor.findings import (
    Backend,
    Diagnosis,
    Evidence,
    EvidenceKind,
    Failure,
    FailureKind,
    Outcome,
    State,
)
from anthropic_proxy.console.doctor.learned import build_learned_model
from anthropic_proxy.console.doctor.probe_runner import ProbeResult, ProbeRunner, UpstreamExchange
from anthropic_proxy.console.doctor.probes import (
    LIMITS_BODY,
    PROBES,
    THINKING_BODY,
    TOOLS_PROBE_QUESTION,
    Probe,
    build_tool_results_request,
)
from anthropic_proxy.engine.efforts import list_named_efforts
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.providers.provider_models import MODEL_LIST
from anthropic_proxy.engine.routing.targets import Target, switch_wire
from anthropic_proxy.engine.wires import openai_chat
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.failures import decode_error_body
from anthropic_proxy.engine.wires.openai_chat.reply import REASONING_FIELDS
from anthropic_proxy.errors import MissingExtra, UpstreamError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import redact_secrets

MAX_EXCERPT_CHARACTERS = 160
"""Maximum characters of a server's error message that the report quotes."""
_TEMPORARY = (408, 429, 500, 502, 503, 504, 529)
"""HTTP statuses of errors that may have another cause than the request, such as load."""
_REASON = compile_later(
    r"support|unknown|unexpected|unrecognized|invalid|not (?:allowed|permitted|accepted)|reject", re.I
)
"""Pattern of error messages that name the cause of a rejection. Another error with status 500 may be accidental."""


class DialectSearch:
    """Search for the dialect of one server, by probes with one model. `target` has the dialect found so far."""

    def __init__(self, runner: ProbeRunner, diagnosis: Diagnosis, settings: Settings) -> None:
        self._runner, self._diagnosis, self._settings = runner, diagnosis, settings
        self._secrets = settings.reveal_all_secrets()
        target, known = diagnosis.backend.target, diagnosis.backend.target.capabilities
        own = ModelCapabilities(efforts=known.efforts, default_effort=known.default_effort)
        self.target: Target = structs.replace(target, capabilities=own)

    @property
    def searches_dialect(self) -> bool:
        """True if failed probes are repeated with changes. The dialects of known servers are part of the proxy."""
        return self._diagnosis.backend.searches_dialect or bool(self._diagnosis.wire)

    async def run_probe(self, probe: Probe) -> ProbeResult:
        """Send `probe`, after a failure with other values of dialect fields too, and store its outcome."""
        result = await self._runner.send(self.target, probe.body)
        problem = probe.find_problem(result)
        if problem and self._may_be_accidental(result):
            result = await self._runner.send(self.target, probe.body)
            problem = probe.find_problem(result)
        before = self.target
        self._apply_adaptations(probe, result)
        if problem and result.error is None and self.target is not before:  # the reply has shown how to read the next
            result = await self._runner.send(self.target, probe.body)
            problem = probe.find_problem(result)
        if problem and self.searches_dialect:
            may_search = probe.tests_effect
            if result.error is not None:
                may_search = result.first_rejection is not None or not isinstance(result.error, UpstreamError)
            for change in probe.candidates if may_search else ():
                if change_dialect(self.target.dialect, change) == self.target.dialect:
                    continue
                changed = await self.send_with_change(probe, change)
                if changed is not None and not probe.find_problem(changed):
                    self.adopt_change(probe, change, result, changed)
                    self._apply_adaptations(probe, changed)
                    result, problem = changed, ""
                    break
        self._diagnosis.outcomes[probe.name] = self._judge(probe, result, problem)
        return result

    async def send_with_change(self, probe: Probe, change: Mapping[str, object]) -> ProbeResult | None:
        """Send `probe` with other values, and store nothing. None: the dialect of this API lacks one of the fields."""
        dialect = change_dialect(self.target.dialect, change)
        if dialect is None:
            return None
        return await self._runner.send(structs.replace(self.target, dialect=dialect), probe.body)

    def adopt_change(
        self, probe: Probe, change: Mapping[str, object], failed: ProbeResult, result: ProbeResult, *, effect: str = ""
    ) -> None:
        """Keep changed values of dialect fields for all later probes, and store the reason for the report.

        `failed` is the result of `probe` without the change, and `result` is the result with it. `effect` describes
        the improvement. An empty `effect` means that `probe` fails without the change.
        """
        dialect = change_dialect(self.target.dialect, change)
        if dialect is not None and dialect != self.target.dialect:
            self._record(probe, dialect, failed, result, kind="improvement" if effect else "required", effect=effect)

    def use_chat_wire(self) -> bool:
        """Send all later probes by the API `chat`. Return False if the provider does not have this API, or if it is
        already used.
        """
        provider = self.target.provider
        switched = switch_wire(self.target, "chat", self._settings)
        if switched is None or switched.wire is self.target.wire:
            return False
        self.target = structs.replace(switched, capabilities=self.target.capabilities)
        self._diagnosis.wire = f"{provider.env_prefix}_WIRE=chat"
        return True

    def redact(self, text: str, max_characters: int = MAX_EXCERPT_CHARACTERS) -> str:
        """Return `text` on one line, without keys and unprintable characters, and shortened to `max_characters`."""
        text = escape_unprintable(redact_secrets(" ".join(text.split()), self._secrets))
        return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"

    def describe_rejection(self, exchange: UpstreamExchange) -> str:
        """Return the server's error message for a rejected upstream request, without keys and on one line."""
        fault = decode_error_body(exchange.status, {}, bytes(exchange.response))
        return self.redact(fault.message or fault.excerpt or "no message")

    def _may_be_accidental(self, result: ProbeResult) -> bool:
        """Return True if the server failed with status 500 and its error names no part of the request as cause."""
        rejected = result.first_rejection
        return rejected is not None and rejected.status == 500 and not _REASON.search(self.describe_rejection(rejected))

    def _apply_adaptations(self, probe: Probe, result: ProbeResult) -> None:
        """Use the adaptations of a successful probe for all later probes, so that the server does not reject those."""
        for name in result.adaptations:
            verb, _, value = name.partition(" ")
            if verb == "wire" and (switched := switch_wire(self.target, value, self._settings)) is not None:
                self.target = structs.replace(switched, capabilities=self.target.capabilities)
                return
        dialect = self.target.dialect
        for name in result.adaptations:
            dialect = self.target.wire.apply_adaptation(dialect, name)
        if dialect != self.target.dialect:
            self._record(probe, dialect, result, result, kind="automatic")

    def _record(
        self,
        probe: Probe,
        dialect: BaseDialect,
        failed: ProbeResult,
        result: ProbeResult,
        *,
        kind: EvidenceKind,
        effect: str = "",
    ) -> None:
        before, after = structs.asdict(self.target.dialect), structs.asdict(dialect)
        status, error = 0, effect or self.redact(probe.find_problem(failed))
        if (rejected := failed.first_rejection) is not None:
            status, error = rejected.status, self.describe_rejection(rejected)
        accepted = result.upstream[-1].request if result.upstream else b""
        first = rejected or (failed.upstream[0] if failed.upstream else UpstreamExchange(b""))
        sent = self.redact(find_differing_fields(first.request, accepted))
        facts: Mapping[str, Any] = {"kind": kind, "probe": probe.name, "sent": sent, "status": status, "error": error}
        for name, value in after.items():
            if value != before[name]:
                evidence = Evidence(field=name, value=value, previous=before[name], **facts)
                self._diagnosis.evidence.append(evidence)
        self.target = structs.replace(self.target, dialect=dialect)

    def _judge(self, probe: Probe, result: ProbeResult, problem: str) -> Outcome:
        if not problem:
            if probe.proof is not None and (doubt := probe.proof(result)):
                return Outcome(state="untested", detail="not recognized", reason=doubt)
            emulated = [note.reason for note in result.notes if note.handling == "emulated"]
            state: State = "emulated" if emulated else "works"
            return Outcome(state=state, reason=self.redact(emulated[0]) if emulated else "")
        rejected = result.first_rejection
        status = rejected.status if rejected else result.last_status
        detail = f"HTTP {status}" if rejected or (result.error and status >= 400) else probe.missing_effect
        reason = self.describe_rejection(rejected) if rejected else self.redact(problem)
        error = result.error if isinstance(result.error, UpstreamError) else None
        is_temporary = error is not None and error.status in _TEMPORARY and not rejected
        if error is not None and error.code == "schema-not-followed":  # of the proxy, after two complete replies
            is_temporary = False
        is_temporary = is_temporary or self._may_be_accidental(result)
        return Outcome(state="untested" if is_temporary else "unsupported", detail=detail, reason=reason)


def change_dialect(dialect: BaseDialect, change: Mapping[str, object]) -> BaseDialect | None:
    """Return a copy of `dialect` with other values of fields. None: this kind of dialect lacks one of the fields.

    `change` maps the name of each changed field to its value.
    """
    known = structs.asdict(dialect)
    if not change.keys() <= known.keys():
        return None
    converted = {
        name: msgspec.convert(value, type(known[name])) if isinstance(known[name], msgspec.Struct) else value
        for name, value in change.items()
    }
    return structs.replace(dialect, **converted)


def find_differing_fields(rejected: bytes, accepted: bytes) -> str:
    """Return the fields of a rejected request body that the accepted body lacks or has with other values.

    They show the probable cause of the rejection. The result is JSON text, in which long values are cut.
    """
    try:
        before, after = json.loads(rejected), json.loads(accepted)
    except ValueError:
        return ""
    differing = [name for name, value in before.items() if name not in after or after[name] != value]
    differing.sort(key=lambda name: name == "messages")  # texts that replace a field are less relevant than the field
    shown = []
    for name in differing:
        value, other = before[name], after.get(name)
        if isinstance(value, list) and isinstance(other, list):
            value = next((item for item in value if item not in other), value)
        text, limit = json.dumps(value, ensure_ascii=False), MAX_EXCERPT_CHARACTERS // 2
        shown.append(f'"{name}": {text if len(text) <= limit else f"{text[: limit - 1]}…"}')
    return ", ".join(shown)


_USAGE = compile_later(rb'"(?:usage|usageMetadata)"\s*:\s*\{|"prompt_eval_count"\s*:\s*\d')
"""Pattern of a token count in a reply body of any API."""
_CALL_FRAME = compile_later(rb'"tool_calls"\s*:\s*\[')
_THINK_TAG = compile_later(rb"</?(?:think|thinking|thought|seed:think)>|\[/?THINK\]")
_MIN_EVENTS = 3
"""Minimum number of text events of a long reply. With fewer events, the server did not stream the reply."""
_MAX_MESSAGE_CHARACTERS = 400
_KINDS: Mapping[int, FailureKind] = {401: "key", 403: "key", 402: "quota", 429: "quota", 404: "model"}
"""HTTP status of the first probe → what is rejected or missing."""
_ADDRESS_CODES = ("wrong-address", "not-an-api")
"""Codes of errors that a wrong base URL causes."""


async def diagnose_backend(
    runner: ProbeRunner, diagnosis: Diagnosis, settings: Settings, on_change: Callable[[], None]
) -> None:
    """Run the probes that one backend needs, and store their results in `diagnosis`.

    If the first probe fails, no other probe is sent. `on_change` is called after each probe.
    """
    search = DialectSearch(runner, diagnosis, settings)
    try:
        first, *probes = PROBES
        result = await search.run_probe(first)
        if diagnosis.state_of(first.name) == "unsupported" and search.use_chat_wire():
            result = await search.run_probe(first)
        if diagnosis.state_of(first.name) not in ("works", "emulated"):
            diagnosis.problem = _find_problem(search, result)
            if diagnosis.problem.kind == "model":
                await _list_models(runner, diagnosis)
            return
        diagnosis.seconds = result.seconds
        on_change()
        await _list_models(runner, diagnosis)
        tools_result = result
        for probe in probes:
            if not must_run(probe, diagnosis.backend) and not diagnosis.wire:
                continue
            if probe.requires and diagnosis.state_of(probe.requires) == "unsupported":
                continue
            result = await search.run_probe(probe)
            if probe.name == "streaming":
                _observe_stream(diagnosis, result)
            elif probe.name == "tools":
                tools_result = result
                _observe_calls(search, diagnosis, result)
            on_change()
        if diagnosis.backend.is_demo:
            return
        await probe_thinking(search, diagnosis, tools_result)
        on_change()
        await _probe_limits(runner, search, diagnosis)
    finally:
        diagnosis.target = search.target
        defaults = structs.asdict(type(search.target.dialect)())
        values = structs.asdict(search.target.dialect)
        found = {name: value for name, value in values.items() if value != defaults[name]}
        diagnosis.dialect = json.loads(json.dumps(found, default=structs.asdict))
        if diagnosis.problem is None:
            learned = build_learned_model(diagnosis, date.today())
            diagnosis.capabilities = runner.find_capabilities(diagnosis.backend.target, learned)
        diagnosis.is_complete = True
        on_change()


def must_run(probe: Probe, backend: Backend) -> bool:
    """Return True if the doctor sends `probe` to `backend`. The built-in demo gets only the first two probes."""
    if backend.is_demo:
        return probe in PROBES[:2]
    return probe.is_feature or backend.searches_dialect


async def _list_models(runner: ProbeRunner, diagnosis: Diagnosis) -> None:
    """Store the model list of the provider, and the limits of the model if the list states them."""
    target = diagnosis.backend.target
    facts = await runner.query_capabilities(target)
    if facts is not None:
        diagnosis.context_window, diagnosis.max_output = facts.context_window, facts.max_output
        diagnosis.limits_source = "the server's description of the model"
    offered = await runner.list_models(target.provider)
    if offered is None:
        return
    diagnosis.models = [model.id for model in offered]
    own = next((model for model in offered if model.id == target.model), None)
    if own is not None and (own.context_window or own.max_output):
        diagnosis.context_window, diagnosis.max_output = own.context_window, own.max_output
        diagnosis.limits_source = MODEL_LIST


def _find_problem(search: DialectSearch, result: ProbeResult) -> Failure:
    error, status = result.error, result.last_status
    text = (error.message if error else "").removeprefix(f"{search.target.provider.prefix}: ")
    advice, field = (error.advice, error.concerned_field) if isinstance(error, UpstreamError) else ("", "")
    kind: FailureKind = _KINDS.get(status, "server" if status >= 500 else "request")
    proposal = ""
    if isinstance(error, MissingExtra):
        kind = "package"
        text = f"{error.subject}, which is not installed"
        proposal = error.install_command
    elif isinstance(error, UpstreamError) and not any(exchange.status for exchange in result.upstream):
        kind, text = "unreachable", text.removesuffix(advice)
    elif isinstance(error, UpstreamError) and error.code in _ADDRESS_CODES:
        kind, proposal = "address", error.remedy
        text = text.removesuffix(f" Try {proposal}")
    if error is not None and error.retry_after:
        text = f"{text.rstrip('.')}. The server asks for a pause of {error.retry_after:g} s"
    if kind == "key" and not result.upstream:
        status = 0
    message, cause = (search.redact(each, _MAX_MESSAGE_CHARACTERS) for each in (text, text.removesuffix(advice)))
    return Failure(
        kind=kind,
        status=status,
        message=message,
        cause=cause,
        error_code=error.code if error else "",
        concerned_field=field,
        proposal=search.redact(proposal),
    )


def _observe_stream(diagnosis: Diagnosis, result: ProbeResult) -> None:
    """Store facts about a streamed reply: token counts, fragments, and the place of the reasoning."""
    if result.error is not None or not result.upstream:
        return
    raw = bytes(result.upstream[-1].response)
    if _USAGE.search(raw):
        diagnosis.outcomes["usage"] = Outcome(state="works")
    else:
        reason = "the stream has no token counts, so the proxy estimates them"
        diagnosis.outcomes["usage"] = Outcome(state="emulated", detail="estimated", reason=reason)
        diagnosis.quirks["usage"] = reason
    if result.text_events < _MIN_EVENTS:
        diagnosis.quirks["streaming"] = "the reply arrives in one fragment"
    if result.thinking and _THINK_TAG.search(raw):
        diagnosis.quirks["thinking tags"] = "the text contains reasoning in tags, which the proxy separates"


def _observe_calls(search: DialectSearch, diagnosis: Diagnosis, result: ProbeResult) -> None:
    """Store facts about tool calls: parallel calls, fragments of arguments, and calls in the text."""
    if not result.calls:
        return
    outcome = Outcome(state="emulated", detail="sequential", reason="the model called one tool for two tasks")
    diagnosis.outcomes["parallel tools"] = Outcome(state="works") if len(result.calls) > 1 else outcome
    if search.searches_dialect:
        raw = bytes(result.upstream[-1].response)
        frames = len(_CALL_FRAME.findall(raw))
        if not frames:
            diagnosis.quirks["calls in text"] = "the text contains the tool calls, which the proxy decodes"
        elif frames <= len(result.calls):
            diagnosis.quirks["tool arguments"] = "each tool call arrives in one fragment"


async def _probe_limits(runner: ProbeRunner, search: DialectSearch, diagnosis: Diagnosis) -> None:
    """Request more output than any model allows, and store the limits that the server's error message contains."""
    if diagnosis.backend.target.provider.transport != "http":
        return
    result = await runner.send(search.target, LIMITS_BODY)
    found = dict.fromkeys(("window", "limit"), 0)
    for name in result.adaptations:
        verb, _, value = name.partition(" ")
        if verb in found and value.isdecimal():
            found[verb] = int(value)
    cause = result.error.cause if isinstance(result.error, UpstreamError) else None
    window = found["window"] or (cause.context_window if cause is not None else None)
    output = found["limit"] or (cause.max_output_tokens if cause is not None else None)
    if (rejected := result.first_rejection) is not None and (window or output):
        diagnosis.limits_source = search.describe_rejection(rejected)
    diagnosis.context_window = window or diagnosis.context_window
    diagnosis.max_output = output or diagnosis.max_output


_UNKNOWN_LEVEL = "doctor"
"""Effort level that no server knows. A server that accepts it ignores the request field for the effort."""
_FORMS = ("reasoning_effort", "reasoning", "thinking_and_effort", "thinking")
"""Values of the dialect field `effort_form` (form in which the effort is sent), in the order in which they are
tried."""
_REASONING_FIELD = compile_later(rf'"({"|".join(REASONING_FIELDS)})"\s*:\s*"[^"]'.encode())
"""A field of a response with reasoning, in JSON."""
_REPLAY_FIELDS = get_args(openai_chat.Dialect.__annotations__["replayed_thinking_field"])
"""Names of the fields in which a request can contain reasoning of earlier replies."""
_THINKING = Probe("thinking", THINKING_BODY)


async def probe_thinking(search: DialectSearch, diagnosis: Diagnosis, tools_result: ProbeResult) -> None:
    """Test the reasoning of a model, and store the results as `thinking` and `thinking replay` in `diagnosis`.

    `tools_result` is the result of an earlier probe that requests no reasoning, for comparison.
    """
    facts = diagnosis.backend.target.capabilities
    if search.searches_dialect:
        result = await _find_effort_form(search, diagnosis, tools_result)
    elif facts.efforts or tools_result.thinking:
        result = await search.run_probe(_THINKING)
    else:
        result = None
    if result is None or result.error is not None:
        diagnosis.outcomes.setdefault("thinking", Outcome(state="untested", reason="the model has no effort levels"))
        return
    if result.thinking and result.calls:
        await _probe_replay(search, diagnosis, result)


async def _find_effort_form(
    search: DialectSearch, diagnosis: Diagnosis, tools_result: ProbeResult
) -> ProbeResult | None:
    """Find the dialect fields for reasoning. Return a reply with reasoning; None: no reasoning and no levels."""
    plain = search.target
    levels_of_all = structs.replace(plain.capabilities, efforts=("low", "medium", "high"))
    search.target = structs.replace(plain, capabilities=levels_of_all)
    for form in _FORMS:
        change = {"effort_form": form}
        result = await search.send_with_change(_THINKING, change)
        if result is None or result.error is not None or result.first_rejection is not None:
            continue
        shows = bool(result.thinking) and not tools_result.thinking
        levels: Sequence[str] = []
        if form != "thinking":  # the levels that the server lists when it rejects an unknown one
            rejected = await search.send_with_change(_THINKING, {**change, "effort_names": (("high", _UNKNOWN_LEVEL),)})
            if rejected is not None and rejected.first_rejection is not None:
                text = search.describe_rejection(rejected.first_rejection)
                levels = list_named_efforts(text) or ["low", "medium", "high"]
        if shows or levels:
            effect = "an unknown level is rejected" if levels else "the reply contains reasoning only with the field"
            search.adopt_change(_THINKING, change, tools_result, result, effect=effect)
            diagnosis.efforts = levels
            diagnosis.outcomes["thinking"] = Outcome(state="works", reason=f"by the field {form}")
            return result
    search.target = structs.replace(search.target, capabilities=plain.capabilities)
    if not tools_result.thinking:
        return None
    diagnosis.outcomes["thinking"] = Outcome(state="works", reason="always on, without levels")
    effect = "the reply contains reasoning without a request for it"
    search.adopt_change(_THINKING, {"reasoning_mode": "always"}, tools_result, tools_result, effect=effect)
    return tools_result


async def _probe_replay(search: DialectSearch, diagnosis: Diagnosis, reply: ProbeResult) -> None:
    """Send a reply with reasoning back, with the results of its tool calls. Find the field for the reasoning first."""
    field = _REASONING_FIELD.search(bytes(reply.upstream[-1].response)) if reply.upstream else None
    if field:
        diagnosis.quirks["reasoning field"] = f"reasoning arrives in the field {field[1].decode()}"
    if search.searches_dialect and field and field[1].decode() in _REPLAY_FIELDS:
        change = {"replayed_thinking_field": field[1].decode()}
        # another reply, because signatures of thinking blocks depend on the field
        changed = await search.send_with_change(_THINKING, change)
        if changed is not None and changed.error is None and changed.thinking and changed.calls:
            probe = _build_replay(changed, ())
            result = await search.send_with_change(probe, change)
            if result is not None and result.error is None and result.first_rejection is None:
                effect = "the server accepts reasoning of earlier replies in this field"
                search.adopt_change(probe, change, reply, result, effect=effect)
                reply = changed
    probe = _build_replay(reply, ({"replayed_thinking_field": ""},))
    result = await search.run_probe(probe)
    drops = [note for note in result.notes if note.field.endswith("thinking") and note.handling == "dropped"]
    if drops and diagnosis.state_of(probe.name) == "works":
        diagnosis.outcomes[probe.name] = Outcome(state="unsupported", reason=drops[0].reason)


def _build_replay(reply: ProbeResult, candidates: Sequence[Mapping[str, object]]) -> Probe:
    body = build_tool_results_request(
        TOOLS_PROBE_QUESTION, reply.blocks, output_config={"effort": "high"}, thinking={"type": "adaptive"}
    )
    return Probe("thinking replay", body, candidates=candidates)
