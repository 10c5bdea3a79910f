"""Health check of a server for containers. Uses the standard library only, to start quickly."""

import http.client

HEALTH_TIMEOUT_SECONDS = 2.0


def is_healthy(host: str, port: int, path: str) -> bool:
    """Return True if `GET` of a path returns 200 within the timeout."""
    connection = http.client.HTTPConnection(host, port, timeout=HEALTH_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
