"""Checks of the tables `[[inspectors]]` of the configuration file.

A pattern of the company must take a time in proportion to its text, whatever a stranger writes. So its repetitions are
made possessive and bounded, and its groups with alternatives atomic (`bound_repetitions`).
"""

import re
from collections.abc import Sequence

from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.config_file import ConfigFile
from anthropic_proxy.gateway.settings.fields import BoundedPattern, InspectorRule
from anthropic_proxy.gateway.settings.file_format import InspectorTable, KeyPath
from anthropic_proxy.gateway.settings.key_references import resolve_keys
from anthropic_proxy.gateway.settings.sources import ErrorList, Sources
from anthropic_proxy.secrets import Secret

MAX_PATTERN_CHARACTERS = 200
MAX_PATTERNS = 100
MAX_MATCH_CHARACTERS = 1_024
"""Maximum length of a match of a pattern. A search reads at most as many characters from each place of a text."""
_MAX_REPETITIONS = 256
_OF_PATTERNS = ("detect", "patterns", "action", "reason")
_OF_GUARDRAIL = ("base_url", "api_key", "parameters", "sends")
_COUNTS = compile_anchored(r"\{(\d{0,4})(,?)(\d{0,4})\}")
_GROUP = compile_anchored(r"\(\?(?:[:=!>]|<[=!]|P<\w+>|[aiLmsux-]+[:)])")


def load_inspectors(file: ConfigFile, sources: Sources, *, resolves_keys: bool) -> Sequence[InspectorRule]:
    """Errors are added to those of `sources`."""
    rules: dict[str, InspectorRule] = {}
    for path, table in file.list_tables("inspectors", InspectorTable):
        with sources.errors.collect():
            if table.name in rules:
                raise file.rejection(
                    (*path, "name"), f'is "{table.name}", as that of another one.', code="configuration-file"
                )
            rules[table.name] = _load_rule(file, path, table, sources, resolves_keys=resolves_keys)
    if rules:
        sources.given["inspectors"] = Secret(
            str([(rule.table, rule.key and rule.key.reveal()) for rule in rules.values()])
        )
    return tuple(rules.values())


def _load_rule(
    file: ConfigFile, path: KeyPath, table: InspectorTable, sources: Sources, *, resolves_keys: bool
) -> InspectorRule:
    _check_table(file, path, table)
    if table.type == "patterns":
        errors = ErrorList()
        patterns: dict[str, BoundedPattern] = {}
        if len(table.patterns) > MAX_PATTERNS:
            raise file.rejection(
                (*path, "patterns"), f"has more than {MAX_PATTERNS} patterns.", code="configuration-file"
            )
        for name, pattern in table.patterns.items():
            with errors.collect():
                try:
                    patterns[name] = bound_repetitions(pattern)
                except ValueError as error:
                    raise file.rejection(
                        (*path, "patterns", name),
                        f"is no pattern that can be used: {error}.",
                        code="configuration-file",
                    ) from None
        errors.require_empty()
        return InspectorRule(table=table, patterns=patterns)
    assert table.base_url is not None
    base_url = values.decode_url(file.build_setting((*path, "base_url"), table.base_url))
    if table.api_key is None:
        return InspectorRule(table=table, base_url=base_url)
    resolved = resolve_keys(file, (*path, "api_key"), table.api_key, sources, resolves_keys=resolves_keys)
    if resolved.problem:
        raise ConfigurationError(resolved.problem_details or resolved.problem, code="configuration-file")
    return InspectorRule(table=table, base_url=base_url, key=next(iter(resolved.keys), None))


def _check_table(file: ConfigFile, path: KeyPath, table: InspectorTable) -> None:
    """Raises `ConfigurationError`."""
    errors = ErrorList()
    with errors.collect():
        file.require_name(path, table.name)
    given = file.find_item(path)
    for name in _OF_GUARDRAIL if table.type == "patterns" else _OF_PATTERNS:
        with errors.collect():
            if name in given:
                raise file.rejection(
                    (*path, name), f'has no effect for the type "{table.type}". Remove it.', code="configuration-file"
                )
    with errors.collect():
        if not table.reads:
            raise file.rejection((*path, "reads"), "is empty: the inspector reads nothing.", code="configuration-file")
    with errors.collect():
        if table.type == "patterns" and not (table.detect or table.patterns):
            raise file.rejection(path, "finds nothing. Set detect or patterns.", code="configuration-file")
        if table.type == "guardrail" and table.base_url is None:
            raise file.missing_error((*path, "base_url"))
    errors.require_empty()


