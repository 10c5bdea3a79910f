"""Limits of open file descriptors of this process. Each streamed reply uses two: client and upstream."""

import resource

RESERVED_FDS = 64
"""Descriptors for other uses than clients and upstreams: log, files, DNS, processes."""


def raise_fd_limit() -> None:
    """Raise the descriptor limit to the hard limit. Many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS reports a hard limit that it does not accept
            return


def max_client_connections() -> int:
    """Return the limit of client connections, with which each can have an upstream connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    return max((soft - RESERVED_FDS) // 2, soft // 8, 1)
