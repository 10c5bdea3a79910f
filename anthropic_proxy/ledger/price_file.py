"""The user's price file: a price list of the project `genai-prices` with its date, in the data directory of the user.

`read_prices` reads the file as `StoredPrices`, and `write_prices` replaces it in one step. `InvalidPrices` has the
reason why a price list is not used.
"""

import re
from datetime import date
from pathlib import Path

import msgspec
from msgspec import Struct

from anthropic_proxy.json_decoding import InvalidJson, decode_json
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.settings.env_writer import replace_file

FILE_NAME = "prices.json"
"""Name of the price file in the data directory of the user."""
MAX_PRICE_BYTES = 16 * 1024 * 1024
"""Maximum bytes of a price list. The published list has less than one tenth of it."""
_VERSION = 1
_DATE = re.compile(r"\b20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b")
"""Matches a date, up to the 28th of a month."""


class InvalidPrices(Exception):
    """Error: a price list cannot be used. The text of the exception is the reason, without a final full stop."""


class StoredPrices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of the price file."""

    version: int = _VERSION
    """Version of this format."""
    updated_on: date
    """Day on which the price list was downloaded or read."""
    dated_on: date
    """Newest date in the price list that was not in the future."""
    package: str
    """Name and version of the package that was installed then, such as `genai-prices 0.2.3`."""
    origin: str
    """URL or path of the price list."""
    providers: msgspec.Raw
    """The price list: JSON array of providers with their models."""


def read_prices(file: Path) -> StoredPrices | None:
    """Return the content of the price file. None: the file does not exist.

    Raises `InvalidPrices` if the file cannot be read or decoded, or has another format version.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(2 * MAX_PRICE_BYTES)
        stored = decode_json(content, StoredPrices)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidPrices(f"it cannot be read ({describe_os_error(error)})") from None
    except InvalidJson:
        raise InvalidPrices("it is incomplete or was changed") from None
    if stored.version != _VERSION:
        raise InvalidPrices(f"it has the format version {stored.version}, this program reads {_VERSION}")
    return stored


def write_prices(file: Path, prices: StoredPrices) -> None:
    """Replace the price file in one step, so that no process reads an incomplete file.

    Raises `ConfigurationError` if the file cannot be written.
    """
    replace_file(file, msgspec.json.encode(prices).decode(), has_keys=False)


def find_newest_date(text: str, today: date) -> date | None:
    """Return the newest of the dates in `text`, such as `2026-11-09`, that are not after `today`.

    None: `text` has no such date.
    """
    newest = max((found for found in _DATE.findall(text) if found <= today.isoformat()), default=None)
    return None if newest is None else date.fromisoformat(newest)
