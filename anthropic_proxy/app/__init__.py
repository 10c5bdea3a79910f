"""Construction of the ASGI application from the settings.

`load_app` returns the application. `app_from_environment` returns it for ASGI servers that import it by name. An ASGI
server calls `App` for each client request.
"""

import logging
import multiprocessing
import sys
from collections.abc import Mapping

from anthropic_proxy.app.application import App as App
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.log import Log
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.running_proxy import ServerRecord
from anthropic_proxy.services import require_route_prices
from anthropic_proxy.settings import SettingsReader, copy_environment, find_listen_port_option
from anthropic_proxy.workers.link import WorkerLink

EXIT_STARTUP_FAILED = 3
"""Exit status after a failed start-up, with which a supervisor does not restart a process (as with uvicorn)."""


def load_app(
    overrides: Mapping[str, object] | None = None,
    *,
    address: str | None = None,
    logs_startup: bool = True,
    link: WorkerLink | None = None,
) -> App:
    """Return the ASGI application, with its settings loaded from the environment and the settings files.

    Settings in `overrides` take precedence. Raises `ConfigurationError` for an invalid setting.
    """
    reader = SettingsReader(PROVIDERS, overrides)
    settings = require_route_prices(reader.read())
    port = settings.port if address is not None else find_listen_port_option(sys.argv, copy_environment())
    record = ServerRecord(port if link is None else None)  # the supervisor has that of its workers
    return App(settings, address=address, logs_startup=logs_startup, reader=reader, link=link, record=record)


def app_from_environment() -> App:
    """Return the application for an ASGI server that imports it by name. An invalid setting ends the process."""
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
