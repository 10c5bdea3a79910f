"""`KeptStates`: states of tool calls that are too long for the ids of their calls (`messages/call_states.py`).

A state belongs to the owner of the client that got the call (`Client.payer`): another one with the same id gets none of
it. It is in the store, and what this process has kept or found in one that others share is in its memory too. Where a
store is memory, it bounds all states (`memory_values.MAX_KEPT_BYTES`). A state that is gone costs the conversation some
of the provider's reasoning and of its prompt cache, and nothing else.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence

from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.hooks import StoreUnavailable, ValueStore
from anthropic_proxy.engine.memory_values import BULK_PREFIX, MemoryValues
from anthropic_proxy.engine.messages.call_states import CallState, decode_kept_state, measure_state
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX

MAX_KEPT_BYTES = 8 * 1024 * 1024
"""Maximum size of the states of a shared store that this process has too. What was used least recently is dropped."""
MAX_OWNER_BYTES = 16 * 1024 * 1024
"""Maximum size of the states that are kept for an owner within `LIFETIME_SECONDS`. One that does not fit is not kept,
and counts nothing: the states at the beginning of a conversation are worth most, because the prompt cache begins
there."""
LIFETIME_SECONDS = 86_400.0
MAX_FOUND = 500
"""Maximum number of states that are looked for in a request: those of its newest calls."""
_READ_AT_ONCE = 50
_BYTES_PER_ENTRY = 500
"""What an entry counts besides its text."""
_BYTES_PER_UNKNOWN = 200
_PREFIX, _SIZE_PREFIX = f"{BULK_PREFIX}call-state/", f"{BULK_PREFIX}call-state-bytes/"


class KeptStates:
    """`max_owner_bytes`: see `MAX_OWNER_BYTES`."""

    def __init__(self, max_kept_bytes: int = MAX_KEPT_BYTES, max_owner_bytes: int = MAX_OWNER_BYTES) -> None:
        self._kept = SizedCache[str, str](max_kept_bytes)
        """"": the store has none."""
        self._max_owner_bytes = max_owner_bytes

    async def keep(self, store: ValueStore, owner: str, states: Mapping[str, str]) -> bool:
        """Return False if some are not kept: the owner has too many, or the store is away. `states`: id of a call → its
        state.
        """
        counter, are_kept = _SIZE_PREFIX + _digest(owner), True
        try:
            for call_id, state in states.items():
                size = _measure(state)
                if await store.increment(counter, size, LIFETIME_SECONDS) > self._max_owner_bytes:
                    await store.increment(counter, -size, LIFETIME_SECONDS)
                    are_kept = False
                    continue
                key = _digest(owner, call_id)
                if not isinstance(store, MemoryValues):
                    self._kept.put(key, state, size)
                await store.put(_PREFIX + key, state, LIFETIME_SECONDS)
        except StoreUnavailable:
            return False
        return are_kept

    async def find(self, store: ValueStore, owner: str, call_ids: Sequence[str]) -> Mapping[str, CallState]:
        """Return id of a call → the state that is kept under it."""
        kept_ids = list_newest(call_ids)
        if not kept_ids:
            return {}
        keys = {_digest(owner, call_id): call_id for call_id in kept_ids}
        texts: dict[str, str | None]
        if isinstance(store, MemoryValues):  # of this process alone
            texts = {key: store.read(_PREFIX + key) for key in keys}
        else:
            texts = {key: self._kept.get(key) for key in keys}
            unknown = [key for key, text in texts.items() if text is None]
            for start in range(0, len(unknown), _READ_AT_ONCE):
                some = unknown[start : start + _READ_AT_ONCE]
                try:
                    found = await asyncio.gather(*(store.get(_PREFIX + key) for key in some))
                except StoreUnavailable:
                    break
                for key, text in zip(some, found, strict=True):
                    texts[key] = text
                    self._kept.put(key, text or "", _measure(text) if text else _BYTES_PER_UNKNOWN)
        states = {keys[key]: decode_kept_state(text) for key, text in texts.items() if text}
        return {call_id: state for call_id, state in states.items() if state is not None}


def list_newest(call_ids: Sequence[str]) -> list[str]:
    """Return the ids whose states a request gets."""
    return [call_id for call_id in call_ids if call_id.startswith(KEPT_ID_PREFIX)][-MAX_FOUND:]


def _measure(state: str) -> int:
    return _BYTES_PER_ENTRY + measure_state(state)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()
