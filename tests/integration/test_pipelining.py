"""Requests without end on one connection, in front of a real process: its memory stays as it was, others are served."""

import asyncio
from pathlib import Path

import pytest

from tests.support.platform_marks import needs_proc
from tests.support.process_checks import port_of
from tests.support.server_process import Proxy, running_forked_proxy
from tests.support.waiting import wait_for

SENT_BYTES = 16 << 20
GROWTH_BYTES = 24 << 20
"""Half of the time that 4 MiB of such requests took without a limit."""
KEY = {"PROXY_API_KEY": "the-only-key-123456"}
REQUESTS = {
    "tiny": b"GET / HTTP/1.1\r\n\r\n",
    "health": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nowhere": b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "refused": b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
    "chunks": b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    "upgrades": b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
}


def resident_bytes(proxy: Proxy) -> int:
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def flood(proxy: Proxy, request: bytes, *, reads: bool) -> int:
    """Send as many of these as are taken within a time, at most 16 MiB; return the most memory seen meanwhile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(proxy))

    async def read() -> None:
        while reads and await reader.read(1 << 20):
            pass

    reading = asyncio.create_task(read())
    max_bytes, block = 0, request * (65_536 // len(request))
    try:
        async with asyncio.timeout(1):
            for _ in range(SENT_BYTES // len(block)):
                writer.write(block)
                await writer.drain()
                max_bytes = max(max_bytes, resident_bytes(proxy))
    except (TimeoutError, ConnectionError):
        pass
    finally:
        max_bytes = max(max_bytes, resident_bytes(proxy))
        reading.cancel()
        writer.transport.abort()
    return max_bytes


@pytest.mark.slow  # floods two servers for 9 s of processor time
@needs_proc
@pytest.mark.parametrize("settings_of_key", [{}, KEY], ids=["open", "key"])
async def test_requests_without_end_need_no_memory(
    settings: dict[str, str], settings_of_key: dict[str, str], tmp_path: Path
) -> None:
    with running_forked_proxy(tmp_path, {**settings, **settings_of_key, "LOG_LEVEL": "error"}) as proxy:
        await flood(proxy, REQUESTS["health"] * 10, reads=True)
        before = resident_bytes(proxy)
        grown = {}
        for name, request in REQUESTS.items():
            for reads in (True, False):
                grown[name, reads] = (await flood(proxy, request, reads=reads)) - before
        assert max(grown.values()) < GROWTH_BYTES, grown
        with proxy.client() as client:
            wait_for(lambda: client.get("/health").status_code == 200)
