"""The file with newer facts about models, which `models update` stores in the data directory of the user.

The last line of the file is a comment with its signature, over all bytes before it. The key of the signature is part of
the code, so the file may come from any place. It is read with the settings, and checked each time: a file that cannot
be used changes nothing, and the facts of the release apply. Nothing here downloads it, or puts it in force.
"""

import base64
import binascii
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

from anthropic_proxy.engine.platforms.files import locked_folder, read_bounded_file, write_whole_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers.model_facts import FactsFile, load_built_in_facts
from anthropic_proxy.errors import MissingExtra, is_installed, join_with_and

FACTS_KEY = "xgm6UrcKENP0f4m/C6uCieJW+zGheBBMcgEcWfoUBYI="
"""Public key (Ed25519) of files with facts. CONTRIBUTING.md says how it is replaced."""
FACTS_FILE_NAME = "model-facts.toml"
"""Name of the file in the data directory of the user."""
MAX_FACTS_BYTES = 4 * 1024 * 1024
SIGNATURE_LINE = b"\n# signature: "
_MAX_NAMED = 3
"""Maximum number of missing tables that a text names."""
RESET_COMMAND = "anthropic-proxy models update --reset"


def require_verifier() -> None:
    """Raise `MissingExtra` if signatures cannot be checked, because the package for it is not installed."""
    if not is_installed("cryptography"):
        raise MissingExtra("A file with facts about models needs cryptography, which checks its signature", "facts")


def read_signed_facts(content: bytes, origin: str, public_key: str = FACTS_KEY, today: date | None = None) -> FactsFile:
    """Return the facts of a file, after a check of its signature and of all its values. `today` None: by the clock.

    Raises `MissingExtra`, and `ValueError`, whose text is the end of a sentence about the file.
    """
    require_verifier()
    facts = _read_verified(content, origin, public_key)
    today = today or date.today()
    if facts.date > today + timedelta(days=1):  # its maker may be in another time zone
        raise ValueError(
            f"its facts are of {format_day(facts.date)}, and today is {format_day(today)}: no later file could "
            "replace it"
        )
    return facts


@lru_cache(maxsize=1)  # a command loads the settings several times
def _read_verified(content: bytes, origin: str, public_key: str) -> FactsFile:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # most installations have no such file
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    signed, line, signature = content.rpartition(SIGNATURE_LINE)
    if not line:
        raise ValueError("it has no signature in its last line")
    signed += b"\n"
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
    try:
        key.verify(base64.b64decode(signature.strip(), validate=True), signed)
    except (InvalidSignature, binascii.Error):
        raise ValueError("its signature does not belong to its content and to the key of this release") from None
    file = FactsFile(signed.decode("utf-8"), origin)
    file.require_valid()
    if missing := [f"[{name}]" for name in load_built_in_facts().names if name not in file.names]:
        listed = join_with_and([*missing[:_MAX_NAMED], *(["others"] if len(missing) > _MAX_NAMED else [])])
        raise ValueError(f"it does not have {listed}, and facts of this release would be lost")
    return file


def find_installed_facts(
    directory: Path | None, public_key: str = FACTS_KEY, today: date | None = None
) -> tuple[FactsFile, Sequence[str]]:
    """Return the facts of the file in the data directory, else those of the release, and warnings for the log."""
    file = None if directory is None else find_facts_file(directory)
    built_in = load_built_in_facts()
    if file is None:
        return built_in, ()
    try:
        content = read_bounded_file(file, MAX_FACTS_BYTES)
        facts = read_signed_facts(content, shorten_home(str(file)), public_key, today)
        if facts.date >= built_in.date:
            return facts, ()
        problem = f"its facts are of {format_day(facts.date)}, and those of this release are newer"
    except MissingExtra as error:
        problem = error.message[:1].lower() + error.message[1:].rstrip(".")
    except OSError as error:
        problem = describe_os_error(error)
    except ValueError as error:
        problem = str(error)
    day = format_day(built_in.date)
    applied = f"The facts of this release apply, of {day}. Remove it with  {RESET_COMMAND}"
    return built_in, (f"{file} is not used: {problem}. {applied}",)


def find_facts_file(directory: Path) -> Path | None:
    """None: there is no file."""
    file = directory / FACTS_FILE_NAME
    return file if os.path.lexists(file) else None


def store_facts(directory: Path, content: bytes) -> Path:
    """Write a verified file, for its owner alone, and return its path. Raises `TimeoutError` and `OSError`."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / FACTS_FILE_NAME
    with locked_folder(directory):
        write_whole_file(file, content, mode=0o600)
    return file


def remove_facts(directory: Path) -> bool:
    """Return False if there was no file. Raises `TimeoutError` and `OSError`."""
    file = find_facts_file(directory)
    if file is None:
        return False
    with locked_folder(directory), suppress(FileNotFoundError):
        file.unlink()
    return True


def describe_facts(file: FactsFile) -> str:
    """Return date and place of facts: `facts of 28 Nov 2026`, `facts of 5 Dec 2026 in ~/…/…toml`."""
    return f"facts of {format_day(file.date)}{f' in {file.origin}' if file.origin else ''}"


def list_facts(file: FactsFile) -> dict[str, str]:
    """Return the same for programs. `file` is "" for those of the release."""
    return {"date": file.date.isoformat(), "file": os.path.expanduser(file.origin)}


def format_day(day: date) -> str:
    return f"{day.day} {day:%b %Y}"
