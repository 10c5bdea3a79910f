"""Files of settings: their bounded reading, and changes that are written whole or not at all.

`.env`, `anthropic-proxy.toml`, key files, certificates, and settings of other programs.
"""

import io
import json
import math
import os
import re
import secrets
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.platforms.files import (
    MAX_CONFIG_BYTES,
    locked_folder,
    read_bounded_file,
    repeat_while_read,
    require_size,
)
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.secrets import redact_key_patterns

if TYPE_CHECKING:
    from dotenv.parser import Binding

BYTE_ORDER_MARK = "\ufeff"
"""Beginning of a text that some editors write as UTF-8, most on Windows."""
MAX_ENV_BYTES = 256 * 1024
"""Maximum size of `.env`."""
MAX_KEY_BYTES = 64 * 1024
"""Maximum size of a file with an API key."""
_MAX_NESTING = 50
_NESTED_KEY = compile_later(
    r"""(?<![\w."'/:@-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){%d}""" % _MAX_NESTING  # noqa: UP031
)
"""Pattern of a dotted key above `_MAX_NESTING`, for which the parser takes time in proportion to the square."""


def read_settings_file(
    path: str, warnings: list[str], max_bytes: int = MAX_CONFIG_BYTES, *, draft: str | None = None
) -> str:
    """Return "" if the file is missing, or the path is a folder. Raises `ConfigurationError`.

    `draft`: a text that is checked and returned instead of the content of the file.
    """
    if draft is None and os.path.isdir(path):
        warnings.append(f"{shorten_home(path)} is a folder, so nothing was read from it.")
        return ""
    try:
        content = read_bounded_file(path, max_bytes) if draft is None else require_size(draft.encode(), max_bytes)
        text = content.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UnicodeDecodeError as error:
        raise _encoding_error(path, error.start) from None
    except OSError as error:
        raise ConfigurationError(
            f"{shorten_home(path)} cannot be read: {describe_os_error(error)}.", code="env-file"
        ) from None
    if (place := content.find(0)) >= 0:  # Windows PowerShell 5.1 appends lines of UTF-16 to a file of UTF-8
        raise _encoding_error(path, place)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding_error(path: str, place: int) -> ConfigurationError:
    return ConfigurationError(
        f"{shorten_home(path)} is not UTF-8 text: byte {place} is invalid. Save it as UTF-8.", code="env-file"
    )


def decode_toml(text: str, name: str) -> dict[str, Any]:
    """Decode the text of a TOML file, with or without a byte order mark.

    Raises `ConfigurationError`, whose message begins with `name`.
    """
    text = text.removeprefix(BYTE_ORDER_MARK)
    if _NESTED_KEY.search(text):
        raise nesting_error(name)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, _, position = str(error).removesuffix(")").rpartition(" (at ")
        if not problem:
            problem = str(error)
            position = ""
        where = f"{name}, {position}, " if position.startswith("line") else f"{name} "
        raise ConfigurationError(f"{where}is not valid TOML: {problem}.", code="configuration-file") from None
    except RecursionError:
        raise nesting_error(name) from None
    except ValueError:  # Python's limit of digits
        raise ConfigurationError(
            f"{name} is not valid TOML: a number has too many digits.", code="configuration-file"
        ) from None
    level: list[Any] = [tables]
    for _ in range(_MAX_NESTING + 1):
        members = [member for value in level for member in (value.values() if isinstance(value, dict) else value)]
        level = [member for member in members if isinstance(member, dict | list)]
    if level:
        raise nesting_error(name)
    return tables


def nesting_error(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} nests tables or lists deeper than {_MAX_NESTING} levels.", code="configuration-file"
    )


_NEW_FILE_MODE = 0o600
"""Permissions of a new file: only its owner may read the keys."""
_OTHER_USERS = 0o077
"""Bits of a file mode with the permissions of users other than the owner."""
_MAX_SHOWN = 80
"""Characters of a rejected value in a message."""
_PLAIN_VALUE = compile_anchored(r"[\w.,:/@%+=~?-]*", re.ASCII)
_PLAIN_KEY = compile_anchored(r"[A-Za-z0-9_-]+")
_EXPORT = compile_anchored(r"\s*export\s")
_LINE_END = compile_later(r"\r?\n")


def format_env_line(name: str, value: str, *, allows_reference: bool = False) -> str:
    """A value with special characters is quoted. Raises `ConfigurationError` for one that the file cannot hold.

    Quotes do not stop the replacement of `${NAME}`. `allows_reference`: the value may contain it.
    """
    if _PLAIN_VALUE.fullmatch(value):
        return f"{name}={value}"
    if ("${" in value and not allows_reference) or not value.isprintable():
        raise ConfigurationError(
            f"{name} cannot be written to .env: a value there has no ${{…}} and no control characters, and "
            f"this one is {redact_key_patterns(value[:_MAX_SHOWN])!r}. Set {name} in the environment.",
            code="env-file",
        )
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


