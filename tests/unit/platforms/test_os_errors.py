"""Plain texts for errors of the system: without class names, numbers and addresses of Python."""

import errno
import re
import socket
import ssl

import pytest

from anthropic_proxy.engine.platforms.os_errors import clean_error_text, describe_os_error, is_connection_refused

INTERNAL = re.compile(r"Errno|0x|_ssl|\[SSL|Error\b|Exception|\('|ssl:")


def certificate_error(reason: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason}")
    error.verify_message = reason
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()} (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 21998)"), "connection refused"),
        (ConnectionRefusedError(111, "Connect call failed ('::1', 21998, 0, 0)"), "connection refused"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
                "[Errno 113] Connect call failed ('10.0.0.1', 1)"
            ),
            "connection refused and no route to the host",
        ),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to the host"),
        (OSError(errno.ENOSPC, "x"), "no space left on device"),
        (PermissionError(errno.EACCES, "x"), "permission denied"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "the host name is not known"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the host name cannot be looked up now"),
        (TimeoutError(), "no answer in time"),
        (certificate_error("self-signed certificate"), "the certificate is not accepted: self-signed certificate"),
        (
            tls_error("WRONG_VERSION_NUMBER"),
            "TLS failed: the server does not use TLS on this port; does its URL begin with http://?",
        ),
        (tls_error("TLSV1_ALERT_PROTOCOL_VERSION"), "TLS failed: tlsv1 alert protocol version"),
        (ConnectionAbortedError("the proxy closed the connection"), "the proxy closed the connection"),
        (ConnectionAbortedError(), "connection aborted"),
        (ValueError(), "value"),
    ],
)
def test_failures(error: Exception, text: str) -> None:
    assert describe_os_error(error) == text
    assert not INTERNAL.search(text)


def test_a_long_text_ends_at_a_word() -> None:
    assert clean_error_text("word " * 100) == "word " * 60 + "…"


def test_a_refusal_differs_from_other_failures() -> None:
    assert is_connection_refused(ConnectionRefusedError(111, "x"))
    assert is_connection_refused(
        OSError("Multiple exceptions: [Errno 99] Connect call failed (), [Errno 111] Connect call failed ()")
    )
    assert not is_connection_refused(OSError(113, "x"))
    assert not is_connection_refused(TimeoutError())
    assert not is_connection_refused(ConnectionAbortedError("the proxy closed the connection"))
