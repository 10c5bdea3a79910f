"""Stored runs of the doctor, by which the command `doctor` and the dashboard exchange progress and results.

The doctor sends test requests to the configured providers, to find the features that work. The data directory has a
file for the run in progress and one for the latest complete run. The process that runs the doctor holds a lock, which
the system also releases after a crash: a file of a run in progress without a lock is of a run that ended early. Another
process asks it to stop by an empty file.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.files import is_folder_locked, locked_folder, repeat_while_read
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.table import list_backend_variables
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.secrets import redact_secrets

FOLDER_NAME = "doctor"
_CURRENT, _COMPLETE, _STOP = "current-run.json", "last-run.json", "stop"
_VERSION = 1


class RunColumn(Struct, frozen=True):
    prefix: str
    model: str
    provider: str
    """Name of the provider: `google` for the prefix `gemini`."""
    details: Mapping[str, str] = {}
    """Feature → cause of its result: error text of the server, or the observed deviation."""


class RunCell(Struct, frozen=True):
    sign: str
    """`✓`, `~`, `✕`, `–`, or `…` while the test requests run. "": a number without a sign."""
    text: str


class RunRow(Struct, frozen=True):
    title: str
    cells: Sequence[RunCell]


class RunFix(Struct, frozen=True):
    name: str
    problem: str
    remedy: str
    place: str = ""
    """Where to write a setting: `in ~/project/.env`. "": the remedy is no setting, or names its place."""


class RunTomlTable(Struct, frozen=True):
    """Table for the file `anthropic-proxy.toml` that adapts the proxy to one unknown server. The table lists the
    deviations of the server from the API that it implements.
    """

    base_url: str
    """Base URL of the server, without credentials."""
    text: str


class DoctorRun(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of the doctor: cost, results and remedies so far. It contains no secrets."""

    version: int = _VERSION
    started_at: float
    """Time of the start in seconds since the epoch."""
    ended_at: float = 0.0
    """Time of the end in seconds since the epoch. 0: not complete."""
    expected_requests: int = 0
    """Number of requests that were estimated before the start. 0: not estimated yet."""
    requests: int = 0
    tokens: int = 0
    price: float | None = None
    """US dollars. None: a price is unknown, all models are free, or the run is not complete."""
    columns: Sequence[RunColumn] = ()
    rows: Sequence[RunRow] = ()
    fixes: Sequence[RunFix] = ()
    tables: Sequence[RunTomlTable] = ()
    settings_digest: str = ""
    """Digest of the settings at the start. If it differs now, the remedies may no longer apply."""
    problem: str = ""
    """Reason for which the run ended before it was complete, with its remedy. "": none is known."""


def find_folder(data_directory: Path) -> Path:
    return data_directory / FOLDER_NAME


def load_current(data_directory: Path) -> DoctorRun | None:
    """Return the run that is in progress, or that ended before it was complete. None: the latest run is complete."""
    return _load(find_folder(data_directory) / _CURRENT)


def load_complete(data_directory: Path) -> DoctorRun | None:
    """Return the latest complete run. None: there is none, or its file cannot be read."""
    return _load(find_folder(data_directory) / _COMPLETE)


def store_current(data_directory: Path, run: DoctorRun) -> None:
    """A reader never sees an incomplete file. Raises `OSError`."""
    _store(find_folder(data_directory) / _CURRENT, run)


def store_complete(data_directory: Path, run: DoctorRun) -> None:
    """Raises `OSError`."""
    _store(find_folder(data_directory) / _COMPLETE, run)


def remove_current(data_directory: Path) -> None:
    file = find_folder(data_directory) / _CURRENT
    repeat_while_read(lambda: file.unlink(missing_ok=True))


def digest_backend_settings(settings: Settings) -> str:
    """Return a digest of the settings on which the results of a run depend. If the digest has changed since a run, its
    remedies may no longer apply. Keys are masked. Of a key from a command, only the presence counts, because each start
    may return another one.
    """
    variables, secrets = list_backend_variables(find_registry(settings)), settings.reveal_all_secrets()
    texts = {name: value.reveal() for name, value in settings.raw_values.items()}
    lines = [f"{name}={mask_setting(name, text)}" for name, text in sorted(texts.items()) if name in variables]
    lines.append(redact_secrets(texts.get("routes", ""), secrets))
    for table in sorted(settings.configured_providers, key=lambda table: table.name):
        keys = [str(key) for key in settings.keys.get(table.name, ())]
        text = redact_secrets(table.json_text, secrets)
        lines.append(f"{table.name}={text} {bool(keys) if table.has_key_command else keys}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()


@contextmanager
def locked_run(data_directory: Path, timeout_seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of a run, and delete an earlier request to stop.

    Raises `TimeoutError` after `timeout_seconds` (None: `LOCK_SECONDS`), and `OSError` if the folder cannot be opened.
    """
    folder = find_folder(data_directory)
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, timeout_seconds):
        (folder / _STOP).unlink(missing_ok=True)
        yield


def is_running(data_directory: Path) -> bool:
    if not os.path.exists(find_folder(data_directory) / _CURRENT):  # `Path.exists` raises for an unreadable folder
        return False
    try:
        return is_folder_locked(find_folder(data_directory))
    except OSError:
        return False


def request_stop(data_directory: Path) -> None:
    """Raises `OSError`."""
    (find_folder(data_directory) / _STOP).touch()


def is_stop_requested(data_directory: Path) -> bool:
    return os.path.exists(find_folder(data_directory) / _STOP)


def find_latest_start(data_directory: Path) -> float:
    """Seconds since the epoch, of a complete run or not. 0: there was no run."""
    runs = load_current(data_directory), load_complete(data_directory)
    return max((run.started_at for run in runs if run is not None), default=0.0)


def _load(file: Path) -> DoctorRun | None:
    try:
        run = decode_json(file.read_bytes(), DoctorRun)
    except (OSError, InvalidJson):
        return None
    return run if run.version == _VERSION else None


def _store(file: Path, run: DoctorRun) -> None:
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(msgspec.json.encode(run) + b"\n")
        repeat_while_read(lambda: temporary.replace(file))
    finally:
        with suppress(OSError):
            temporary.unlink()
