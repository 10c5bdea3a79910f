"""The internet around a running proxy: each host is a fake with a certificate of its name, behind an HTTP proxy.

So the addresses that the product has by default are used as they are, and each host that it asks for is known.
"""

import asyncio
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import trustme
from aiohttp import web

from tests.support.fakes.server import Running, serving
from tests.support.http_server import tunnel
from tests.support.waiting import WAIT_SECONDS

_REFUSED = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class Outside:
    servers: Mapping[str, Running]
    """Host → its fake."""
    settings: Mapping[str, str]
    """Environment of a process whose connections with TLS to other machines all come here."""
    targets: list[str]
    """Host and port of each connection in order of arrival, also to hosts that do not exist."""

    @property
    def hosts(self) -> set[str]:
        return {target.removesuffix(":443") for target in self.targets}


@contextmanager
def running_outside(directory: Path, applications: Mapping[str, web.Application]) -> Iterator[Outside]:
    """`applications`: host → its fake. `directory`: where the certificate of the authority is written."""
    authority = trustme.CA()
    file = directory / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    with ExitStack() as stack:
        servers = {
            host: stack.enter_context(serving(application, certificate=_certify(authority, host)))
            for host, application in applications.items()
        }
        targets: list[str] = []
        port = stack.enter_context(_forwarding({host: running.url for host, running in servers.items()}, targets))
        yield Outside(servers, {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "SSL_CERT_FILE": str(file)}, targets)


def _certify(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


@contextmanager
def _forwarding(urls: Mapping[str, str], targets: list[str]) -> Iterator[int]:
    """Yield the port of an HTTP proxy that connects each host to its fake."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split()[1].decode()
        targets.append(target)
        url = urls.get(target.removesuffix(":443"))
        writer.write(_REFUSED if url is None else b"HTTP/1.1 200 Connection established\r\n\r\n")
        if url is None:
            writer.close()
        else:
            await tunnel(reader, writer, urlsplit(url).port or 0)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(forward, "127.0.0.1", 0), loop)
    server = starting.result(WAIT_SECONDS)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_SECONDS)
        loop.close()
