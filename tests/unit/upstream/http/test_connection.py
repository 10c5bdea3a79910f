"""Limits of the bytes around a provider's body: heads, lengths, chunk sizes, extensions, trailers."""

import asyncio

import pytest

from anthropic_proxy.engine.upstream.http.connection import MAX_RESPONSE_HEAD_BYTES
from anthropic_proxy.errors import UpstreamProtocolError
from tests.support.http_server import Server, asking, post, read_all, serving

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
MANY = 1000
"""Times 64 KiB: far more than is allowed."""


def send_endlessly(begin: bytes, piece: bytes) -> tuple[object, list[int]]:
    """Return an act that sends a piece again and again until the client hangs up, and the number of bytes it sent."""
    sent = [0]

    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        try:
            for _number in range(MANY * 65_536 // len(piece)):
                writer.write(piece)
                sent[0] += len(piece)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            return

    return act, sent


BEHIND_A_BODY: dict[str, tuple[bytes, bytes]] = {
    "one long trailer": (CHUNKED + b"2\r\nok\r\n0\r\nx-a: ", b"a" * 65_536),
    "the name of a trailer": (CHUNKED + b"2\r\nok\r\n0\r\n", b"a" * 65_536),
    "many trailers": (CHUNKED + b"2\r\nok\r\n0\r\n", b"a: b\r\n" * 10_000),
    "trailers without a body": (CHUNKED + b"0\r\n", b"a: b\r\n" * 10_000),
    "an extension": (CHUNKED + b"2\r\nok\r\n2;", b"a" * 65_536),
    "an extension with a value": (CHUNKED + b"2\r\nok\r\n2;a=", b"a" * 65_536),
    "an extension of the last chunk": (CHUNKED + b"2\r\nok\r\n0;", b"a" * 65_536),
    "many extensions": (CHUNKED + b"2\r\nok\r\n2", b";a=b" * 16_384),
    "a chunk size of zeros": (CHUNKED + b"2\r\nok\r\n", b"0" * 65_536),
}


@pytest.mark.parametrize("name", BEHIND_A_BODY)
async def test_what_surrounds_the_pieces_of_a_body_is_bounded(name: str) -> None:
    act, sent = send_endlessly(*BEHIND_A_BODY[name])
    async with serving(act) as (_, port), asking() as upstream:  # type: ignore[arg-type]
        response = await post(upstream, port)
        with pytest.raises(UpstreamProtocolError) as raised:
            await read_all(response)
        assert str(raised.value) == "the reply ended before it was complete"
        assert "trailer has more than 262,144 bytes" in str(raised.value.__cause__)
        await response.close()
    assert sent[0] < MANY * 65_536 // 2


async def test_small_extensions_and_trailers_are_no_limit_to_a_long_body() -> None:
    chunks = b"2;ext=1234567890\r\nok\r\n" * 50_000
    assert len(chunks) > 4 * MAX_RESPONSE_HEAD_BYTES

    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + chunks + b"0\r\nx-checksum: 1\r\n\r\n")
        await writer.drain()

    async with serving(act) as (_, port), asking() as upstream:
        assert await read_all(await post(upstream, port)) == b"ok" * 50_000


@pytest.mark.parametrize("name", [b"a", b"set-cookie", b"x-ratelimit"])
async def test_a_header_that_comes_hundreds_of_times_is_the_list_of_its_values(name: bytes) -> None:
    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n" + name + b":b\r\n" + (name + b":c\r\n") * 900 + b"\r\nok"
        )
        await writer.drain()

    async with serving(act) as (_, port), asking() as upstream:
        response = await post(upstream, port)
        assert response.headers[name.decode()] == "b, " + ", ".join("c" * 900)
        assert await read_all(response) == b"ok"
