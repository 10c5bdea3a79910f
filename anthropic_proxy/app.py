"""The ASGI application: `App`, its construction from the settings, and the start-up summary in the log.

The services of an `App` are the objects that outlive one request, such as the log and the connections to providers. A
reload of the settings builds new ones, while running requests keep those with which they began. With several worker
processes, their supervisor has an `App` too, which serves no request.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from anthropic_proxy.engine.advice import Problem
from anthropic_proxy.engine.ids import new_id
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.errors import ConfigurationError, ProxyError, join_with_and
from anthropic_proxy.gateway.conditions import ConditionLog
from anthropic_proxy.gateway.memory import plan_memory
from anthropic_proxy.gateway.platforms.heap import HeapTrimmer, trim_heap, tune_gc
from anthropic_proxy.gateway.plugin_answers import ask_plugin, name_function, read_budget_uses, read_counts
from anthropic_proxy.gateway.plugin_gateway import ExchangeGateway
from anthropic_proxy.gateway.plugin_packages import open_plugins, require_usable_features
from anthropic_proxy.gateway.problems import find_server_problems
from anthropic_proxy.gateway.running_proxy import ServerRecord
from anthropic_proxy.gateway.server.asgi import Receive, Scope, Send
from anthropic_proxy.gateway.server.auth import exposure_warning, is_loopback, require_auth_if_exposed
from anthropic_proxy.gateway.server.endpoints import log_rejected_request, serve_request
from anthropic_proxy.gateway.services import (
    Services,
    new_log,
    open_services,
    prefetch_model_limits,
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
)
from anthropic_proxy.gateway.startup_summary import log_exposure_warning, log_startup_summary
from anthropic_proxy.gateway.telemetry import metrics
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.requests import Receipts
from anthropic_proxy.gateway.workers.ipc import SharedObservation
from anthropic_proxy.gateway.workers.link import WorkerLink, WorkerPeer, apply_observation, register_publisher
from anthropic_proxy.plugins import Cost, Plugin, Receipt, Route, ServerFacts
from anthropic_proxy.secrets import redact_secrets

if TYPE_CHECKING:
    from anthropic_proxy.console.ledger.costs import CurrentCosts

_SUMMARY_SECONDS = 0.25
"""Maximum time in seconds by which own servers that do not even refuse a connection delay the start. The summary calls
a server ready that has not refused by then, and a later line reports it. A busy machine needs more than 50 ms."""
SHUTDOWN_GRACE_SECONDS = 2.0
"""Maximum seconds for cancelled exchanges to send their errors to clients when the server stops."""
PLUGIN_STOP_SECONDS = 10.0
"""Maximum seconds for one plugin to stop. Those of this project need less."""


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
        self._current: tuple[Services, Transports] | None = None
        """Services and transports for new exchanges. Running exchanges keep the services with which they began."""
        self._reload_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        """Tasks that close replaced transports after the requests that use them, or complete the start-up summary."""
        self._condition_reports: asyncio.Task[None] | None = None
        self.peer = WorkerPeer(
            lambda word: redact_secrets(word, self._settings.reveal_all_secrets()) != word,
            self._collect_gauges,
            self._apply_observation,
            link,
            self._reveal_secrets,
            calculate_cost=self._calculate_cost,
        )
        """Statistics and observations that the workers of a server share."""
        self.memory = plan_memory(settings, self.peer.worker_index_and_count[1])
        self._transports = Transports(settings, page_processes=self.memory.processes)
        self.heap_trimmer = HeapTrimmer()
        self._log = new_log(settings)
        page = Route(path="/metrics", respond=partial(metrics.serve_metrics, self.peer.query_totals))
        self._plugins = [Plugin(routes=[page]), *(open_plugins(settings) if plugins is None else plugins)]
        self._waiting_plugins = [*self._plugins]
        """Plugins that have not started yet. No request is served before."""
        observers = [observer for plugin in self._plugins for observer in plugin.observers]
        self._receipts = Receipts(self._log, observers, totals=self.peer.totals, feed=self.peer.requests)
        self._checks_clients = address is None and logs_startup
        """True until the first request from a non-loopback address, if the bind address is unknown."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: a client request, or the lifespan (start and stop) of the application."""
        if scope["type"] == "http":
            if self._current is None or self._waiting_plugins:
                await self._open()
            assert self._current is not None
            services, _ = self._current
            if self._checks_clients:
                peer = scope["client"]
                if peer is not None and not is_loopback(peer[0]):
                    self._checks_clients = False
                    if warning := exposure_warning(self._settings, peer[0]):
                        log_exposure_warning(self._log, warning)
            await serve_request(services, scope, receive, send)
        elif scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            await self.close()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def log_startup(self, worker_count: int) -> None:
        """Write the start-up summary for a server with several workers. Called in the supervisor only."""
        services = await self._build(self._settings, self._transports)
        if await self._log_summary(services, worker_count) is not None:  # the supervisor has no event loop
            search = self._report_server_problems(find_server_problems(services.settings, services.catalog, {}))
            threading.Thread(target=asyncio.run, args=(search,), daemon=True).start()
        await self.close()
        if warning := await asyncio.to_thread(self._record.open, self._settings):
            self.log_warning(warning)

    def remove_record(self) -> None:
        self._record.close()

    def log_warning(self, text: str) -> None:
        self._log.write_warning(text)

    def log_line_and_flush(self, text: str) -> None:
        self._log.write_line(text)
        self._log.flush()

    def flush_log(self) -> None:
        self._log.flush()

    def log_rejected_request(self, error: ProxyError) -> str:
        self._receipts.flush()  # in the order of the ends
        receipt = log_rejected_request(error, self._log, new_id, time.time, self._settings.reveal_proxy_keys())
        self._receipts.finish_request(receipt)
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
            before, old_transports = self._current
            changed = _log_of(settings) != _log_of(self._settings)
            if changed:
                log = new_log(settings)
                log.inherit_from(self._log)
                self._log = log
                self._receipts.replace_log(log)
            transports = old_transports.reuse_or_replace(settings)
            services = await self._build(settings, transports, before)
            self._current = services, transports
            if self._logs_startup:
                self._log_changes(settings)
            self._settings = settings
            self._transports = transports
            await asyncio.to_thread(self._record.update, settings)
            self._checks_clients = self._address is None and self._logs_startup
            prefetch_model_limits(services)
            if services.catalog is not before.catalog:
                await before.catalog.close()
            if transports is not old_transports:

                async def close_after_requests() -> None:
                    await self.peer.running.wait_until_ended()
                    await old_transports.close()

                task = asyncio.create_task(close_after_requests())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _request_reload(self) -> bool:
        if self._reader is not None and not self.peer.request_reload():
            await self.reload_settings()
        return self._reader is not None

    def _read(self) -> Settings | None:
        assert self._reader is not None
        try:
            settings = require_usable_features(require_route_prices(self._reader.read()))
            if self._address is not None:
                require_auth_if_exposed(settings)
        except ConfigurationError as error:
            for message in (f"The current settings stay active. {error.messages[0]}", *error.messages[1:]):
                shown = self._log.fold(message, "  ")
                self._log.write_line(f"{self._log.paint('✕', 'error')} {shown}", level="error")
            return None
        return settings

    def _log_changes(self, settings: Settings) -> None:
        changes = find_changed_variables(self._settings, settings)
        self._log.write_line(self._log.fold(f"Settings reloaded: {', '.join(changes) or 'nothing'} changed.", "  "))
        for warning in settings.warnings:
            shown = self._log.fold(warning, "    ")
            self._log.write_line(f"  {self._log.paint('!', 'warn')} {shown}", level="warning")
        if fixed := [name for name in changes if is_fixed_variable(name)]:
            self.log_warning(f"{join_with_and(fixed)} will take effect at the next start.")

    async def _log_summary(
        self, services: Services, worker_count: int = 1
    ) -> "asyncio.Task[Mapping[str, Problem]] | None":
        """Return the search for problems of own servers if it has not ended, so that the summary names none."""
        search = asyncio.create_task(find_server_problems(services.settings, services.catalog, services.transports))
        done, _ = await asyncio.wait((search,), timeout=_SUMMARY_SECONDS)
        host = self._settings.host if self._address is not None else find_listen_host_option(sys.argv)
        log_startup_summary(
            services,
            self._address,
            worker_count=worker_count,
            exposure_warning=exposure_warning(self._settings, host),
            server_problems=search.result() if done and search.exception() is None else {},  # a defect ends no start
        )
        return None if done else search

    async def _report_server_problems(self, search: Awaitable[Mapping[str, Problem]]) -> None:
        for problem in (await search).values():
            self.log_warning(problem.text)

    async def start(self) -> None:
        await self._open()
        tune_gc()
        trim_heap()

    async def _open(self) -> tuple[Services, Transports]:
        """Build the services and start the plugins, once. A plugin that failed is started again by the next request."""
        async with self._reload_lock:
            if self._current is None:
                asyncio.get_running_loop().set_exception_handler(
                    lambda _, context: self._log.write_event_loop_error(context)
                )
                services = await self._build(self._settings, self._transports)
                prefetch_model_limits(services)
                if self._logs_startup and (search := await self._log_summary(services)) is not None:
                    report = asyncio.create_task(self._report_server_problems(search))
                    self._tasks.add(report)
                    report.add_done_callback(self._tasks.discard)
                warning = await asyncio.to_thread(self._record.open, self._settings, waits=self._logs_startup)
                if warning and self._logs_startup:
                    self.log_warning(warning)
                self._current = services, self._transports
                self.peer.open()  # plugins use the store of all workers
                self.peer.start_instance_sharing()
            gateway = ExchangeGateway(
                self._current_services, self._calculate_cost, self._request_reload, self._describe_server
            )
            while self._waiting_plugins:
                if (start := self._waiting_plugins[0].start) is not None:
                    await start(gateway)
                del self._waiting_plugins[0]
            if self._condition_reports is None and self.peer.worker_index_and_count[0] == 0:
                conditions = ConditionLog(lambda: self._current_services().list_conditions(), self.log_warning)
                self._condition_reports = asyncio.create_task(conditions.run())
        return self._current

    def _describe_server(self) -> ServerFacts:
        index, count = self.peer.worker_index_and_count
        return ServerFacts(
            id=self.peer.server_id,
            address=self._address or "",
            worker_index=index,
            worker_count=count,
            is_stopping=self.peer.running.draining,
        )

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
            running=self.peer.running,
            plugins=self._plugins,
            worker_index_and_count=self.peer.worker_index_and_count,
            shared_store=self.peer.store,
            previous=before,
        )
        if publish := self.peer.find_publisher(services.store):
            register_publisher(services, publish)
        return services

    async def close(self) -> bool:
        """Wait until the last requests have ended, at most `SHUTDOWN_GRACE_SECONDS`, then close all services and
        plugins. Return False if the ledger has lost the last requests.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_GRACE_SECONDS):
                await self.peer.running.wait_until_ended()
        await self._receipts.close(min(SHUTDOWN_GRACE_SECONDS, self._settings.stop_timeout_seconds))
        stops = [plugin.stop for plugin in self._plugins if plugin.stop is not None and self._current is not None]
        await asyncio.gather(*map(self._stop_plugin, stops))  # one may wait for its limit
        for task in (*self._tasks, self._condition_reports):
            if task is not None:
                task.cancel()
        if self._current is None:
            await self._transports.close()
        else:
            await self.peer.stop_instance_sharing()
            await self._current[0].close()
        await asyncio.to_thread(self._record.close)
        await asyncio.to_thread(self._log.flush)
        states = [plugin.ledger_state() for plugin in self._plugins if plugin.ledger_state is not None]
        return not any(state.lost_rows for state in states)

    async def _stop_plugin(self, stop: Callable[[], Awaitable[None]]) -> None:
        """A plugin with a defect neither keeps the process running nor the others from their end. A `stop` that goes on
        after its cancellation is left.
        """

        async def run() -> None:
            await stop()

        task = asyncio.create_task(run())
        await asyncio.wait({task}, timeout=PLUGIN_STOP_SECONDS)
        if not task.done():
            task.cancel()
            text = f"{name_function(stop)} of a plugin has not ended in {PLUGIN_STOP_SECONDS:g} s, and was cancelled"
            self._log.write_warning(text)
            return
        try:
            task.result()
        except (Exception, asyncio.CancelledError):  # noqa: BLE001  # a defect of a plugin
            self._log.write_traceback("–")

    def _reveal_secrets(self) -> Sequence[str]:
        return self._settings.reveal_all_secrets()

    def _collect_gauges(self, now: metrics.MetricsSnapshot) -> None:
        """Set the gauges of requests, circuits and keys in `now`. The supervisor serves no request and counts as 0."""
        self._receipts.flush()  # the counters too have all that has ended
        now.replace(metrics.WORKERS, int(self._current is not None))
        inspectors = ask_plugin(self._name_inspectors, frozenset[str], self._log) or ()
        metrics.add_first_counts(now, self._receipts.observer_names, inspectors)
        now.replace(metrics.REQUESTS_IN_FLIGHT, self.peer.running.count - self.peer.requests.live.count)
        for plugin in self._plugins:
            if plugin.ledger_state is not None:
                self.peer.totals.copy_ledger_state(plugin.ledger_state())
            if (count := plugin.telemetry_counts) is not None:
                for result, number in (ask_plugin(count, read_counts, self._log) or {}).items():
                    now.replace(metrics.TELEMETRY_REQUESTS, number, (result,))
            if (count := plugin.telemetry_drops) is not None:
                for person, number in (ask_plugin(count, read_counts, self._log) or {}).items():
                    now.replace(metrics.TELEMETRY_DROPS, number, (person,))
            if plugin.budget_uses is not None:
                for budget, share in (ask_plugin(plugin.budget_uses, read_budget_uses, self._log) or {}).items():
                    now.replace(metrics.BUDGET_USED_RATIO, share, budget)
        open_circuits = cooldowns = 0
        if self._current is not None:
            services, _ = self._current
            self.peer.totals.copy_store_state(services.store.state)
            open_circuits, cooldowns = (
                services.circuit_breakers.open_circuit_count(),
                services.credentials.cooldown_count(),
            )
            for condition in services.list_conditions():
                now.add(metrics.CONDITIONS, labels=(condition.check,))
        now.replace(metrics.OPEN_CIRCUITS, open_circuits)
        now.replace(metrics.KEYS_IN_COOLDOWN, cooldowns)

    def _name_inspectors(self) -> Collection[str]:
        return () if self._current is None else {one.scope.name for one in self._current[0].inspectors}

    def _apply_observation(self, observation: SharedObservation) -> None:
        if self._current is not None:
            apply_observation(self._current[0], observation)


def _log_of(settings: Settings) -> Any:
    return settings.log_format, settings.log_level, settings.color, settings.reveal_all_secrets()


EXIT_STARTUP_FAILED = 3
"""Exit status after a failed start-up, with which a supervisor does not restart a process (as with uvicorn)."""


def load_app(
    overrides: Mapping[str, object] | None = None,
    *,
    address: str | None = None,
    logs_startup: bool = True,
    link: WorkerLink | None = None,
    reader: SettingsReader | None = None,
    settings: Settings | None = None,
) -> App:
    """Settings in `overrides` take precedence. Raises `ConfigurationError` for an invalid setting.

    `settings` are those that `reader` has just read, so that a start reads them once.
    """
    reader = reader or SettingsReader(PROVIDERS, overrides)
    settings = settings or require_route_prices(reader.read())
    port = settings.port if address is not None else find_listen_port_option(sys.argv, copy_environment())
    # the supervisor has the record of its workers; another server has no address, and signals of its own
    host = settings.host if address is not None else find_listen_host_option(sys.argv)
    record = ServerRecord(port if link is None else None, host=host, handles_signals=address is not None)
    return App(settings, address=address, logs_startup=logs_startup, reader=reader, link=link, record=record)


def app_from_environment() -> App:
    """For an ASGI server that imports it by name. An invalid setting ends the process."""
    import multiprocessing  # noqa: PLC0415  # not for our own server

    if not any(argument.startswith("--access-log") for argument in sys.argv):
        logging.getLogger("uvicorn.access").disabled = True  # both would log each request
    try:
        process = multiprocessing.current_process()
        is_child = multiprocessing.parent_process() is not None and "--reload" not in sys.argv
        is_later = is_child and process.name.startswith("SpawnProcess-") and process.name != "SpawnProcess-1"
        return load_app(logs_startup=not is_later)  # the first worker of uvicorn writes the summary
    except ConfigurationError as error:
        for message in error.messages:
            Log(form="plain").write_line(f"✕ {message}", level="error")
        raise SystemExit(EXIT_STARTUP_FAILED) from None
