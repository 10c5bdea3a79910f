"""Standard variables of OpenTelemetry, by which users enable the export of trace spans.

Source: OpenTelemetry specification 1.56, "Environment Variable Specification" (read 2026-11).
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from anthropic_proxy.gateway.settings.fields import Settings
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.values import decode_path, redact_and_shorten
from anthropic_proxy.secrets import Secret

OTEL_PREFIX = "OTEL_"
"""Beginning of the names of all variables of OpenTelemetry."""
OTEL_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
"""Variable with headers for the collector, which usually contain a key: `authorization=Bearer …`."""
_EXPORTERS = ("otlp", "console")
_PROTOCOL = "http/protobuf"
"""The supported value of `OTEL_EXPORTER_OTLP_PROTOCOL`, which is also the default of the specification."""
_FILES = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}{file}"
    for signal in ("", "TRACES_")
    for file in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
)
"""Variables with the path of a file. The SDK would search a relative path in the current directory."""
_MIN_SECRET_CHARACTERS = 8


def load_trace_fields(values: Mapping[str, Any], sources: Sources) -> tuple[dict[str, Any], list[str]]:
    """Return fields of `Settings`, and warnings. `values` are those of the table of settings.

    An unsupported value is a warning, not an error, because other programs may need it.
    """
    warnings: list[str] = []
    default = ("otlp",) if values.keys() & {"endpoint", "traces_endpoint"} else ()
    names: Sequence[str] = values.get("exporters", default)
    if "none" not in names and (unknown := [name for name in names if name not in _EXPORTERS]):
        shown = ", ".join(f'"{redact_and_shorten(name)}"' for name in unknown)
        warnings.append(f"OTEL_TRACES_EXPORTER is {shown}, which is ignored. Use otlp, console or none.")
    exporters = () if "none" in names else tuple(name for name in names if name in _EXPORTERS)
    protocol = values.get("protocol", _PROTOCOL)
    if "otlp" in exporters and protocol.lower() != _PROTOCOL:
        warnings.append(
            f'OTEL_EXPORTER_OTLP_PROTOCOL is "{redact_and_shorten(protocol)}", so no traces are sent. '
            f"Use {_PROTOCOL} and the HTTP port of the collector, usually 4318."
        )
        exporters = tuple(name for name in exporters if name != "otlp")
    if values.get("disabled", "").lower() == "true":
        exporters = ()
    variables = {
        name: Secret(given.text, f"{name} in {given.origin}")
        for name, given in sources.find_variables_only_in_env_file(()).items()
        if name.startswith(OTEL_PREFIX)
    }
    variables |= {found.variable: Secret(decode_path(found)) for found in map(sources.find_foreign, _FILES) if found}
    return {"trace_exporters": exporters, "otel_variables": variables}, warnings


def find_otel_secrets(environ: Mapping[str, str], otel_variables: Mapping[str, Secret]) -> tuple[Secret, ...]:
    """Return the header values for the trace collector, so that the log can mask the keys in them.

    `otel_variables` contains the variables `OTEL_…` that only `.env` sets.
    """
    text = environ.get(OTEL_HEADERS) or (
        otel_variables[OTEL_HEADERS].reveal() if OTEL_HEADERS in otel_variables else ""
    )
    values = (pair.partition("=")[2].strip() for pair in text.split(","))
    return tuple(Secret(value, OTEL_HEADERS) for value in values if len(value) >= _MIN_SECRET_CHARACTERS)


def export_to_otel(settings: Settings) -> None:
    """Copy variables of OpenTelemetry to `os.environ`, where its SDK reads them.

    Those of `.env` do not replace existing ones. Paths of files are made absolute.
    """
    for name, secret in settings.otel_variables.items():
        if name in _FILES:
            os.environ[name] = secret.reveal()
        else:
            os.environ.setdefault(name, secret.reveal())
