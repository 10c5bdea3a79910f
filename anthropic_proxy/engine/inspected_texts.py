"""`KeptDecisions`: what inspectors decided about texts that the proxy adds to requests, such as the words of a PDF.

A client sends a document with each request of a conversation, and the proxy may read it for several targets. So a
decision is kept for the owner and key, the model, the text and the inspector. A failure of an inspector is no
decision, and is not kept.
"""

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.hooks import Inspector, Passage, Redaction, Refusal

MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Maximum size of all decisions in memory. What was used least recently is dropped."""
_BYTES_PER_ENTRY, _BYTES_PER_REDACTION = 400, 200

Decision = Sequence[Redaction] | Refusal


class KeptDecisions:
    def __init__(self, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._kept = SizedCache[tuple[int, bytes], tuple[Inspector, Decision]](max_kept_bytes)

    def find(self, inspector: Inspector, key: bytes) -> Decision | None:
        kept = self._kept.get((id(inspector), key))  # an inspector may not be hashable
        return None if kept is None else kept[1]

    def keep(self, inspector: Inspector, key: bytes, decision: Decision) -> None:
        size = _BYTES_PER_ENTRY
        size += len(decision.reason) if isinstance(decision, Refusal) else _BYTES_PER_REDACTION * len(decision)
        self._kept.put((id(inspector), key), (inspector, decision), size)


def digest_passages(owner: str, model: str, passages: Sequence[Passage]) -> list[bytes]:
    """Return the key of the decision about each passage."""
    beginning = msgspec.json.encode((owner, model))
    return [
        blake2b(passage.text.encode(errors="surrogatepass"), digest_size=32, key=_digest(beginning, passage)).digest()
        for passage in passages
    ]


def _digest(beginning: bytes, passage: Passage) -> bytes:
    return blake2b(beginning + passage.kind.encode(), digest_size=32).digest()


def digest_together(keys: Sequence[bytes]) -> bytes:
    """Return the key of the decision about several passages as a whole."""
    return blake2b(b"".join(keys), digest_size=32, person=b"together").digest()
