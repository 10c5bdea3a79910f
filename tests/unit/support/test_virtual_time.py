"""The event loop with virtual time."""

import asyncio
import hashlib

from tests.support.virtual_time import in_virtual_time


@in_virtual_time
async def test_no_time_passes_while_a_thread_works() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        await asyncio.to_thread(hashlib.pbkdf2_hmac, "sha256", b"a", b"b", 200_000)
        assert loop.time() == 0
        await asyncio.sleep(10)
        assert loop.time() == 10
