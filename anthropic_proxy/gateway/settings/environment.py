"""Environment variables that other programs and libraries use too: color, HTTP proxies, listen address, OpenTelemetry.

Source of the variables of OpenTelemetry: its specification 1.56, "Environment Variable Specification" (read 2026-11).
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

from anthropic_proxy.engine.options import THIS_MACHINE
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.processes import list_absolute_folders
from anthropic_proxy.gateway.settings.fields import CollectorSettings, Settings
from anthropic_proxy.gateway.settings.file_format import TelemetrySignal
from anthropic_proxy.gateway.settings.sources import FoundSetting, Sources
from anthropic_proxy.gateway.settings.values import AWS_REGION, decode_path, redact_and_shorten
from anthropic_proxy.secrets import Secret

_SCHEMES = ("http", "https")
_BINDING = ("--host", "--bind", "-b")
"""Command-line options for the listen address of the servers uvicorn, gunicorn and hypercorn."""

OTEL_PREFIX = "OTEL_"
"""Beginning of the names of all variables of OpenTelemetry."""
OTEL_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
"""Variable with headers for the collector, which usually contain a key: `authorization=Bearer …`."""
_TRACE_HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
TRACE_EXPORTERS = ("otlp", "console")
_PROTOCOL = "http/protobuf"
"""The supported value of `OTEL_EXPORTER_OTLP_PROTOCOL`, which is also the default of the specification."""
_COLLECTOR_ADDRESS = compile_anchored(r"https?://[^/?#]", re.IGNORECASE)
_FILES = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}{file}"
    for signal in ("", "TRACES_")
    for file in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
)
"""Variables with the path of a file. The SDK would search a relative path in the current directory."""
_MIN_SECRET_CHARACTERS = 8
_MAX_PATH_CHARACTERS = 300

_SAFE_PATH = "PYTHONSAFEPATH"
"""Name of the variable with which a new interpreter does not search the current directory for modules."""
_SAFE_PATH_OF_WORKERS = "anthropic-proxy"
"""Value that the user has not set. Every value except "" has the same effect."""


def copy_environment() -> dict[str, str]:
    return dict(os.environ)


def keep_absolute_folders_of_path() -> None:
    """Remove the empty and relative folders from PATH of this process, for a library that searches programs itself."""
    os.environ["PATH"] = list_absolute_folders(os.environ.get("PATH", os.defpath))


@contextmanager
def python_safe_path_for_workers() -> Iterator[None]:
    """Set `PYTHONSAFEPATH` while workers are started: they import no modules from the current directory.

    They still find the proxy's modules, because `multiprocessing` passes them the search path of this process. Each
    worker must call `remove_python_safe_path`.
    """
    if os.environ.get(_SAFE_PATH):
        yield
        return
    os.environ[_SAFE_PATH] = _SAFE_PATH_OF_WORKERS
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]


def remove_python_safe_path() -> None:
    """Remove the variable, so that commands that this worker process runs for users do not inherit it. A value from the
    user is kept.
    """
    if os.environ.get(_SAFE_PATH) == _SAFE_PATH_OF_WORKERS:
        del os.environ[_SAFE_PATH]


def find_color_setting(environ: Mapping[str, str]) -> bool | None:
    """True: colored, False: no color, None: the environment states neither.

    `NO_COLOR` overrides `FORCE_COLOR`, and `FORCE_COLOR` overrides `TERM=dumb`.
    """
    if environ.get("NO_COLOR"):
        return False
    if forced := environ.get("FORCE_COLOR", "").strip().lower():
        return forced not in ("0", "false")
    return False if environ.get("TERM") == "dumb" else None


def find_proxies(environ: Mapping[str, str]) -> dict[str, Secret]:
    """Return scheme of a base URL (`http`, `https`) → proxy for it.

    Raises `ConfigurationError` for a proxy of another kind, because requests would bypass it.
    """
    proxies: dict[str, Secret] = {}
    for scheme in _SCHEMES:
        for name in (f"{scheme}_proxy", "all_proxy"):
            variable, address = _find_variable(environ, name)
            if not address:
                continue
            address = address if "://" in address else f"http://{address}"
            kind = urlsplit(address).scheme.lower()
            if kind not in _SCHEMES:
                raise ConfigurationError(
                    f"{variable} names a {kind} proxy, which is not supported. Use an http or https proxy, or unset "
                    "it.",
                    code="proxy-kind",
                )
            if not urlsplit(address).netloc.rpartition("@")[2].partition(":")[0]:
                raise ConfigurationError(
                    f"{variable} names no host. Use an address such as http://proxy.example.com:8080, or unset it.",
                    code="proxy-kind",
                )
            proxies[scheme] = Secret(address, f"{variable} in the environment")
            break
    return proxies


def find_no_proxy_setting(environ: Mapping[str, str]) -> str:
    """Return the hosts of `NO_PROXY` and this machine. An HTTP proxy would look for the server on its own machine."""
    entries = [entry.strip() for entry in _find_variable(environ, "no_proxy")[1].split(",")]
    return ",".join(dict.fromkeys([*filter(None, entries), *THIS_MACHINE.split(",")]))


def export_no_proxy(settings: Settings) -> None:
    """Let libraries that read the environment call this machine without an HTTP proxy, too."""
    if settings.http_proxies:
        os.environ.update(dict.fromkeys(("NO_PROXY", "no_proxy"), settings.no_proxy_hosts))


def find_listen_host_option(arguments: Sequence[str]) -> str:
    """Return the listen host from the command line of an ASGI server (`--host 127.0.0.1`). "": no such option.

    A bind address without a host (`--bind=:8082`) returns `0.0.0.0`.
    """
    option, value = _find_option(arguments, _BINDING)
    host = value.removeprefix("tcp://")
    return host if option in ("", "--host") else host.rpartition(":")[0].strip("[]") or "0.0.0.0"


def find_listen_port_option(arguments: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """Return the listen port of an ASGI server from its command line. None: unknown, or it listens on no port.

    uvicorn has a default, and a variable in `environ`.
    """
    if _find_option(arguments, ("--uds", "--fd"))[0]:
        return None
    value = _find_option(arguments, ("--port", "--bind", "-b"))[1].rpartition(":")[2]
    program = Path(arguments[0]) if arguments else Path()
    if not value and "uvicorn" in (program.stem, program.parent.name):  # `uvicorn` or `python -m uvicorn`
        value = environ.get("UVICORN_PORT") or "8000"
    return int(value) if value.isascii() and value.isdigit() and 0 < int(value[:6]) < 65_536 else None


def _find_option(arguments: Sequence[str], names: Collection[str]) -> tuple[str, str]:
    """Both are "" if the command line has none of `names`."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, _, joined = argument.partition("=")
        if option in names:
            return option, joined or following
    return "", ""


