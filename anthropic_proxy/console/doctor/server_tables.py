"""Tables for `anthropic-proxy.toml` that adapt the proxy to a server: its models and its dialect, each field with its
evidence as a comment, and the context window of a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from anthropic_proxy.console.doctor.findings import Diagnosis, Evidence
from anthropic_proxy.engine.options import ConfiguredProvider
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings
from anthropic_proxy.gateway.settings.config_file import resolve_config_file_path
from anthropic_proxy.gateway.settings.files import format_toml_key, format_toml_value

_MAX_SENT_CHARACTERS = 60


class FoundServer(Struct, frozen=True):
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
    found = []
    for base_url, group in groups.items():
        name = propose_server_name(group[0].found_target.provider, base_url, settings)
        found.append(FoundServer(name, base_url, group, format_server(group, settings)))
    return found


def find_table(name: str, settings: Settings) -> ConfiguredProvider | None:
    return next((table for table in settings.configured_providers if table.name == name), None)


def format_server(diagnoses: Sequence[Diagnosis], settings: Settings) -> str:
    """Return the tables of one server. `diagnoses`: results of its models."""
    target = diagnoses[0].found_target
    name = propose_server_name(target.provider, target.base_url, settings)
    lines = [*_format_server_head(name, target.provider, target.base_url, settings), 'wire = "chat"']
    decided = [{evidence.field: evidence for evidence in one.evidence} for one in diagnoses]
    shared = {
        field: evidence
        for field, evidence in decided[0].items()
        if all(field in other and other[field].value == evidence.value for other in decided)
    }
    configured = find_table(name, settings)
    lines += _format_dialect(f"providers.{name}.dialect", shared, configured.dialect if configured else {})
    for diagnosis, fields in zip(diagnoses, decided, strict=True):
        path = f"providers.{name}.models.{format_toml_key(diagnosis.found_target.model)}"
        lines += ["", f"[{path}]"]
        lines += [f"{key} = {format_toml_value(value)}" for key, value in build_model_fields(diagnosis).items()]
        own = {field: evidence for field, evidence in fields.items() if field not in shared}
        lines += _format_dialect(f"{path}.dialect", own)
    return "\n".join(lines) + "\n"


def _format_server_head(name: str, provider: Provider, base_url: str, settings: Settings) -> Iterator[str]:
    yield f"[providers.{name}]"
    yield f"base_url = {format_toml_value(hide_credentials(base_url))}"
    if settings.keys.get(provider.name):
        table = find_table(provider.name, settings)
        variable = provider.key_variable if table is None else table.key_variable
        yield f"api_key = {{ env = {format_toml_value(variable)} }}" if variable else "# api_key: as it is now"


class WindowSetting(NamedTuple):
    """How a user sets the context window of a model."""

    sentence: str
    """`set context_window in [providers.vllm.models."qwen3"] of anthropic-proxy.toml`"""
    place: str
    """Words before the lines: `add to ~/.config/anthropic-proxy/anthropic-proxy.toml`."""
    lines: Sequence[str]


def find_window_setting(provider: Provider, model: str, settings: Settings) -> WindowSetting:
    """The models of a built-in provider have no tables. At another address, the server gets a table of its own; at that
    of the vendor, only the session has a setting.
    """
    if not provider.is_configured and provider.name not in settings.base_urls:
        variable, where = "CLAUDE_CODE_MAX_CONTEXT_TOKENS", "in the environment of Claude Code"
        return WindowSetting(f"set {variable} {where}", f"set {where}", [f"{variable}=<tokens>"])
    base_url = settings.base_urls.get(provider.name, provider.base_url)
    name = propose_server_name(provider, base_url, settings)
    table = f"[providers.{name}.models.{format_toml_value(model)}]"
    file = shorten_home(resolve_config_file_path(settings.env_file) or CONFIG_FILE)
    sentence, place = f"set context_window in {table} of {CONFIG_FILE}", f"add to {file}"
    lines = [table, "context_window = <tokens>"]
    if not provider.is_configured:
        lines[:0] = _format_server_head(name, provider, base_url, settings)
        sentence += f", base_url in [providers.{name}], and use the prefix {name}/"
        place += f", and use the prefix {name}/"
    return WindowSetting(sentence, place, lines)


def build_model_fields(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the found limits, effort levels and image support of a model, as fields of its table."""
    facts: dict[str, Any] = {}
    if diagnosis.context_window:
        facts["context_window"] = diagnosis.context_window
    if diagnosis.max_output:
        facts["max_output"] = min(diagnosis.max_output, diagnosis.context_window or diagnosis.max_output)
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


def propose_server_name(provider: Provider, base_url: str, settings: Settings) -> str:
    """Return a name for the table of a server: that of the provider.

    If a setting has changed the base URL of a built-in provider, whose name another server cannot have, the name is
    derived from the host.
    """
    if provider.name not in settings.base_urls or provider.is_configured:
        return provider.name
    url = urlsplit(base_url)
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
    yield from (f"{field} = {format_toml_value(value)}" for field, value in configured.items() if field not in fields)
    for field, evidence in sorted(fields.items()):
        yield from (f"# {line}" for line in describe_evidence(evidence))
        yield f"{field} = {format_toml_value(msgspec.to_builtins(evidence.value))}"
