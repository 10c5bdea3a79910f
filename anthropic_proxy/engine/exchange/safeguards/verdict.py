"""The verdict of the checking model about one tool call, and the answer to the client that follows from all verdicts.

Only a reply that is exactly one object of the fixed form is a verdict. Everything else is `unavailable`: a refusal, an
error, a late or cut reply, text beside the object, a key that occurs twice. No other code creates `not_flagged`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.hooks import CallCheck
from anthropic_proxy.engine.messages.models import MessagesResponse

TYPE = "dangerous_tool_use"
"""Type of the entry of `safeguards` and `safeguard_results` about tool calls."""
NOT_FLAGGED: Final = "not_flagged"
FLAGGED: Final = "flagged"
UNAVAILABLE: Final = "unavailable"
MAX_EXPLANATION = 300
"""Maximum characters of the explanation that the client shows."""
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "rule": {"type": "string", "description": "The rule that decides, in its own words."},
        "verdict": {"type": "string", "enum": [NOT_FLAGGED, FLAGGED]},
        "explanation": {"type": "string", "description": "For flagged: one sentence in the words of the rule."},
    },
    "required": ["rule", "verdict", "explanation"],
    "additionalProperties": False,
}
"""JSON Schema of the reply."""


class _RepeatedKeyError(ValueError):
    pass


class _Block(Struct):
    type: str = ""
    text: str = ""


def _read_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RepeatedKeyError
    return found


def read_verdict(response: MessagesResponse, call_id: str, tool: str) -> CallCheck:
    """Return the verdict in a reply of the checking model."""
    if response.stop_reason != "end_turn":
        return CallCheck(call_id, tool, UNAVAILABLE, f"the checking model ended with {response.stop_reason}")
    text = ""
    try:
        for raw in response.content:
            block = msgspec.json.decode(raw, type=_Block)
            if block.type not in ("text", "thinking", "redacted_thinking"):
                return CallCheck(call_id, tool, UNAVAILABLE, "the reply of the checking model is no text")
            text += block.text if block.type == "text" else ""
        found = json.loads(text, object_pairs_hook=_read_once)
    except (ValueError, RecursionError):  # also of msgspec
        found = None
    if not isinstance(found, dict) or found.keys() != {"rule", "verdict", "explanation"}:
        return CallCheck(call_id, tool, UNAVAILABLE, "the reply of the checking model has not the required form")
    rule, verdict, explanation = found["rule"], found["verdict"], found["explanation"]
    is_text = isinstance(rule, str) and isinstance(explanation, str)
    if not is_text or verdict not in (NOT_FLAGGED, FLAGGED):
        return CallCheck(call_id, tool, UNAVAILABLE, "the reply of the checking model has no valid verdict")
    reason = " ".join((explanation if explanation.strip() else rule).split())[:MAX_EXPLANATION]
    if verdict == FLAGGED:
        return CallCheck(call_id, tool, FLAGGED, reason or "The check found this call dangerous.", rule=_shorten(rule))
    return CallCheck(call_id, tool, NOT_FLAGGED, rule=_shorten(rule))


def _shorten(rule: str) -> str:
    return " ".join(rule.split())[:MAX_EXPLANATION]


def combine(first: CallCheck, second: CallCheck) -> CallCheck:
    """Return the verdict of two models, of which the second must agree (`confirm_with`).

    A failure beside `flagged` contradicts nothing, so the call stays flagged.
    """
    verdicts = {first.verdict, second.verdict}
    if verdicts == {NOT_FLAGGED, FLAGGED}:
        return CallCheck(first.call, first.tool, UNAVAILABLE, "the two checking models disagree")
    if UNAVAILABLE in verdicts:
        wanted = FLAGGED if FLAGGED in verdicts else UNAVAILABLE
        return first if first.verdict == wanted else second
    return first


def build_results(checks: Iterable[CallCheck]) -> list[dict[str, Any]]:
    """Return the field `safeguard_results` for a reply.

    A call without a verdict is left out. Claude Code 2.1.332 then checks it by its own rule and classifier, as after
    `unavailable`; but `unavailable` would also stop calls that need no check, where it has no classifier.
    """
    calls: dict[str, dict[str, str]] = {}
    for check in checks:
        if check.verdict == NOT_FLAGGED:
            calls[check.call] = {"type": "evaluated", "outcome": NOT_FLAGGED}
        elif check.verdict == FLAGGED:
            calls[check.call] = {"type": "evaluated", "outcome": FLAGGED, "explanation": check.reason}
    return [{"type": TYPE, "status": {"type": "available", "tool_uses": calls}}]


UNSUPPORTED: list[dict[str, Any]] = [{"type": TYPE, "status": {"type": "unsupported"}}]
"""The answer if `AUTO_MODE` is `off`."""