def _find_variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The lower-case name has precedence. If the variable is not set, `name` and "" are returned."""
    return next(((key, value) for key in (name, name.upper()) if (value := environ.get(key, "").strip())), (name, ""))


def list_missing_files(given: FoundSetting, paths: Iterable[str]) -> list[str]:
    """Return warnings about the files and folders of a variable that a library reads."""
    return [
        f'{given.variable} is "{redact_and_shorten(path, _MAX_PATH_CHARACTERS)}", which does not exist.{given.location}'
        for path in paths
        if not os.path.exists(path)
    ]


def load_trace_fields(values: Mapping[str, Any], sources: Sources) -> tuple[dict[str, Any], list[str]]:
    """Return fields of `Settings` with `has_own_traces` (False: those of the proxy are off), and warnings. `values` are
    those of the table of settings.

    An unsupported value is a warning, not an error, because other programs may need it.
    """
    warnings: list[str] = []
    default = ("otlp",) if values.keys() & {"endpoint", "traces_endpoint"} else ()
    names = list(dict.fromkeys(map(str.lower, values.get("exporters", default))))
    if "none" not in names and (unknown := [name for name in names if name not in TRACE_EXPORTERS]):
        shown = ", ".join(f'"{redact_and_shorten(name)}"' for name in unknown)
        warnings.append(f"OTEL_TRACES_EXPORTER is {shown}, which is ignored. Use otlp, console or none.")
    exporters = () if "none" in names else tuple(name for name in names if name in TRACE_EXPORTERS)
    protocol = values.get("protocol", _PROTOCOL)
    if "otlp" in exporters and protocol.lower() != _PROTOCOL:
        warnings.append(
            f'OTEL_EXPORTER_OTLP_PROTOCOL is "{redact_and_shorten(protocol)}", so no traces are sent. '
            f"Use {_PROTOCOL} and the HTTP port of the collector, usually 4318."
        )
        exporters = tuple(name for name in exporters if name != "otlp")
    endpoint = "traces_endpoint" if "traces_endpoint" in values else "endpoint"
    address = values.get(endpoint, "http://localhost")
    if "otlp" in exporters and not _COLLECTOR_ADDRESS.match(address):
        warnings.append(
            f'OTEL_EXPORTER_OTLP_{endpoint.upper()} is "{redact_and_shorten(address)}", so no traces are sent. Use an '
            "address that begins with http:// or https://, such as http://127.0.0.1:4318."
        )
        exporters = tuple(name for name in exporters if name != "otlp")
    is_disabled = values.get("disabled", "").lower() == "true"
    if is_disabled:
        exporters = ()
    collectors = [] if protocol.lower() != _PROTOCOL or is_disabled else _find_collectors(values)
    variables = {
        name: Secret(given.text, f"{name} in {given.origin}")
        for name, given in sources.find_variables_only_in_env_file(()).items()
        if name.startswith(OTEL_PREFIX)
    }
    for given_file in filter(None, map(sources.find_foreign, _FILES)):
        path = decode_path(given_file)
        variables[given_file.variable] = Secret(path)
        if "otlp" in exporters:
            warnings += list_missing_files(given_file, [path])
    fields = {"trace_exporters": exporters, "otel_variables": variables, "collectors": collectors}
    return {**fields, "has_own_traces": "none" not in names and not is_disabled}, warnings


def _find_collectors(values: Mapping[str, Any]) -> Sequence[CollectorSettings]:
    """`values`: as in `load_trace_fields`. An invalid address, of which there is a warning, is left out."""
    urls = {}
    if "endpoint" in values:
        urls = build_signal_urls(values["endpoint"], get_args(TelemetrySignal))
    if "traces_endpoint" in values:
        urls["traces"] = values["traces_endpoint"]
    pairs = (pair.partition("=") for pair in values.get("headers", "").split(","))
    headers = {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs if name.strip()}
    urls = {kind: url for kind, url in urls.items() if _COLLECTOR_ADDRESS.match(url)}
    secrets = {name: Secret(value, OTEL_HEADERS) for name, value in headers.items()}
    return [CollectorSettings(urls=urls, headers=secrets)] if urls else []


def build_signal_urls(endpoint: str, signals: Iterable[str]) -> dict[str, str]:
    return {signal: f"{endpoint.rstrip('/')}/v1/{signal}" for signal in signals}


def find_otel_secrets(environ: Mapping[str, str], otel_variables: Mapping[str, Secret]) -> tuple[Secret, ...]:
    """Return the header values for the trace collector, so that the log can mask the keys in them.

    `otel_variables` contains the variables `OTEL_…` that only `.env` sets.
    """
    text = environ.get(OTEL_HEADERS) or (
        otel_variables[OTEL_HEADERS].reveal() if OTEL_HEADERS in otel_variables else ""
    )
    values = (pair.partition("=")[2].strip() for pair in text.split(","))
    spellings = dict.fromkeys(text for value in values for text in (value, unquote(value)))
    return tuple(Secret(text, OTEL_HEADERS) for text in spellings if len(text) >= _MIN_SECRET_CHARACTERS)


def export_to_otel(settings: Settings) -> None:
    """Copy variables of OpenTelemetry to `os.environ`, where its SDK reads them.

    Those of `.env` do not replace existing ones. Paths of files are made absolute.
    """
    for name, secret in settings.otel_variables.items():
        if name in _FILES:
            os.environ[name] = secret.reveal()
        else:
            os.environ.setdefault(name, secret.reveal())


@contextmanager
def hidden_otel_headers() -> Iterator[None]:
    """An exporter of the SDK that is opened meanwhile does not send the headers of the variables."""
    hidden = {name: os.environ.pop(name) for name in (OTEL_HEADERS, _TRACE_HEADERS) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def find_aws_files(sources: Sources) -> dict[str, str]:
    """Return the absolute path of each file of AWS that the environment or `.env` names.

    The library would search a relative one in the current directory.
    """
    settings = map(sources.find_foreign, ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"))
    return {given.variable: decode_path(given) for given in settings if given is not None and given.text}


def find_region_of_aws_profile(sources: Sources) -> str | None:
    """Return the region of the AWS profile, as the libraries of AWS find it. None: the files of AWS name none.

    The profile and the files may be named in `.env`. Files that cannot be read are left to these libraries, which
    explain it.
    """
    named = sources.find_foreign("AWS_DEFAULT_PROFILE") or sources.find_foreign("AWS_PROFILE")
    profile = named.text if named is not None and named.text else "default"
    places = (
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", (profile,)),
        ("AWS_CONFIG_FILE", "config", (f"profile {profile}", f"profile '{profile}'", f'profile "{profile}"')),
    )
    named_files = find_aws_files(sources)
    for variable, name, sections in places:
        path = named_files.get(variable) or os.path.expanduser(os.path.join("~", ".aws", name))
        try:
            text = read_bounded_file(path).decode()
        except (OSError, UnicodeDecodeError):
            continue
        import configparser  # noqa: PLC0415  # most users have no such file

        parser = configparser.RawConfigParser(default_section="")
        with suppress(configparser.Error):
            parser.read_string(text)
            for section in ("default", *sections) if profile == "default" else sections:
                region = parser.get(section, "region", fallback="").strip()
                if AWS_REGION.fullmatch(region):  # it becomes part of a host name
                    sources.origins["AWS_REGION"] = f"AWS profile {redact_and_shorten(profile)}"
                    sources.given["AWS_REGION"] = Secret(region)
                    return region
    return None
