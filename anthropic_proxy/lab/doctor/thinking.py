"""Test of the reasoning of a model, by requests of the doctor.

`probe_thinking` finds out in which request field the server expects the effort (level of reasoning), and which levels
it accepts. It also finds out if the server accepts the reasoning of its earlier replies in later requests (replay).
"""

import re
from collections.abc import Mapping, Sequence
from typing import get_args

from msgspec import structs

from anthropic_proxy.lab.doctor.checks import check_accepted
from anthropic_proxy.lab.doctor.dialect_search import DialectSearch
from anthropic_proxy.lab.doctor.findings import Diagnosis, Outcome
from anthropic_proxy.lab.doctor.probe_runner import ProbeResult
from anthropic_proxy.lab.doctor.probes import THINKING_BODY, TOOLS_PROBE_QUESTION, Probe, build_tool_results_request
from anthropic_proxy.wire import openai_chat
from anthropic_proxy.wire.openai_chat.frames import REASONING_FIELDS

_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_UNKNOWN_LEVEL = "doctor"
"""Effort level that no server knows. A server that accepts it ignores the request field for the effort."""
_FORMS = ("reasoning_effort", "reasoning", "thinking_and_effort", "thinking")
"""Values of the dialect field `effort_form` (form in which the effort is sent), in the order in which they are
tried."""
_REASONING_FIELD = re.compile(rf'"({"|".join(REASONING_FIELDS)})"\s*:\s*"[^"]'.encode())
"""A field of a response with reasoning, in JSON."""
_REPLAY_FIELDS = get_args(openai_chat.Dialect.__annotations__["replayed_thinking_field"])
"""Names of the fields in which a request can contain reasoning of earlier replies."""
_THINKING = Probe(name="thinking", body=THINKING_BODY, check=check_accepted)


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
    search.target = structs.replace(
        plain, capabilities=structs.replace(plain.capabilities, efforts=("low", "medium", "high"))
    )
    for form in _FORMS:
        change = {"effort_form": form}
        result = await search.send_with_change(_THINKING, change)
        if result is None or result.error is not None or result.first_rejection is not None:
            continue
        shows = bool(result.thinking) and not tools_result.thinking
        levels = [] if form == "thinking" else await _find_levels(search, change)
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


async def _find_levels(search: DialectSearch, change: Mapping[str, object]) -> Sequence[str]:
    """Return the effort levels that the server lists when it rejects an unknown one. Empty: it accepts any level."""
    result = await search.send_with_change(_THINKING, {**change, "effort_names": (("high", _UNKNOWN_LEVEL),)})
    rejected = result.first_rejection if result else None
    if rejected is None:
        return []
    text = search.describe_rejection(rejected)
    return [level for level in _LEVELS if re.search(rf"\b{level}\b", text)] or ["low", "medium", "high"]


async def _probe_replay(search: DialectSearch, diagnosis: Diagnosis, reply: ProbeResult) -> None:
    """Send a reply with reasoning back, with the results of its tool calls. Find the field for the reasoning first."""
    field = _REASONING_FIELD.search(bytes(reply.upstream[-1].response)) if reply.upstream else None
    if field:
        diagnosis.quirks["reasoning field"] = f"reasoning arrives in the field {field[1].decode()}"
    if search.searches_dialect and field and field[1].decode() in _REPLAY_FIELDS:
        reply = await _find_replay_field(search, reply, {"replayed_thinking_field": field[1].decode()})
    probe = _build_replay(reply, ({"replayed_thinking_field": ""},))
    result = await search.run_probe(probe)
    drops = [note for note in result.notes if note.field.endswith("thinking") and note.handling == "dropped"]
    if drops and diagnosis.state_of(probe.name) == "works":
        diagnosis.outcomes[probe.name] = Outcome(state="unsupported", reason=drops[0].reason)


async def _find_replay_field(search: DialectSearch, reply: ProbeResult, change: Mapping[str, object]) -> ProbeResult:
    """Set the dialect field for the reasoning of earlier replies, if the server accepts `change`.

    Return a new reply with reasoning, because signatures of thinking blocks depend on the field.
    """
    changed = await search.send_with_change(_THINKING, change)
    if changed is None or changed.error is not None or not changed.thinking or not changed.calls:
        return reply
    probe = _build_replay(changed, ())
    result = await search.send_with_change(probe, change)
    if result is None or result.error is not None or result.first_rejection is not None:
        return reply
    search.adopt_change(
        probe, change, reply, result, effect="the server accepts reasoning of earlier replies in this field"
    )
    return changed


def _build_replay(reply: ProbeResult, candidates: Sequence[Mapping[str, object]]) -> Probe:
    body = build_tool_results_request(
        TOOLS_PROBE_QUESTION, reply.blocks, output_config={"effort": "high"}, thinking={"type": "adaptive"}
    )
    return Probe(name="thinking replay", body=body, check=check_accepted, candidates=candidates)
