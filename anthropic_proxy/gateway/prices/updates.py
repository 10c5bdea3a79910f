"""The price list in use (`PriceSource`), and its updates, by a command or every `PRICE_UPDATE_DAYS` days.

The list is that of the installed package `genai-prices`, or a newer one in the data directory, which all processes of
the user share. An update checks a list of the same project before it replaces the file. After an error, the list in use
stays. The updater of the package keeps less: decision 0048 in docs/contributing/decisions.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.files import locked_folder
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError, MissingExtra, UpstreamError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.env_writer import locked_for_change, replace_file
from anthropic_proxy.plugins import Gateway, HttpReply, Plugin

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot

FILE_NAME = "prices.json"
MAX_PRICE_BYTES = 16 * 1024 * 1024
_VERSION = 1
_DATE = re.compile(r"\b20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b")
"""Matches a date, up to the 28th of a month."""
_DAY_SECONDS = 86_400.0


class InvalidPrices(Exception):
    """Error: a price list cannot be used. The text of the exception is the reason, without a final full stop."""


class StoredPrices(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = _VERSION
    updated_on: date
    dated_on: date
    """Newest date in the price list that was not in the future."""
    package: str
    """Name and version of the package that was installed then, such as `genai-prices 0.2.3`."""
    origin: str
    providers: msgspec.Raw


def read_prices(file: Path) -> StoredPrices | None:
    """None: the file does not exist. Raises `InvalidPrices`."""
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


def find_newest_date(text: str, today: date) -> date | None:
    """None: `text` has no such date."""
    newest = max((found for found in _DATE.findall(text) if found <= today.isoformat()), default=None)
    return None if newest is None else date.fromisoformat(newest)


PACKAGE = "genai-prices"
_DATE_CALL = re.compile(r"\bdate\((20\d\d), ?(\d{1,2}), ?(\d{1,2})\)")
_FileIdentity = tuple[int, int, int] | None


class LoadedPrices(Struct, frozen=True):
    snapshot: "DataSnapshot"
    source: str
    """Origin of the prices: `genai-prices 0.2.3`, or `genai-prices updated 2026-11-22` for a file of the user."""


class PriceSource:
    """Any thread may call the methods."""

    def __init__(self, directory: Path | None) -> None:
        self._file = None if directory is None else directory / FILE_NAME
        self._lock = threading.Lock()
        self._identity: _FileIdentity = None
        self.current: LoadedPrices | None = None
        """The loaded price list. A reload replaces the object. None: nothing is loaded yet."""
        self.problem = ""

    def load(self) -> LoadedPrices | None:
        """None: `genai-prices` is not installed. The first call needs half a second."""
        if self.current is None and has_price_package():
            with self._lock:
                if self.current is None:
                    self._load()
        return self.current

    def reload_if_changed(self) -> None:
        """No effect before the first `load`. Call it in a thread: it may take half a second."""
        if self.current is None or _identify(self._file) == self._identity:
            return
        # a new file needs up to half a second, so the caller uses a thread
        with self._lock:
            if _identify(self._file) != self._identity:
                self._load()

    def _load(self) -> None:
        from genai_prices import data_snapshot  # noqa: PLC0415  # see `load`

        from anthropic_proxy.gateway.prices.check import decode_providers  # noqa: PLC0415

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


def find_price_source(directory: Path | None) -> PriceSource:
    """All calls in this process return the same object."""
    return _sources.get(directory) or _sources.setdefault(directory, PriceSource(directory))


def has_price_package() -> bool:
    return find_spec("genai_prices") is not None


def describe_price_list(directory: Path | None) -> str:
    """Return origin and date of the price list in use, such as `genai-prices 0.2.3, 9 Nov 2026`."""
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
    """None: there is no file, or the package has changed since the file was stored, and its prices are at least as new.
    Raises `InvalidPrices` if the file cannot be used.
    """
    stored = None if file is None else read_prices(file)
    if stored is None or stored.package == find_price_package_version():
        return stored
    newest = find_package_price_date(stored.updated_on)
    return stored if newest is None or stored.dated_on > newest else None


@cache
def find_package_price_date(today: date) -> date | None:
    """None: the package is not installed, or its list has no date."""
    found = find_spec("genai_prices.data") if has_price_package() else None
    if found is None or found.origin is None:
        return None
    content = Path(found.origin).read_text(encoding="utf-8")
    calls = " ".join(f"{year}-{int(month):02}-{int(day):02}" for year, month, day in _DATE_CALL.findall(content))
    return find_newest_date(f"{content} {calls}", today)


@cache
def find_price_package_version() -> str:
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return ""


def format_date(day: date) -> str:
    return f"{day.day} {day:%b %Y}"


def _identify(file: Path | None) -> _FileIdentity:
    try:
        status = None if file is None else os.stat(file)
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)


CLAIM_FILE_NAME = "price-update"
"""Name of the file that records the time and the success of the last automatic update."""
RETRY_SECONDS = 6 * 3600.0
"""Minimum time in seconds between a failed automatic update and the next one."""


class OlderPrices(InvalidPrices):
    """Error: a new price list is older than the list in use. It is not stored, and the list in use stays."""


class PriceUpdate(Struct, frozen=True):
    stored: StoredPrices
    provider_count: int
    model_count: int


def require_price_directory(settings: Settings) -> Path:
    """Raises `ConfigurationError` if there is none, or if `genai-prices` is not installed."""
    if not has_price_package():
        raise ConfigurationError(
            MissingExtra("An update of prices needs genai-prices", "prices").message, code="package-missing"
        )
    if settings.data_directory is None:
        raise ConfigurationError(
            "Prices cannot be stored, because the environment names no directory for data. Set XDG_DATA_HOME or HOME.",
            code="prices-not-stored",
        )
    return settings.data_directory


def find_price_list_url(settings: Settings) -> str:
    if settings.price_update_url is not None:
        return settings.price_update_url
    from genai_prices import update_prices  # noqa: PLC0415  # the import needs half a second

    return update_prices.DEFAULT_UPDATE_URL


async def download_prices(send: Callable[[str], Awaitable[HttpReply]], url: str) -> bytes:
    """Raises `InvalidPrices` unless the status is 200, and `UpstreamError` if the request fails."""
    reply = await send(url)
    if reply.status != 200:
        raise InvalidPrices(f"the server answered with status {reply.status}")
    return reply.body


def read_price_list(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_PRICE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {describe_os_error(error)}.", code="env-file") from None


def store_new_prices(directory: Path, content: bytes, origin: str, today: date) -> PriceUpdate:
    """Raises `InvalidPrices`, `OlderPrices`, and `ConfigurationError` if it cannot be stored. The present list then
    stays.
    """
    from anthropic_proxy.gateway.prices.check import decode_providers  # noqa: PLC0415  # see `PriceSource.load`

    providers = decode_providers(content)
    dated_on = find_newest_date(content.decode(), today)
    if dated_on is None:
        raise InvalidPrices("it has no date")
    file = directory / FILE_NAME
    _create(directory)
    with locked_for_change(file):
        try:
            found = find_newer_prices(file)
        except InvalidPrices:
            found = None
        newest = find_package_price_date(today) if found is None else found.dated_on
        if newest is not None and dated_on < newest:
            raise OlderPrices(f"it is of {format_date(dated_on)}, older than the prices in use")
        stored = StoredPrices(
            updated_on=today,
            dated_on=dated_on,
            package=find_price_package_version(),
            origin=origin,
            providers=msgspec.Raw(content),
        )
        replace_file(file, msgspec.json.encode(stored).decode(), has_keys=False)
    return PriceUpdate(stored, len(providers), sum(len(provider.models) for provider in providers))


def describe_update_failure(error: InvalidPrices | UpstreamError, origin: str, directory: Path) -> str:
    reason = error.message.rstrip(".") if isinstance(error, UpstreamError) else str(error)
    return f"The price list {origin} is not used: {reason}. The prices in use stay: {describe_price_list(directory)}."


def claim_update(directory: Path, days: int, clock: Callable[[], float] = time.time) -> bool:
    """Return True in one process if an update is due: it records the update in `directory`.

    Raises `ConfigurationError` if the directory is not writable.
    """
    _create(directory)
    file, now = directory / CLAIM_FILE_NAME, clock()
    try:
        with locked_folder(directory):
            if file.exists():
                age, pause = now - file.stat().st_mtime, days * _DAY_SECONDS
                if file.read_text(encoding="utf-8") != "done":
                    pause = min(pause, RETRY_SECONDS)
                if 0 <= age < pause:
                    return False
            _write_claim(file, "begun", now)
            return True
    except TimeoutError:
        return False  # another process holds the lock, and the next check is soon
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be written: {describe_os_error(error)}.", code="prices-not-stored"
        ) from None


def record_update_success(directory: Path, clock: Callable[[], float] = time.time) -> None:
    with suppress(OSError):  # the price file was just written to this directory
        _write_claim(directory / CLAIM_FILE_NAME, "done", clock())


def _write_claim(file: Path, text: str, now: float) -> None:
    file.write_text(text, encoding="utf-8")
    os.utime(file, (now, now))


def _create(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{directory} cannot be created: {describe_os_error(error)}.", code="prices-not-stored"
        ) from None


START_DELAY_SECONDS = 10.0
CHECK_INTERVAL_SECONDS = 900.0


def open_plugin(settings: Settings) -> Plugin:
    """Raises `ConfigurationError` if `genai-prices` is not installed, or if there is no data directory to store the
    list.
    """
    updater = PriceUpdater(settings)
    return Plugin(start=updater.start, stop=updater.stop)


class PriceUpdater:
    """Each worker process has one, but only one worker downloads the list."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._directory = require_price_directory(settings)
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self, gateway: Gateway) -> None:
        self._task = asyncio.create_task(self._run(gateway))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def update_if_due(self, gateway: Gateway) -> None:
        directory = self._directory
        try:
            if not await asyncio.to_thread(claim_update, directory, self._settings.price_update_days, self._clock):
                return
            url = await asyncio.to_thread(find_price_list_url, self._settings)
            try:
                content = await download_prices(
                    lambda url: gateway.send_http("GET", url, max_bytes=MAX_PRICE_BYTES), url
                )
                today = date.fromtimestamp(self._clock())
                await asyncio.to_thread(store_new_prices, directory, content, url, today)
            except OlderPrices:
                record_update_success(directory, self._clock)
                return
            except (InvalidPrices, UpstreamError) as error:
                text = await asyncio.to_thread(describe_update_failure, error, url, directory)
                gateway.log_warning_once(f"{text} To try again:  anthropic-proxy prices update")
                return
            await asyncio.to_thread(find_price_source(directory).reload_if_changed)
            record_update_success(directory, self._clock)
            gateway.log_warning_once(f"Prices updated: {describe_price_list(directory)}, from {url}.")
            if any(route.balance == "cost" for route in gateway.settings.routes):
                await gateway.reload_settings()
        except ConfigurationError as error:
            gateway.log_warning_once(f"The prices are not updated (PRICE_UPDATE_DAYS). {error.message}")

    async def _run(self, gateway: Gateway) -> None:
        await asyncio.sleep(START_DELAY_SECONDS)
        while True:
            await self.update_if_due(gateway)
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)
