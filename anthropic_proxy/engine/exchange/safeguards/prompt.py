"""What the checking model reads: fixed instructions, then one JSON object about the conversation and the call.

The object has what the user wrote, earlier tool calls, and the call. It has no result of a tool and no text of the
model, because what a web page or file said must not decide. Texts are JSON strings, and invisible and look-alike
characters are written as escapes, so nothing in them can end a string or look like another part.

The size is limited, and two different inputs never have the same form here. In a long input of the call, only lines
that equal the line before them are replaced by their number. All earlier calls are shown whole, because the call may
run what they have written without naming it. If this is too much, the call is not checked.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.engine.exchange.final_calls import (
    MAX_KEPT_CHARACTERS,
    PLACEHOLDER,
    FinalCall,
    decode_arguments,
)
from anthropic_proxy.engine.exchange.safeguards.hidden_texts import PLAIN_WORD, find_doubt_of_earlier_calls
from anthropic_proxy.engine.exchange.safeguards.transcript import EarlierCall, Transcript, shorten
from anthropic_proxy.engine.exchange.safeguards.verdict import SCHEMA
from anthropic_proxy.engine.messages.models.client_json import decode_values
from anthropic_proxy.engine.options import AutoMode
from anthropic_proxy.engine.patterns import compile_later

MAX_REPLY_TOKENS = 4_096
"""Maximum output tokens of a check. A verdict has about 60; models that always reason need the rest."""
MAX_CALL_CHARACTERS = 48_000
"""Maximum characters of the input of the checked call. If repeated lines do not make it shorter, it is not checked."""
_MIN_REPEATED_LINES = 3
"""Minimum number of equal lines in a row of a longer input that are replaced by their number."""
_REPEATED = "text_with_repeated_lines"
"""Key of the object that takes the place of a text with replaced lines."""
_MAX_NAME = 200
MAX_EARLIER_CHARACTERS = 128_000
"""Maximum characters of all earlier calls together. After more, no call is checked."""
_SIZE_OF_CALL = 30
"""Characters of an earlier call beside its name and input."""
_MAX_CONTEXT = 16_000
"""Maximum characters of the facts and sentences of the client. A call with more is not checked."""
_MAX_FACT, _MAX_ENTRIES = 1_000, 30
"""Maximum characters of a text, and entries of a list, among the facts: names of changed files, rules with patterns.
Longer ones are cut."""
_FORBIDDING = frozenset(("deny", "ask", "refused_calls"))
"""Lists among the facts that are never cut. If they do not fit, the call is not checked."""
_MAX_CONTEXT_BYTES = 12 * _MAX_CONTEXT
"""The same as JSON, in which one character may be two escapes of six bytes."""
_CONTEXT_FIELDS = (
    *("permission_mode", "platform", "live_cwd", "home_dir", "trusted_directories", "rules", "restricted"),
    *("is_remote_mode", "user_identity", "git_state", "refused_calls"),
)
"""Fields of the `classifier_context` that the checking model gets. Others, which newer clients may send, are left out.
"""
_READ_FIELDS = (*_CONTEXT_FIELDS, "auto_mode", "classify_all_shell")
_SENTENCES = ("allow", "soft_deny", "hard_deny", "environment")
_FROM_REPOSITORY = "projectSettings"
_DECEPTIVE = compile_later(
    "[\x7f-\xa0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800"
    "\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uff01-\uff5e\uffa0\ufff0-\ufffb\U0001d400-\U0001d7ff"
    "\U000e0000-\U000e0fff]|(?<=[A-Za-z])[\u0370-\u052f]|[\u0370-\u052f](?=[A-Za-z])"
)
"""Characters that have no shape, look like a blank or a Latin letter, or change the direction of others. Greek and
Cyrillic letters only beside Latin ones."""
INSTRUCTIONS = Path(__file__).with_name("instructions.txt").read_text("utf-8")
"""The stable beginning of every check, which providers can cache."""


_TOO_LONG = "the input of the call is too long for a check"
_CONTEXT_IS_TOO_LONG = "the rules and facts of the client are too long for a check"
_NAME_IS_TOO_LONG = "the name of the tool is too long for a check"
_EARLIER_ARE_TOO_LONG = "the earlier calls are too long for a check; compact or clear the conversation"
_EARLIER_IS_AMBIGUOUS = "clients may read another input of an earlier call than the proxy"
CONTEXT_TOO_LONG: Mapping[str, Any] = {"restricted": True}
"""Stands for a `classifier_context` that is too long for a check."""


class CallTooLargeError(ValueError):
    """The call, or the facts of the client, cannot be shown to the checking model."""


class HiddenTextError(ValueError):
    """An earlier call has a redacted text that the call may run."""


class AmbiguousCallError(ValueError):
    """Clients may read another input of an earlier call of the same reply."""


def select_context(members: Mapping[str, Raw]) -> Mapping[str, Any]:
    """Return the fields of a `classifier_context` that checks read, decoded. Others may have any size."""
    read = {name: members[name] for name in _READ_FIELDS if name in members}
    if sum(memoryview(raw).nbytes for raw in read.values()) > _MAX_CONTEXT_BYTES:
        return CONTEXT_TOO_LONG
    return {name: decode_values(raw) for name, raw in read.items()}


def build_check_body(
    call: FinalCall,
    before: Sequence[FinalCall],
    transcript: Transcript,
    *,
    context: Mapping[str, Any],
    auto_mode: AutoMode,
    model: str,
    placeholders: Mapping[str, str] = {},
) -> bytes:
    """Return the body of the request to the checking model.

    `before`: calls of the same reply before this one. `placeholders`: placeholder → text, of what inspectors have
    redacted in the conversation. Raises `CallTooLargeError`, `HiddenTextError` and `AmbiguousCallError`.
    """
    if context is CONTEXT_TOO_LONG:
        raise CallTooLargeError(_CONTEXT_IS_TOO_LONG)
    described = _describe_call(call)
    earlier = _list_earlier_calls(transcript, before)
    facts = {name: _cut(context[name], name) for name in _CONTEXT_FIELDS if context.get(name) is not None}
    given = context.get("auto_mode")
    user = {name: given[name] for name in _SENTENCES if given.get(name)} if isinstance(given, dict) else {}
    company = {name: listed for name in ("deny", "allow", "environment") if (listed := list(getattr(auto_mode, name)))}
    sentences = {"user": user, "company": company}
    if _count_characters(facts) + _count_characters(sentences) > _MAX_CONTEXT:
        raise CallTooLargeError(_CONTEXT_IS_TOO_LONG)
    if doubt := find_doubt_of_earlier_calls(earlier, {**placeholders, **call.hidden}, context):
        raise HiddenTextError(doubt)
    parts: dict[str, Any] = {
        "context": _separate_repository_rules(facts),
        "sentences": sentences,
        "user_messages": list(transcript.user_messages),
    }
    if transcript.messages_left_out:
        parts["user_messages_left_out"] = transcript.messages_left_out
    if transcript.agent_task:
        parts["agent_task"] = list(transcript.agent_task)
    parts["earlier_calls"] = [structs.asdict(earlier_call) for earlier_call in earlier]
    parts["call"] = described
    if len(_encode(parts["context"])) + len(_encode(parts["sentences"])) > _MAX_CONTEXT:
        raise CallTooLargeError(_CONTEXT_IS_TOO_LONG)
    lines = ",\n".join(f"{_encode(name)}: {_encode(value)}" for name, value in parts.items())
    content = f"{{\n{lines}\n}}"
    system = {"type": "text", "text": INSTRUCTIONS, "cache_control": {"type": "ephemeral"}}
    return msgspec.json.encode(
        {
            "model": model,
            "max_tokens": MAX_REPLY_TOKENS,
            "thinking": {"type": "disabled"},
            "system": [system],
            "messages": [{"role": "user", "content": content}],
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        }
    )


def _encode(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return _DECEPTIVE.sub(lambda character: json.dumps(character[0])[1:-1], text)


def _count_characters(value: object) -> int:
    """Return the length as JSON, without the escapes of `_encode`, which take long."""
    return len(json.dumps(value, ensure_ascii=False))


def _cut(fact: Any, name: str = "") -> Any:
    """`name`: field of the fact. What forbids a call is not cut: without all of it, none may be checked."""
    if name in _FORBIDDING:
        return fact
    if isinstance(fact, dict):
        return {name: _cut(value, name) for name, value in fact.items()}
    if isinstance(fact, list):
        half = _MAX_ENTRIES // 2
        too_many = len(fact) - 2 * half
        kept = fact if too_many <= 0 else [*fact[:half], f"{too_many} entries left out", *fact[-half:]]
        return [_cut(entry) for entry in kept]
    return shorten(fact, _MAX_FACT) if isinstance(fact, str) else fact


def _separate_repository_rules(facts: dict[str, Any]) -> dict[str, Any]:
    rules = facts.get("rules")
    if not isinstance(rules, dict) or not isinstance(listed := rules.get("allow"), list):
        return facts
    of_repository, others = list[Any](), list[Any]()
    for rule in listed:
        (of_repository if _FROM_REPOSITORY in _encode(rule) else others).append(rule)
    if not of_repository:
        return facts
    return {**facts, "rules": {**rules, "allow": others}, "repository_rules": of_repository}


def _list_earlier_calls(transcript: Transcript, before: Sequence[FinalCall]) -> Sequence[EarlierCall]:
    if any(call.is_ambiguous for call in before):
        raise AmbiguousCallError(_EARLIER_IS_AMBIGUOUS)
    calls = [*transcript.earlier_calls, *(EarlierCall(call.name, call.shown) for call in before)]
    size = sum(_SIZE_OF_CALL + len(call.tool) + len(call.input) for call in calls)
    if size > MAX_EARLIER_CHARACTERS or any(call.is_too_long for call in before):
        raise CallTooLargeError(_EARLIER_ARE_TOO_LONG)
    return calls


def _describe_call(call: FinalCall) -> dict[str, Any]:
    if call.is_too_long or len(call.shown) > MAX_KEPT_CHARACTERS:
        raise CallTooLargeError(_TOO_LONG)
    if len(call.name) > _MAX_NAME:
        raise CallTooLargeError(_NAME_IS_TOO_LONG)
    value = decode_arguments(call.shown)
    described: dict[str, Any] = {"tool": call.name, "input": value}
    if len(_encode(value)) > MAX_CALL_CHARACTERS:
        described = {"tool": call.name, "has_repeated_lines": True, "input": _replace_repeated_lines(value)}
    if hidden := {name for name in PLACEHOLDER.findall(_encode(value)) if name in call.hidden}:
        described["placeholders"] = dict.fromkeys(sorted(hidden), PLAIN_WORD)
    if len(_encode(described)) > MAX_CALL_CHARACTERS:
        raise CallTooLargeError(_TOO_LONG)
    return described


def _replace_repeated_lines(value: Any) -> Any:
    """Return an input with the number of equal lines in a row, in place of these lines."""
    if isinstance(value, dict):
        if _REPEATED in value:  # it would look like a text
            raise CallTooLargeError(_TOO_LONG)
        return {name: _replace_repeated_lines(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_replace_repeated_lines(item) for item in value]
    if not isinstance(value, str):
        return value
    parts: list[Any] = [""]
    is_replaced = False
    for line, lines in groupby(value.splitlines(keepends=True)):
        count = sum(1 for _ in lines)
        if count >= _MIN_REPEATED_LINES:
            parts += [{"line": line, "times": count}, ""]
            is_replaced = True
        else:
            parts[-1] += line * count
    return {_REPEATED: [part for part in parts if part]} if is_replaced else value
