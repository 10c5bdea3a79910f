"""Keys that can be recognized anywhere: logs, responses and screens of a real process are searched for them.

A canary is a key with a mark and chance in it. `support.server_process` looks for those of every process that it runs,
however they are spelled, in all that the process wrote, in the answers of `Proxy.client()`, and in its command lines.
"""

import base64
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

_SECRET_NAMES = re.compile(r"(?:^|_)(?:KEY|KEYS|TOKEN|SECRET|PASSWORD)$")
_MIN_KEY_LENGTH = 12
"""A shorter value is a word of some test, and stands in a log by chance."""
_PIECE = 12
"""So much of the chance in a canary is as good as all of it."""
_MARK = "canary"
_CANARY = re.compile(rf"{_MARK}[0-9a-f]{{16,}}")


def new_canary(prefix: str) -> str:
    """Return a fresh key that begins as a vendor's keys do: `sk-canary0123456789abcdef`."""
    return f"{prefix}{_MARK}{secrets.token_hex(12)}"


def secrets_in(settings: Mapping[str, str]) -> tuple[str, ...]:
    values = (value for name, value in settings.items() if _SECRET_NAMES.search(name))
    keys = (key.strip() for value in values for key in value.split(","))
    return tuple(key for key in keys if len(key) >= _MIN_KEY_LENGTH and not key.isalpha())


def find_leaks(output: bytes | str, keys: Iterable[str], *, any_canary: bool = True) -> list[str]:
    """Return the spellings of keys that stand in the output.

    `any_canary`: a canary that is not among `keys` counts too, as no key belongs there.
    """
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
    leaked = {spelled for key in keys for spelled in _spellings(key) if spelled in text}
    return sorted(leaked | set(_CANARY.findall(text) if any_canary else ()))


def command_lines(pid: int) -> str:
    shown = [Path(f"/proc/{pid}/cmdline")]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        shown += [Path(f"/proc/{child.decode()}/cmdline") for child in _read_if_there(children).split()]
    return "\n".join(_read_if_there(file).replace(b"\0", b" ").decode() for file in shown)


def _read_if_there(file: Path) -> bytes:
    """Return the content of a file about a process or thread, which may have ended meanwhile."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _spellings(key: str) -> set[str]:
    raw = key.encode()
    spelled = {key, quote(key, safe=""), json.dumps(key)[1:-1], repr(key)[1:-1], key[::-1], raw.hex()}
    for before in (b"", b":", b"::"):
        for encoded in (base64.b64encode(before + raw), base64.urlsafe_b64encode(before + raw)):
            spelled.add(encoded.decode().rstrip("=")[4:-4])  # the ends depend on what stands beside it
    if canary := re.search(rf"{_MARK}([0-9a-f]+)", key):
        chance = canary[1]
        spelled |= {chance[place : place + _PIECE] for place in range(len(chance) - _PIECE + 1)}
    return spelled
