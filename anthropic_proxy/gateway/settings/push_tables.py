"""Tables of what the proxy sends to servers of the company: `[alerts]`, `[collectors.NAME]` and `[siem.NAME]`.

An address may be a secret, so no message shows it.
"""

import base64
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time

from anthropic_proxy.engine.options import NAME
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.config_file import ConfigFile
from anthropic_proxy.gateway.settings.environment import TRACE_EXPORTERS, build_signal_urls
from anthropic_proxy.gateway.settings.fields import AlertSettings, CollectorSettings, SiemSettings
from anthropic_proxy.gateway.settings.file_format import AlertTable, KeyPath, KeyReference, SiemTable
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY, resolve_keys
from anthropic_proxy.gateway.settings.provider_calls import load_headers
from anthropic_proxy.gateway.settings.sources import ErrorList, Sources
from anthropic_proxy.secrets import Secret


def load_alerts(file: ConfigFile, sources: Sources, *, resolves_keys: bool) -> AlertSettings | None:
    """Return None without a table `[alerts]`."""
    if (table := file.tables.alerts) is None:
        return None
    with sources.errors.collect():
        sources.origins["url of [alerts]"] = file.describe_origin(("alerts", "url"))
        url, secrets = _load_webhook(file, ("alerts",), table, sources, resolves_keys=resolves_keys)
        sources.given["alerts"] = Secret(f"{table} {_reveal(url, *secrets)}")
        return AlertSettings(url=url, secrets=secrets, thresholds=tuple(sorted({*table.thresholds})))
    return None


def load_siem(file: ConfigFile, sources: Sources, *, resolves_keys: bool) -> Sequence[SiemSettings]:
    """Errors are added to those of `sources`."""
    found = []
    given = []
    for name, table in file.tables.siem.items():
        path = ("siem", name)
        errors = ErrorList()
        with errors.collect():
            _require_name(file, path, name)
        with errors.collect():
            headers = load_headers(file, (*path, "headers"), table.headers, sources)
        with errors.collect():
            url, secrets = _load_webhook(file, path, table, sources, resolves_keys=resolves_keys)
        with errors.collect():
            since = _decode_since(file, (*path, "since"), table.since)
        with sources.errors.collect():
            errors.require_empty()
            sources.origins[format_siem_setting(name)] = file.describe_origin((*path, "url"))
            given.append(f"{name} {table} {_reveal(url, *secrets, *headers.values())}")
            found.append(
                SiemSettings(
                    name=name,
                    type=table.type,
                    url=url,
                    secrets=secrets,
                    headers=headers,
                    events=tuple(dict.fromkeys(table.events)),
                    since=since,
                )
            )
    if given:
        sources.given["siem"] = Secret(str(given))
    return tuple(found)


def _decode_since(file: ConfigFile, path: KeyPath, text: str) -> float:
    """Raises `ConfigurationError`."""
    if not text:
        return 0.0
    if text == "now":
        return math.inf
    try:
        return datetime.combine(date.fromisoformat(text), time.min, UTC).timestamp()
    except (ValueError, OverflowError):
        raise file.invalid_value_error(path, text, "Use a day such as 2026-12-01, or now.") from None


MAX_COLLECTORS = 8
"""Each of them has a queue of client telemetry."""


def load_collectors(file: ConfigFile, sources: Sources) -> Sequence[CollectorSettings]:
    """Return the tables `[collectors.NAME]`. Errors are added to those of `sources`."""
    found = []
    with sources.errors.collect():
        if (count := len(file.tables.collectors)) > MAX_COLLECTORS:
            raise file.rejection(
                ("collectors",), f"has {count} tables. Use at most {MAX_COLLECTORS}.", code="configuration-file"
            )
    for name, table in file.tables.collectors.items():
        path = ("collectors", name)
        errors = ErrorList()
        with errors.collect():
            _require_name(file, path, name)
            if name in TRACE_EXPORTERS:
                raise file.rejection(path, "has a name of OTEL_TRACES_EXPORTER.", code="configuration-file")
        with errors.collect():
            headers = load_headers(file, (*path, "headers"), table.headers, sources)
        with errors.collect():
            endpoint = values.decode_url(file.build_setting((*path, "endpoint"), table.endpoint))
        with sources.errors.collect():
            errors.require_empty()
            sources.origins[format_collector_setting(name)] = file.describe_origin((*path, "endpoint"))
            urls = build_signal_urls(endpoint, table.signals)
            found.append(CollectorSettings(name=name, urls=urls, headers=headers))
    if found:
        given = [f"{one.name} {one.urls} {_reveal(*one.headers.values())}" for one in found]
        sources.given["collectors"] = Secret(str(given))
    return found


def format_collector_setting(name: str) -> str:
    return f"endpoint of [collectors.{name}]"


def format_siem_setting(name: str) -> str:
    return f"url of [siem.{name}]"


def decode_webhook_secret(text: str) -> bytes | None:
    """Return the bytes of a secret of Standard Webhooks. None: `text` is no such secret."""
    try:
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        return None
    return secret if text.startswith("whsec_") and 24 <= len(secret) <= 64 else None


def _load_webhook(
    file: ConfigFile, path: KeyPath, table: AlertTable | SiemTable, sources: Sources, *, resolves_keys: bool
) -> tuple[Secret, Sequence[Secret]]:
    """Return address and secrets. Raises `ConfigurationError`."""

    def resolve(field: str, reference: KeyReference) -> Sequence[Secret]:
        resolved = resolve_keys(file, (*path, field), reference, sources, resolves_keys=resolves_keys)
        if not resolved.keys:
            raise ConfigurationError(resolved.problem_details or resolved.problem, code="webhook-setting")
        return resolved.keys

    url = table.url
    secrets = () if table.secret is None else resolve("secret", table.secret)
    address = Secret(url, file.describe_origin((*path, "url"))) if isinstance(url, str) else resolve("url", url)[0]
    if address.reveal() != UNRESOLVED_KEY and not values.is_safe_address(address.reveal()):
        raise file.rejection(
            (*path, "url"),
            "is no address that begins with https://, or with http:// and localhost, 127.0.0.1 or [::1], without a "
            "user name and a fragment.",
            code="webhook-setting",
        )
    if any(one.reveal() != UNRESOLVED_KEY and decode_webhook_secret(one.reveal()) is None for one in secrets):
        raise file.rejection(
            (*path, "secret"),
            "is no secret that begins with whsec_ and continues with 24 to 64 bytes in Base64.",
            code="webhook-setting",
            hint='Create one:  echo "whsec_$(openssl rand -base64 32)"',
        )
    return address, secrets


def _require_name(file: ConfigFile, path: KeyPath, name: str) -> None:
    if not NAME.fullmatch(name):
        raise file.rejection(
            path,
            "has another name than at most 63 letters, digits, spaces, dots, hyphens and underscores of ASCII.",
            code="configuration-file",
        )


def _reveal(*secrets: Secret) -> str:
    return " ".join(secret.reveal() for secret in secrets)
