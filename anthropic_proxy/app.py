"""The ASGI application: `App`, its construction from the settings, and the start-up summary in the log.

The services of an `App` are the objects that outlive one request, such as the log and the connections to providers. A
reload of the settings builds new ones, while running requests keep those with which they began. With several worker
processes, their supervisor has an `App` too, which serves no request.
"""

import asyncio
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import cached_property
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from anthropic_proxy import __version__
from anthropic_proxy.engine.engine import new_id
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.routing.health import slots_per_worker
from anthropic_proxy.engine.routing.router import find_preferred_provider, list_tier_mappings
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.errors import ConfigurationError, ProxyError
from anthropic_proxy.gateway.platforms.heap import HeapTrimmer, tune_gc
from anthropic_proxy.gateway.plugin_gateway import ExchangeGateway
from anthropic_proxy.gateway.plugin_packages import open_plugins
from anthropic_proxy.gateway.readiness import (
    Readiness,
    ReadyProvider,
    describe_retirement,
    find_readiness,
    group_tier_mappings,
    list_ignored_settings,
    list_problems_and_warnings,
)
from anthropic_proxy.gateway.running_proxy import ServerRecord
from anthropic_proxy.gateway.server.auth import (
    claude_code_command,
    exposure_warning,
    is_loopback,
    require_auth_if_exposed,
)
from anthropic_proxy.gateway.server.endpoints import log_rejected_request, serve_request
from anthropic_proxy.gateway.server.response_sink import Receive, Scope, Send
from anthropic_proxy.gateway.services import (
    Services,
    new_log,
    new_transports,
    open_services,
    prefetch_tier_model_limits,
    require_route_prices,
)
from anthropic_proxy.gateway.settings import (
    Settings,
    SettingsReader,
    copy_environment,
    find_changed_variables,
    find_listen_host_option,
    find_listen_port_option,
    is_fixed_variable,
    list_variables,
)
from anthropic_proxy.gateway.settings.place import describe_unread_files
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.receipts import ReceiptQueues
from anthropic_proxy.gateway.telemetry.metrics import Gauges, MetricsPage
from anthropic_proxy.gateway.workers.ipc import SharedObservation
from anthropic_proxy.gateway.workers.link import WorkerLink, WorkerPeer, apply_observation, register_publisher
from anthropic_proxy.plugins import Cost, Plugin, Receipt, Route
from anthropic_proxy.secrets import redact_secrets

if TYPE_CHECKING:
    from anthropic_proxy.console.ledger.costs import CurrentCosts

SHUTDOWN_GRACE_SECONDS = 2.0
"""Maximum seconds for cancelled exchanges to send their errors to clients when the server stops."""


