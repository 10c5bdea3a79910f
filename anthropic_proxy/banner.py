"""What start-up says: where we listen, what goes where and why, and the line to paste for Claude Code."""

from collections.abc import Iterator, Sequence
from datetime import date
from textwrap import wrap

from anthropic_proxy import __version__
from anthropic_proxy.exchange.house import House
from anthropic_proxy.log import Log
from anthropic_proxy.routing.health import portion_of
from anthropic_proxy.routing.providers import PROVIDERS, Provider
from anthropic_proxy.routing.providers.rows import Retired
from anthropic_proxy.routing.router import Mapped, describe_mapping, describe_missing_key, find_home
from anthropic_proxy.settings import Secret

ELSEWHERE = "http://<the address above>"
"""Stands for the address where another server runs us and says it itself."""
_WIDTH = 98
_RULE = f"  {'!' * (_WIDTH - 2)}"
_TARGET_WIDTH = 24
_MOST_KEYS = 3
_MOST_TIERS = 2
"""Tiers that one line names; of more it says that there are."""


def write_banner(
    house: House, address: str | None, today: date | None = None, *, workers: int = 1, exposure: str = ""
) -> None:
    """Say all this once; `address` is None where it is not ours to know, `today` where it is the clock's to say.

    `workers`: how many processes it is said for. `exposure`: what must not be missed.
    """
    log, where = house.log, address or ELSEWHERE
    log.line(f"{log.paint(f'anthropic-proxy {__version__}', 'title')}   {log.paint(where, 'type')}")
    for warning in house.settings.warnings:
        log.line(f"  {log.paint('!', 'warn')} {warning}", level="warning")
    if workers > 1:
        log.line(f"  {workers} workers; what one of them learns, all know: spent keys, refused settings.")
        if limit := house.settings.max_upstream_calls:
            log.line(_share_out(log, limit, workers))
    home = find_home(house.settings, house.catalogue)
    lines = _first_steps(log, where) if home.name == "demo" else _mapping(house, where, today or date.today())
    for line in lines:
        log.line(line)
    if exposure:
        write_exposure(log, exposure)


def write_exposure(log: Log, exposure: str) -> None:
    """Say what must not be missed: between rules, and also where only warnings are wanted."""
    for line in (_RULE, *wrap(exposure, _WIDTH, initial_indent="  ! ", subsequent_indent="    "), _RULE):
        log.line(line, "error", "warning")


def _share_out(log: Log, limit: int, workers: int) -> str:
    most, least = portion_of(limit, 0, workers), portion_of(limit, workers - 1, workers)
    if limit < workers:
        return f"  {log.paint('!', 'warn')} MAX_UPSTREAM_CALLS={limit} is less than that; each makes one call at once."
    each = f"{most}" if most == least else f"{least} or {most}"
    return f"  MAX_UPSTREAM_CALLS={limit}: at most {each} at once in each of them."


def _mapping(house: House, where: str, today: date) -> Iterator[str]:
    log = house.log
    rows = _grouped(describe_mapping(house.settings, house.catalogue))
    width = max(_TARGET_WIDTH, *(len(row.target) for _, row in rows))
    yield ""
    for tiers, row in rows:
        yield f"  {tiers:<14}  → {row.target:<{width}}  {log.paint(row.reason, 'quiet')}"
        if row.fallbacks:
            yield f"  {'':<14}    then {', '.join(row.fallbacks)}"
    for problem in dict.fromkeys(problem for _, row in rows for problem in row.problems):
        yield f"  {log.paint('✕', 'error')} {problem}"
    for advice in dict.fromkeys(_advise(log, row, row.retired, today) for _, row in rows if row.retired):
        if advice:
            yield f"  {log.paint('!', 'warn')} {advice}"
    yield _readiness(house)
    yield ""
    yield f"  Use it:  {log.paint(f'ANTHROPIC_BASE_URL={where} claude', 'type')}"


def _grouped(rows: list[Mapped]) -> list[tuple[str, Mapped]]:
    """Return each different row once, with the names of the tiers that it holds for."""
    groups: dict[tuple[str, str, Sequence[str]], list[Mapped]] = {}
    for row in rows:
        groups.setdefault((row.target, row.reason, row.fallbacks), []).append(row)
    return [(_name_tiers([row.tier for row in group]), group[0]) for group in groups.values()]


def _name_tiers(tiers: list[str]) -> str:
    return ", ".join(tiers[:_MOST_TIERS]) + (" …" if len(tiers) > _MOST_TIERS else "")


def _advise(log: Log, row: Mapped, retired: Retired, today: date) -> str:
    """Return in words that a model is gone and the line that takes its successor; empty: it is still served."""
    day = date.fromisoformat(retired.since)
    if day > today:
        return ""
    prefix, _, model = row.target.partition("/")
    line = f"{row.reason.partition(',')[0]}={prefix}/{retired.successor}"
    provider = next(provider for provider in PROVIDERS if provider.prefix == prefix)
    return f"{provider.title} retired {model} on {day.day} {day:%B %Y}. Its successor:  {log.paint(line, 'type')}"


def _readiness(house: House) -> str:
    settings = house.settings
    ready, missing = [], []
    for provider in PROVIDERS:
        if not provider.choosable:
            continue
        keys = settings.keys.get(provider.name, ())
        if keys:
            ready.append(f"{_name(provider)} ({_show_keys(keys)}, {_place_of(house, provider)})")
        elif provider.name in settings.base_urls and not describe_missing_key(provider, settings):
            ready.append(f"{_name(provider)} ({settings.base_urls[provider.name]})")
        elif provider.key_source == "google" and not describe_missing_key(provider, settings):
            ready.append(f"{_name(provider)} ({settings.vertex_project or 'project of its credentials'})")
        elif (listed := house.catalogue.listing(provider.name)) is not None:
            ready.append(f"{_name(provider)} ({len(listed)} model{'' if len(listed) == 1 else 's'})")
        elif describe_missing_key(provider, settings):
            missing.append(_name(provider))
    unset = house.log.paint(f"not set: {' '.join(missing)}", "quiet") if missing else ""
    return f"  ready: {', '.join(ready) or 'none'}         {unset}".rstrip()


def _name(provider: Provider) -> str:
    """Return what a provider's settings begin with, in lower case: `gemini` of GEMINI_API_KEY."""
    return provider.stem.lower()


def _show_keys(keys: Sequence[Secret]) -> str:
    shown = ", ".join(str(key) for key in keys[:_MOST_KEYS])
    return f"{shown} and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else shown


def _place_of(house: House, provider: Provider) -> str:
    """Return where a provider's key was set: `.env`, `environment`."""
    return house.settings.origins.get(provider.key_variable or "", "set").partition(" line")[0]


def _first_steps(log: Log, where: str) -> Iterator[str]:
    yield ""
    yield (
        f"  {log.paint('!', 'warn')} No provider is configured, so the demo answers: "
        "it streams and calls tools, but knows nothing."
    )
    yield ""
    steps = (
        ("OPENAI_API_KEY=…", "in .env; .env.example lists every setting"),
        ("OLLAMA_API_BASE=http://host:11434", "if Ollama runs elsewhere; not found at localhost"),
        (f"ANTHROPIC_BASE_URL={where} claude", "shows the demo"),
    )
    width = max(len(command) for command, _ in steps)
    for number, (command, meaning) in enumerate(steps):
        lead = "Next:" if number == 0 else ""
        yield f"  {lead:<6} {log.paint(command, 'type')}{' ' * (width - len(command))}   {meaning}"
