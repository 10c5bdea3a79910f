"""Check of the table `[search]` of the configuration file: the search service for web searches of models.

`load_search_service` returns the checked table. `list_ignored_table_warnings` returns a warning if the setting
SEARCH_URL takes precedence.
"""

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.settings import values
from anthropic_proxy.settings.config_file import ConfigFile
from anthropic_proxy.settings.fields import SearchService, Secret
from anthropic_proxy.settings.file_format import SearchTable
from anthropic_proxy.settings.sources import Sources

_PATH = ("search",)


def load_search_service(file: ConfigFile, sources: Sources, *, resolves_keys: bool) -> SearchService | None:
    """Return the search service of the configuration file. None: the table `[search]` is missing or invalid.

    Errors are added to those of `sources`.
    """
    with sources.errors.collect():
        if file.find_value(_PATH) is not None:
            return _load(file, file.decode_table(_PATH, SearchTable), sources, resolves_keys=resolves_keys)
    return None


def _load(file: ConfigFile, table: SearchTable, sources: Sources, *, resolves_keys: bool) -> SearchService:
    required = "base_url" if table.service == "searxng" else "api_key"
    if file.find_value((*_PATH, required)) is None:
        raise ConfigurationError(
            f"search.{required} is missing: {table.service} requires it. "
            f"Set it in {file.describe_origin_in_sentence(_PATH)}."
        )
    base_url = None
    if table.base_url is not None:
        base_url = values.decode_url(file.build_setting((*_PATH, "base_url"), table.base_url))
    key, resolved = None, None
    if table.api_key is not None:
        from anthropic_proxy.settings.key_references import resolve_keys  # noqa: PLC0415  # imports subprocess

        resolved = resolve_keys(file, (*_PATH, "api_key"), sources, resolves_keys=resolves_keys)
        key = next(iter(resolved.keys), None)
    for field in ("service", "api_key"):
        if file.find_value((*_PATH, field)) is not None:
            sources.origins[f"{field} of [search]"] = file.describe_origin((*_PATH, field))
    sources.given["search"] = Secret(f"{table} {key.reveal() if key else ''}")
    return SearchService(
        service=table.service,
        base_url=base_url,
        key=key,
        problem=resolved.problem if resolved else "",
        problem_details=resolved.problem_details if resolved else "",
    )


def list_ignored_table_warnings(search: SearchService | None, file: ConfigFile, sources: Sources) -> list[str]:
    """Return a warning if the table `[search]` is ignored because SEARCH_URL is set. Empty: no warning."""
    if search is None or "SEARCH_URL" not in sources.origins:
        return []
    return [
        f"[search] ({file.describe_origin_in_sentence(_PATH)}) is ignored: "
        f"SEARCH_URL ({sources.origins['SEARCH_URL']}) has the same meaning and takes precedence."
    ]
