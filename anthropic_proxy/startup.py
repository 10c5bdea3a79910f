"""Start-up summary in the log: address, model mapping, state of the providers, and the command for Claude Code.

A terminal receives lines of text, a JSON log (`LOG_FORMAT=json`) one object. Nothing is sent to providers.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from textwrap import wrap

from msgspec import Struct

from anthropic_proxy import __version__
from anthropic_proxy.log import Log
from anthropic_proxy.routing.backend_checks import find_google_project, find_missing_packages, find_obstacles
from anthropic_proxy.routing.health import slots_per_worker
from anthropic_proxy.routing.providers import PROVIDERS, Provider
from anthropic_proxy.routing.providers.registry import RetiredModel
from anthropic_proxy.routing.router import (
    TierMapping,
    describe_missing_key,
    find_preferred_provider,
    list_tier_mappings,
)
from anthropic_proxy.server.auth import claude_code_command
from anthropic_proxy.services import Services
from anthropic_proxy.settings import TIERS, Secret

UNKNOWN_ADDRESS = "http://<the address above>"
"""Placeholder in the start-up summary for an unknown URL. Another ASGI server (uvicorn) then runs the application
and prints its address itself."""
_WIDTH = 98
_RULE = f"  {'!' * (_WIDTH - 2)}"
_TARGET_WIDTH = 24
_MAX_KEYS = 3
"""Number of API keys of one provider that the summary lists, redacted. A count stands for the others."""
_MODEL_VARIABLES = ("BIG_MODEL", "MIDDLE_MODEL", "SMALL_MODEL", *(f"MODEL_{tier.upper()}" for tier in TIERS))
_MAX_TIERS = 2
"""Number of model tiers (opus, sonnet, …) that one line names. An ellipsis stands for the others."""


class Readiness(Struct):
    """State of the configured providers, for the start-up summary. It is determined without requests to providers."""

    ready: list[str]
    """Usable providers, each with its state: `openai (…1234, .env)`, the end of the API key and its source."""
    obstacles: list[str]
    """Problems that prevent replies: of providers that a model tier maps to, and of enabled features."""
    advice: list[str]
    """Problems of providers that no model tier maps to. They affect only requests that name the provider."""
    unset: list[str]
    """Names of providers without an API key: `gemini`."""


def log_startup_summary(
    services: Services, address: str | None, today: date | None = None, *, workers: int = 1, exposure: str = ""
) -> None:
    """Log the start-up summary, as lines of text or, with a JSON log, as one object.

    `address`: URL of the server; None: unknown. `today`: date for notices about retired models; None: the current date.
    `workers`: number of server processes. `exposure`: warning about missing authentication; "": no warning.
    """
    log, where = services.log, address or UNKNOWN_ADDRESS
    if log.is_json:
        _write_summary(services, address or "", workers, exposure)
        return
    log.write_line(f"{log.paint(f'anthropic-proxy {__version__}', 'title')}   {log.paint(where, 'type')}")
    for warning in services.settings.warnings:
        for line in _signed(log, "!", "warn", warning):
            log.write_line(line, level="warning")
    if workers > 1:
        log.write_line(f"  {workers} workers, which share observations: exhausted keys, rejected parameters.")
        if limit := services.settings.max_upstream_calls:
            log.write_line(_share_out(log, limit, workers))
    preferred = find_preferred_provider(services.settings, services.catalog)
    lines = (
        _first_steps(services, where) if preferred.name == "demo" else _mapping(services, where, today or date.today())
    )
    for line in lines:
        log.write_line(line)
    if exposure:
        log_exposure_warning(log, exposure)


def _write_summary(services: Services, address: str, workers: int, exposure: str) -> None:
    """Log the start-up summary as one JSON object, and each warning as a separate object."""
    settings, used = services.settings, _models_by_provider(services)
    rows, found = list_tier_mappings(settings, services.catalog), _readiness(services, used)
    problems = dict.fromkeys((*(problem for row in rows for problem in row.problems), *found.obstacles))
    mapping = [{"tier": row.tier, "target": row.target, "setting": row.reason, "then": row.fallbacks} for row in rows]
    services.log.write_json_event(
        "start",
        version=__version__,
        address=address,
        workers=workers,
        preferred_provider=find_preferred_provider(settings, services.catalog).name,
        mapping=mapping,
        ready=found.ready,
        not_set=found.unset,
    )
    for text in (*settings.warnings, *found.advice, *_ignored_settings(services, used)):
        services.log.write_line(text, level="warning")
    for text in (*problems, *([exposure] if exposure else [])):
        services.log.write_line(text, level="warning")


def log_exposure_warning(log: Log, exposure: str) -> None:
    """Log a warning that clients need no key, framed by two lines of exclamation marks. `exposure`: its text."""
    for line in (_RULE, *wrap(exposure, _WIDTH, initial_indent="  ! ", subsequent_indent="    "), _RULE):
        log.write_line(line, "error", "warning")


def _share_out(log: Log, limit: int, workers: int) -> str:
    maximum, minimum = slots_per_worker(limit, 0, workers), slots_per_worker(limit, workers - 1, workers)
    if limit < workers:
        return (
            f"  {log.paint('!', 'warn')} MAX_UPSTREAM_CALLS={limit} is less than the number of workers; each "
            "makes one call at a time."
        )
    each = f"{maximum}" if maximum == minimum else f"{minimum} or {maximum}"
    return f"  MAX_UPSTREAM_CALLS={limit}: at most {each} at once in each worker."


def _mapping(services: Services, where: str, today: date) -> Iterator[str]:
    log = services.log
    rows = _grouped(list_tier_mappings(services.settings, services.catalog))
    width = max(_TARGET_WIDTH, *(len(row.target) for _, row in rows))
    yield ""
    for tiers, row in rows:
        yield f"  {tiers:<14}  → {row.target:<{width}}  {log.paint(row.reason, 'quiet')}"
        if row.fallbacks:
            yield f"  {'':<14}    then {', '.join(row.fallbacks)}"
    for problem in dict.fromkeys(problem for _, row in rows for problem in row.problems):
        yield from _signed(log, "✕", "error", problem)
    for advice in dict.fromkeys(_advise(log, row, row.retirement, today) for _, row in rows if row.retirement):
        if advice:
            yield f"  {log.paint('!', 'warn')} {advice}"
    used = _models_by_provider(services)
    found = _readiness(services, used)
    for obstacle in found.obstacles:
        yield from _signed(log, "✕", "error", obstacle)
    for text in (*found.advice, *_ignored_settings(services, used)):
        yield from _signed(log, "!", "warn", text)
    yield from _describe_readiness(log, found)
    yield ""
    yield from _show_command(log, "  Use it:  ", claude_code_command(where, services.settings))


def _show_command(log: Log, lead: str, command: str) -> Iterator[str]:
    """Yield the lines that show a shell command, the first one beginning with the label `lead`.

    On a narrow terminal, the command has its own lines, joined by a backslash so that a shell accepts them.
    """
    width = log.terminal_width or sys.maxsize
    if len(lead) + len(command) <= width:
        yield f"{lead}{log.paint(command, 'type')}"
        return
    yield lead.rstrip()
    lines = [command]
    if len(command) > width:
        address, _, remainder = command.partition(" ")
        lines = [f"{address} \\", remainder]
    yield from (log.paint(line, "type") for line in lines)


def _grouped(rows: list[TierMapping]) -> list[tuple[str, TierMapping]]:
    """Return each distinct row of the model mapping once, with the names of all tiers that share it."""
    groups: dict[tuple[str, str, Sequence[str]], list[TierMapping]] = {}
    for row in rows:
        groups.setdefault((row.target, row.reason, row.fallbacks), []).append(row)
    return [(_name_tiers([row.tier for row in group]), group[0]) for group in groups.values()]


def _name_tiers(tiers: list[str]) -> str:
    return ", ".join(tiers[:_MAX_TIERS]) + (" …" if len(tiers) > _MAX_TIERS else "")


def _advise(log: Log, row: TierMapping, retired: RetiredModel, today: date) -> str:
    """Return the notice about a retired model, with the setting that selects its successor. "": not yet retired."""
    day = date.fromisoformat(retired.retired_on)
    if day > today:
        return ""
    prefix, _, model = row.target.partition("/")
    line = f"{row.reason.partition(',')[0]}={prefix}/{retired.successor}"
    return f"{row.retiring_vendor} retired {model} on {day.day} {day:%B %Y}. Its successor:  {log.paint(line, 'type')}"


def _models_by_provider(services: Services) -> dict[str, list[str]]:
    """Return a dictionary from provider name to the models that model tiers map to, including fallbacks."""
    by_prefix = {provider.prefix: provider.name for provider in PROVIDERS}
    used: dict[str, list[str]] = {}
    for row in list_tier_mappings(services.settings, services.catalog):
        for target in (row.target, *row.fallbacks):
            prefix, _, model = target.partition("/")
            models = used.setdefault(by_prefix[prefix], [])
            if model not in models:
                models.append(model)
    return used


def _ignored_settings(services: Services, used: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield one line for each setting that has no effect, with the remedy."""
    settings = services.settings
    for provider in PROVIDERS:
        address = settings.base_urls.get(provider.name)
        in_use = provider.name in used or settings.keys.get(provider.name) or provider.uses_installed_models
        if address and not in_use and provider.key_source == "settings":
            names = (provider.base_url_variable, f"{provider.env_prefix}_BASE_URL")
            variable = next((name for name in names if name in settings.origins), names[0])
            yield f"{variable} is set, but no request is sent there. Add PREFERRED_PROVIDER={provider.name}"
    preferred = find_preferred_provider(settings, services.catalog)
    named = [name for name in _MODEL_VARIABLES if name in settings.origins]
    if named and preferred.name == "demo":
        yield f"{_listed(named)} set, but no provider is configured, so the demo replies."
    elif preferred.serves_claude and (named := [name for name in named if not name.startswith("MODEL_")]):
        yield f"{_listed(named)} set, but {preferred.name} serves the requested models themselves."


