"""Whether a call can be judged by its shown form, in which placeholders stand for texts that only the client gets.

A verdict about a call holds only if the hidden texts cannot change what the call does. This is certain for a plain
word at a place that no shell reads as the name of a command. Which programs run their arguments (`sudo`, `xargs`,
`sh -c` …) is known to nobody completely. So no list of names decides, but the place alone: a word that consists of the
hidden text, or has it in a path, may be a command, whatever stands before it. Three places are certain:

- the value of an option or assignment: `--token=WORD`, `KEY=WORD`. Not in a text with `$`, a backtick or a separator
  of commands, which could run the value later. In a text of several lines, it must be a line of its own.
- the value of a header, which fills the quotes around it: `curl -H "Authorization: Bearer WORD"`. A shell that runs
  this text would run `Authorization:`. Not in a text that has `<` or `>`, or one of the characters above, or several
  lines, because in a file such a line can name a command.
- the rest of an address: `https://example.com/WORD`, `postgres://user:WORD@host`.

All other calls have no verdict, so that the client asks its user or its own classifier, which see the text itself.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from anthropic_proxy.engine.exchange.final_calls import PLACEHOLDER, FinalCall
from anthropic_proxy.engine.patterns import compile_anchored, compile_later

PLAIN_WORD = "one word of the characters A-Z a-z 0-9 . _ @ -"
"""What the checking model is told about a hidden text."""
NO_PLAIN_WORD = "a redacted text in the call is not one plain word"
MAY_BE_A_COMMAND = "a redacted word in the call may be the name of a command"
_PLAIN = compile_anchored(r"[A-Za-z0-9_@][A-Za-z0-9._@-]*")
_PART_OF_WORD = compile_anchored(r"[A-Za-z0-9._@%+:=/~-]*")
_ADDRESS = compile_anchored(r"(?:-{0,2}[A-Za-z_][A-Za-z0-9_.-]*=)?[A-Za-z][A-Za-z0-9+.-]*://.*")
_VALUE = compile_anchored(r"-{0,2}[A-Za-z_][A-Za-z0-9_.-]*=[^/~]*")
_HEADER = compile_later(r"[ =](['\"])[A-Za-z][A-Za-z0-9-]{0,60}: (?:[A-Za-z]{1,20} )?\Z")
_MAX_HEADER = 100
_REDIRECTS = ("<", ">")
_RUNS_VALUES = compile_later(r"[$`;&|]")
_LINE_END = compile_later(r"[\r\n]")
_MAX_PART = 1_000
"""Maximum characters of a word before and after a hidden text that are read. A longer word is not certain."""


def hides_more_than_words(hidden: Mapping[str, str]) -> bool:
    """Return True if a hidden text is not one plain word. `hidden`: placeholder → text."""
    return not all(map(_PLAIN.fullmatch, hidden.values()))


def find_doubt(shown: str, hidden: Mapping[str, str]) -> str:
    """Return why a call cannot be judged by `shown`, its input as JSON text. "": it can.

    `hidden`: placeholder → text. It may have placeholders that do not occur.
    """
    if not hidden:
        return ""
    try:
        # with the repeated members of an object too, of which clients read different ones
        given = json.loads(shown or "{}", object_pairs_hook=_Members)
    except (ValueError, RecursionError):
        given = shown
    doubt = ""
    for text, is_key in _list_strings(given):
        places = [place for place in PLACEHOLDER.finditer(text) if place[0] in hidden]
        if not places:
            continue
        if not isinstance(given, _Members) or hides_more_than_words({place[0]: hidden[place[0]] for place in places}):
            return NO_PLAIN_WORD
        may_run_values = _RUNS_VALUES.search(text) is not None
        if is_key or not all(_is_value(text, *place.span(), may_run_values=may_run_values) for place in places):
            doubt = MAY_BE_A_COMMAND
    return doubt


def find_doubt_of_provider(call: FinalCall) -> str:
    """Return why the provider's verdict about a call is not about what the client gets. "": it is."""
    if call.is_edited:
        return "an inspector has changed the call, which the provider has not seen"
    if call.hidden and call.is_ambiguous:
        return NO_PLAIN_WORD
    return find_doubt(call.shown, call.hidden)


class _Members(list[tuple[str, Any]]):
    """An object of JSON."""


def _list_strings(value: Any) -> Iterator[tuple[str, bool]]:
    """Yield the strings in a value, and True for those that are keys."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Members):
            for key, member in value:
                yield key, True
                waiting.append(member)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            yield value, False


def _is_value(text: str, start: int, end: int, *, may_run_values: bool) -> bool:
    """Return True if what stands between two places of a text is certainly not the name of a command.

    `may_run_values`: the text has characters by which a later part can run the value of an assignment.
    """
    word = _read_part(text[max(start - _MAX_PART, 0) : start][::-1])[::-1]
    rest = _read_part(text[end : end + _MAX_PART])
    if max(len(word), len(rest)) == _MAX_PART:
        return False
    if _ADDRESS.fullmatch(word):
        return True
    if may_run_values:
        return False
    header = _HEADER.search(text, max(start - _MAX_HEADER, 0), start)
    if header is not None and text[end : end + 1] == header[1]:
        return _LINE_END.search(text) is None and not any(mark in text for mark in _REDIRECTS)
    if not _VALUE.fullmatch(word):
        return False
    first, last = start - len(word), end + len(rest)
    is_line = text[max(first - 1, 0) : first] in ("", "\n") and text[last : last + 1] in ("", "\n", "\r")
    return is_line or _LINE_END.search(text) is None


def _read_part(text: str) -> str:
    """Return the part of a word with which a text begins."""
    found = _PART_OF_WORD.match(text)
    return "" if found is None else found[0]
