"""Limits of open file descriptors of the server process. Windows has no such limit.

Each reply in progress uses two descriptors: the client connection and the connection to the provider.
"""

import sys

if sys.platform != "win32":
    import resource

RESERVED_FDS = 64
"""Number of file descriptors reserved for log, files, DNS and child processes. Connections use the remaining ones."""
_UNLIMITED_CONNECTIONS = 1 << 20


def raise_fd_limit() -> None:
    """Raise the soft limit of open file descriptors to the hard limit.

    The limit stays unchanged if the system rejects the new one.
    """
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            except (OSError, ValueError):  # macOS reports a hard limit that it does not accept
                return


def max_client_connections() -> int:
    """Return the number of client connections for which the limit of open file descriptors suffices.

    Without a limit, it is 1,048,576.
    """
    if sys.platform != "win32":
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return max((soft - RESERVED_FDS) // 2, soft // 8, 1)
    return _UNLIMITED_CONNECTIONS
