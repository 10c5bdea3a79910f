"""Listening socket of the server."""

import socket

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error

MAX_BACKLOG_CONNECTIONS = 2048
"""Connections that the kernel keeps until they are accepted."""
SOCKET_SEND_BUFFER_BYTES = 64 * 1024
"""Size of the send buffer of a client connection. The system default can be several MiB per connection."""
MAX_PORT = 65_535
"""Largest TCP port number."""
_DEFAULT_PORT = 8082
_MIN_UNPRIVILEGED_PORT = 1024
_WILDCARD_ADDRESSES = frozenset(("", "0.0.0.0", "::"))


def open_listener(host: str, port: int) -> socket.socket:
    """Return a listening socket. Port 0: any free port. Raises `ConfigurationError`, which names the remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_SEND_BUFFER_BYTES)  # connections inherit it
    try:
        listener.bind((host, port))
        listener.listen(MAX_BACKLOG_CONNECTIONS)  # at once: another process could bind the same port before
    except OSError as error:
        listener.close()
        other = _DEFAULT_PORT if port in (MAX_PORT, 0) else max(port + 1, _MIN_UNPRIVILEGED_PORT)
        raise ConfigurationError(
            f"Port {port} on {host} cannot be used: {describe_os_error(error)}. "
            f"Use another:  PORT={other}, or the option --port {other}"
        ) from error
    return listener


def format_address(host: str, port: int) -> str:
    """Return the URL of a listener, with `localhost` for a wildcard address."""
    if host in _WILDCARD_ADDRESSES:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
