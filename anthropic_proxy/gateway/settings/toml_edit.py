"""Changes of a single field in a TOML file, which keep all other text: comments, order, line ends, a byte order mark.

`tomllib` does not write, so a field is changed as text: at the first place where the file, read again, has exactly this
change. A form in which no such place is found stays as it is.
"""

import re
import tomllib
from collections.abc import Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings.file_format import KeyPath
from anthropic_proxy.gateway.settings.files import BYTE_ORDER_MARK, decode_toml, format_toml_key, format_toml_value

_MAX_PLACES = 20
"""Maximum number of lines, and of places in a line, at which a change is tried."""
_TEXTS = compile_later(
    r"""
    "{3} (?: [^"\\]++ | \\. | "(?!"") )* (?: "{3,5} )?
    | '{3} (?: [^']++ | '(?!'') )* (?: '{3,5} )?
    | " (?: [^"\\\n]++ | \\. )*+ "?
    | ' [^'\n]*+ '?
    | \# [^\n]*+
    """,
    re.DOTALL | re.VERBOSE,
)
"""The texts and comments of a TOML file."""
_ASSIGNMENT = compile_later(r"""(?<![\w-])([\w-]++)["']?[ \t]*+=[ \t]*+""")


def change_toml_field(text: str, path: KeyPath, value: Any) -> str | None:
    """Return the text of a file in which a field has this value. `path`: table and key. `value` None: the field is
    removed.

    None: the file has the table in a form that cannot be changed. Raises `ConfigurationError` for invalid TOML.
    """
    table, key = path
    mark = BYTE_ORDER_MARK if text.startswith(BYTE_ORDER_MARK) else ""
    plain = text[len(mark) :]
    expected = decode_toml(plain, "The text")
    fields = expected.setdefault(table, {})
    if not isinstance(fields, dict):
        return None
    is_present = key in fields
    if value is None:
        fields.pop(key, None)
        if not is_present:
            return text
        proposals = _propose_removals(plain, table, key)
    else:
        fields[key] = value
        propose = _propose_values if is_present else _propose_insertions
        proposals = propose(plain, table, key, value)
    for changed in proposals:
        try:
            decoded = decode_toml(changed, "The text")
        except ConfigurationError:
            continue
        if {table: {}, **decoded} == expected:
            return mark + changed
    return None


def describe_unknown_form(file: Path, path: KeyPath) -> str:
    """Return why a field cannot be changed, and what to do."""
    return (
        f"{file} has [{path[0]}] in a form into which {path[-1]} of [{path[0]}] cannot be inserted. Write the table as "
        f"[{path[0]}] with one line for each field, and try again."
    )


def _propose_insertions(text: str, table: str, key: str, value: Any) -> Iterator[str]:
    """Yield the text with an assignment in the table: below its header, in an inline table, as a dotted key before
    others, and in a new table at the end.
    """
    assignment = f"{format_toml_key(key)} = {format_toml_value(value)}"
    end = "\r\n" if "\r\n" in text else "\n"
    lines = StringIO(text).readlines()
    setting = (number for number, line in enumerate(StringIO(_hide_texts(text))) if _sets_table(line, table))
    for number in islice(setting, _MAX_PLACES):
        line = lines[number]
        before = "".join(lines[:number])
        after = "".join(lines[number + 1 :])
        yield f"{before}{line.rstrip()}{end}{assignment}{end}{after}"
        opened, brace, rest = line.partition("{")
        if brace:
            comma = "" if rest.lstrip().startswith("}") else ","
            yield f"{before}{opened}{brace} {assignment}{comma}{rest}{after}"
        yield f"{before}{table}.{assignment}{end}{line}{after}"
    gap = "" if not text or text.endswith("\n") else end
    yield f"{text}{gap}{end if text else ''}[{table}]{end}{assignment}{end}"


def _sets_table(line: str, table: str) -> bool:
    """Return True for the header of the table, and for a line that sets it or a key of it."""
    text = line.replace('"', "").replace("'", "").strip()
    is_header = text.startswith("[")
    name = text[is_header:].strip()[: len(table)]
    rest = text[is_header:].strip()[len(table) :].lstrip()
    return name == table and rest.startswith("]" if is_header else (".", "="))


def _propose_values(text: str, table: str, key: str, value: Any) -> Iterator[str]:
    """Yield the text with another value behind a key of this name. A comment behind the value stays."""
    for before, line, after in _find_lines(text, table, key):
        for start, end in _find_values(line, key):
            yield f"{before}{line[:start]}{format_toml_value(value)}{line[end:]}{after}"


def _propose_removals(text: str, table: str, key: str) -> Iterator[str]:
    """Yield the text without an assignment of a key of this name: without its line, of which a comment stays as a line,
    and without its part of an inline table.
    """
    for before, line, after in _find_lines(text, table, key):
        for start, end in _find_values(line, key):
            rest = line[end:].lstrip()
            if not rest or rest.startswith("#"):
                yield f"{before}{rest}{after}"
            name = line[:start].rindex(key)
            name -= line[name - 1 : name] in ('"', "'")
            yield f"{before}{line[:name]}{rest.removeprefix(',').lstrip() if rest.startswith(',') else rest}{after}"
            yield f"{before}{line[:name].rstrip().removesuffix(',')} {rest}{after}"


def _find_lines(text: str, table: str, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield the text before a line that assigns to the key, the line, and the text after it. The first such line below
    each line that sets the table comes first, then the second ones.
    """
    lines = StringIO(text).readlines()
    places: list[tuple[int, int]] = []
    rank = len(lines)
    for number, line in enumerate(StringIO(_hide_texts(text))):
        if _sets_table(line, table):
            rank = 0
        if any(_find_assignments(line, key)):
            places.append((rank, number))
            rank += 1
    for _, number in sorted(places)[:_MAX_PLACES]:
        yield "".join(lines[:number]), lines[number], "".join(lines[number + 1 :])


def _find_values(line: str, key: str) -> Iterator[tuple[int, int]]:
    """Yield where a value behind the key may begin and end. The shortest is the first one."""
    for match in islice(_find_assignments(line, key), _MAX_PLACES):
        start = match.end()
        ends = [index for index, character in enumerate(line[start:], start) if character in ",}#"]
        for end in (*ends[:_MAX_PLACES], len(line.rstrip())):
            if _is_value(value := line[start:end].rstrip()):
                yield start, start + len(value)


def _find_assignments(line: str, key: str) -> Iterator[re.Match[str]]:
    return (match for match in _ASSIGNMENT.finditer(line) if match[1] == key)


def _hide_texts(text: str) -> str:
    """Return the text of a file with spaces in place of comments and of texts of several lines."""

    def hide(match: re.Match[str]) -> str:
        if match[0].startswith(("#", '"""', "'''")):
            return "\n".join(" " * len(line) for line in match[0].split("\n"))
        return match[0]  # it may be a key

    return _TEXTS.sub(hide, text)


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return False
    return True
