"""API keys that the configuration file refers to: values of variables, contents of files, output of commands."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import IO

from msgspec import Struct

from anthropic_proxy.engine.durations import decode_duration
from anthropic_proxy.engine.options import KeySource
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.processes import describe_missing_program, find_program
from anthropic_proxy.gateway.settings.config_file import ConfigFile, format_key_path
from anthropic_proxy.gateway.settings.environment import copy_environment
from anthropic_proxy.gateway.settings.file_format import KeyPath, KeyReference
from anthropic_proxy.gateway.settings.files import MAX_KEY_BYTES
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.values import (
    decode_keys,
    is_key_text,
    is_secret_variable,
    is_variable_name,
    redact_and_shorten,
)
from anthropic_proxy.secrets import Secret

KEY_COMMAND_TIMEOUT_SECONDS = 30.0
"""Maximum duration of a command that writes an API key. A password manager may ask the user for permission."""
_MAX_QUOTED_CHARACTERS = 200
_READ_BYTES = 16 * 1024
_DETAILS = "For details:  anthropic-proxy config check"
UNRESOLVED_KEY = "not-read"
"""Stands for a key in a file or from a command while nothing is sent."""


class ResolvedKeys(Struct, frozen=True):
    keys: Sequence[Secret] = ()
    problem: str = ""
    """Reason why there is no key, and remedy, as the end of a sentence for clients. The reference is not quoted, unless
    it is certainly no key.

    "": the keys are known, or the command was not run.
    """
    problem_details: str = ""
    """Longer text of `problem` for the user's terminal. It quotes the reference and the error text of a command."""
    source: KeySource | None = None
    """File or command that the keys were read from. None: a variable, or there are no keys."""


def resolve_keys(
    file: ConfigFile, path: KeyPath, reference: KeyReference, sources: Sources, *, resolves_keys: bool
) -> ResolvedKeys:
    """If `resolves_keys` is False, no command is run and no key file is read: their key is `UNRESOLVED_KEY`.

    Raises `ConfigurationError` for an invalid reference.
    """
    where = f"{format_key_path(path)} in {file.describe_origin_in_sentence(path)}"
    refresh_seconds = _decode_refresh(reference, path, where)
    if reference.env is not None:
        if not is_variable_name(reference.env):
            raise ConfigurationError(
                f"The field env of {where}, is not the name of a variable. Its text is not shown, because it may be a "
                'key. Put the key into .env as NAME=… and write  api_key = { env = "NAME" }',
                code="key-in-file",
            )
        given = sources.find_referenced_key_variable(reference.env)
        if given is None:
            details = f"{reference.env} is not set ({where}). Set it in .env or in the environment."
            if reference.env.isupper() and is_secret_variable(reference.env):  # the name of a key, and not a key
                return ResolvedKeys(problem=details, problem_details=details)
            return ResolvedKeys(problem=f"the variable of {where}, is not set. {_DETAILS}", problem_details=details)
        return ResolvedKeys(decode_keys(given))
    if not resolves_keys:
        return ResolvedKeys((Secret(UNRESOLVED_KEY, where),))
    folder = os.path.dirname(os.path.abspath(file.path))
    if reference.file is not None:
        kind = "file"
        origin = f"the file {redact_and_shorten(reference.file)} ({where})"
        source = KeySource(origin=origin, folder=folder, file=reference.file, refresh_seconds=refresh_seconds)
    elif reference.command:
        kind = "command"
        origin = f"the command {redact_and_shorten(reference.command[0])} ({where})"
        source = KeySource(origin=origin, folder=folder, command=reference.command, refresh_seconds=refresh_seconds)
    else:
        return ResolvedKeys()
    text, problem, output = _read(source)
    if problem:
        return ResolvedKeys(
            problem=f"the {kind} of {where}, {problem}. {_DETAILS} --keys",
            problem_details=f"{origin} {problem}{output}.",
        )
    return ResolvedKeys((Secret(text, origin),), source=source)


def read_key_again(source: KeySource) -> Secret:
    """Return the API key that a file or command of the configuration file has now.

    Blocks for at most `KEY_COMMAND_TIMEOUT_SECONDS`. Raises `ConfigurationError` if there is no usable key.
    """
    text, problem, output = _read(source)
    if problem:
        raise ConfigurationError(f"{source.origin} {problem}{output}.")
    return Secret(text, source.origin)


