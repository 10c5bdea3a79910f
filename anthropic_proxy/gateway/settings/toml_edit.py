"""Changes of a single field in a TOML file, which keep all other text: comments, order, line ends, a byte order mark.

`tomllib` does not write, so a field is changed as text: at the first place where the file, read again, has exactly this
change. A form in which no such place is found stays as it is.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anthropic_proxy.gateway.settings.file_format import KeyPath
from anthropic_proxy.gateway.settings.files import format_toml_key, format_toml_value

MARK = "\ufeff"
_MAX_PLACES = 20
"""Maximum number of lines, and of places in a line, at which a change is tried."""


def change_toml_field(text: str, path: KeyPath, value: Any) -> str | None:
    """Return the text of a file in which a field has this value. `path`: table and key. `value` None: the field is
    removed.

    None: the file has the table in a form that cannot be changed.
    """
    table, key = path
    mark = MARK if text.startswith(MARK) else ""
    plain = text[len(mark) :]
    expected = _decode(plain)
    fields = expected.setdefault(table, {})
    if not isinstance(fields, dict):
        return None
    is_present = key in fields
    if value is None:
        fields.pop(key, None)
        if not is_present:
            return text
        proposals = _propose_removals(plain, key)
    else:
        fields[key] = value
        proposals = _propose_values(plain, key, value) if is_present else _propose_insertions(plain, table, key, value)
    for changed in proposals:
        try:
            found = _decode(changed)
        except tomllib.TOMLDecodeError:
            continue
        if {table: {}, **found} == expected:
            return mark + changed
    return None


def describe_unknown_form(file: Path, path: KeyPath) -> str:
    """Return why a field cannot be changed, and what to do."""
    return (
        f"{file} has [{path[0]}] in a form into which {path[-1]} of [{path[0]}] cannot be inserted. Write the table as "
        f"[{path[0]}] with one line for each field, and try again."
    )


def _decode(text: str) -> dict[str, Any]:
    return tomllib.loads(text.replace("\r\n", "\n"))


def _propose_insertions(text: str, table: str, key: str, value: Any) -> Iterator[str]:
    """Yield the text with an assignment in the table: below its header, in an inline table, as a dotted key before
    others, and in a new table at the end.
    """
    assignment = _format(key, value)
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    for number in [number for number, line in enumerate(lines) if _sets_table(line, table)][:_MAX_PLACES]:
        line, before, after = lines[number], "".join(lines[:number]), "".join(lines[number + 1 :])
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
    name, rest = text[is_header:].strip()[: len(table)], text[is_header:].strip()[len(table) :].lstrip()
    return name == table and rest.startswith("]" if is_header else (".", "="))


def _propose_values(text: str, key: str, value: Any) -> Iterator[str]:
    """Yield the text with another value behind a key of this name. A comment behind the value stays."""
    for before, line, after in _find_lines(text, key):
        for start, end in _find_values(line, key):
            yield f"{before}{line[:start]}{format_toml_value(value)}{line[end:]}{after}"


def _propose_removals(text: str, key: str) -> Iterator[str]:
    """Yield the text without an assignment of a key of this name: without its line, of which a comment stays as a line,
    and without its part of an inline table.
    """
    for before, line, after in _find_lines(text, key):
        for start, end in _find_values(line, key):
            rest = line[end:].lstrip()
            if not rest or rest.startswith("#"):
                yield f"{before}{rest}{after}"
            name = line[:start].rindex(key)
            name -= line[name - 1 : name] in ('"', "'")
            yield f"{before}{line[:name]}{rest.removeprefix(',').lstrip() if rest.startswith(',') else rest}{after}"
            yield f"{before}{line[:name].rstrip().removesuffix(',')} {rest}{after}"


def _find_lines(text: str, key: str) -> Iterator[tuple[str, str, str]]:
    """Yield the text before a line that has the key, the line, and the text after it."""
    lines = text.splitlines(keepends=True)
    for number in [number for number, line in enumerate(lines) if key in line and "=" in line][:_MAX_PLACES]:
        yield "".join(lines[:number]), lines[number], "".join(lines[number + 1 :])


def _find_values(line: str, key: str) -> Iterator[tuple[int, int]]:
    """Yield where a value behind the key may begin and end. The shortest is the first one."""
    place = line.find(key)
    for _ in range(_MAX_PLACES):
        if place < 0:
            return
        sign = line.find("=", place + len(key))
        if sign >= 0 and line[place + len(key) : sign].strip() in ("", '"', "'"):
            start = sign + 1 + len(line[sign + 1 :]) - len(line[sign + 1 :].lstrip())
            ends = [index for index, character in enumerate(line[start:], start) if character in ",}#"]
            for end in (*ends[:_MAX_PLACES], len(line.rstrip())):
                if _is_value(value := line[start:end].rstrip()):
                    yield start, start + len(value)
        place = line.find(key, place + 1)


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def _format(key: str, value: Any) -> str:
    return f"{format_toml_key(key)} = {format_toml_value(value)}"
