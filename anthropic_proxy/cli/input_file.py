"""Input of commands that read one file, or standard input for the name `-`."""

import sys
from pathlib import Path

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error

STDIN = "-"
"""File name that means standard input."""


def read_input(file: Path) -> bytes:
    """Return the bytes of `file`, or of standard input for the name `-`.

    Raises `ConfigurationError` if the file cannot be read.
    """
    if str(file) == STDIN:
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f'"{file}" cannot be read: {describe_os_error(error)}. For standard input, use the name "-".'
        ) from None


def describe_input(file: Path) -> str:
    """Return the name of an input for messages: the file name, or `standard input` for `-`."""
    return "standard input" if str(file) == STDIN else str(file)