def _read(source: KeySource) -> tuple[str, str, str]:
    """Return the key, the problem and the error text of a command. Either the key or the problem is ""."""
    text, problem, output = _run_or_open(source)
    if problem or is_key_text(text):
        return text, problem, output
    written = "wrote" if source.command else "contains"
    return "", f"{written} a space, a line break or a letter outside ASCII, which is invalid in a key", ""


def _run_or_open(source: KeySource) -> tuple[str, str, str]:
    if source.command:
        folder = Path(source.folder)
        named = os.path.expanduser(source.command[0])
        environ = copy_environment()
        program = find_program(str(folder / named) if os.path.dirname(named) else named, environ)
        if program is None:
            reason = describe_missing_program(named, environ)
            return "", "was not found", f": {reason}" if reason else ""
        try:
            status, written, errors = _run_bounded([program, *source.command[1:]], folder)
        except subprocess.TimeoutExpired:
            return "", f"did not end within {KEY_COMMAND_TIMEOUT_SECONDS:g} s", ""
        except OSError as error:
            return "", f"cannot be run: {describe_os_error(error)}", ""
        if len(written) > MAX_KEY_BYTES:
            return "", f"wrote more than {MAX_KEY_BYTES >> 10} KiB", ""
        if status:
            reason = next(iter(errors.decode(errors="replace").strip().splitlines()), "")
            output = f": {redact_and_shorten(reason, _MAX_QUOTED_CHARACTERS)}" if reason else ""
            return "", f"ended with status {status}", output
        text = written.decode("utf-8-sig", errors="replace").strip()
        return text, "" if text else "wrote no key", ""
    path = Path(source.folder) / os.path.expanduser(source.file)
    try:
        text = read_bounded_file(path, MAX_KEY_BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return "", "is not UTF-8 text", ""
    except OSError as error:
        return "", f"cannot be read: {describe_os_error(error)}", ""
    return text, "" if text else "is empty", ""


def _run_bounded(command: Sequence[str], folder: Path) -> tuple[int, bytes, bytes]:
    """Return the status of a command, and the first bytes of its output and of its errors. It is ended if its output is
    longer than a key can be. Raises `subprocess.TimeoutExpired`, or `OSError`.
    """
    deadline = time.monotonic() + KEY_COMMAND_TIMEOUT_SECONDS
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    outputs = bytearray(), bytearray()

    def read(stream: IO[bytes], kept: bytearray) -> None:
        with stream:
            while data := stream.read1(_READ_BYTES):  # type: ignore[attr-defined]  # of a pipe
                kept += data[: MAX_KEY_BYTES + 1 - len(kept)]
                if len(outputs[0]) > MAX_KEY_BYTES:
                    process.kill()
                    return

    streams = zip((process.stdout, process.stderr), outputs, strict=True)
    readers = [Thread(target=read, args=arguments, name="key-command", daemon=True) for arguments in streams]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(max(deadline - time.monotonic(), 0))
    has_ended = len(outputs[0]) > MAX_KEY_BYTES or not any(reader.is_alive() for reader in readers)
    try:
        status = process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        has_ended = False
        process.kill()
        status = process.wait()
    if not has_ended:
        raise subprocess.TimeoutExpired(command, KEY_COMMAND_TIMEOUT_SECONDS)
    return status, bytes(outputs[0]), bytes(outputs[1])


def _decode_refresh(reference: KeyReference, path: KeyPath, where: str) -> float | None:
    given = reference.refresh
    if given is None:
        return None
    if reference.env is not None or path[0] != "providers":
        raise ConfigurationError(
            f"The field refresh of {where}, has no effect. It is for a file or command with the key of a provider.",
            code="refresh-of-a-key",
        )
    seconds = decode_duration(given)
    if not seconds:
        raise ConfigurationError(
            f'The field refresh of {where}, is "{redact_and_shorten(given)}". '
            "Use a duration such as 30s, 50m, 12h or 1d.",
            code="refresh-of-a-key",
        )
    return float(seconds)
