"""`KeptStates`: states of tool calls that are too long for the ids of their calls (`messages/call_states.py`).

A state belongs to the owner of the client that got the call (`Client.payer`): another one with the same id gets none of
it. It is in the memory of this process, and in the store if other processes share it. A state that is gone costs the
conversation some of the provider's reasoning and of its prompt cache, and nothing else.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence

from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.hooks import StoreUnavailable, ValueStore
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.messages.call_states import CallState, decode_kept_state
from anthropic_proxy.engine.messages.models.tools import KEPT_ID_PREFIX

MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Maximum size of all states in memory. What was used least recently is dropped."""
MAX_OWNER_BYTES = 16 * 1024 * 1024
"""Maximum size of the states that are kept for an owner within `LIFETIME_SECONDS`. Later ones are not kept: the states
at the beginning of a conversation are worth most, because the prompt cache begins there."""
LIFETIME_SECONDS = 86_400.0
MAX_FOUND = 500
"""Maximum number of states that are looked for in a request: those of its newest calls."""
_READ_AT_ONCE = 50
_BYTES_PER_ENTRY = 4_096
"""What an entry counts besides its text. So an owner has at most 4,096 of the keys of a store."""
_BYTES_PER_UNKNOWN = 200
_BYTES_PER_CHARACTER = 4
_PREFIX, _SIZE_PREFIX = "call-state/", "call-state-bytes/"


class KeptStates:
    """`max_owner_bytes`: see `MAX_OWNER_BYTES`."""

    def __init__(self, max_kept_bytes: int = MAX_KEPT_BYTES, max_owner_bytes: int = MAX_OWNER_BYTES) -> None:
        self._kept = SizedCache[str, str](max_kept_bytes)
        """"": the store has none."""
        self._max_owner_bytes = max_owner_bytes

    async def keep(self, store: ValueStore, owner: str, states: Mapping[str, str]) -> None:
        """`states`: id of a call → its state."""
        sizes = {call_id: _measure(state) for call_id, state in states.items()}
        try:
            used = await store.increment(_SIZE_PREFIX + _digest(owner), sum(sizes.values()), LIFETIME_SECONDS)
            if used > self._max_owner_bytes:
                return
            for call_id, state in states.items():
                key = _digest(owner, call_id)
                self._kept.put(key, state, sizes[call_id])
                if not isinstance(store, MemoryValues):  # which is of this process alone
                    await store.put(_PREFIX + key, state, LIFETIME_SECONDS)
        except StoreUnavailable:
            return

    async def find(self, store: ValueStore, owner: str, call_ids: Sequence[str]) -> Mapping[str, CallState]:
        """Return id of a call → the state that is kept under it."""
        kept_ids = [call_id for call_id in call_ids if call_id.startswith(KEPT_ID_PREFIX)][-MAX_FOUND:]
        if not kept_ids:
            return {}
        keys = {_digest(owner, call_id): call_id for call_id in kept_ids}
        texts = {key: self._kept.get(key) for key in keys}
        if not isinstance(store, MemoryValues):
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


def _measure(state: str) -> int:
    return _BYTES_PER_ENTRY + len(state) * (1 if state.isascii() else _BYTES_PER_CHARACTER)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()
