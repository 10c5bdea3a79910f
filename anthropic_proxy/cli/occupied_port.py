"""The message of a server whose port is in use, with the program that uses it."""

import sys
from datetime import datetime

from anthropic_proxy.cli.local_proxy import find_health
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.gateway.platforms.sockets import (
    PORT_OWNER_COMMANDS,
    find_foreign_user,
    find_port_owner,
    list_called_hosts,
)
from anthropic_proxy.gateway.running_proxy import find_running_proxy
from anthropic_proxy.gateway.server.listener import find_free_port
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.place import find_data_directory
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable


def describe_occupied_port(host: str, port: int, certificate_file: str = "") -> str:
    """Return the message that `port` is in use, usually with the program that uses it. `certificate_file`: the one of
    the server that cannot start; "": it uses no TLS.
    """
    # the words of the command line of `serve`, as a shell reads them, without its name, the port and the folder of the
    # settings files, which each command in a text has
    options = list[str]()
    words = iter(sys.argv[1:])
    for word in words:
        if word in ("--port", "--config"):
            next(words, None)
        elif word != "serve" and not word.startswith(("--port=", "--config=")):
            options.append(quote_word(word))
    options.append(f"--port {find_free_port(host, port)}")
    free = " ".join(["anthropic-proxy serve", *options])
    record = find_running_proxy(find_data_directory(copy_environment()), port)
    certificate = certificate_file if record is None else record.certificate_file
    if responding := find_health(list_called_hosts(host), port, certificate):
        called, health = responding
        started = ""
        if health.start_time:
            begin = datetime.fromtimestamp(health.start_time).astimezone()
            day = "" if begin.date() == datetime.now().date() else f"{begin.day} {begin:%b}, "
            started = f", started {day}{begin:%H:%M}"
        owner = find_port_owner(port)
        process = f", process {owner.pid}" if owner is not None else ""
        described = f"another anthropic-proxy (version {escape_unprintable(health.version)}{started}{process})"
        if user := find_foreign_user(called, port):
            return f"Port {port} is in use by {described} of another user, {user}. To use another port, run:  {free}"
        return f"Port {port} is in use by {described}. Use that one, or run:  {free}"
    owner = find_port_owner(port)
    if owner is not None:
        return f"Port {port} is in use by {owner.name} (process {owner.pid}). Stop it, or run:  {free}"
    command = PORT_OWNER_COMMANDS.get(sys.platform)
    shown = f" This command shows it:  {command.format(port=port)}" if command else ""
    return f"Port {port} is in use by another program.{shown} To use another port, run:  {free}"
