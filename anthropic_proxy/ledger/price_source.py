"""`PriceSource`: the price list in use, which comes from the PyPI package `genai-prices` or a newer file of the user.

`find_price_source` returns the source for a data directory. `load` returns its price list (`LoadedPrices`).
`reload_if_changed` applies a new file while the proxy runs. A user's file is used only if the package is installed.
`find_price_package_version` returns the version of the package, and `describe_price_list` describes the list in use.
"""

import os
import re
import threading
from datetime import UTC, date, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from anthropic_proxy.ledger.price_file import FILE_NAME, InvalidPrices, StoredPrices, find_newest_date, read_prices

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot

PACKAGE = "genai-prices"
"""Name of the package on PyPI that contains prices."""
_DATE_CALL = re.compile(r"\bdate\((20\d\d), ?(\d{1,2}), ?(\d{1,2})\)")
_FileIdentity = tuple[int, int, int] | None


class LoadedPrices(Struct, frozen=True):
    """A loaded price list, with a text that describes its origin."""

    snapshot: "DataSnapshot"
    """Prices of all models, as the library `genai-prices` represents them."""
    source: str
    """Origin of the prices: `genai-prices 0.2.3`, or `genai-prices updated 2026-11-22` for a file of the user."""


class PriceSource:
    """Price list in use: that of the installed package, or a newer one from the user's file in a data directory.

    Any thread may call the methods.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file = None if directory is None else directory / FILE_NAME
        self._lock = threading.Lock()
        self._identity: _FileIdentity = None
        self.current: LoadedPrices | None = None
        """The loaded price list. A reload replaces the object. None: nothing is loaded yet."""
        self.problem = ""
        """Message about a file that is not used because it is invalid. "": there is no such file."""

    def load(self) -> LoadedPrices | None:
        """Return the price list. None: `genai-prices` is not installed.

        The first call loads the list, which takes half a second. Later calls return the loaded list.
        """
        if self.current is None and has_price_package():
            with self._lock:
                if self.current is None:
                    self._load()
        return self.current

    def reload_if_changed(self) -> None:
        """Load the price list again if the user's file has changed. An invalid file is not used.

        The call has no effect before the first `load`. Call it in a thread, because it may take half a second.
        """
        if self.current is None or _identify(self._file) == self._identity:
            return
        # a new file needs up to half a second, so the caller uses a thread
        with self._lock:
            if _identify(self._file) != self._identity:
                self._load()

    def _load(self) -> None:
        from genai_prices import data_snapshot  # noqa: PLC0415  # see `load`

        from anthropic_proxy.ledger.price_updates import decode_providers  # noqa: PLC0415

        self._identity, self.problem = _identify(self._file), ""
        try:
            stored = find_newer_prices(self._file)
            if stored is not None:
                snapshot = data_snapshot.DataSnapshot(decode_providers(bytes(stored.providers)), from_auto_update=True)
                self.current = LoadedPrices(snapshot, f"{PACKAGE} updated {stored.updated_on}")
                return
        except InvalidPrices as error:
            self.problem = (
                f"The price file {self._file} is not used: {error}. Replace it:  anthropic-proxy prices update"
            )
            if self.current is not None:
                return
        self.current = LoadedPrices(data_snapshot.get_snapshot(), find_price_package_version())


# not `cache`, which gives two threads two objects at the first call
_sources: dict[Path | None, PriceSource] = {}
"""Data directory → its price list."""


def find_price_source(directory: Path | None) -> PriceSource:
    """Return the `PriceSource` of the data directory `directory`. All calls in this process return the same object."""
    return _sources.get(directory) or _sources.setdefault(directory, PriceSource(directory))


def has_price_package() -> bool:
    """Return True if the PyPI package `genai-prices` is installed."""
    return find_spec("genai_prices") is not None


def describe_price_list(directory: Path | None) -> str:
    """Return origin and date of the price list in use, such as `genai-prices 0.2.3, 9 Nov 2026`.

    "": the package is not installed.
    """
    package = find_price_package_version()
    try:
        stored = find_newer_prices(None if directory is None else directory / FILE_NAME) if package else None
    except InvalidPrices:
        stored = None
    if stored is not None:
        return f"{PACKAGE} updated {format_date(stored.updated_on)}"
    newest = find_package_price_date(datetime.now(UTC).date()) if package else None
    return package if newest is None else f"{package}, {format_date(newest)}"


def find_newer_prices(file: Path | None) -> StoredPrices | None:
    """Return the content of the user's price file if it is used in place of the prices of the installed package.

    None: there is no file, or the package has changed since the file was stored, and its prices are at least as new.
    Raises `InvalidPrices` if the file cannot be used.
    """
    stored = None if file is None else read_prices(file)
    if stored is None or stored.package == find_price_package_version():
        return stored
    newest = find_package_price_date(stored.updated_on)
    return stored if newest is None or stored.dated_on > newest else None


@cache
def find_package_price_date(today: date) -> date | None:
    """Return the newest date in the price list of the package that is not after `today`.

    None: the package is not installed, or its list has no date.
    """
    found = find_spec("genai_prices.data") if has_price_package() else None
    if found is None or found.origin is None:
        return None
    content = Path(found.origin).read_text(encoding="utf-8")
    calls = " ".join(f"{year}-{int(month):02}-{int(day):02}" for year, month, day in _DATE_CALL.findall(content))
    return find_newest_date(f"{content} {calls}", today)


@cache
def find_price_package_version() -> str:
    """Return name and version of the installed package with prices, such as `genai-prices 0.2.3`.

    "": the package is not installed.
    """
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return ""


def format_date(day: date) -> str:
    """Return a date as text: `9 Nov 2026`."""
    return f"{day.day} {day:%b %Y}"


def _identify(file: Path | None) -> _FileIdentity:
    """Return modification time, size and inode of `file`. None: there is no such file."""
    try:
        status = None if file is None else os.stat(file)
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
