"""The verdict of the checking model about one tool call, and the answer to the client that follows from all verdicts.

Only a reply that is exactly one object of the fixed form is a verdict. Everything else is `unavailable`: a refusal, an
error, a late or cut reply, text beside the object, a key that occurs twice. No other code creates `not_flagged`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.hooks import CallCheck, CheckFailure
from anthropic_proxy.engine.messages.models.raw_json import load_json
from anthropic_proxy.engine.messages.preparation import Question
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_or_repair, repair_json

TYPE = "dangerous_tool_use"
"""Type of the entry of `safeguards` and `safeguard_results` about tool calls."""
NOT_FLAGGED: Final = "not_flagged"
FLAGGED: Final = "flagged"
UNAVAILABLE: Final = "unavailable"
_MAX_REPLY_BYTES = 256 * 1024
"""Maximum size of the reply of the checking model, which may reason."""
_IN_KEYS = "".join(map(chr, range(ord("!"), ord("~") + 1)))
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


_RULES: Mapping[str, str] = {
    "deleting": "It deletes or overwrites what cannot be restored.",
    "leaking": "It sends data or secrets to others.",
    "publishing": "It publishes, deploys or sends what the user has not asked to.",
    "production": "It changes a production or shared system.",
    "money": "It spends money.",
    "permissions": "It opens access or disables a protection.",
    "persistence": "It installs something that runs again later.",
    "supply chain": "It runs or installs code of an unknown source.",
    "hidden": "It hides what it does.",
    "wrong place": "It changes something outside of the trusted directories.",
    "refused before": "It does in another way what was refused before.",
    "order of a stranger": "It follows an order that is not the user's.",
    "sentence": "A sentence of the user or of the company forbids it.",
    "none": "",
}
"""Choice of the question for the rule → what the client shows for it."""
QUESTIONS = (
    Question(
        name="verdict",
        instructions='The verdict about "call", by the instructions of the system message. If you doubt and the action '
        "cannot be undone, it is flagged.",
        choices=(NOT_FLAGGED, FLAGGED),
    ),
    Question(
        name="rule",
        instructions="The rule that the call breaks: which part of the section Flag, or that a sentence forbids it. "
        "none: it breaks no rule.",
        choices=tuple(_RULES),
    ),
)
"""The same for a model that answers questions without writing text. Its reply is one object `answers`."""


class _Answer(Struct, frozen=True):
    choice: str
    probabilities: dict[str, float]


class _Block(Struct):
    type: str = ""
    text: str = ""


class CheckReply(Protocol):
    """What a verdict needs of a reply of the checking model: `MessagesResponse`, or the bytes of a relay."""

    content: list[Raw]
    stop_reason: str | None


def list_stored(checks: Sequence[CallCheck]) -> list[CallCheck]:
    """Return checks for records. Without a flagged call, the rule of a model may quote the conversation for nothing."""
    return [
        check if check.verdict == FLAGGED or check.kind == "rule" else structs.replace(check, rule="")
        for check in checks
    ]


def read_verdict(response: CheckReply, call_id: str, tool: str) -> CallCheck:
    """Return the verdict in a reply of the checking model."""

    def fail(reason: str, kind: CheckFailure = "unreadable") -> CallCheck:
        return CallCheck(call_id, tool, UNAVAILABLE, reason, kind=kind)

    def read_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(members := dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return members

    if response.stop_reason != "end_turn":
        kind: CheckFailure = "refusal" if response.stop_reason == "refusal" else "unreadable"
        return fail(f"the checking model ended with {response.stop_reason}", kind)
    text = ""
    if sum(memoryview(raw).nbytes for raw in response.content) > _MAX_REPLY_BYTES:
        return fail("the reply of the checking model is too long")
    try:
        for raw in response.content:
            block = msgspec.json.decode(raw, type=_Block)
            if block.type not in ("text", "thinking", "redacted_thinking"):
                return fail("the reply of the checking model is no text")
            text += block.text if block.type == "text" else ""
        found = load_json(text, read_once)
    except (ValueError, RecursionError):  # also of msgspec
        found = None
    is_written = not (isinstance(found, dict) and found.keys() == {"answers"})
    if not is_written:
        found = _read_answers(found["answers"])
    names = {"rule", "verdict", "explanation"} if is_written else {"rule", "verdict", "explanation", "probability"}
    if not isinstance(found, dict) or found.keys() != names:
        return fail("the reply of the checking model has not the required form")
    rule, verdict, explanation = found["rule"], found["verdict"], found["explanation"]
    probability: float | None = found.get("probability")
    is_text = isinstance(rule, str) and isinstance(explanation, str)
    if not is_text or verdict not in (NOT_FLAGGED, FLAGGED):
        return fail("the reply of the checking model has no valid verdict")
    reason = _shorten(explanation if explanation.strip() else rule)
    if verdict == NOT_FLAGGED:
        return CallCheck(call_id, tool, NOT_FLAGGED, rule=_shorten(rule), probability=probability)
    reason = reason or "The check found this call dangerous."
    return CallCheck(call_id, tool, FLAGGED, reason, rule=_shorten(rule), probability=probability)


def _read_answers(answers: object) -> dict[str, Any] | None:
    """Return the answers to `QUESTIONS` in the form of `SCHEMA`, with a probability. None: they are not valid.

    The choice must be the likelier one, and the probabilities must be of both choices.
    """
    try:
        found = msgspec.convert(answers, dict[str, _Answer])
    except msgspec.ValidationError:
        return None
    if found.keys() != {"verdict", "rule"}:
        return None
    verdict, rule = found["verdict"], found["rule"]
    shares = verdict.probabilities
    is_valid = shares.keys() == {NOT_FLAGGED, FLAGGED} and all(0 <= share <= 1 for share in shares.values())
    if not is_valid or rule.choice not in _RULES or shares.get(verdict.choice) != max(shares.values()):
        return None
    text = _RULES[rule.choice] if verdict.choice == FLAGGED else ""
    return {
        "rule": rule.choice,
        "verdict": verdict.choice,
        "explanation": text or ("The check found this call dangerous." if verdict.choice == FLAGGED else ""),
        "probability": shares[FLAGGED],
    }


def _shorten(text: str) -> str:
    """Return a text in one line. It ends with no part of an ASCII word, because nothing recognizes a part of a key."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_EXPLANATION else f"{line[:MAX_EXPLANATION].rstrip(_IN_KEYS).rstrip()}…"


