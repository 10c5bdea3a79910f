"""`ForwardedResults`: the results of a batch on their way to a client. What they state about tokens is counted once.

Clients may read results several times, and may disconnect before their end. So a client that has received the beginning
and leaves does not end the reading, unless the results have counted already or another request reads them for such a
client. Both facts are in the store, under the server, the account and the batch: a client can name any batch, but only
the account that has it gets a response with status 200.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b

from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.attempts import find_client_credential
from anthropic_proxy.engine.exchange.client_side import ClientRequest, record_client
from anthropic_proxy.engine.hooks import Receipt, StoreUnavailable, UpstreamAttempt
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.anthropic.batch_results import BATCH_TIER, BatchResults

_BATCH_LIFETIME_SECONDS = 60 * 24 * 3600.0
"""Time for which a batch is known whose results were counted. Anthropic keeps results for 29 days."""
_STORE_SECONDS = 30.0
"""Time in seconds after which the ledger has stored a record, unless its database is not available."""
_READING_SECONDS = 600.0
"""Time after which a request no longer counts as reading, if its process was killed."""


class ForwardedResults:
    has_begun = False
    """True if the response with all results has begun. Nobody has received anything of them before."""
    _reads_alone = False
    """True if the store may say that this request reads the results for a client that has left."""

    def __init__(self, engine: Engine, incoming: ClientRequest, target: Target) -> None:
        self._engine = engine
        self._incoming = incoming
        self._target = target
        self._results = BatchResults()
        self._batch_id = incoming.receipt.path.split("/")[-2]
        credential = find_client_credential(engine, incoming, target.provider)
        account = credential.value if credential is not None else ""  # "": the one of the proxy
        digest = blake2b(account.encode(errors="replace"), digest_size=16).hexdigest()
        self._counted_key = f"batch:{target.upstream}:{digest}:{self._batch_id}"
        self._unread_key = f"{self._counted_key}:unread"

    async def feed(self, piece: bytes) -> None:
        is_large = self._results.pending_bytes + len(piece) > MAX_REPLY_BYTES_ON_LOOP
        await self._incoming.background.run_in_thread_if_large(is_large, self._results.feed, piece)

    async def wait_until_useless(self, wait_disconnected: Callable[[], Awaitable[None]]) -> None:
        """Wait until the client has disconnected and its results need not be read to their end."""
        await wait_disconnected()
        if not self.has_begun:
            return
        store = self._engine.store
        with suppress(StoreUnavailable):  # then nobody is known to read them
            if await store.get(self._counted_key) is not None:
                return
            self._reads_alone = True  # before the call, which may be cancelled
            if await store.increment(self._unread_key, 1, _READING_SECONDS) > 1:
                self._reads_alone = False
                return
        await asyncio.Event().wait()

    async def count(self) -> None:
        """Record what the requests of the batch have used, after the last byte, unless it was recorded before.

        The batch is known for a short time until its records are stored, and only then until its results are gone. So
        if the process is killed or stops meanwhile, the next reader of the results counts them. If it has stopped after
        it stored the records, metrics and spending count them twice then. The ledger stores each id once.
        """
        usages = self._results.finish()
        if not self.has_begun or not usages:
            return
        engine = self._engine
        with suppress(StoreUnavailable):
            if await engine.store.increment(self._counted_key, 1, 2 * _STORE_SECONDS) > 1:
                return
        for usage in usages:
            parts = (self._batch_id, usage.region, "" if usage.service_tier == BATCH_TIER else usage.service_tier)
            client = self._incoming.receipt.client
            receipt = Receipt(request_id=".".join(filter(None, parts)), client=client, started_at=engine.clock())
            record_client(receipt, self._incoming.headers)
            receipt.copy_usage(usage)
            receipt.method, receipt.path, receipt.status = "GET", self._incoming.receipt.path, 200
            receipt.provider, receipt.prefix = self._target.provider.name, self._target.provider.prefix
            receipt.model = receipt.requested_model = usage.model
            receipt.message_count, receipt.outcome = usage.requests, "end_turn"
            call = UpstreamAttempt(provider=receipt.provider, model=receipt.model, offset_seconds=0.0, status=200)
            call.copy_usage(usage)
            receipt.attempts.append(call)
            engine.end_exchange(receipt)
        engine.background.start_task(self._keep_counted())

    async def close(self) -> None:
        """End the reading. If it has counted nothing, the next one may."""
        if self._reads_alone:
            with suppress(StoreUnavailable):
                await self._engine.store.delete(self._unread_key)

    async def _keep_counted(self) -> None:
        await self._engine.sleep(_STORE_SECONDS)
        with suppress(StoreUnavailable):
            await self._engine.store.put(self._counted_key, "1", _BATCH_LIFETIME_SECONDS)
