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

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from anthropic_proxy.engine.exchange.final_calls import PLACEHOLDER, FinalCall, decode_arguments
from anthropic_proxy.engine.exchange.safeguards.rules import find_harmless_rule
from anthropic_proxy.engine.exchange.safeguards.transcript import EarlierCall
from anthropic_proxy.engine.patterns import compile_anchored, compile_later

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
_ADDRESS = compile_anchored(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[A-Za-z0-9._~%/?=:@+,&-]*")
"""An address whose host ends with `/`, and has no `_`, so that no placeholder is in it."""


def find_doubt(tool: str, shown: str, hidden: Mapping[str, str]) -> str:
    """Return why a call cannot be judged by `shown`, its input as JSON text. "": it can.

    `hidden`: placeholder → text. It may have placeholders that do not occur.
    """
    if not hidden:
        return ""
    try:
        # with the repeated members of an object too, of which clients read different ones
        arguments = json.loads(shown or "{}", object_pairs_hook=_Members)
    except (ValueError, RecursionError):
        arguments = shown
    doubt = ""
    for name, text in _list_strings(arguments):
        present = {place: hidden[place] for place in PLACEHOLDER.findall(text) if place in hidden}
        if not present:
            continue
        if not isinstance(arguments, _Members) or not all(map(_PLAIN.fullmatch, present.values())):
            return NO_PLAIN_WORD
        match tool, name:
            case "WebFetch", "url":
                is_certain = _ADDRESS.fullmatch(text) is not None
            case "Bash", "command":
                is_certain = _is_certain_command(text, present)
            case _:
                is_certain = False
        doubt = doubt if is_certain else MAY_BE_A_COMMAND
    return doubt


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
            arguments = _restore(decode_arguments(call.input), hidden)
            if not find_harmless_rule(call.tool, arguments, context):
                return MAY_RUN
    return ""


def _restore(arguments: Any, hidden: Mapping[str, str]) -> Any:
    """Return the input that the client has run."""
    shown = json.dumps(arguments)
    return json.loads(PLACEHOLDER.sub(lambda place: json.dumps(hidden.get(place[0], place[0]))[1:-1], shown))


class _Members(list[tuple[str, Any]]):
    """An object of JSON."""


def _list_strings(arguments: Any) -> Iterator[tuple[str, str]]:
    """Yield the strings of an input, and the name of the member of the input that is this string. "": another place."""
    waiting = [arguments]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Members):
            for key, member in value:
                yield "", key
                if value is arguments and isinstance(member, str):
                    yield key, member
                else:
                    waiting.append(member)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            yield "", value


def _is_certain_command(command: str, hidden: Mapping[str, str]) -> bool:
    """Return True if all hidden words of a command are in headers and addresses of one `curl`."""
    if not _CURL.fullmatch(command):
        return False
    words = _WORDS.findall(command)
    prints = all(_PRINTING_OPTION.fullmatch(option) for word in words if (option := _read_option(word)))
    for previous, word in pairwise(words):
        if hidden.keys().isdisjoint(PLACEHOLDER.findall(word)):
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
