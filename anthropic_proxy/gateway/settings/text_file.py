"""Reader of settings files: `.env`, `anthropic-proxy.toml`, key files, certificates and settings of other programs."""

import os
import tomllib
from collections.abc import Mapping
from typing import Any

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.files import MAX_CONFIG_BYTES, read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError

MAX_ENV_BYTES = 256 * 1024
"""Maximum size of `.env`."""
MAX_KEY_BYTES = 64 * 1024
"""Maximum size of a file with an API key."""
_MAX_NESTING = 50
_NESTED_KEY = compile_later(
    r"""(?<![\w."'/:@-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){%d}""" % _MAX_NESTING  # noqa: UP031
)
"""Pattern of a dotted key above `_MAX_NESTING`, for which the parser takes time in proportion to the square."""


def read_settings_file(path: str, warnings: list[str], max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """Return "" if the file is missing, or the path is a folder. Raises `ConfigurationError`."""
    if os.path.isdir(path):
        warnings.append(f"{path} is a folder, so nothing was read from it.")
        return ""
    try:
        text = read_bounded_file(path, max_bytes).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not UTF-8 text: byte {error.start} is invalid. Save it as UTF-8.",
            code="env-file",
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {describe_os_error(error)}.", code="env-file") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_toml(text: str, name: str) -> Mapping[str, Any]:
    """Raises `ConfigurationError`, whose message begins with `name`."""
    if _NESTED_KEY.search(text):
        raise _nesting_error(name)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, _, position = str(error).removesuffix(")").rpartition(" (at ")
        if not problem:
            problem, position = str(error), ""
        where = f"{name}, {position}, " if position.startswith("line") else f"{name} "
        raise ConfigurationError(f"{where}is not valid TOML: {problem}.", code="configuration-file") from None
    except RecursionError:
        raise _nesting_error(name) from None
    except ValueError:  # Python's limit of digits
        raise ConfigurationError(
            f"{name} is not valid TOML: a number has too many digits.", code="configuration-file"
        ) from None
    level: list[Any] = [tables]
    for _ in range(_MAX_NESTING + 1):
        members = [member for one in level for member in (one.values() if isinstance(one, dict) else one)]
        level = [member for member in members if isinstance(member, dict | list)]
    if level:
        raise _nesting_error(name)
    return tables


def _nesting_error(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} nests tables or lists deeper than {_MAX_NESTING} levels.", code="configuration-file"
    )
