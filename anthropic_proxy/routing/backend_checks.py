"""Checks for missing packages, files and settings of the configured providers, without network calls.

`find_provider_problems` checks one provider, `find_feature_problems` the optional features of the proxy. Both return
error texts with a remedy.
"""

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anthropic_proxy.installation import build_extra_install_command
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.routing.router import should_query_ollama
from anthropic_proxy.settings import Settings
from anthropic_proxy.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.settings.masking import mask_setting
from anthropic_proxy.settings.text_file import read_bounded_file

_DEFAULT_CREDENTIALS = "~/.config/gcloud/application_default_credentials.json"
"""File that `gcloud auth application-default login` writes (cloud.google.com, "How Application Default Credentials
works", read 2026-11)."""
_KEY_STEMS = {"bedrock": "AWS", "sagemaker": "AWS"}
"""LiteLLM provider prefix → first word of the provider's key variables, if it is not the prefix in upper case."""


def find_provider_problems(
    provider: Provider, models: Sequence[str], settings: Settings, catalog: Catalog
) -> list[str]:
    """Return one error text with a remedy for each problem that prevents calls to a provider.

    `models` are the ids, without prefix, that the settings use.
    """
    if provider.key_source == "google":
        return _check_google(settings)
    if provider.transport == "litellm":
        return _check_litellm(models, settings)
    if provider.uses_installed_models:
        return _check_pulled(provider, models, settings, catalog)
    return []


def find_feature_problems(settings: Settings) -> list[str]:
    """Return one text for each enabled feature that cannot work, because a package or a key is missing."""
    problems = []
    if settings.fetch_urls and not _is_installed("lxml"):
        problems.append(
            f"FETCH_URLS needs lxml to read HTML pages, which is not installed:  {build_extra_install_command('fetch')}"
        )
    if settings.has_traces() and not _is_installed("opentelemetry.exporter.otlp.proto.http"):
        problems.append(
            "Traces need the OpenTelemetry SDK, which is not installed, so none are sent. Install it, or set "
            f"OTEL_TRACES_EXPORTER=none:  {build_extra_install_command('otel')}"
        )
    if settings.search is not None and settings.search.problem and settings.search_url is None:
        problems.append(f"Web searches fail: {settings.search.problem}")
    return problems


def find_google_project(settings: Settings) -> str | None:
    """Return the Google Cloud project id from the settings, else from the credentials file. None: neither has one."""
    if settings.vertex_project:
        return settings.vertex_project
    content = _load(_credentials_file(settings))
    named = content.get("project_id") or content.get("quota_project_id") if isinstance(content, dict) else None
    return named if isinstance(named, str) else None


def _check_google(settings: Settings) -> list[str]:
    obstacles = []
    if not _is_installed("google.auth"):
        obstacles.append(
            f"Vertex AI needs google-auth, which is not installed:  {build_extra_install_command('vertex')}"
        )
    file = _credentials_file(settings)
    named = settings.google_credentials_file
    if named == UNRESOLVED_KEY:  # only the running proxy has it
        return obstacles
    content = _load(file)
    if isinstance(content, str):
        origin = settings.origins.get("GOOGLE_APPLICATION_CREDENTIALS", "set")
        where = f"GOOGLE_APPLICATION_CREDENTIALS ({origin})" if named else "The file of Application Default Credentials"
        if named or os.path.exists(file):
            obstacles.append(
                f"{where} cannot be used: {mask_setting('GOOGLE_APPLICATION_CREDENTIALS', str(file))}: {content}."
            )
        else:
            obstacles.append(
                "Vertex AI has no credentials file: set GOOGLE_APPLICATION_CREDENTIALS, or log in with  "
                "gcloud auth application-default login  (on Google Cloud the metadata server may supply them)"
            )
    if find_google_project(settings) is None:
        obstacles.append("Vertex AI has no project: set VERTEX_PROJECT in .env or in the environment.")
    return obstacles


def _check_litellm(models: Sequence[str], settings: Settings) -> list[str]:
    if not _is_installed("litellm"):
        return [f"LiteLLM is not installed:  {build_extra_install_command('litellm')}"]
    names = {secret.origin.upper() for secret in settings.other_secrets}
    stems = dict.fromkeys(model.partition("/")[0] for model in models if "/" in model)
    return [
        f"{stem} has no key: LiteLLM reads it from a variable {_stem(stem)}_…, and none is set."
        for stem in stems
        if not any(name.startswith(f"{_stem(stem)}_") for name in names)
    ]


def _stem(prefix: str) -> str:
    return _KEY_STEMS.get(prefix, prefix.upper().replace("-", "_"))


def _check_pulled(provider: Provider, models: Sequence[str], settings: Settings, catalog: Catalog) -> list[str]:
    listed = catalog.cached_model_ids(provider.name)
    if listed is None:
        if not models or not should_query_ollama(settings):
            return []
        address = settings.base_urls.get(provider.name, provider.base_url)
        return [f"{provider.title} did not answer at {address}. Start it with  ollama serve  or set its address."]
    return [
        f"{provider.title} has no model {model}. Get it with  ollama pull {model}"
        for model in dict.fromkeys(models)
        if not {model, f"{model}:latest"} & {*listed}
    ]


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _credentials_file(settings: Settings) -> Path:
    return Path(os.path.expanduser(settings.google_credentials_file or _DEFAULT_CREDENTIALS))


def _load(file: Path) -> Any:
    """Return the JSON object of a credentials file. If the file cannot be used, return the reason as a string."""
    try:
        content = json.loads(read_bounded_file(file))
    except OSError as error:
        return describe_os_error(error)
    except (ValueError, RecursionError):
        return "it is not JSON"
    return content if isinstance(content, dict) else "it is not a JSON object"
