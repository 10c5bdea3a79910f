"""Listening socket of the server, and the TLS of its connections."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from anthropic_proxy.engine.platforms.files import WATCH_INTERVAL_SECONDS, FileWatch, read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.sockets import reserve_address

MAX_BACKLOG_CONNECTIONS = 2048
SOCKET_SEND_BUFFER_BYTES = 64 * 1024
"""Size of the kernel's send buffer of each client connection. The system default can be several MiB."""
MAX_PORT = 65_535
_FIRST_UNPRIVILEGED_PORT = 1024
_MAX_TRIED_PORTS = 20
_ADDRESS_ERRORS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors for which another port does not help."""


def open_listener(host: str, port: int) -> socket.socket:
    """`port` 0 selects any free port. Raises `ConfigurationError` if the address cannot be used."""
    listener = None
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        reserve_address(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_SEND_BUFFER_BYTES)  # connections inherit it
        listener.bind((host, port))
        listener.listen(MAX_BACKLOG_CONNECTIONS)  # at once: another process could bind the same port before
    except OSError as error:
        if listener is not None:
            listener.close()
        if isinstance(error, socket.gaierror) or error.errno in _ADDRESS_ERRORS:
            raise ConfigurationError(
                f"The address {host} cannot be used: {describe_os_error(error)}. "
                "Use another:  HOST=127.0.0.1, or the option --host 127.0.0.1",
                code="listen-address",
            ) from error
        other = 8082 if port in (MAX_PORT, 0) else max(port + 1, _FIRST_UNPRIVILEGED_PORT)
        raise ConfigurationError(
            f"Port {port} on {host} cannot be used: {describe_os_error(error)}. "
            f"Use another:  PORT={other}, or the option --port {other}",
            code="port-in-use",
        ) from error
    return listener


def find_free_port(host: str, port: int) -> int:
    """Return a port on which a server beside the one on `port` can listen."""
    first = max(port + 1, _FIRST_UNPRIVILEGED_PORT) if port < MAX_PORT else _FIRST_UNPRIVILEGED_PORT
    for candidate in range(first, min(first + _MAX_TRIED_PORTS, MAX_PORT + 1)):
        with suppress(ConfigurationError):
            open_listener(host, candidate).close()
            return candidate
    return first


async def call_after_changes(watch: FileWatch, callback: Callable[[], None]) -> None:
    """Until the task is cancelled."""
    while True:
        await asyncio.sleep(WATCH_INTERVAL_SECONDS)
        if await asyncio.to_thread(watch.has_changed):
            callback()


class ServerTls:
    """TLS context for new connections, built again when a certificate or key file changes. Open connections keep the
    context with which they began. Raises `ConfigurationError` if the files cannot be used at the start.
    """

    def __init__(
        self,
        certificate_file: str,
        key_file: str,
        log_line: Callable[[str], None] | None,
        log_warning: Callable[[str], None] | None,
    ) -> None:
        self._files = certificate_file, key_file
        self._log_line = log_line
        self._log_warning = log_warning
        self.file_watch = FileWatch([name for name in self._files if name])
        self.context = build_tls_context(certificate_file, key_file)

    def reload(self) -> None:
        """Read certificate and key again for new connections, and log the result. If they are invalid, the old ones
        stay in use.
        """
        try:
            self.context = build_tls_context(*self._files)
        except ConfigurationError as error:
            if self._log_warning is not None:
                self._log_warning(f"{error} The current certificate stays active.")
        else:
            if self._log_line is not None:
                self._log_line("The TLS certificate was read again. New connections use it.")


def build_tls_context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    """Return the TLS context for PEM files of a certificate and its key. If `key_file` is empty, `certificate_file`
    contains both. Raises `ConfigurationError` for an unusable file.
    """
    _require_mark(certificate_file, "TLS_CERT_FILE", b"-----BEGIN CERTIFICATE-----", "certificate")
    variable = "TLS_KEY_FILE" if key_file else "TLS_CERT_FILE"
    _require_mark(key_file or certificate_file, variable, b"PRIVATE KEY-----", "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate_file, key_file or None, password=_refuse_passphrase)
    except ssl.SSLError as error:
        name = key_file or certificate_file
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(
                f'TLS_KEY_FILE is "{name}": the key does not belong to the first certificate of "{certificate_file}". '
                "Use the key of this certificate, and put the certificate of the server first.",
                code="tls-files",
            ) from None
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise ConfigurationError(
            f'TLS_CERT_FILE "{certificate_file}" and TLS_KEY_FILE "{name}" cannot be used: {reason}. '
            "Check both files:  openssl x509 -in … and openssl pkey -in …",
            code="tls-files",
        ) from None
    except _EncryptedKeyError:
        raise ConfigurationError(
            f'{variable} is "{key_file or certificate_file}": the key needs a passphrase. '
            "Use a key without one, readable only by the user of the server.",
            code="tls-files",
        ) from None
    return context


class _EncryptedKeyError(Exception):
    pass


def _refuse_passphrase() -> str:
    """Callback of OpenSSL for an encrypted key. Without it, OpenSSL would ask in the terminal."""
    raise _EncryptedKeyError


def _require_mark(name: str, variable: str, mark: bytes, content: str) -> None:
    try:
        text = read_bounded_file(name)
    except OSError as error:
        raise ConfigurationError(
            f'{variable} is "{name}": {describe_os_error(error)}. Use the path of a PEM file with the {content}.',
            code="tls-files",
        ) from None
    if mark not in text:
        other = " Set TLS_KEY_FILE, or add the key to this file." if content == "private key" else ""
        raise ConfigurationError(
            f'{variable} is "{name}": the file contains no {content} as PEM.{other or " Use a PEM file with it."}',
            code="tls-files",
        )