def _listed(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _signed(log: Log, sign: str, role: str, text: str) -> Iterator[str]:
    """Yield the lines of a text that begins with a colored sign, broken between words at the width of the terminal."""
    width = (log.terminal_width or sys.maxsize) - 4
    first, *others = [text] if len(text) <= width else wrap(text, width, break_long_words=False, break_on_hyphens=False)
    yield f"  {log.paint(sign, role)} {first}"
    yield from (f"    {other}" for other in others)


def _describe_readiness(log: Log, found: Readiness) -> Iterator[str]:
    ready = f"  ready: {', '.join(found.ready) or 'none'}"
    unset = f"not set: {' '.join(found.unset)}" if found.unset else ""
    fits = log.terminal_width is None or len(ready) + 9 + len(unset) <= log.terminal_width
    yield f"{ready}{' ' * 9}{log.paint(unset, 'quiet')}".rstrip() if unset and fits else ready
    if unset and not fits:
        yield f"  {log.paint(unset, 'quiet')}"


def _readiness(services: Services, used: Mapping[str, Sequence[str]]) -> "Readiness":
    """Return the state of the providers. Sources: settings, installed packages, credential files, known model lists.

    `used`: provider name → models that model tiers map to.
    """
    settings = services.settings
    found = Readiness([], find_missing_packages(settings), [], [])
    for provider in PROVIDERS:
        if not (provider.offered_to_users or provider.name in used) or provider.name == "demo":
            continue
        missing_key = describe_missing_key(provider, settings)
        if not missing_key and (provider.offered_to_users or provider.name in used):
            obstacles = find_obstacles(provider, used.get(provider.name, ()), settings, services.catalog)
            (found.obstacles if provider.name in used else found.advice).extend(obstacles)
            if not obstacles and (state := _state_of(services, provider)):
                found.ready.append(f"{_name(provider)} ({state})")
        elif missing_key and provider.offered_to_users:
            found.unset.append(_name(provider))
    return found


def _state_of(services: Services, provider: Provider) -> str:
    """Return the state of a configured provider for the summary: its keys, model count or address. "": unknown."""
    settings = services.settings
    if keys := settings.keys.get(provider.name, ()):
        return f"{_show_keys(keys)}, {_key_source(services, provider)}"
    if (listed := services.catalog.cached_model_ids(provider.name)) is not None:
        return f"{len(listed)} model{'' if len(listed) == 1 else 's'}"
    if provider.transport == "litellm":
        return "installed"
    if provider.key_source == "google":
        return find_google_project(settings) or ""
    return settings.base_urls.get(provider.name, "")


def _name(provider: Provider) -> str:
    """Return the name prefix of a provider's settings in lower case: `gemini` for GEMINI_API_KEY."""
    return provider.env_prefix.lower()


def _show_keys(keys: Sequence[Secret]) -> str:
    listed = ", ".join(str(key) for key in keys[:_MAX_KEYS])
    return f"{listed} and {len(keys) - _MAX_KEYS} more" if len(keys) > _MAX_KEYS else listed


def _key_source(services: Services, provider: Provider) -> str:
    """Return the source of a provider's API key: `.env`, `environment`, or `set` if unknown."""
    return services.settings.origins.get(provider.key_variable or "", "set").partition(" line")[0]


def _first_steps(services: Services, where: str) -> Iterator[str]:
    log = services.log
    yield ""
    for text in _ignored_settings(services, _models_by_provider(services)):
        yield from _signed(log, "!", "warn", text)
    yield (
        f"  {log.paint('!', 'warn')} No provider is configured, so the demo replies: it streams and calls "
        "tools, but has no model."
    )
    yield ""
    steps = (
        ("OPENAI_API_KEY=…", "in .env; .env.example lists every setting"),
        ("OLLAMA_API_BASE=http://host:11434", "if Ollama runs elsewhere; not found at localhost"),
        (claude_code_command(where, services.settings), "shows the demo"),
    )
    width = max(len(command) for command, _ in steps)
    for number, (command, meaning) in enumerate(steps):
        lead = "Next:" if number == 0 else ""
        yield f"  {lead:<6} {log.paint(command, 'type')}{' ' * (width - len(command))}   {meaning}"
