"""Plain texts for exceptions of the operating system, of TLS and of libraries, for error messages and the log.

They contain no class names or addresses of Python objects.
"""

import errno
import os
import re
import socket
import ssl

from anthropic_proxy.engine.patterns import compile_later

_BY_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection aborted",
    errno.EPIPE: "connection closed",
    errno.ETIMEDOUT: "no answer in time",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "network unreachable",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EADDRINUSE: "another program uses the port",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file",
    errno.EISDIR: "it is a folder",
    errno.EMFILE: "too many open files in this process",
    errno.ENFILE: "too many open files on this machine",
}
_BY_NAME_ERROR = {
    socket.EAI_NONAME: "the host name is not known",
    getattr(socket, "EAI_NODATA", socket.EAI_NONAME): "the host name has no address",
    socket.EAI_AGAIN: "the host name cannot be looked up now",
}
_REQUIRED = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
_TLS_REASONS = {
    "WRONG_VERSION_NUMBER": "TLS failed: the server does not use TLS on this port; does its URL begin with http://?",
    "HTTP_REQUEST": "TLS failed: the server does not use TLS on this port; does its URL begin with http://?",
    "UNEXPECTED_EOF_WHILE_READING": "TLS failed: the server closed the connection",
    _REQUIRED: "TLS failed: the server requires a client certificate; set client_certificate in [providers.NAME]",
}
_CERTIFICATE_REJECTED = compile_later(r"ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_\w+)$")
"""Pattern of alerts about our certificate: an alert describes the certificate of the other side."""
_INTERNALS = compile_later(
    r"\[(?:Errno|WinError) -?\d+\] ?|\[(?:SSL|X509)[^\[\]]*\] ?| ?\(_\w+\.c:\d+\)| ?<[\w.]+ object at 0x[0-9a-f]+>"
    r"|(?<![\w.])(?:[A-Za-z_]\w*\.)+[A-Z]\w*(?:Error|Exception|Timeout|Warning)\b:? ?"
    r"|\b(?!(?<=\()\w+\))[A-Z]\w+(?:Error|Exception)\b\(?:? ?"
    r"|\bssl:(?:default|True|False|None)? ?|\bMultiple exceptions: "
)
"""Pattern of what says nothing to a user. A name alone between parentheses stays: it is an error code of AWS, such as
`An error occurred (AccessDeniedException) when calling …`."""
_CALL = compile_later(r"(?:Connect call failed )?\('([\w.:%-]+)', (\d+)(?:, \d+, \d+)?\)")
_ERRNO = compile_later(r"\[Errno (-?\d+)\] Connect call failed")
_MAX_CHARACTERS = 300
_READ_CHARACTERS = 4_000
"""Number of characters at the beginning of a text that are read. The rest would be cut anyway."""


_WORD_BORDER = compile_later(r"(?<=[a-z])(?=[A-Z])")


def describe_os_error(error: BaseException) -> str:
    """Return the cause of any exception as plain text without a final period: `connection refused`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {clean_error_text(error.verify_message or '') or 'unknown'}"
    if isinstance(error, ssl.SSLError) and error.reason:
        if error.reason not in _TLS_REASONS and (alert := _CERTIFICATE_REJECTED.search(error.reason)):
            reason = alert[1].replace("_", " ").lower()
            return (
                f"TLS failed: the server rejects the client certificate ({reason}); "
                "change client_certificate in [providers.NAME]"
            )
        return _TLS_REASONS.get(error.reason, f"TLS failed: {error.reason.replace('_', ' ').lower()}")
    if isinstance(error, socket.gaierror):
        return _BY_NAME_ERROR.get(error.errno or 0) or clean_error_text(
            error.strerror or "the host name cannot be looked up"
        )
    if isinstance(error, TimeoutError) and not error.errno:
        return clean_error_text(str(error)) or "no answer in time"
    if isinstance(error, OSError) and error.errno:
        return _BY_ERRNO.get(error.errno) or os.strerror(error.errno).lower()
    if isinstance(error, OSError) and (numbers := _ERRNO.findall(str(error))):
        return " and ".join(dict.fromkeys(_BY_ERRNO.get(int(number), os.strerror(int(number))) for number in numbers))
    if text := clean_error_text(str(error)):
        return text
    name = type(error).__name__.removesuffix("Error").removesuffix("Exception")
    return _WORD_BORDER.sub(" ", name).lower() or "unknown failure"


def is_about_client_certificate(error: BaseException) -> bool:
    """Return True if the server requires a certificate of the client, or rejects it."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return reason is not None and (reason == _REQUIRED or _CERTIFICATE_REJECTED.search(reason) is not None)


def clean_error_text(text: str) -> str:
    """Return a library's error message as one line, without exception class names and addresses of Python objects.

    A longer text than 300 characters is cut, and ends with an ellipsis.
    """
    text = " ".join(_INTERNALS.sub("", _CALL.sub(_describe_peer, text[:_READ_CHARACTERS])).split())
    text = text.replace("[]", "").strip().rstrip(".")
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS].rpartition(' ')[0]} …"


def is_connection_refused(error: BaseException) -> bool:
    """Return True if a connection failed because it was refused (`ECONNREFUSED`).

    If several addresses of a host were tried, one refusal is sufficient.
    """
    if isinstance(error, OSError) and error.errno:
        return error.errno == errno.ECONNREFUSED
    return str(errno.ECONNREFUSED) in _ERRNO.findall(str(error))


def _describe_peer(match: re.Match[str]) -> str:
    host, port = match[1], match[2]
    return f"connection refused by {f'[{host}]' if ':' in host else host}:{port}"