def format_toml_value(value: Any) -> str:
    """Return a value of the JSON types as text of a TOML file. Of a text, all that can be shown stays readable."""
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{format_toml_key(key)} = {format_toml_value(item)}" for key, item in value.items())
            + " }"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_toml_value, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(map(_escape_for_toml, value)) + '"'
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def format_toml_key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else format_toml_value(key)


def _escape_for_toml(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)  # JSON has pairs of surrogates above 0xffff, which TOML forbids
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def append_env_line(text: str, line: str) -> str:
    """Return `text` with `line` at its end, with the line ends of the file."""
    end = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text or text.endswith("\n") else end
    return f"{text}{gap}{line}{end}"


def write_file(file: Path, before: str, after: str, *, has_keys: bool) -> bool:
    """Write a settings file, and its folder if necessary. `before`: the text on which `after` is based.

    Return True if other users of the machine lost the permission to read the file (`has_keys`). Raises
    `ConfigurationError` if it cannot be written, or was changed in the meantime.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _writing_error(file, error) from None
    with locked_for_change(file):
        if read_text(file) != before:
            raise ConfigurationError(
                f"{file} was changed by another program in the meantime. Try again.", code="init-without-terminal"
            )
        return replace_file(file, after, has_keys=has_keys)


def _writing_error(file: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{file} cannot be written: {describe_os_error(error)}.", code="init-without-terminal")


@contextmanager
def locked_for_change(file: Path) -> Iterator[None]:
    """Hold the lock for a change of a settings file, from reading it to replacing it.

    Raises `ConfigurationError` if another process of the proxy holds the lock too long.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(file.resolve().parent))
        except TimeoutError:
            raise ConfigurationError(
                f"{file} is being changed by another process. Try again.", code="init-without-terminal"
            ) from None
        except OSError as error:
            raise _writing_error(file, error) from None
        yield


def update_env_text(text: str, name: str, line: str) -> str:
    """Set one variable by a `line` of `format_env_line`. With the `line` "", it is removed."""
    parsed = list(parse_env_text(text))
    bindings = [binding.original.string for binding in parsed]
    names = [binding.key for binding in parsed]
    places = [index for index, key in enumerate(names) if key == name]
    if not places:
        return append_env_line(text, line) if line else text
    # readers use the last line with the variable
    for index in places if not line else places[-1:]:
        old = bindings[index]
        start = old[: len(old) - len(old.lstrip())]
        end = "".join(_LINE_END.findall(old[len(old.rstrip()) :])[:1])
        prefix = "export " if _EXPORT.match(old) else ""
        bindings[index] = f"{start}{prefix}{line}{end}" if line else start
    return "".join(bindings)


def read_text(file: Path) -> str:
    """Line ends are unchanged. "": the file is missing. Raises `ConfigurationError` if the file cannot be read."""
    try:
        return read_bounded_file(file).decode("utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{file} cannot be read: {reason}.", code="env-file") from None


def replace_file(file: Path, text: str, *, has_keys: bool) -> bool:
    """Replace a file in one step, so that readers get the old or the new content.

    Return True if other users of the machine lost the permission to read it (`has_keys`, not on Windows). Raises
    `ConfigurationError` if the file cannot be written.
    """
    try:
        return exchange_file(file, text, has_keys=has_keys)
    except OSError as error:
        raise _writing_error(file, error) from None


def exchange_file(file: Path, text: str, *, has_keys: bool) -> bool:
    """Do what `replace_file` does. Raises `OSError` if the file cannot be written."""
    target = file.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _NEW_FILE_MODE)
        with open(descriptor, "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        status = target.stat() if target.exists() else None
        mode = _NEW_FILE_MODE if status is None else status.st_mode & 0o7777
        if status is not None and hasattr(os, "chown"):
            with suppress(PermissionError):  # only root can keep another owner
                os.chown(temporary, status.st_uid, status.st_gid)
        is_open = bool(mode & _OTHER_USERS) and has_keys and sys.platform != "win32"
        temporary.chmod(mode & ~_OTHER_USERS if is_open else mode)
        repeat_while_read(lambda: temporary.replace(target))
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    return is_open


def decode_env_text(text: str) -> dict[str, str]:
    """Invalid lines are ignored. A reference to another variable (`${NAME}`) stays unchanged."""
    return {line.key: line.value for line in parse_env_text(text) if line.key is not None and line.value is not None}


def find_invalid_env_line(text: str) -> int:
    """Return the number of the first line that is no assignment, comment or empty line. 0: none."""
    invalid = (
        line.original for line in parse_env_text(text) if line.error or (line.key is not None and line.value is None)
    )
    # a statement begins with the empty lines before it
    return next((line.line + len(line.string) - len(line.string.lstrip("\n")) for line in invalid), 0)


def parse_env_text(text: str) -> "Iterator[Binding]":
    # not `dotenv_values`, which logs a warning for each invalid line
    from dotenv.parser import parse_stream  # noqa: PLC0415  # imported only if there is a file

    return parse_stream(io.StringIO(text))
