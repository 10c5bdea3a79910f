"""`PartSearch`: the search for the part of requests that a server refuses, by later requests of the same client.

Example. A server has refused a request with the parts `a b c d`, and accepted it without them. The next conversation
sends `a b`: accepted, so both are innocent. The next one sends `c`: refused, and accepted without it. After a second
request with this result, `c` is known. Another conversation sends `d`: accepted, and the search ends.

Some servers refuse two parts only together. If the refused requests had other parts, the next conversation sends `c`
without all of these: refused, so it is known. Accepted, so it needs others: the next conversations send it with one
half of them, and with the other half. The half that is refused is divided again; if both are accepted, all are needed.

Parts are only removed from a search. A request that is refused for another reason, such as a value that was not sent
before, shows nothing. If several in a row are, another search begins (`MAX_UNCLEAR`, `MAX_SEARCHES`).
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json

MIN_PROOFS = 2
"""Number of different requests that differed in one part only, refused with it and accepted without it, after which the
part is known."""
MAX_UNCLEAR = 3
"""Number of requests in a row that show nothing, after which a search ends without a result."""
MAX_SEARCHES = 4
"""Number of searches without a result that a client and a model have in `SEARCHES_SECONDS`. Then no further one begins:
the server refuses something that is no part, or refuses at random. A refused request is still repeated."""
SEARCHES_SECONDS = 24 * 3600.0


class PartSearch(Struct, frozen=True, kw_only=True, array_like=True):
    """State of a search. Parts are names of adaptations, those behind the cached beginning of a prompt first."""

    suspects: tuple[str, ...]
    """Parts of which the server refuses at least one, as far as known."""
    tested: tuple[str, ...]
    """The suspects that the first request of the next conversation sends. It is sent without the others."""
    proofs: tuple[tuple[str, str], ...] = ()
    """For each conversation that was refused with the only part in `tested`, and accepted without it: the digest of its
    beginning, and the value of the part."""
    innocents: tuple[str, ...] = ()
    """Parts that accepted requests had since the search began, with any value."""
    unclear: int = 0
    """Number of requests in a row that were refused, and accepted only without more than the tested parts."""

    context: tuple[str, ...] = ()
    """The other parts that all requests in `proofs` had."""
    partners: tuple[str, ...] = ()
    """The parts with which the tested one is refused, as far as known. Empty: that is not searched yet."""
    offered: tuple[str, ...] = ()
    """Those of the partners that the first request of the next conversation sends."""
    needs: tuple[str, ...] | None = None
    """The parts without which the tested one is accepted. None: not known yet."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the search leaves out or sends."""
        return (*self.suspects, *self.partners)

    @property
    def left_out(self) -> tuple[str, ...]:
        sent = (*self.tested, *self.offered)
        return tuple(name for name in self.parts if name not in sent)

    def find_repetition(self, sent: Sequence[str], single: Sequence[str] = ()) -> tuple[str, ...]:
        """Return what the first repetition of a refused request with the parts `sent` and `single` leaves out: the
        tested parts alone if all others were accepted before, so that its acceptance shows that one of the tested parts
        is refused; otherwise `sent`. A part of `single` is tested alone.
        """
        tested = tuple(name for name in (*sent, *single) if name in self.tested)
        is_known = all(name in self.tested or name in self.innocents for name in sent)
        return tested if tested and (is_known or {*tested} <= {*single}) else tuple(sent)

    def record_acceptance(self, sent: Collection[str]) -> "PartSearch | None":
        """Return the search after a request with the parts `sent` was accepted. None: no suspect is left."""
        if self.partners:
            return self._record_accepted_partners(sent)
        innocents = tuple(dict.fromkeys((*self.innocents, *sent)))
        if self.proofs and self.tested[0] not in sent:
            return structs.replace(self, innocents=innocents)  # the request could not be refused for the part
        suspects = tuple(name for name in self.suspects if name not in sent)
        if not suspects:
            return None
        remaining = tuple(name for name in self.tested if name in suspects)
        # the tested parts that the request did not have were not tested: others come first
        others = tuple(name for name in suspects if name not in remaining)
        return _test_first_half((*others, *remaining), innocents)

    def end_test(self) -> "PartSearch | None":
        """Return the search after the tested parts became known. None: no suspect is left."""
        suspects = tuple(name for name in self.suspects if name not in self.tested)
        return _test_first_half(suspects, self.innocents) if suspects else None

    def _record_accepted_partners(self, sent: Collection[str]) -> "PartSearch | None":
        if self.tested[0] not in sent:
            return self
        if {*self.partners} <= {*sent}:
            return self.end_test()
        if not {*self.offered} <= {*sent}:  # a request that lacks one of them shows little
            is_over = self.unclear >= MAX_UNCLEAR
            return structs.replace(self, unclear=self.unclear + 1, needs=self.partners if is_over else None)
        half = _first_half(self.partners)
        if not self.offered and len(self.partners) > 1:
            return structs.replace(self, offered=half, unclear=0)
        if self.offered == half and len(self.partners) > 1:
            return structs.replace(self, offered=self.partners[len(half) :], unclear=0)
        return structs.replace(self, needs=self.partners)

    def _record_refused_partners(self, spared: Collection[str]) -> "PartSearch":
        partners = tuple(name for name in self.partners if name in spared)
        if len(partners) <= 1:
            return structs.replace(self, needs=partners)
        return structs.replace(self, partners=partners, offered=_first_half(partners), unclear=0)

    def record_refusal(
        self, refused: Collection[str], conversation: str, values: Mapping[str, str], spared: Sequence[str] = ()
    ) -> "PartSearch":
        """Return the search after a request was refused, and accepted without the tested parts `refused`.

        `conversation` is the digest of its beginning, `values` are digests of the values of its parts. `spared`: the
        other parts that it had both times.
        """
        tested = tuple(name for name in self.tested if name in refused)
        if self.partners and tested:
            return self._record_refused_partners(spared)
        if len(tested) > 1:
            return structs.replace(self, tested=_first_half(tested), proofs=(), unclear=0)
        if not tested:
            return self
        proofs = dict(self.proofs) if self.tested == tested else {}
        context = tuple(name for name in spared if not proofs or name in self.context)
        proofs.setdefault(conversation, values.get(tested[0], ""))
        later = structs.replace(self, tested=tested, proofs=tuple(proofs.items()), context=context, unclear=0)
        if len(proofs) < MIN_PROOFS:
            return later
        return structs.replace(later, partners=context) if context else structs.replace(later, needs=())

    def record_unclear_refusal(self) -> "PartSearch | None":
        """Return the search after a request was refused, and accepted only without more than the tested parts: it shows
        nothing about these. None: the server refuses something that is not suspected.
        """
        return structs.replace(self, unclear=self.unclear + 1) if self.unclear < MAX_UNCLEAR else None

    @property
    def proven(self) -> str:
        """The part that is known to be refused. "": none."""
        return "" if self.needs is None else self.tested[0]


def begin_search(
    parts: Sequence[str], conversation: str, values: Mapping[str, str], *, first: Sequence[str] = ()
) -> PartSearch:
    """Return the search after a request with these parts was refused, and accepted without them.

    `first`: those of which another value is known to be refused. They are tested before all others.
    """
    search = _test_first_half(tuple(parts), ())
    if first:
        search = structs.replace(search, tested=tuple(first))
    return search.record_refusal(parts, conversation, values) if len(parts) == 1 else search


def encode_search(search: PartSearch) -> str:
    return msgspec.json.encode(search).decode()


def decode_search(text: str) -> PartSearch | None:
    """Return a stored search. None: the text is that of an instance with another version."""
    try:
        search = decode_json(text, PartSearch)
    except InvalidJson:
        return None
    return search if search.tested and {*search.tested} <= {*search.suspects} else None


def _test_first_half(suspects: tuple[str, ...], innocents: tuple[str, ...]) -> PartSearch:
    return PartSearch(suspects=suspects, tested=_first_half(suspects), innocents=innocents)


def _first_half(names: tuple[str, ...]) -> tuple[str, ...]:
    return names[: (len(names) + 1) // 2]
