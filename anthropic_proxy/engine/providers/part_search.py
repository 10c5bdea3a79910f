"""`PartSearch`: the search for the part of requests that a server refuses, by later requests of the same client.

Example. A server has refused a request with the parts `a b c d`, and accepted it without them. The next conversation
sends `a b`: accepted, so both are innocent. The next one sends `c`: refused, and accepted without it. After a second
request with this result, `c` is known. Another conversation sends `d`: accepted, and the search ends.

Parts are only removed from a search, so it ends. A request that is refused for another reason, or a server that refuses
at random, prolongs it at most.
"""

from collections.abc import Collection, Sequence

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json

MIN_PROOFS = 2
"""Number of different requests that differed in one part only, refused with it and accepted without it, after which the
part is known."""


class PartSearch(Struct, frozen=True, kw_only=True, array_like=True):
    """State of a search. Parts are names of adaptations, those behind the cached beginning of a prompt first."""

    suspects: tuple[str, ...]
    """Parts of which the server refuses at least one, as far as known."""
    tested: tuple[str, ...]
    """The suspects that the first request of the next conversation sends. It is sent without the others."""
    proofs: tuple[str, ...] = ()
    """Digests of the conversations that were refused with the only part in `tested`, and accepted without it."""

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(name for name in self.suspects if name not in self.tested)

    def record_acceptance(self, sent: Collection[str]) -> "PartSearch | None":
        """Return the search after a request with the parts `sent` was accepted. None: no suspect is left."""
        if self.proofs and self.tested[0] not in sent:
            return self  # the request could not be refused for the part
        suspects = tuple(name for name in self.suspects if name not in sent)
        if not suspects:
            return None
        remaining = tuple(name for name in self.tested if name in suspects)
        # the tested parts that the request did not have were not tested: others come first
        others = tuple(name for name in suspects if name not in remaining)
        return _test_first_half((*others, *remaining))

    def record_refusal(self, sent: Collection[str], conversation: str) -> "PartSearch":
        """Return the search after a request with the parts `sent` was refused, and accepted without all suspects.

        `conversation` is the digest of its beginning.
        """
        tested = tuple(name for name in self.tested if name in sent)
        if not tested:
            return self
        if len(tested) > 1:
            return structs.replace(self, tested=tested[: len(tested) // 2], proofs=())
        proofs = self.proofs if self.tested == tested else ()
        return structs.replace(self, tested=tested, proofs=tuple(dict.fromkeys((*proofs, conversation))))

    @property
    def proven(self) -> str:
        """The part that is known to be refused. "": none."""
        return self.tested[0] if len(self.tested) == 1 and len(self.proofs) >= MIN_PROOFS else ""


def begin_search(parts: Sequence[str], conversation: str) -> PartSearch:
    """Return the search after a request with these parts was refused, and accepted without them."""
    search = _test_first_half(tuple(parts))
    return search.record_refusal(parts, conversation) if len(parts) == 1 else search


def encode_search(search: PartSearch) -> str:
    return msgspec.json.encode(search).decode()


def decode_search(text: str) -> PartSearch | None:
    """Return a stored search. None: the text is that of an instance with another version."""
    try:
        search = decode_json(text, PartSearch)
    except InvalidJson:
        return None
    return search if search.suspects and {*search.tested} <= {*search.suspects} else None


def _test_first_half(suspects: tuple[str, ...]) -> PartSearch:
    return PartSearch(suspects=suspects, tested=suspects[: (len(suspects) + 1) // 2])
