"""`PartSearch` finds the parts of requests that a server refuses, and no other ones."""

from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.providers.part_search import (
    MIN_PROOFS,
    PartSearch,
    begin_search,
    decode_search,
    encode_search,
)

PARTS = tuple("abcdefghijkl")
REQUESTS = st.lists(st.sets(st.sampled_from(PARTS)), min_size=1, max_size=60)


class Client:
    """Requests of one client to a server that refuses some parts, or some only together."""

    def __init__(self, refused: list[frozenset[str]]) -> None:
        self.refused = refused
        self.calls = 0
        self.search: PartSearch | None = None
        self.known: set[str] = set()

    def accepts(self, sent: set[str]) -> bool:
        self.calls += 1
        return not any(combination <= sent for combination in self.refused)

    def send(self, parts: set[str], conversation: str) -> bool:
        """Send the first request of a conversation. Return whether it was accepted in the end."""
        search = self.search
        sent = parts - self.known - {*(search.left_out if search is not None else ())}
        if self.accepts(sent):
            self._go_on(None if search is None else search.record_acceptance(sent))
            return True
        tested = sent & {*search.tested} if search is not None else sent
        if not self.accepts(sent - (tested or sent)):
            return False
        if search is None:
            self._go_on(begin_search(sorted(sent), conversation))
        elif tested:
            self._go_on(search.record_refusal(sent, conversation))
        return True

    def _go_on(self, search: PartSearch | None) -> None:
        if search is not None and self.search is not None:
            assert {*search.suspects} <= {*self.search.suspects}
        if search is not None and (proven := search.proven):
            self.known.add(proven)
            search = search.record_acceptance((proven,))
        self.search = search and decode_search(encode_search(search))


@given(refused=st.sets(st.sampled_from(PARTS), max_size=3))
def test_each_refused_part_is_found_and_no_other_one(refused: set[str]) -> None:
    client = Client([frozenset(part) for part in refused])
    for number in range(60):
        assert client.send({*PARTS}, f"conversation {number}")
    assert (client.known, client.search) == (refused, None)
    assert client.calls <= 60 + (2 + MIN_PROOFS + 4) * (len(refused) + 1)


@given(pair=st.sets(st.sampled_from(PARTS), min_size=2, max_size=2))
def test_of_two_parts_that_are_refused_only_together_one_is_left_out(pair: set[str]) -> None:
    client = Client([frozenset(pair)])
    for number in range(40):
        assert client.send({*PARTS}, f"conversation {number}")
    assert (len(client.known), client.known <= pair, client.search) == (1, True, None)


@given(refused=st.sampled_from(PARTS), requests=REQUESTS)
def test_requests_with_some_parts_only_find_no_innocent_one(refused: str, requests: list[set[str]]) -> None:
    client = Client([frozenset(refused)])
    for number, parts in enumerate(requests):
        assert client.send(parts, f"conversation {number}")
    assert client.known <= {refused}


@given(requests=REQUESTS)
def test_a_part_is_not_known_by_one_conversation(requests: list[set[str]]) -> None:
    client = Client([frozenset("a")])
    for parts in requests:
        assert client.send(parts, "the same")
    assert client.known == set()
