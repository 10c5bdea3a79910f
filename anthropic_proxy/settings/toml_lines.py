"""Line numbers of the keys of a TOML text, for error messages about the configuration file.

The parser of the standard library (`tomllib`) does not report them. `find_key_lines` divides the text into statements
(table headers and assignments) and parses each of them.
"""

import tomllib
from collections.abc import Iterator, Mapping

_MIN_PARSED_CHARACTERS = 1 << 20


def find_key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line number, from 1, of each table header and key in a valid TOML text.

    The keys behind very long statements are missing, because each further line of a statement parses it again.

    The keys of the result are paths. The path of a table in a list contains its index: `routes[0]`.
    """
    lines: dict[tuple[str, ...], int] = {}
    counts: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, statement in _split_statements(text):
        parsed = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            path = _header_path(parsed)
            if statement.lstrip().startswith("[["):
                counts[path] = counts.get(path, 0) + 1
            table = _add_indexes(path, counts)
            for length in range(1, len(table) + 1):
                lines.setdefault(path[:length], number)
                lines.setdefault(table[:length], number)
            continue
        # a key in an inline table gets the first line of the statement
        for path in _key_paths(parsed):
            lines.setdefault(table + path, number)
    return lines


def _add_indexes(path: tuple[str, ...], counts: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """Return the path of a table header with an index after each list of tables: `routes[0]`.

    `counts` has the number of tables of each list so far.
    """
    return tuple(
        f"{key}[{count - 1}]" if (count := counts.get(path[: end + 1])) else key for end, key in enumerate(path)
    )


def _split_statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each statement (table header or assignment) of a TOML text."""
    pending: list[str] = []
    left = _MIN_PARSED_CHARACTERS + 2 * len(text)
    for number, line in enumerate(text.split("\n"), 1):
        pending.append(line)
        statement = "\n".join(pending)
        if not pending[0].strip() or pending[0].lstrip().startswith("#"):
            pending.clear()
            continue
        left -= len(statement)
        if left < 0:
            return
        try:
            tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # the statement continues on the next line
        yield number - len(pending) + 1, statement
        pending.clear()


def _key_paths(parsed: Mapping[str, object]) -> Iterator[tuple[str, ...]]:
    for key, value in parsed.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *path) for path in _key_paths(value))


def _header_path(parsed: Mapping[str, object]) -> tuple[str, ...]:
    """Return the keys of a parsed table header: (`providers`, `vllm`) for `{"providers": {"vllm": {}}}`."""
    path: tuple[str, ...] = ()
    value: object = parsed
    while value and isinstance(value, dict):
        key, value = next(iter(value.items()))
        path = (*path, key)
        value = value[-1] if isinstance(value, list) else value
    return path
