"""Listening TCP socket of the server, and its URL.

`open_listener` opens the socket for host and port. `format_url` returns the URL for display.
"""

import socket

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.platforms.server_socket import reserve_address

MAX_BACKLOG_CONNECTIONS = 2048
"""Maximum number of client connections that the kernel queues until the server accepts them."""
SOCKET_SEND_BUFFER_BYTES = 64 * 1024
"""Size of the kernel's send buffer of each client connection. The system default can be several MiB."""
MAX_PORT = 65_535
"""Highest valid TCP port number."""
_DEFAULT_PORT = 8082
_MIN_UNPRIVILEGED_PORT = 1024
_WILDCARD_ADDRESSES = frozenset(("", "0.0.0.0", "::"))


def open_listener(host: str, port: int) -> socket.socket:
    """Open a TCP socket that listens on an address, and return the socket. `port` 0 selects any free port.

    Raises `ConfigurationError` if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    reserve_address(listener)
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


def format_url(host: str, port: int, *, uses_tls: bool = False) -> str:
    """Return the URL `http://host:port` of the server. A wildcard address (`0.0.0.0`, `::`) becomes `localhost`."""
    if host in _WILDCARD_ADDRESSES:
        host = "localhost"
    scheme = "https" if uses_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
