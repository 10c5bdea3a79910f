"""What start-up says: where we listen, what goes where and why, and the line to paste for Claude Code."""

from collections.abc import Iterator

from anthropic_proxy import __version__
from anthropic_proxy.exchange.house import House
from anthropic_proxy.log import Log
from anthropic_proxy.routing.credentials import describe_missing_key
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.routing.router import Mapped, describe_mapping, find_home

ELSEWHERE = "http://<the address above>"
"""Stands for the address where another server runs us and says it itself."""


def write_banner(house: House, address: str | None) -> None:
    """Say all this once; `address` is None where it is not ours to know."""
    log, where = house.log, address or ELSEWHERE
    log.line(f"{log.paint(f'anthropic-proxy {__version__}', 'title')}   {log.paint(where, 'type')}")
    for warning in house.settings.warnings:
        log.line(f"  {log.paint('!', 'warn')} {warning}")
    home = find_home(house.settings, house.catalogue)
    lines = _first_steps(log, where) if home.name == "demo" else _mapping(house, where)
    log.line("\n".join(lines))


def _mapping(house: House, where: str) -> Iterator[str]:
    log = house.log
    rows = _grouped(describe_mapping(house.settings, house.catalogue))
    target_width = max(len(row.target) for _, row in rows)
    yield ""
    for tiers, row in rows:
        yield f"  {tiers:<16}→ {row.target:<{target_width}}   {log.paint(row.reason, 'quiet')}"
        if row.fallbacks:
            yield f"  {'':<16}  then {', '.join(row.fallbacks)}"
        if row.problem:
            yield f"  {log.paint('✕', 'error')} {row.problem}"
    yield _readiness(house)
    yield ""
    yield f"  Use it:  {log.paint(f'ANTHROPIC_BASE_URL={where} claude', 'type')}"


def _grouped(rows: list[Mapped]) -> list[tuple[str, Mapped]]:
    """Return each different row once, with the names of the tiers that it holds for."""
    groups: dict[tuple[str, str], list[Mapped]] = {}
    for row in rows:
        groups.setdefault((row.target, row.reason), []).append(row)
    return [(", ".join(row.tier for row in group), group[0]) for group in groups.values()]


def _readiness(house: House) -> str:
    settings = house.settings
    ready, missing = [], []
    for provider in PROVIDERS:
        if not provider.choosable:
            continue
        keys = settings.keys.get(provider.name, ())
        if keys:
            ready.append(f"{provider.name} ({keys[0]}, {keys[0].origin})")
        elif provider.name in settings.base_urls and not describe_missing_key(provider, settings):
            ready.append(f"{provider.name} ({settings.base_urls[provider.name]})")
        elif provider.key_source == "google" and not describe_missing_key(provider, settings):
            ready.append(f"{provider.name} ({settings.vertex_project or 'project of its credentials'})")
        elif (listed := house.catalogue.listing(provider.name)) is not None:
            ready.append(f"{provider.name} ({len(listed)} model{'' if len(listed) == 1 else 's'})")
        else:
            missing.append(provider.name)
    return f"  ready: {', '.join(ready) or 'none'}         {house.log.paint('not set: ' + ' '.join(missing), 'quiet')}"


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
