"""Decoding of the text of a `.env` file.

`decode_env_text` returns the variables, and `find_invalid_env_line` the first line that sets none.
"""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dotenv.parser import Binding


def decode_env_text(text: str) -> dict[str, str]:
    """Return the value of each variable in the text of a `.env` file. Invalid lines are ignored.

    A reference to another variable in a value (`${NAME}`) stays unchanged.
    """
    return {line.key: line.value for line in _parse(text) if line.key is not None and line.value is not None}


def find_invalid_env_line(text: str) -> int:
    """Return the number of the first line that is no assignment, comment or empty line. 0: all lines are valid."""
    invalid = (line.original for line in _parse(text) if line.error or (line.key is not None and line.value is None))
    # a statement begins with the empty lines before it
    return next((found.line + len(found.string) - len(found.string.lstrip("\n")) for found in invalid), 0)


def _parse(text: str) -> "Iterator[Binding]":
    # not `dotenv_values`, which logs a warning for each invalid line
    from dotenv.parser import parse_stream  # noqa: PLC0415  # needed by the command import alone

    return parse_stream(io.StringIO(text))
