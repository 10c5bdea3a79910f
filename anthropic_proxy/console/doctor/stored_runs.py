"""Stored runs of the doctor: the latest complete run, of the command or the dashboard, and one that ended early.

The dashboard also stores the start of each run, and holds a lock until its end, which the system releases if the proxy
ends. The file without the lock is of a run that ended early.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.doctor.findings import Diagnosis
from anthropic_proxy.console.doctor.fixes import Fix
from anthropic_proxy.console.doctor.report import Report, Row, list_explanations, list_rows
from anthropic_proxy.console.doctor.server_tables import hide_credentials
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.files import is_folder_locked, locked_folder, repeat_while_read, write_whole_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.table import list_backend_variables
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.secrets import redact_json_value, redact_secrets

FOLDER_NAME = "doctor"
_CURRENT, _COMPLETE = "current-run.json", "last-run.json"
_VERSION = 1
_LOCK_SECONDS = 1.0
"""Seconds to wait for the lock. A page may hold it for a moment, to see whether a run does."""


class RunColumn(Struct, frozen=True):
    prefix: str
    model: str
    provider: str
    """Name of the provider: `google` for the prefix `gemini`."""
    details: Mapping[str, str] = {}
    """Feature → cause of its result: error text of the server, or the observed deviation."""
    has_replied: bool = False


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
    rows: Sequence[Row] = ()
    fixes: Sequence[Fix] = ()
    tables: Sequence[RunTomlTable] = ()
    settings_digest: str = ""
    """Digest of the settings at the start. If it differs now, the remedies may no longer apply."""
    problem: str = ""
    """Reason for which the run ended before it was complete, with its remedy. "": none is known."""


def new_run(settings: Settings, expected_requests: int = 0) -> DoctorRun:
    """Return a run that starts now."""
    digest = digest_backend_settings(settings)
    return DoctorRun(started_at=time.time(), expected_requests=expected_requests, settings_digest=digest)


def add_results(run: DoctorRun, diagnoses: Sequence[Diagnosis]) -> DoctorRun:
    """Return `run` with the results so far, whose texts may contain keys."""
    totals, targets = [one.totals for one in diagnoses], [one.backend.target for one in diagnoses]
    columns = [
        RunColumn(
            one.provider.prefix,
            one.model,
            one.provider.name,
            list_explanations(diagnosis),
            has_replied=diagnosis.seconds is not None,
        )
        for one, diagnosis in zip(targets, diagnoses, strict=True)
    ]
    return structs.replace(
        run,
        requests=sum(one.requests for one in totals),
        tokens=sum(one.input_tokens + one.output_tokens for one in totals),
        columns=columns,
        rows=list_rows(diagnoses),
    )


def complete_run(run: DoctorRun, report: Report) -> DoctorRun:
    """Return `run` with all results and the present time as its end. Its texts may contain keys."""
    tables = [
        RunTomlTable(hide_credentials(server.base_url), server.table)
        for server in report.servers
        if any(diagnosis.evidence for diagnosis in server.diagnoses)
    ]
    found = structs.replace(run, ended_at=time.time(), price=report.price, fixes=report.fixes, tables=tables)
    return add_results(found, report.diagnoses)


def mask_keys(run: DoctorRun, redact: Callable[[str], str]) -> DoctorRun:
    """Return `run` without keys. With new texts, this takes milliseconds, so a server calls it in a thread."""
    redacted = redact_json_value(msgspec.to_builtins(run), redact)
    return msgspec.convert({**redacted, "settings_digest": run.settings_digest}, DoctorRun)


def find_folder(data_directory: Path) -> Path:
    return data_directory / FOLDER_NAME


def load_current(data_directory: Path) -> DoctorRun | None:
    """Return the latest run of the dashboard, if it is in progress or has ended early. None: there is none."""
    return _load(find_folder(data_directory) / _CURRENT)


def load_complete(data_directory: Path) -> DoctorRun | None:
    """Return the latest complete run. None: there is none, or its file cannot be read."""
    return _load(find_folder(data_directory) / _COMPLETE)


def find_known_run(settings: Settings) -> DoctorRun:
    """Return the latest complete run, if the settings are still those of the run; else one without results."""
    run = None if settings.data_directory is None else load_complete(settings.data_directory)
    if run is None or run.settings_digest != digest_backend_settings(settings):
        return DoctorRun(started_at=0.0)
    return run


def store_current(data_directory: Path, run: DoctorRun) -> None:
    """A reader never sees an incomplete file. Raises `OSError`."""
    write_whole_file(find_folder(data_directory) / _CURRENT, msgspec.json.encode(run) + b"\n")


def store_complete(data_directory: Path, run: DoctorRun) -> None:
    """Raises `OSError`."""
    write_whole_file(find_folder(data_directory) / _COMPLETE, msgspec.json.encode(run) + b"\n")


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
def locked_run(data_directory: Path) -> Iterator[None]:
    """Hold the lock of a run of the dashboard. It is one for all proxies that use the data directory.

    Raises `TimeoutError` if another run holds it, and `OSError` if the folder cannot be opened.
    """
    folder = find_folder(data_directory)
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, _LOCK_SECONDS):
        yield


def is_running(data_directory: Path) -> bool:
    """Return True if a run of any proxy on this machine is in progress."""
    try:
        return is_folder_locked(find_folder(data_directory))
    except OSError:
        return False


def describe_not_stored(subject: str, data_directory: Path, error: OSError) -> str:
    """`subject`: `facts` or `results`. Facts have a lock, so that they can raise `TimeoutError`."""
    reason = f"another run stores its {subject}" if isinstance(error, TimeoutError) else describe_os_error(error)
    return f"The {subject} cannot be stored in {data_directory}: {reason}."


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
