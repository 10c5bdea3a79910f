"""What the server writes at its start: address, models, providers, problems, and the first steps of a new user."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from types import MappingProxyType

from anthropic_proxy import __version__
from anthropic_proxy.engine.advice import Problem, ProblemKind, list_texts
from anthropic_proxy.engine.platforms.program import name_program, shorten_home
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.routing.call_limits import slots_per_worker
from anthropic_proxy.engine.routing.choices import find_preferred_provider
from anthropic_proxy.engine.routing.model_listing import list_tier_mappings
from anthropic_proxy.gateway.memory import describe_small_memory
from anthropic_proxy.gateway.problems import describe_demo
from anthropic_proxy.gateway.readiness import (
    Readiness,
    ReadyProvider,
    find_readiness,
    group_shown_mappings,
    join_tiers,
    name_target,
    remove_folders,
)
from anthropic_proxy.gateway.server.auth import (
    claude_code_command,
)
from anthropic_proxy.gateway.services import (
    Services,
)
from anthropic_proxy.gateway.settings import Settings, list_known_variables
from anthropic_proxy.gateway.settings.place import describe_unread_files
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, pad, wrap_text
from anthropic_proxy.gateway.telemetry.log.lines import paint_commands

UNKNOWN_ADDRESS = "http://<the address above>"
"""Placeholder in the start-up summary for an unknown URL. Another ASGI server (uvicorn) then runs the application
and prints its address itself."""
DASHBOARD_PATH = "/dashboard"
"""URL path of the dashboard, which a plugin serves."""
_WIDTH = 98
_TARGET_WIDTH = 24
_STEP_WIDTH = 36


def log_startup_summary(
    services: Services,
    address: str | None,
    today: date | None = None,
    *,
    worker_count: int = 1,
    exposure_warning: str = "",
    server_problems: Mapping[str, Problem] = MappingProxyType({}),
) -> None:
    """Write what the server uses: address, providers, mapping, and problems.

    `today` is the date for notices about retired models. `server_problems`: from `find_server_problems`.
    """
    log, where = services.log, address or UNKNOWN_ADDRESS
    settings, catalog = services.settings, services.catalog
    found = find_readiness(settings, catalog, today or date.today(), server_problems)
    small_memory = describe_small_memory(settings, worker_count)
    if log.is_json:
        mapping = [
            {"tier": row.tier, "target": row.target, "setting": row.reason, "then": row.fallbacks}
            for row in list_tier_mappings(settings, catalog)
        ]
        services.log.write_json_event(
            "start",
            version=__version__,
            address=address or "",
            dashboard=_find_dashboard(services, address or ""),
            sign_in=settings.dashboard_url if settings.sign_in else "",
            workers=worker_count,
            settings_files=list(settings.files),
            preferred_provider=find_preferred_provider(settings, catalog).name,
            mapping=mapping,
            ready=[_describe_provider(provider) for provider in found.ready],
            not_set=found.unset,
        )
        for text in (
            *_describe_unread_files(services),
            *([small_memory] if small_memory else []),
            *list_texts(found.problems),
            *([exposure_warning] if exposure_warning else []),
        ):
            services.log.write_line(text, level="warning")
        return
    for line in _title(services, where):
        log.write_line(line)
    if services.settings.files:
        files = [shorten_home(file) for file in services.settings.files]
        for line in _join_items("  settings: ", files, ", ", log.terminal_width or sys.maxsize):
            log.write_line(line)
    if settings.sign_in is not None:
        log.write_line(f"  sign-in: {settings.dashboard_url}")
    for warning in filter(None, (*_describe_unread_files(services), *services.settings.warnings, small_memory)):
        for line in _signed(log, "!", "warn", warning):
            log.write_line(line, level="warning")
    if worker_count > 1:
        log.write_line(f"  {worker_count} workers, which share observations: exhausted keys, rejected parameters.")
        if limit := services.settings.max_upstream_calls:
            maximum = slots_per_worker(limit, 0, worker_count)
            minimum = slots_per_worker(limit, worker_count - 1, worker_count)
            each = f"{maximum}" if maximum == minimum else f"{minimum} or {maximum}"
            line = f"  MAX_UPSTREAM_CALLS={limit}: at most {each} at once in each worker."
            if limit < worker_count:
                line = (
                    f"  {log.paint('!', 'warn')} MAX_UPSTREAM_CALLS={limit} is less than the number of workers; each "
                    "makes one call at a time."
                )
            log.write_line(line)
    preferred = find_preferred_provider(services.settings, services.catalog)
    is_demo = preferred.name == "demo"
    for line in _first_steps(services, found) if is_demo else _mapping(services, where, found):
        log.write_line(line)
    if exposure_warning:
        log_exposure_warning(log, exposure_warning)


def _title(services: Services, where: str) -> Iterator[str]:
    """The dashboard has a line of its own if the first line would be too long."""
    log = services.log
    name = f"anthropic-proxy {__version__}"
    line = f"{log.paint(name, 'title')}   {log.paint(where, 'type')}"
    link = _find_dashboard(services, "" if where == UNKNOWN_ADDRESS else where)
    if not link:
        yield line
        return
    gap = max(_WIDTH + 2 - len(f"{name}   {where}dashboard {link}"), 3)
    shown = f"dashboard {log.paint(link, 'type')}"
    if count_columns(f"{name}   {where}dashboard {link}") + gap > (log.terminal_width or sys.maxsize):
        yield line
        yield f"  {shown}"
    else:
        yield f"{line}{' ' * gap}{shown}"


def _find_dashboard(services: Services, address: str) -> str:
    """Return the URL that browsers use. "": it is unknown, or there is no dashboard. `address`: that of the server."""
    base = services.settings.dashboard_url or address
    return f"{base}{DASHBOARD_PATH}" if base and services.plugin_routes.find(DASHBOARD_PATH) else ""


def _describe_unread_files(services: Services) -> list[str]:
    """Return warnings about settings files in the current directory, which is not their place."""
    sentence = describe_unread_files(services.settings.env_file, list_known_variables(find_registry(services.settings)))
    return [sentence] if sentence else []


def log_exposure_warning(log: Log, warning: str) -> None:
    width = min(_WIDTH, log.terminal_width or _WIDTH)
    rule = f"  {'!' * (width - 2)}"
    for line in (rule, *wrap_text(name_program(f"  ! {warning}"), width), rule):
        log.write_line(line, "error", "warning")


def _mapping(services: Services, where: str, found: Readiness) -> Iterator[str]:
    log = services.log
    settings, catalog = services.settings, services.catalog
    rows = group_shown_mappings(settings, catalog)
    width = max(_TARGET_WIDTH, *(count_columns(name_target(target)) for _, row in rows for target, _ in row.replies))
    columns = log.terminal_width or sys.maxsize
    yield ""
    for tiers, row in rows:
        lead = f"  {join_tiers(tiers):<14}  → "
        for target, reason in row.replies:
            line = f"{lead}{pad(name_target(target), width)}"
            shown = log.paint(reason, "quiet")
            if count_columns(line) + 2 + count_columns(reason) <= columns:
                yield f"{line}  {shown}"
            else:
                yield line.rstrip()
                yield f"{' ' * 20}{shown}"
            lead = f"{' ' * 15}else "
        if row.fallbacks:
            yield from _join_items(f"{' ' * 20}then ", row.fallbacks, ", ", columns)
    if count := len(settings.routes):
        text = f"  {count} route{'s come' if count > 1 else ' comes'} before this mapping:  anthropic-proxy routes list"
        yield from wrap_text(paint_commands(text, log.paint), log.terminal_width)
    yield from _list_problems(log, found, settings)
    providers = [remove_folders(_describe_provider(provider), settings) for provider in found.ready] or ["none"]
    ready = f"  ready: {', '.join(providers)}"
    unset = f"not set: {' '.join(found.unset)}" if found.unset else ""
    if count_columns(ready) + 9 + len(unset) <= columns:
        yield f"{ready}{' ' * 9}{log.paint(unset, 'quiet')}" if unset else ready
    else:
        yield from _join_items("  ready: ", providers, ", ", columns)
        for line in _join_items("  not set: ", found.unset, " ", columns) if unset else ():
            yield log.paint(line, "quiet")
    yield ""
    yield f"  Use it:  {log.paint('anthropic-proxy code', 'type')}"
    yield from _show_command(log, "      or:  ", claude_code_command(where, settings))


def _list_problems(log: Log, found: Readiness, settings: Settings) -> Iterator[str]:
    for problem in found.problems:
        sign, role, text = problem.sign, problem.role, remove_folders(problem.text, settings)
        if problem.kind is ProblemKind.STATED:
            continue  # it stands below the settings files
        if not problem.has_line or count_columns(f"  {sign} {text}") <= (log.terminal_width or sys.maxsize):
            yield from _signed(log, sign, role, text)
        else:
            yield from _signed(log, sign, role, remove_folders(problem.cause, settings).rstrip())
            yield f"    {log.paint(problem.remedy, 'type')}"


def _show_command(log: Log, lead: str, command: str) -> Iterator[str]:
    """On a narrow terminal, the command has its own lines, joined by a backslash so that a shell accepts them."""
    width = log.terminal_width or sys.maxsize
    if count_columns(lead + command) <= width:
        yield f"{lead}{log.paint(command, 'type')}"
        return
    yield lead.rstrip()
    lines = [command]
    if count_columns(command) > width:
        address, _, remainder = command.partition(" ")
        lines = [f"{address} \\", remainder]
    indent = "    " if all(4 + count_columns(line) <= width for line in lines) else ""
    yield from (f"{indent}{log.paint(line, 'type')}" for line in lines)


def _signed(log: Log, sign: str, role: str, text: str) -> Iterator[str]:
    yield from wrap_text(f"  {log.paint(sign, role)} {paint_commands(text, log.paint)}", log.terminal_width)


def _join_items(lead: str, items: Sequence[str], separator: str, width: int) -> Iterator[str]:
    """Items are not divided."""
    line = lead + items[0]
    for item in items[1:]:
        if count_columns(line + separator + item) + 1 > width:
            yield f"{line}{separator}".rstrip()
            line = " " * len(lead) + item
        else:
            line += separator + item
    yield line


def _describe_provider(provider: ReadyProvider) -> str:
    return f"{provider.name} ({provider.state})"


def _first_steps(services: Services, found: Readiness) -> Iterator[str]:
    log = services.log
    yield ""
    yield from _list_problems(log, found, services.settings)
    text = f"{describe_demo(services.settings)}: it streams and calls tools, but has no model."
    yield from _signed(log, "!", "warn", text)
    yield ""
    texts = (
        ("anthropic-proxy init", "chooses provider, key and models"),
        ('anthropic-proxy ask "hello"', "sends one request to the demo"),
    )
    steps = [(name_program(command), meaning) for command, meaning in texts]
    columns = max(_STEP_WIDTH, *(count_columns(command) for command, _ in steps))
    for number, (command, meaning) in enumerate(steps):
        lead = "Next:" if number == 0 else ""
        line, further = f"  {lead:<6} {pad(command, columns)}   {meaning}", ""
        if log.terminal_width is not None and count_columns(line) > log.terminal_width:
            line, further = f"  {lead:<6} {command}", f"{' ' * 11}{meaning}"
        yield line.replace(command, log.paint(command, "type"), 1)
        if further:
            yield further
