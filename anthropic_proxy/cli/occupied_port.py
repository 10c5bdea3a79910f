"""Error message about a port that another program uses, for the command `serve`.

`describe_occupied_port` returns the message, which names this program if possible, and a command for another port.
"""

import sys
from datetime import datetime

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.port_owner import PORT_OWNER_COMMANDS, find_port_owner
from anthropic_proxy.server.listen import MAX_PORT, open_listener
from anthropic_proxy.upstream.local_server import get_json

_MAX_TRIED_PORTS = 20
_FIRST_UNPRIVILEGED_PORT = 1024
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Listen address for all interfaces → address of this machine at which the owner of the port can be called."""


def describe_occupied_port(host: str, port: int) -> str:
    """Return the message that `port` is in use, usually with the program that uses it."""
    free = f"anthropic-proxy serve --port {_find_free_port(host, port)}"
    health = get_json(_WILDCARDS.get(host, host), port, "/health")
    if isinstance(health, dict) and health.get("status") == "ok" and "version" in health:
        started = _format_start(str(health.get("started_at", "")))
        return (
            f"Port {port} is in use by another anthropic-proxy (version {health['version']}{started}). "
            f"Use that one, or run: {free}"
        )
    owner = find_port_owner(port)
    if owner is not None:
        return f"Port {port} is in use by {owner.name} (process {owner.pid}). Stop it, or run: {free}"
    command = PORT_OWNER_COMMANDS.get(sys.platform)
    shown = f" This command shows it: {command.format(port=port)}" if command else ""
    return f"Port {port} is in use by another program.{shown} To use another port, run: {free}"


def _find_free_port(host: str, port: int) -> int:
    """Return the next port above `port` on which this process can listen.

    If several ports were tried and none is free, return the next port without a check.
    """
    first = max(port + 1, _FIRST_UNPRIVILEGED_PORT) if port < MAX_PORT else _FIRST_UNPRIVILEGED_PORT
    for candidate in range(first, min(first + _MAX_TRIED_PORTS, MAX_PORT + 1)):
        try:
            open_listener(host, candidate).close()
        except ConfigurationError:
            continue
        return candidate
    return first


def _format_start(started_at: str) -> str:
    """Return the start time as text: `, started 09:14` in local time, with the date if it is not today. "": unknown."""
    try:
        started = datetime.fromisoformat(started_at).astimezone()
    except ValueError:
        return ""
    day = "" if started.date() == datetime.now().date() else f"{started:%Y-%m-%d} "
    return f", started {day}{started:%H:%M}"
