"""Whether a call can be judged by its shown form, in which placeholders stand for texts that only the client gets.

A verdict holds only if the hidden text cannot decide which program runs. Nobody knows all programs that run a value of
an option, a variable, an argument or a line of a file. So a hidden text has a verdict only if it is one plain word, in
a call whose grammar says that the word is no name of a program. There are two such calls:

- `WebFetch` with an address, if the word stands behind the complete host: `https://example.com/WORD`.
- `Bash` with one `curl` and nothing that a shell interprets. The word is the value of a header
  (`-H "Authorization: Bearer WORD"`), or stands behind the complete host of an address, and curl stores no file.

All other calls have no verdict, so that the client asks its user, who sees the text itself. The same holds for a call
after one of them, because it may run what the earlier call has written. It need not name it: `make` reads a makefile,
and git runs hooks.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any

import msgspec

from anthropic_proxy.engine.exchange.final_calls import PLACEHOLDER, FinalCall, decode_arguments
from anthropic_proxy.engine.exchange.safeguards.rules import find_harmless_rule
from anthropic_proxy.engine.exchange.safeguards.transcript import EarlierCall, list_lines_of_question
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import InvalidRequest

PLAIN_WORD = "one word of the characters A-Z a-z 0-9 . _ @ -"
"""What the checking model is told about a hidden text."""
NO_PLAIN_WORD = "a redacted text in the call is not one plain word"
MAY_BE_A_COMMAND = "a redacted word in the call may be the name of a command"
MAY_RUN = "the call may run what an earlier call has written with a redacted text"
IS_REPLACED = "an inspector has replaced words of an earlier call"
IS_EDITED = "an inspector has changed the call, which the provider has not seen"
_PLAIN = compile_anchored(r"[A-Za-z0-9_@][A-Za-z0-9._@-]*")
_QUOTED = r"""'[^'"\\\x00-\x1f\x7f]*'|"[^'"\\$`!\x00-\x1f\x7f]*\""""
_WORD = rf"(?:--header=)?(?:{_QUOTED})|[A-Za-z0-9._@%+:=/?,~-]+"
_WORDS = compile_later(_WORD)
_CURL = compile_anchored(rf"curl(?: +(?:\\\n *)?(?:{_WORD}))+")
"""One command in which a shell does nothing but divide words."""
_HEADER = compile_anchored(r"[A-Za-z][A-Za-z0-9-]*: (?:[A-Za-z]{1,20} )?[A-Za-z0-9._@=+/-]+")
_HEADER_OPTIONS = ("-H", "--header")
_PRINTING_OPTION = compile_anchored(
    r"-[fgikLsSv]+|-[HmX]|--(?:header|max-time|request|fail|include|location|show-error|silent|verbose)"
)
"""Options of curl with which it prints what it gets. Others may store it in a file with the name in the address."""
_decode_line = msgspec.json.Decoder(dict[str, str]).decode
_ADDRESS = compile_anchored(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[A-Za-z0-9._~%/?=:@+,&-]*")
"""An address whose host ends with `/`, and has no `_`, so that no placeholder is in it."""


def find_doubt(tool: str, shown: str, hidden: Mapping[str, str]) -> str:
    """Return why a call cannot be judged by `shown`, its input as JSON text. "": it can.

    `hidden`: placeholder → text. It may have placeholders that do not occur.
    """
    if not hidden:
        return ""
    from anthropic_proxy.engine.exchange.inspection.texts import read_arguments  # noqa: PLC0415  # loaded with inspectors

    present = set[str]()
    is_certain = True
    for text in read_arguments(shown, tool).texts:
        words = hidden.keys() & PLACEHOLDER.findall(text.passage.text)
        present |= words
        is_certain &= not words or _is_certain(tool, text.member, text.passage.text, words)
    if not present:
        return ""
    if not isinstance(decode_arguments(shown), dict):  # clients may read another input
        return NO_PLAIN_WORD
    if not all(_PLAIN.fullmatch(hidden[word]) for word in present):
        return NO_PLAIN_WORD
    return "" if is_certain else MAY_BE_A_COMMAND


def find_doubt_of_provider(call: FinalCall) -> str:
    """Return why the provider's verdict about a call is not about what the client gets. "": it is."""
    if call.is_edited:
        return IS_EDITED
    if call.hidden and call.is_ambiguous:
        return NO_PLAIN_WORD
    return find_doubt(call.name, call.shown, call.hidden)


def find_doubt_of_earlier_calls(
    calls: Iterable[EarlierCall], hidden: Mapping[str, str], context: Mapping[str, Any]
) -> str:
    """Return why no call after the given ones can be judged. "": it can.

    `context`: the `classifier_context` of the client. Calls that only read have written nothing.
    """
    for call in calls:
        if find_doubt(call.tool, call.input, hidden):
            # loaded with inspectors
            from anthropic_proxy.engine.exchange.inspection.texts import HiddenTexts, restore_arguments  # noqa: PLC0415

            arguments = decode_arguments(restore_arguments(call.input, HiddenTexts(hidden)).arguments)
            if not find_harmless_rule(call.tool, arguments, context):
                return MAY_RUN
    return ""


def hides_call(question: bytes, hidden: Mapping[str, str]) -> bool:
    """Return True if a call has a hidden text in a question of the client's classifier, the body of a request.

    What the user wrote runs nothing, and neither do the rules and files before the conversation. Claude Code has no
    tool with the name `user`.
    """
    try:
        lines = list_lines_of_question(question)
    except (ValueError, InvalidRequest):
        return True
    return any(not hidden.keys().isdisjoint(PLACEHOLDER.findall(line)) and not _is_line_of_user(line) for line in lines)


def _is_line_of_user(line: str) -> bool:
    try:
        return _decode_line(line).keys() == {"user"}
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def _is_certain(tool: str, member: str, text: str, hidden: Collection[str]) -> bool:
    """Return True if no hidden word of a text can be the name of a command.

    `member`: name of the member of the input that is the text. "": another place.
    """
    match tool, member:
        case "WebFetch", "url":
            return _ADDRESS.fullmatch(text) is not None
        case "Bash", "command":
            return _is_certain_command(text, hidden)
        case _:
            return False


def _is_certain_command(command: str, hidden: Collection[str]) -> bool:
    """Return True if all hidden words of a command are in headers and addresses of one `curl`."""
    if not _CURL.fullmatch(command):
        return False
    words = _WORDS.findall(command)
    prints = all(_PRINTING_OPTION.fullmatch(option) for word in words if (option := _read_option(word)))
    for previous, word in pairwise(words):
        if not any(placeholder in hidden for placeholder in PLACEHOLDER.findall(word)):
            continue
        is_header = previous in _HEADER_OPTIONS or word.startswith("--header=")
        text = word.removeprefix("--header=").strip("'\"")
        if not (_HEADER.fullmatch(text) if is_header else prints and _ADDRESS.fullmatch(text)):
            return False
    return True


def _read_option(word: str) -> str:
    """Return the name of an option. "": the word is none."""
    text = word.partition("=")[0].strip("'\"")
    return text if text.startswith("-") else ""