def bound_repetitions(pattern: str) -> BoundedPattern:
    """Return a regular expression whose repetitions are possessive and end after 256 times, and whose alternatives are
    decided once: the first one that matches.

    Raises `ValueError` with the reason, which continues a sentence.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"it has more than {MAX_PATTERN_CHARACTERS} characters")
    pieces: list[str] = []
    widths = [0]
    """Length of the longest text of each open group, the whole pattern first."""
    groups: list[_Group] = []
    last = 0  # of what a repetition repeats
    at = 0
    while at < len(pattern):
        character = pattern[at]
        text = character
        end = at + 1
        width = int(character not in "^$|")
        if character == "\\":
            end = at + 2
            text = pattern[at:end]
            width = _MAX_REPETITIONS if text[1:].isdigit() else 1
        elif character == "[":
            end = _find_class_end(pattern, at)
            text = pattern[at:end]
        elif character == "(":
            group = _GROUP.match(pattern, at)
            text, end, width = (group[0], group.end(), 0) if group else ("(", at + 1, 0)
            if not text.endswith(")"):
                widths.append(0)
                groups.append(_Group(len(pieces)))
        elif character == ")" and groups:
            width = widths.pop()
            closed = groups.pop()
            is_repeated = pattern[end : end + 1] in (*"*+?",) or _COUNTS.match(pattern, end)
            if closed.has_alternatives and not is_repeated:  # a possessive repetition is atomic itself
                opening = pieces[closed.place]
                pieces[closed.place] = _ATOMIC.get(opening, f"{opening}(?>")
                text = ")" if opening in _ATOMIC else "))"
        elif character == "|" and groups:
            groups[-1].has_alternatives = True
        elif character in "*+?" or _COUNTS.match(pattern, at):
            text, end, most = _bound_one(pattern, at)
            widths[-1] -= last
            width = last * most
        pieces.append(text)
        widths[-1] += width
        last = width
        at = end
    bounded = "".join(pieces)
    try:
        is_empty_match = compile_later(bounded).match("") is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{error}") from None
    if is_empty_match:
        raise ValueError("it matches the empty text")
    if sum(widths) > MAX_MATCH_CHARACTERS:
        raise ValueError(
            f"it matches up to {sum(widths):,} characters, and at most {MAX_MATCH_CHARACTERS:,} are allowed. Limit its "
            "repetitions, such as {1,20}"
        )
    return BoundedPattern(bounded, sum(widths))


class _Group(Struct):
    """A group that is open. `place`: index of its beginning among the pieces."""

    place: int
    has_alternatives: bool = False


_ATOMIC = {"(?:": "(?>", **{beginning: beginning for beginning in ("(?>", "(?=", "(?!", "(?<=", "(?<!")}}
"""Beginnings of groups → the same as an atomic group, which gives nothing back."""


def _find_class_end(pattern: str, at: int) -> int:
    """Return the place behind a class such as `[^]a]`."""
    at += 2 if pattern[at + 1 : at + 2] == "^" else 1
    at += pattern[at : at + 1] == "]"
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _bound_one(pattern: str, at: int) -> tuple[str, int, int]:
    """Return a possessive repetition, the place behind that of the pattern, and how often it repeats at most."""
    least = "0"
    most = str(_MAX_REPETITIONS)
    end = at + 1
    if counts := _COUNTS.match(pattern, at):
        end = counts.end()
        least = counts[1] or "0"
        most = counts[3] or most if counts[2] else least
        if not (counts[1] or counts[2]) or max(int(least), int(most)) > _MAX_REPETITIONS:
            raise ValueError(f"{counts[0]} is not between 0 and {_MAX_REPETITIONS} times")
    elif pattern[at] == "+":
        least = "1"
    elif pattern[at] == "?":
        most = "1"
    following = pattern[end : end + 1]
    if following == "?":
        raise ValueError(f"{pattern[at : end + 1]} is a lazy repetition. Name the characters in place of it: [^x]*")
    return f"{{{least},{most}}}+", end + (following == "+"), int(most)
