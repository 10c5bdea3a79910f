"""Configuration of an unknown server as text for `anthropic-proxy.toml`, from the results of the doctor.

It has the models and the dialect of the server. Each field of the dialect has a comment with its evidence.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from anthropic_proxy.cli.doctor.findings import Diagnosis, Evidence
from anthropic_proxy.gateway.settings import Settings

_MAX_SENT_CHARACTERS = 60
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class FoundServer(Struct, frozen=True, kw_only=True):
    """A server that the doctor examined for deviations from its API."""

    name: str
    """Name of the server's table in `anthropic-proxy.toml`."""
    base_url: str
    diagnoses: Sequence[Diagnosis]
    table: str
    """Tables for `anthropic-proxy.toml`."""


def find_servers(diagnoses: Sequence[Diagnosis], settings: Settings) -> list[FoundServer]:
    """Return the servers for which the doctor searched deviations from the API, one for each base URL."""
    groups: dict[str, list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        if diagnosis.shows_dialect:
            groups.setdefault(diagnosis.found_target.base_url, []).append(diagnosis)
    return [
        FoundServer(
            name=propose_server_name(group[0], settings),
            base_url=base_url,
            diagnoses=group,
            table=format_server(group, settings),
        )
        for base_url, group in groups.items()
    ]


def format_server(diagnoses: Sequence[Diagnosis], settings: Settings) -> str:
    """Return the tables of one server. `diagnoses`: results of its models."""
    first = diagnoses[0]
    target, name = first.found_target, propose_server_name(first, settings)
    lines = [f"[providers.{name}]", f"base_url = {_encode(hide_credentials(target.base_url))}"]
    if settings.keys.get(target.provider.name):
        lines.append(f"api_key = {{ env = {_encode(target.provider.key_variable)} }}")
    lines.append('wire = "chat"')
    decided = [{evidence.field: evidence for evidence in one.evidence} for one in diagnoses]
    shared = {
        field: evidence
        for field, evidence in decided[0].items()
        if all(field in other and other[field].value == evidence.value for other in decided)
    }
    configured = next((table.dialect for table in settings.configured_providers if table.name == name), {})
    lines += _format_dialect(f"providers.{name}.dialect", shared, configured)
    for diagnosis, fields in zip(diagnoses, decided, strict=True):
        path = f"providers.{name}.models.{_encode_key(diagnosis.found_target.model)}"
        lines += [
            "",
            f"[{path}]",
            *(f"{key} = {_encode(value)}" for key, value in build_model_fields(diagnosis).items()),
        ]
        own = {field: evidence for field, evidence in fields.items() if field not in shared}
        lines += _format_dialect(f"{path}.dialect", own)
    return "\n".join(lines) + "\n"


def build_model_fields(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the found limits, effort levels and image support of a model, as fields of its table."""
    facts: dict[str, Any] = {}
    if diagnosis.context_window:
        facts["context_window"] = diagnosis.context_window
        facts["max_output"] = min(diagnosis.max_output or diagnosis.context_window, diagnosis.context_window)
    elif diagnosis.max_output:
        facts["max_output"] = diagnosis.max_output
    if diagnosis.efforts:
        facts["efforts"] = list(diagnosis.efforts)
    if diagnosis.state_of("images") != "untested":
        facts["accepts_images"] = diagnosis.state_of("images") != "unsupported"
    return facts


def describe_evidence(evidence: Evidence) -> Iterator[str]:
    """Yield the lines of a comment, without `#`: the result of the probe that decided a dialect field."""
    if evidence.status:
        sent = evidence.sent
        shown = sent if len(sent) <= _MAX_SENT_CHARACTERS else f"{sent[: _MAX_SENT_CHARACTERS - 1]}…"
        yield f"{evidence.probe}: HTTP {evidence.status} for {shown or 'the request'}"
        yield f"  {evidence.error}"
    else:
        yield f"{evidence.probe}: {evidence.error}"


def propose_server_name(diagnosis: Diagnosis, settings: Settings) -> str:
    """Return a name for the table of a server: that of the provider.

    If a setting has changed the base URL of a built-in provider, whose name another server cannot have, the name is
    derived from the host.
    """
    target = diagnosis.found_target
    if target.provider.name not in settings.base_urls or target.provider.is_configured:
        return target.provider.name
    url = urlsplit(target.base_url)
    words = (url.hostname or "").lower().split(".")
    if len(words) < 2 or words[-1].isdecimal():
        return f"local{url.port or ''}"
    return f"my-{words[-2]}"  # the names of built-in providers are not free


def hide_credentials(url: str) -> str:
    split = urlsplit(url)
    return split._replace(netloc=split.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _format_dialect(
    path: str, fields: Mapping[str, Evidence], configured: Mapping[str, Any] | None = None
) -> Iterator[str]:
    configured = configured or {}
    if not fields and not configured:
        return
    yield from ("", f"[{path}]")
    yield from (f"{field} = {_encode(value)}" for field, value in configured.items() if field not in fields)
    for field, evidence in sorted(fields.items()):
        yield from (f"# {line}" for line in describe_evidence(evidence))
        yield f"{field} = {_encode(msgspec.to_builtins(evidence.value))}"


def _encode_key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else _encode(key)


def _encode(value: Any) -> str:
    """Return a value of the JSON types as TOML text."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_encode_key(key)} = {_encode(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_encode, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