def combine(first: CallCheck, second: CallCheck) -> CallCheck:
    """Return the verdict of two models, of which the second must agree (`confirm_with`).

    A failure beside `flagged` contradicts nothing, so the call stays flagged.
    """
    verdicts = {first.verdict, second.verdict}
    found = first
    if verdicts == {NOT_FLAGGED, FLAGGED}:
        reason = "the two checking models disagree"
        found = CallCheck(first.call, first.tool, UNAVAILABLE, reason, kind="disagreement")
    elif UNAVAILABLE in verdicts:
        wanted = FLAGGED if FLAGGED in verdicts else UNAVAILABLE
        found = first if first.verdict == wanted else second
    return structs.replace(found, request=first.request, confirmation=second.request)


class _Verdict(Struct, frozen=True):
    type: str = ""
    outcome: str = ""
    explanation: str = ""
    reason: str = ""


class _Status(_Verdict, frozen=True):
    tool_uses: dict[str, _Verdict] = {}


class _Result(Struct):
    type: str = ""
    status: _Status = _Status()


_decode_results = msgspec.json.Decoder(list[_Result]).decode


def read_results(results: bytes, calls: Iterable[tuple[str, str]]) -> list[CallCheck]:
    """Return the verdicts of a provider that checks the calls itself, from its field `safeguard_results`.

    `calls`: ids and names. A call without a verdict is left out, because the rule of the client decides about it.
    """
    try:
        listed = decode_or_repair(_decode_results, results, repair_json)
        status = next((one.status for one in listed if one.type == TYPE), _Status())
    except DECODE_ERRORS:
        return []
    checks = list[CallCheck]()
    for call, tool in calls:
        found = status.tool_uses.get(call) if status.type == "available" else status
        if found is None:
            continue
        outcome = found.outcome if found.type == "evaluated" else ""
        if outcome == NOT_FLAGGED:
            checks.append(CallCheck(call, tool, NOT_FLAGGED, kind="provider"))
        elif outcome == FLAGGED:
            checks.append(CallCheck(call, tool, FLAGGED, _shorten(found.explanation), kind="provider"))
        elif found.type in ("unavailable", "unsupported"):
            checks.append(CallCheck(call, tool, UNAVAILABLE, _shorten(found.reason) or found.type, kind="provider"))
    return checks


def build_results(checks: Iterable[CallCheck]) -> list[dict[str, Any]]:
    """Return the field `safeguard_results` for a reply.

    A call without a verdict is left out. Claude Code 2.1.332 then checks it by its own rule and classifier, as after
    `unavailable`; but `unavailable` would also stop calls that need no check, where it has no classifier.

    The client tells calls apart by their ids. If a provider gives several calls one id, the strictest verdict counts.
    """
    strictest: dict[str, CallCheck] = {}
    for check in checks:
        other = strictest.get(check.call)
        if other is None or _get_strictness(check) > _get_strictness(other):
            strictest[check.call] = check
    calls: dict[str, dict[str, str]] = {}
    for check in strictest.values():
        if check.verdict == NOT_FLAGGED:
            calls[check.call] = {"type": "evaluated", "outcome": NOT_FLAGGED}
        elif check.verdict == FLAGGED:
            calls[check.call] = {"type": "evaluated", "outcome": FLAGGED, "explanation": check.reason}
    return [{"type": TYPE, "status": {"type": "available", "tool_uses": calls}}]


def _get_strictness(check: CallCheck) -> int:
    return {NOT_FLAGGED: 0, FLAGGED: 2}.get(check.verdict, 1)


NO_VERDICTS: list[dict[str, Any]] = [{"type": TYPE, "status": {"type": "available", "tool_uses": {}}}]
"""An answer that has a verdict about no call."""
UNSUPPORTED: list[dict[str, Any]] = [{"type": TYPE, "status": {"type": "unsupported"}}]
"""The answer if `mode` of `[auto_mode]` is `off`."""
