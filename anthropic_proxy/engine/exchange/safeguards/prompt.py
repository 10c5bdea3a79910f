"""What the checking model reads: fixed instructions, then one JSON object about the conversation and the call.

The object has what the user wrote, earlier tool calls with shortened inputs, and the call. It has no result of a tool
and no text of the model, because what a web page or file said must not decide. Texts are JSON strings, and invisible
and look-alike characters are written as escapes, so nothing in them can end a string or look like another part.

The size is limited, and nothing that the call runs is left out: two different inputs never have the same form here. In
a long input, only lines that equal the line before them are replaced by their number. Earlier calls that name a file
of the call are shown whole, because it may run what they have written. If this is too much, the call is not checked.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.exchange.final_calls import MAX_KEPT_CHARACTERS, PLACEHOLDER, FinalCall
from anthropic_proxy.engine.exchange.safeguards.hidden_texts import NO_PLAIN_WORD, PLAIN_WORD, find_doubt
from anthropic_proxy.engine.exchange.safeguards.rules import find_harmless_rule
from anthropic_proxy.engine.exchange.safeguards.transcript import (
    EarlierCall,
    Transcript,
    find_words,
    keep_call,
    shorten,
)
from anthropic_proxy.engine.exchange.safeguards.verdict import SCHEMA
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
MAX_EARLIER_CALLS = 40
_MAX_EARLIER_INPUT, _MAX_SAME_FILES = 300, 64_000
"""Maximum characters of the input of an earlier call, and of all inputs together that are shown whole."""
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
_FILES_ARE_TOO_LONG = "the earlier calls that name a file of the call are too long for a check"
CONTEXT_TOO_LONG: Mapping[str, Any] = {"restricted": True}
"""Stands for a `classifier_context` that is too long for a check."""


class CallTooLargeError(ValueError):
    """The call, or the facts of the client, cannot be shown to the checking model."""


class HiddenTextError(ValueError):
    """An earlier call that may have written what the call runs has a redacted text that matters."""


def select_context(members: Mapping[str, Raw]) -> Mapping[str, Any]:
    """Return the fields of a `classifier_context` that checks read, decoded. Others may have any size."""
    read = {name: members[name] for name in _READ_FIELDS if name in members}
    if sum(memoryview(raw).nbytes for raw in read.values()) > _MAX_CONTEXT_BYTES:
        return CONTEXT_TOO_LONG
    return {name: msgspec.json.decode(raw) for name, raw in read.items()}


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
    redacted in the conversation. Raises `CallTooLargeError` and `HiddenTextError`.
    """
    if context is CONTEXT_TOO_LONG:
        raise CallTooLargeError(_CONTEXT_IS_TOO_LONG)
    described = _describe_call(call)
    facts = {name: _cut(context[name], name) for name in _CONTEXT_FIELDS if context.get(name) is not None}
    given = context.get("auto_mode")
    user = {name: given[name] for name in _SENTENCES if given.get(name)} if isinstance(given, dict) else {}
    company = {name: listed for name in ("deny", "allow", "environment") if (listed := list(getattr(auto_mode, name)))}
    sentences = {"user": user, "company": company}
    if _count_characters(facts) + _count_characters(sentences) > _MAX_CONTEXT:
        raise CallTooLargeError(_CONTEXT_IS_TOO_LONG)
    earlier = [*transcript.earlier_calls, *(keep_call(one.name, one.shown) for one in before)]
    # The beginning of the list moves with each tenth call only, so that providers can cache what precedes the call.
    too_many = max(len(earlier) - MAX_EARLIER_CALLS, 0)
    left_out = too_many + -too_many % 10
    parts: dict[str, Any] = {
        "context": _separate_repository_rules(facts),
        "sentences": sentences,
        "user_messages": list(transcript.user_messages),
    }
    if transcript.messages_left_out:
        parts["user_messages_left_out"] = transcript.messages_left_out
    if transcript.agent_task:
        parts["agent_task"] = list(transcript.agent_task)
    if left_out:
        parts["earlier_calls_left_out"] = left_out
    parts["earlier_calls"] = [
        {"tool": one.tool, "input": shorten(one.input, _MAX_EARLIER_INPUT)} for one in earlier[left_out:]
    ]
    if placeholders:
        _require_visible_calls(earlier, placeholders, context)
    if same_files := _find_calls_of_same_files(call, earlier, left_out, placeholders):
        parts["earlier_calls_with_same_files"] = [{"tool": one.tool, "input": one.input} for one in same_files]
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
    return _DECEPTIVE.sub(lambda found: json.dumps(found[0])[1:-1], text)


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


def _require_visible_calls(
    earlier: Sequence[EarlierCall], placeholders: Mapping[str, str], context: Mapping[str, Any]
) -> None:
    """Raise `HiddenTextError` if an earlier call has a redacted text that the call may run without naming its file, as
    `make` and `npm test` do. One plain word is no program, and calls that only read write nothing.
    """
    for one in earlier:
        if find_doubt(one.input, placeholders) == NO_PLAIN_WORD and not find_harmless_rule(
            one.tool, decode_arguments(one.input), context
        ):
            raise HiddenTextError("an earlier call has a redacted text that is not one plain word")


def _find_calls_of_same_files(
    call: FinalCall, earlier: Sequence[EarlierCall], left_out: int, placeholders: Mapping[str, str]
) -> list[EarlierCall]:
    """Return the earlier calls that name a file of the call, and of which the checking model would not see all.

    `left_out`: number of earlier calls that it does not see at all.
    """
    words = find_words(call.shown)
    found = [one for one in earlier if not words.isdisjoint(one.names)]
    if any(find_doubt(one.input, placeholders) for one in found):
        raise HiddenTextError("a redacted text is in an earlier call that names a file of the call")
    is_seen = {id(one) for one in earlier[left_out:] if len(one.input) <= _MAX_EARLIER_INPUT}
    found = [one for one in found if id(one) not in is_seen]
    if sum(len(one.input) for one in found) > _MAX_SAME_FILES:
        raise CallTooLargeError(_FILES_ARE_TOO_LONG)
    return found


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


def decode_arguments(text: str) -> Any:
    """Return the input of a call as the client reads it.

    If it is no JSON, or has a key twice, of which clients read different values, return its text.
    """
    try:
        return json.loads(text or "{}", object_pairs_hook=_read_once)
    except (ValueError, RecursionError):
        return text


def _read_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members
