"""Reader of settings files: `.env`, `anthropic-proxy.toml`, key files, certificates and settings of other programs."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError

MAX_ENV_BYTES = 256 * 1024
"""Maximum size of `.env`."""
MAX_CONFIG_BYTES = 4 * 1024 * 1024
"""Maximum size of any other settings file, such as a configuration file with 10,000 routes."""
MAX_KEY_BYTES = 64 * 1024
"""Maximum size of a file with an API key."""
_MAX_NESTING = 50
_NESTED_KEY = re.compile(
    r"""(?<![\w."'/:@-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){%d}""" % _MAX_NESTING  # noqa: UP031
)
"""Pattern of a dotted key above `_MAX_NESTING`, for which the parser takes time in proportion to the square."""


class UnsuitableFileError(OSError):
    """Error: a file is too large for its purpose, or a device or pipe, which may have no end."""


def read_bounded_file(path: str | Path, max_bytes: int = MAX_CONFIG_BYTES) -> bytes:
    """Return the contents of a regular file. Raises `OSError`, also for a device, a pipe or a larger file."""
    # checked before it is opened: opening a pipe waits for a writer
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise UnsuitableFileError("it is no regular file")
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UnsuitableFileError(f"it has more than {max_bytes:,} bytes")
    return content


def read_settings_file(path: str, warnings: list[str], max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """Return the text of a settings file. "": the file is missing, or the path is a folder.

    Raises `ConfigurationError` if the file is unreadable, too large or not UTF-8.
    """
    if os.path.isdir(path):
        warnings.append(f"{path} is a folder, so nothing was read from it.")
        return ""
    try:
        text = read_bounded_file(path, max_bytes).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8 text: byte {error.start} is invalid. Save it as UTF-8."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {describe_os_error(error)}.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_toml(text: str, name: str) -> Mapping[str, Any]:
    """Return the tables of a configuration file. Raises `ConfigurationError`, whose message begins with `name`."""
    import tomllib  # noqa: PLC0415  # most installations have no file

    if _NESTED_KEY.search(text):
        raise _nesting_error(name)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, _, position = str(error).removesuffix(")").rpartition(" (at ")
        if not problem:
            problem, position = str(error), ""
        where = f"{name}, {position}, " if position.startswith("line") else f"{name} "
        raise ConfigurationError(f"{where}is not valid TOML: {problem}.") from None
    except RecursionError:
        raise _nesting_error(name) from None
    except ValueError:  # Python's limit of digits
        raise ConfigurationError(f"{name} is not valid TOML: a number has too many digits.") from None
    level: list[Any] = [tables]
    for _ in range(_MAX_NESTING + 1):
        members = [member for one in level for member in (one.values() if isinstance(one, dict) else one)]
        level = [member for member in members if isinstance(member, dict | list)]
    if level:
        raise _nesting_error(name)
    return tables


def _nesting_error(name: str) -> ConfigurationError:
    return ConfigurationError(f"{name} nests tables or lists deeper than {_MAX_NESTING} levels.")
