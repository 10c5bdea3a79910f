"""Client of the health check: a container requests a path of its running proxy.

This module imports the standard library only, to start quickly.
"""

import http.client

HEALTH_TIMEOUT_SECONDS = 2.0
"""Maximum time for the connection, and for each read of the response."""


def is_healthy(host: str, port: int, path: str) -> bool:
    """Return True if `GET` of a path returns status 200. False: another status, an error or a timeout."""
    connection = http.client.HTTPConnection(host, port, timeout=HEALTH_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
