"""What the checking model reads: fixed instructions, then one JSON object about the conversation and the call.

The object has what the user wrote, earlier tool calls with shortened inputs, and the call. It has no result of a tool
and no text of the model, because what a web page or file said must not decide. Texts are JSON strings, and invisible
and look-alike characters are written as escapes, so nothing in them can end a string or look like another part. The
size is limited: of a long text in an input, the beginning, the end and parts of the middle are shown. If even that is
too much, the call is not checked.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.exchange.safeguards.transcript import (
    MAX_EARLIER_CALLS,
    EarlierCall,
    Transcript,
    shorten,
    shorten_call,
)
from anthropic_proxy.engine.exchange.safeguards.verdict import SCHEMA
from anthropic_proxy.engine.options import AutoMode
from anthropic_proxy.engine.patterns import compile_later

MAX_REPLY_TOKENS = 4_096
"""Maximum output tokens of a check. A verdict has about 60; models that always reason need the rest."""
MAX_CALL_CHARACTERS = 24_000
"""Maximum characters of the input of the checked call that are shown in full."""
_END_CHARACTERS = 6_000
"""Characters at the beginning and at the end of a long text in a longer input. Up to 2,000 more complete a line."""
_MAX_LINE = 2_000
_MAX_SHOWN_CHARACTERS = 48_000
"""Maximum characters of a longer input that are shown. A call with more is not checked."""
_MAX_EARLIER_INPUT, _MAX_WRITTEN_FILES = 300, 4
"""Maximum characters of the input of an earlier call, and number of those that are shown without this limit, because
they wrote a file which the checked call names."""
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
_WRITING_TOOLS = frozenset(("Edit", "MultiEdit", "NotebookEdit", "Write"))
"""Tools that write files, which later calls may run."""
_WRITTEN_FILE = compile_later(r'"(?:file_path|notebook_path|path)": ?"([^"\\]{1,300})"')
_RISKY = compile_later(
    r"\b(?:rm|rmdir|unlink|shred|dd|mkfs\w*|truncate|find|xargs|parallel|curl|wget|nc|ncat|netcat|socat|telnet|ssh|scp"
    r"|sftp|rsync|ftp|sudo|doas|su|chmod|chown|chgrp|setfacl|kill|killall|pkill|eval|exec|source|bash|zsh|dash|ksh|sh"
    r"|python[\d.]*|perl|ruby|node|deno|bun|php|lua|osascript|powershell|pwsh|cmd|iex|base64|xxd|openssl|gpg|crontab"
    r"|systemctl|launchctl|service|schtasks|reg|at|nohup|disown|screen|tmux|git|gh|glab|npm|npx|pnpm|yarn|pip\d*|pipx|uv"
    r"|twine|cargo|gem|docker|podman|kubectl|helm|terraform|pulumi|ansible\S*|aws|gcloud|az|gsutil|heroku|fly|vercel"
    r"|netlify|psql|mysql|mongo\w*|redis-cli|sqlite3|drop|delete|update|insert|alter|grant|revoke|truncate|push|publish"
    r"|deploy|release|upload|force|hard|prod\w*|secret\w*|token\w*|password\w*|passwd|credential\w*|key|keys|id_rsa"
    r"|authorized_keys|bashrc|zshrc|profile|hooks?|cron|sudoers|hosts|env|environ|printenv|export|payment\w*|invoice\w*"
    r"|transfer|http|https|subprocess|popen|system|spawn|import|require|fetch|socket|requests|urllib|shutil|unlink\w*"
    r"|rmtree|remove\w*|write\w*|open)\b|[|;&`]|\$\(|<\(|>|\.\./|~/|/etc/|/dev/|/proc/|\.ssh|\.aws|\.env|\\x[0-9a-f]{2}",
    re.IGNORECASE,
)
"""Pattern of risky words: what deletes, sends, publishes, runs code, changes permissions or reaches other places."""

INSTRUCTIONS = Path(__file__).with_name("instructions.txt").read_text("utf-8")
"""The stable beginning of every check, which providers can cache."""


class ToolCallToCheck(Struct, frozen=True):
    """A complete tool call of a reply, as the client gets it."""

    id: str
    name: str
    arguments: str
    """The input as JSON text, as the model wrote it. "": `{}`."""
    is_too_long: bool = False
    """True if `arguments` lacks the input, which has more than `MAX_ARGUMENTS_CHARACTERS`."""


class OpenCall:
    """A tool call of a stream that is not complete."""

    def __init__(self, call_id: str, name: str) -> None:
        self._id = call_id
        self._name = name
        self._fragments: list[str] = []
        self._size = 0

    def add(self, fragment: str) -> None:
        self._size += len(fragment)
        if self._size <= MAX_ARGUMENTS_CHARACTERS:
            self._fragments.append(fragment)
        else:
            self._fragments.clear()

    def build(self) -> ToolCallToCheck:
        is_too_long = self._size > MAX_ARGUMENTS_CHARACTERS
        return ToolCallToCheck(self._id, self._name, "".join(self._fragments), is_too_long=is_too_long)


_TOO_LONG = "the input of the call is too long for a check"
_CONTEXT_IS_TOO_LONG = "the rules and facts of the client are too long for a check"
MAX_ARGUMENTS_CHARACTERS = 1_000_000
"""Maximum characters of an input that is read."""


CONTEXT_TOO_LONG: Mapping[str, Any] = {"restricted": True}
"""Stands for a `classifier_context` that is too long for a check."""


class CallTooLargeError(ValueError):
    """The call, or the facts of the client, cannot be shown to the checking model."""


def select_context(members: Mapping[str, Raw]) -> Mapping[str, Any]:
    """Return the fields of a `classifier_context` that checks read, decoded. Others may have any size."""
    read = {name: members[name] for name in _READ_FIELDS if name in members}
    if sum(memoryview(raw).nbytes for raw in read.values()) > _MAX_CONTEXT_BYTES:
        return CONTEXT_TOO_LONG
    return {name: msgspec.json.decode(raw) for name, raw in read.items()}


def build_check_body(
    call: ToolCallToCheck,
    before: Sequence[ToolCallToCheck],
    transcript: Transcript,
    *,
    context: Mapping[str, Any],
    auto_mode: AutoMode,
    model: str,
) -> bytes:
    """Return the body of the request to the checking model.

    `before`: calls of the same reply before this one. Raises `CallTooLargeError`.
    """
    if context is CONTEXT_TOO_LONG:
        raise CallTooLargeError(_CONTEXT_IS_TOO_LONG)
    facts = {name: _cut(context[name], name) for name in _CONTEXT_FIELDS if context.get(name) is not None}
    given = context.get("auto_mode")
    user = {name: given[name] for name in _SENTENCES if given.get(name)} if isinstance(given, dict) else {}
    company = {name: listed for name in ("deny", "allow", "environment") if (listed := list(getattr(auto_mode, name)))}
    sentences = {"user": user, "company": company}
    if _count_characters(facts) + _count_characters(sentences) > _MAX_CONTEXT:
        raise CallTooLargeError(_CONTEXT_IS_TOO_LONG)
    earlier = [*transcript.earlier_calls, *(shorten_call(one.name, one.arguments) for one in before)]
    # The beginning of the list moves with each tenth call only, so that providers can cache what precedes the call.
    too_many = max(transcript.calls_left_out + len(earlier) - MAX_EARLIER_CALLS, 0)
    left_out = too_many + -too_many % 10
    parts: dict[str, Any] = {
        "context": _separate_repository_rules(facts),
        "sentences": sentences,
        "user_messages": list(transcript.user_messages),
    }
    if transcript.agent_task:
        parts["agent_task"] = list(transcript.agent_task)
    if left_out:
        parts["earlier_calls_left_out"] = left_out
    shown = earlier[left_out - transcript.calls_left_out if left_out else 0 :]
    parts["earlier_calls"] = _describe_earlier_calls(shown, call.arguments)
    parts["call"] = _describe_call(call)
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
    """`name`: field of the fact. Without all that forbids a call, none may be checked."""
    if isinstance(fact, dict):
        return {name: _cut(value, name) for name, value in fact.items()}
    if isinstance(fact, list):
        half = _MAX_ENTRIES // 2
        too_many = 0 if name in _FORBIDDING else len(fact) - 2 * half
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


def _describe_earlier_calls(calls: Sequence[EarlierCall], checked: str) -> list[dict[str, str]]:
    """`checked`: the input of the checked call. What it runs may be a file that an earlier call has written."""
    shown, written = list[dict[str, str]](), 0
    for call in reversed(calls):
        place = _WRITTEN_FILE.search(call.input) if call.tool in _WRITING_TOOLS else None
        is_named = place is not None and place[1].rpartition("/")[2] in checked and written < _MAX_WRITTEN_FILES
        written += is_named
        text = call.input if is_named else shorten(call.input, _MAX_EARLIER_INPUT)
        shown.append({"tool": call.tool, "input": text})
    return shown[::-1]


def _describe_call(call: ToolCallToCheck) -> dict[str, Any]:
    if call.is_too_long or len(call.arguments) > MAX_ARGUMENTS_CHARACTERS:
        raise CallTooLargeError(_TOO_LONG)
    value = decode_arguments(call.arguments)
    if len(call.arguments) > MAX_CALL_CHARACTERS:
        value = _shorten_texts(value)
        if _count_characters(value) > _MAX_SHOWN_CHARACTERS or len(_encode(value)) > _MAX_SHOWN_CHARACTERS:
            raise CallTooLargeError(_TOO_LONG)
    return {"tool": call.name[:200], "input": value}


def _shorten_texts(value: Any) -> Any:
    """Return an input with the ends and some lines of its long texts, in place of these texts."""
    if isinstance(value, dict):
        return {name: _shorten_texts(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shorten_texts(item) for item in value]
    if not isinstance(value, str) or len(value) <= 2 * (_END_CHARACTERS + _MAX_LINE):
        return value
    start = value.find("\n", _END_CHARACTERS, _END_CHARACTERS + _MAX_LINE) + 1 or _END_CHARACTERS
    latest = len(value) - _END_CHARACTERS
    end = value.rfind("\n", latest - _MAX_LINE, latest) + 1 or latest
    lines = _find_new_lines(value, start, end)
    return {"characters": len(value), "beginning": value[:start], "excerpts": lines, "end": value[end:]}


def _find_new_lines(text: str, start: int, end: int) -> list[str]:
    """Return the lines that have not occurred before, or have a risky word. Other lines only repeat what is shown."""
    seen = {*text[:start].split("\n"), *text[end:].split("\n")}
    excerpts, shown, is_open = list[str](), 0, False
    for line in text[start:end].removesuffix("\n").split("\n"):
        is_shown = line not in seen or _RISKY.search(line) is not None
        if is_shown:
            seen.add(line)
            shown += len(line) + 1
            if shown > _MAX_SHOWN_CHARACTERS:
                raise CallTooLargeError(_TOO_LONG)
            if is_open:
                excerpts[-1] += f"\n{line}"
            else:
                excerpts.append(line)
        is_open = is_shown
    return excerpts


def decode_arguments(text: str) -> Any:
    """Return the input of a call as the client reads it, or its text if that is no JSON."""
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