class App:
    """The ASGI application.

    `reader` reads the settings again for a reload. Without it, they cannot be reloaded. `link` connects this process
    with the other workers of the server. Without it, the process shares no state with them. `record` tells commands
    where the settings come from. Without it, commands cannot find this server.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        address: str | None = None,
        logs_startup: bool = True,
        reader: SettingsReader | None = None,
        link: WorkerLink | None = None,
        plugins: Sequence[Plugin] | None = None,
        record: ServerRecord | None = None,
    ) -> None:
        self._settings = settings
        self._record = record or ServerRecord(None)
        # None: another server, such as uvicorn, runs this application
        self._address = address
        self._logs_startup = logs_startup
        self._reader = reader
        self._transports = new_transports(settings)
        self._current: tuple[Services, Transports] | None = None
        """Services and transports for new exchanges. Running exchanges keep the services with which they began."""
        self._reload_lock = asyncio.Lock()
        self._closing: dict[asyncio.Task[None], Transports] = {}
        """Replaced transports, each until its last exchange has ended."""
        self.peer = WorkerPeer(
            lambda word: redact_secrets(word, self._settings.reveal_all_secrets()) != word,
            self._collect_gauges,
            self._apply_observation,
            link,
            self._reveal_secrets,
        )
        """Statistics and observations that the workers of a server share."""
        self.heap_trimmer = HeapTrimmer()
        self._log = new_log(settings)
        totals = self.peer.totals
        metrics = Plugin(routes=[Route(path="/metrics", respond=MetricsPage(self.peer.query_totals).respond)])
        self._plugins = [metrics, *(open_plugins(settings) if plugins is None else plugins)]
        self._waiting_plugins = [*self._plugins]
        """Plugins that have not started yet. No request is served before."""
        self._receipts = ReceiptQueues(
            self._log,
            [observer for plugin in self._plugins for observer in plugin.observers],
            count=totals.count_exchange,
            count_rejected=totals.count_rejected_request,
            count_dropped=totals.count_dropped_receipt,
            feed=self.peer.requests,
        )
        self._checks_clients = address is None and logs_startup
        """True until the first request from a non-loopback address, if the bind address is unknown."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: a client request, or the lifespan (start and stop) of the application."""
        if scope["type"] == "http":
            if self._current is None or self._waiting_plugins:
                await self._open()
            assert self._current is not None
            services, transports = self._current
            if self._checks_clients:
                peer = scope["client"]
                if peer is not None and not is_loopback(peer[0]):
                    self._checks_clients = False
                    if warning := exposure_warning(self._settings, peer[0]):
                        log_exposure_warning(self._log, warning)
            transports.begin_exchange()
            try:
                await serve_request(services, scope, receive, send)
            finally:
                transports.end_exchange()
        elif scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            await self.close()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def log_startup(self, worker_count: int) -> None:
        """Called in the supervisor only."""
        log_startup_summary(
            await self._build(self._settings, self._transports),
            self._address,
            worker_count=worker_count,
            exposure_warning=self._exposure(),
        )
        await self.close()
        await asyncio.to_thread(self._record.open, self._settings)

    def remove_record(self) -> None:
        self._record.close()

    def log_warning(self, text: str) -> None:
        self._log.write_warning(redact_secrets(text, self._settings.reveal_all_secrets()))

    def log_line_and_flush(self, text: str) -> None:
        self._log.write_line(text)
        self._log.flush()

    def flush_log(self) -> None:
        self._log.flush()

    def log_rejected_request(self, error: ProxyError) -> str:
        receipt = log_rejected_request(error, self._log, new_id, time.time, self._settings.reveal_proxy_keys())
        self._receipts.queue_request_receipt(receipt)
        return receipt.request_id

    def check_settings(self) -> bool:
        settings = self._read()
        if settings is not None:
            self._log_changes(settings)
            self._settings = settings
            self._record.update(settings)
        return settings is not None

    async def reload_settings(self) -> None:
        """Invalid settings are logged and change nothing."""
        async with self._reload_lock:
            settings = await asyncio.to_thread(self._read)
            if settings is None or self._current is None:
                return
            (before, old_transports), changed = self._current, _log_of(settings) != _log_of(self._settings)
            if changed:
                log = new_log(settings)
                log.inherit_from(self._log)
                self._log = self._receipts.log = log
            transports = old_transports.reuse_or_replace(settings)
            services = await self._build(settings, transports, before)
            self._current = services, transports
            if self._logs_startup:
                self._log_changes(settings)
            self._settings, self._transports = settings, transports
            await asyncio.to_thread(self._record.update, settings)
            self._checks_clients = self._address is None and self._logs_startup
            prefetch_tier_model_limits(services)
            if services.catalog is not before.catalog:
                await before.catalog.close()
            if transports is not old_transports:
                task = asyncio.create_task(old_transports.close_when_idle())
                self._closing[task] = old_transports
                task.add_done_callback(self._closing.pop)

    async def _request_reload(self) -> bool:
        if self._reader is not None and not self.peer.request_reload():
            await self.reload_settings()
        return self._reader is not None

    def _read(self) -> Settings | None:
        assert self._reader is not None
        try:
            settings = require_route_prices(self._reader.read())
            if self._address is not None:
                require_auth_if_exposed(settings)
        except ConfigurationError as error:
            for message in (*error.messages[:-1], f"{error.messages[-1]} The current settings stay active."):
                self._log.write_line(f"{self._log.paint('✕', 'error')} {message}", level="error")
            return None
        return settings

    def _log_changes(self, settings: Settings) -> None:
        changes = find_changed_variables(self._settings, settings)
        self._log.write_line(f"Settings reloaded: {', '.join(changes) or 'nothing'} changed.")
        for warning in settings.warnings:
            self._log.write_line(f"  {self._log.paint('!', 'warn')} {warning}", level="warning")
        if fixed := [name for name in changes if is_fixed_variable(name)]:
            self.log_warning(f"{' and '.join(fixed)} will take effect at the next start.")

    async def start(self) -> None:
        await self._open()
        tune_gc()

    async def _open(self) -> tuple[Services, Transports]:
        """Build the services and start the plugins, once. A plugin that failed is started again by the next request."""
        async with self._reload_lock:
            if self._current is None:
                asyncio.get_running_loop().set_exception_handler(
                    lambda _, context: self._log.write_event_loop_error(context)
                )
                services = await self._build(self._settings, self._transports)
                prefetch_tier_model_limits(services)
                if self._logs_startup:
                    log_startup_summary(services, self._address, exposure_warning=self._exposure())
                await asyncio.to_thread(self._record.open, self._settings, waits=self._logs_startup)
                self._current = services, self._transports
                self.peer.start_instance_sharing()
            gateway = ExchangeGateway(self._current_services, self._calculate_cost, self._request_reload)
            while self._waiting_plugins:
                if (start := self._waiting_plugins[0].start) is not None:
                    await start(gateway)
                del self._waiting_plugins[0]
        return self._current

    def _current_services(self) -> Services:
        assert self._current is not None
        return self._current[0]

    @cached_property
    def _costs(self) -> "CurrentCosts":
        from anthropic_proxy.console.ledger.costs import CurrentCosts  # noqa: PLC0415  # the import needs time

        return CurrentCosts(lambda: self._current_services().settings)

    def _calculate_cost(self, receipt: Receipt) -> Cost:
        return self._costs.calculate(receipt)

    async def _build(self, settings: Settings, transports: Transports, before: Services | None = None) -> Services:
        services = await open_services(
            settings,
            transports=transports,
            log=self._log,
            receipts=self._receipts,
            heap_trimmer=self.heap_trimmer,
            in_progress=self.peer.in_progress,
            plugins=self._plugins,
            worker_index_and_count=self.peer.worker_index_and_count,
            previous=before,
        )
        if publish := self.peer.find_publisher(services.store):
            register_publisher(services, publish)
        return services

    async def close(self) -> None:
        """Wait until the last requests have ended, at most `SHUTDOWN_GRACE_SECONDS`, then close all services and
        plugins.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_GRACE_SECONDS):
                await self._transports.wait_until_idle()
        await self._receipts.close(min(SHUTDOWN_GRACE_SECONDS, self._settings.stop_timeout_seconds))
        for plugin in self._plugins if self._current is not None else ():
            if plugin.stop is not None:
                await plugin.stop()
        for task in self._closing:
            task.cancel()
        if self._current is not None:
            await self._current[0].catalog.close()
            await self.peer.stop_instance_sharing()
            await self._current[0].store.close()
        await self._transports.close()
        await asyncio.to_thread(self._record.close)
        await asyncio.to_thread(self._log.flush)

    def _reveal_secrets(self) -> Sequence[str]:
        return self._settings.reveal_all_secrets()

    def _collect_gauges(self, now: Gauges) -> None:
        """Set the gauges of requests, circuits and keys in `now`. The supervisor serves no request and counts as 0."""
        now.serving_processes = int(self._current is not None)
        running = sum(each.running_exchanges for each in (self._transports, *self._closing.values()))
        now.requests_in_flight = running - self.peer.requests.view_count
        for plugin in self._plugins:
            if plugin.ledger_state is not None:
                self.peer.totals.copy_ledger_state(plugin.ledger_state(), now)
            if plugin.budget_uses is not None:
                now.budget_uses.update(plugin.budget_uses())
        if self._current is not None:
            services, _ = self._current
            self.peer.totals.copy_store_state(services.store.state, now)
            now.open_circuits = services.circuit_breakers.open_circuit_count()
            now.keys_in_cooldown = services.credentials.cooldown_count()

    def _apply_observation(self, observation: SharedObservation) -> None:
        if self._current is not None:
            apply_observation(self._current[0], observation)

    def _exposure(self) -> str:
        host = self._settings.host if self._address is not None else find_listen_host_option(sys.argv)
        return exposure_warning(self._settings, host)


def _log_of(settings: Settings) -> Any:
    return settings.log_format, settings.log_level, settings.color, settings.reveal_all_secrets()


UNKNOWN_ADDRESS = "http://<the address above>"
"""Placeholder in the start-up summary for an unknown URL. Another ASGI server (uvicorn) then runs the application
and prints its address itself."""
DASHBOARD_PATH = "/dashboard"
"""URL path of the dashboard, which a plugin serves."""
_WIDTH = 98
_RULE = f"  {'!' * (_WIDTH - 2)}"
_TARGET_WIDTH = 24
_STEP_WIDTH = 36


def log_startup_summary(
    services: Services,
    address: str | None,
    today: date | None = None,
    *,
    worker_count: int = 1,
    exposure_warning: str = "",
) -> None:
    """`today` is the date for notices about retired models."""
    log, where = services.log, address or UNKNOWN_ADDRESS
    if log.is_json:
        settings, catalog = services.settings, services.catalog
        rows, found = list_tier_mappings(settings, catalog), find_readiness(settings, catalog)
        problems, warnings = list_problems_and_warnings(settings, catalog, today or date.today())
        mapping = [
            {"tier": row.tier, "target": row.target, "setting": row.reason, "then": row.fallbacks} for row in rows
        ]
        services.log.write_json_event(
            "start",
            version=__version__,
            address=address or "",
            dashboard=f"{address}{DASHBOARD_PATH}" if address and services.routes.find(DASHBOARD_PATH) else "",
            workers=worker_count,
            settings_files=list(settings.files),
            preferred_provider=find_preferred_provider(settings, catalog).name,
            mapping=mapping,
            ready=[_describe_provider(provider) for provider in found.ready],
            not_set=found.unset,
        )
        for text in (
            *_describe_unread_files(services),
            *warnings,
            *problems,
            *([exposure_warning] if exposure_warning else []),
        ):
            services.log.write_line(text, level="warning")
        return
    for line in _title(services, where):
        log.write_line(line)
    if services.settings.files:
        log.write_line(f"  settings: {', '.join(services.settings.files)}")
    for warning in (*_describe_unread_files(services), *services.settings.warnings):
        for line in _signed(log, "!", "warn", warning):
            log.write_line(line, level="warning")
    if worker_count > 1:
        log.write_line(f"  {worker_count} workers, which share observations: exhausted keys, rejected parameters.")
        if limit := services.settings.max_upstream_calls:
            log.write_line(_share_out(log, limit, worker_count))
    preferred = find_preferred_provider(services.settings, services.catalog)
    lines = _first_steps(services) if preferred.name == "demo" else _mapping(services, where, today or date.today())
    for line in lines:
        log.write_line(line)
    if exposure_warning:
        log_exposure_warning(log, exposure_warning)


def _title(services: Services, where: str) -> Iterator[str]:
    """The dashboard has a line of its own if the first line would be too long."""
    log = services.log
    name = f"anthropic-proxy {__version__}"
    line = f"{log.paint(name, 'title')}   {log.paint(where, 'type')}"
    if where == UNKNOWN_ADDRESS or services.routes.find(DASHBOARD_PATH) is None:
        yield line
        return
    link = f"{where}{DASHBOARD_PATH}"
    gap = max(_WIDTH + 2 - len(f"{name}   {where}dashboard {link}"), 3)
    shown = f"dashboard {log.paint(link, 'type')}"
    if len(f"{name}   {where}dashboard {link}") + gap > (log.terminal_width or sys.maxsize):
        yield line
        yield f"  {shown}"
    else:
        yield f"{line}{' ' * gap}{shown}"


def _describe_unread_files(services: Services) -> list[str]:
    """Empty: no settings files in the current directory, which is not their place."""
    sentence = describe_unread_files(services.settings.env_file, list_variables(find_registry(services.settings)))
    return [sentence] if sentence else []


def log_exposure_warning(log: Log, warning: str) -> None:
    for line in (_RULE, *wrap(warning, _WIDTH, initial_indent="  ! ", subsequent_indent="    "), _RULE):
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
    settings, catalog = services.settings, services.catalog
    rows = group_tier_mappings(settings, catalog)
    width = max(_TARGET_WIDTH, *(len(row.target) for _, row in rows))
    yield ""
    for tiers, row in rows:
        yield f"  {tiers:<14}  → {row.target:<{width}}  {log.paint(row.reason, 'quiet')}"
        if row.fallbacks:
            yield f"  {'':<14}    then {', '.join(row.fallbacks)}"
    if count := len(settings.routes):
        text = f"{count} route{'s come' if count > 1 else ' comes'} before this mapping:"
        yield f"  {text}  {log.paint('anthropic-proxy routes list', 'type')}"
    for problem in dict.fromkeys(problem for _, row in rows for problem in row.problems):
        yield from _signed(log, "✕", "error", problem)
    for sentence, line in dict.fromkeys(filter(None, (describe_retirement(row, today) for _, row in rows))):
        yield f"  {log.paint('!', 'warn')} {sentence}  {log.paint(line, 'type')}"
    found = find_readiness(settings, catalog)
    for obstacle in found.obstacles:
        yield from _signed(log, "✕", "error", obstacle)
    for text in (*found.advice, *list_ignored_settings(settings, catalog)):
        yield from _signed(log, "!", "warn", text)
    yield from _describe_readiness(log, found)
    yield ""
    yield f"  Use it:  {log.paint('anthropic-proxy code', 'type')}"
    yield from _show_command(log, "      or:  ", claude_code_command(where, settings))


def _show_command(log: Log, lead: str, command: str) -> Iterator[str]:
    """On a narrow terminal, the command has its own lines, joined by a backslash so that a shell accepts them."""
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


def _signed(log: Log, sign: str, role: str, text: str) -> Iterator[str]:
    width = (log.terminal_width or sys.maxsize) - 4
    first, *others = [text] if len(text) <= width else wrap(text, width, break_long_words=False, break_on_hyphens=False)
    yield f"  {log.paint(sign, role)} {first}"
    yield from (f"    {other}" for other in others)


def _describe_readiness(log: Log, found: Readiness) -> Iterator[str]:
    providers = [_describe_provider(provider) for provider in found.ready] or ["none"]
    ready = f"  ready: {', '.join(providers)}"
    unset = f"not set: {' '.join(found.unset)}" if found.unset else ""
    width = log.terminal_width or sys.maxsize
    if len(ready) + 9 + len(unset) <= width:
        yield f"{ready}{' ' * 9}{log.paint(unset, 'quiet')}" if unset else ready
        return
    yield from _join_items("  ready: ", providers, ", ", width)
    if unset:
        yield from (log.paint(line, "quiet") for line in _join_items("  not set: ", found.unset, " ", width))


def _join_items(lead: str, items: Sequence[str], separator: str, width: int) -> Iterator[str]:
    """Items are not divided."""
    line = lead + items[0]
    for item in items[1:]:
        if len(line) + len(separator) + len(item) + 1 > width:
            yield f"{line}{separator}".rstrip()
            line = " " * len(lead) + item
        else:
            line += separator + item
    yield line


def _describe_provider(provider: ReadyProvider) -> str:
    return f"{provider.name} ({provider.state})"


def _first_steps(services: Services) -> Iterator[str]:
    log = services.log
    yield ""
    for text in list_ignored_settings(services.settings, services.catalog):
        yield from _signed(log, "!", "warn", text)
    text = "No provider is configured, so the demo replies: it streams and calls tools, but has no model."
    yield from _signed(log, "!", "warn", text)
    yield ""
    steps = (
        ("anthropic-proxy init", "asks two questions and writes the settings"),
        ("OLLAMA_API_BASE=http://host:11434", "if Ollama runs on another host (none at localhost)"),
        ('anthropic-proxy ask "hello"', "sends one request to the demo"),
    )
    for number, (command, meaning) in enumerate(steps):
        lead = "Next:" if number == 0 else ""
        line = f"  {lead:<6} {command:<{_STEP_WIDTH}}   {meaning}"
        if log.terminal_width is not None and len(line) > log.terminal_width:
            line = line.partition(" (")[0]
        further = ""
        if log.terminal_width is not None and len(line) > log.terminal_width:
            line, further = f"  {lead:<6} {command}", f"{' ' * 11}{meaning.partition(' (')[0]}"
        yield line.replace(command, log.paint(command, "type"), 1)
        if further:
            yield further


EXIT_STARTUP_FAILED = 3
"""Exit status after a failed start-up, with which a supervisor does not restart a process (as with uvicorn)."""


def load_app(
    overrides: Mapping[str, object] | None = None,
    *,
    address: str | None = None,
    logs_startup: bool = True,
    link: WorkerLink | None = None,
) -> App:
    """Settings in `overrides` take precedence. Raises `ConfigurationError` for an invalid setting."""
    reader = SettingsReader(PROVIDERS, overrides)
    settings = require_route_prices(reader.read())
    port = settings.port if address is not None else find_listen_port_option(sys.argv, copy_environment())
    record = ServerRecord(port if link is None else None)  # the supervisor has that of its workers
    return App(settings, address=address, logs_startup=logs_startup, reader=reader, link=link, record=record)


def app_from_environment() -> App:
    """For an ASGI server that imports it by name. An invalid setting ends the process."""
    if not any(argument.startswith("--access-log") for argument in sys.argv):
        logging.getLogger("uvicorn.access").disabled = True  # both would log each request
    try:
        return load_app(logs_startup=not _is_later_worker())
    except ConfigurationError as error:
        for message in error.messages:
            Log(form="plain").write_line(f"✕ {message}", level="error")
        raise SystemExit(EXIT_STARTUP_FAILED) from None


def _is_later_worker() -> bool:
    """Return True if this process is a worker of uvicorn or another ASGI server, but not the first one."""
    process = multiprocessing.current_process()
    if multiprocessing.parent_process() is None or "--reload" in sys.argv:
        return False
    return process.name.startswith("SpawnProcess-") and process.name != "SpawnProcess-1"
