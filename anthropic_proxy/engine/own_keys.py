"""`OwnKeys`: the keys of words by which the proxy recognizes its own texts, such as placeholders and marks.

All of them follow from one secret, by purpose and owner. So what one owner sees tells nothing about the words of
another one, and the same text has the same word in all requests, workers and instances, and after a restart: prompt
caches stay valid. The secret is in the database of the ledger if there is one that all instances share, or that the
only instance has (`keep_secret`), and otherwise among the values that processes share (`ValueStore`).
"""

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

from anthropic_proxy.engine.hooks import StoreUnavailable, ValueStore

KeepSecret = Callable[[str], Awaitable[str]]
"""Function that stores a secret, unless there is one already, and returns the stored one. It may raise
`StoreUnavailable`."""
KeyPurpose = Literal["citations", "placeholders"]
SECRET_NAME = "own-keys/secret"
_LIFETIME_SECONDS = 10 * 365 * 86_400.0
_MAX_WAIT_SECONDS = 3.0
"""Maximum time for which a request waits for the secret. Then a secret of this process takes its place."""
_PAUSE_SECONDS = 60.0
"""Time after which a secret of the value store is read again: a store that was away may have another one, or none. For
as long, no request waits after a failure."""


class OwnKeys:
    """`keep_secret`: None: the value store has the secret."""

    def __init__(self, keep_secret: KeepSecret | None = None) -> None:
        self._keep = keep_secret
        self._secret = secrets.token_bytes(32)
        """That of this process, until another one is known."""
        self._fresh_until = 0.0
        """Time of the event loop until which the secret is not read again."""
        self._reading = asyncio.Lock()

    def derive(self, purpose: KeyPurpose, owner: str) -> bytes:
        """Return the key of an owner for a purpose. `owner`: `Client.payer`. Call `open` before."""
        return hmac.digest(self._secret, f"{purpose}\0{owner}".encode(errors="surrogatepass"), "sha256")

    async def open(self, store: ValueStore) -> None:
        """Read the secret, or store a new one, if that is due."""
        clock = asyncio.get_running_loop().time
        if clock() < self._fresh_until:
            return
        async with self._reading:
            if clock() < self._fresh_until:
                return
            pause = _PAUSE_SECONDS
            with suppress(StoreUnavailable, TimeoutError, ValueError):
                async with asyncio.timeout(_MAX_WAIT_SECONDS):
                    own = self._secret.hex()
                    if self._keep is None:
                        found = await store.put_if_absent(SECRET_NAME, own, _LIFETIME_SECONDS)
                    else:
                        found = await self._keep(own)
                if len(secret := bytes.fromhex(found)) == len(self._secret):
                    self._secret = secret
                    pause = _PAUSE_SECONDS if self._keep is None else float("inf")  # a database forgets nothing
            self._fresh_until = clock() + pause
