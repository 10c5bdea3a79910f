"""Asks a server whether it is there, with the standard library alone: containers do so every half minute."""

import http.client

SECONDS = 2.0


def answers(host: str, port: int, path: str) -> bool:
    """Whether `GET` of a path is answered with 200 within some seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
