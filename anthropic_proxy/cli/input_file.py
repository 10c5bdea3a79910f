"""Input of commands that read one file, or standard input for the name `-`."""

import sys
from pathlib import Path

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error

STDIN = "-"
"""File name that means standard input."""


def read_input(file: Path, max_bytes: int) -> bytes:
    """Return the bytes of `file`, or of standard input for the name `-`.

    Raises `ConfigurationError` if the file cannot be read, or if there are more than `max_bytes`.
    """
    try:
        if str(file) == STDIN:
            name, content = "standard input", sys.stdin.buffer.read(max_bytes + 1)
        else:
            with file.open("rb") as stream:  # a pipe is permitted: `<(command)` of a shell is one
                name, content = f'"{file}"', stream.read(max_bytes + 1)
    except OSError as error:
        raise ConfigurationError(
            f'"{file}" cannot be read: {describe_os_error(error)}. For standard input, use the name "-".'
        ) from None
    if len(content) > max_bytes:
        raise ConfigurationError(f"{name} has more than {max_bytes:,} bytes, the maximum of this command.")
    return content


def describe_input(file: Path) -> str:
    """Return the name of an input for messages: the file name, or `standard input` for `-`."""
    return "standard input" if str(file) == STDIN else str(file)
