"""`RefusedParts` finds the parts of requests that a server refuses, and no other ones, in any order of events."""

from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.providers.part_search import PartSearch, begin_search, decode_search, encode_search
from anthropic_proxy.engine.providers.refused_parts import RefusedParts

PARTS = tuple("abcdefghijkl")
WEEK = 7 * 24 * 3600.0
Request = Mapping[str, str]
"""Part → its value."""
ALL: Request = dict.fromkeys(PARTS, "")
SENT = st.dictionaries(st.sampled_from(PARTS), st.sampled_from(("", "5", "7")))


class InFlight(NamedTuple):
    """A request that was sent, until its outcome is recorded."""

    known: RefusedParts
    search: PartSearch | None
    conversation: str
    parts: Request
    sent: frozenset[str]
    is_accepted: bool
    left_out: tuple[str, ...]
    """By its repetition."""
    is_repaired: bool
    lacking: tuple[str, ...]
    """What it lacked from the beginning."""


class Proxy:
    """Clients of a server that refuses the requests for which `refuses` is true."""

    def __init__(self, refuses: Callable[[Request], bool]) -> None:
        self.now = 0.0
        self.store = MemoryValues(clock=lambda: self.now)
        self.refuses = refuses
        self.calls = 0

    def begin(self, client: str, parts: Request, conversation: str) -> InFlight:
        """Send the first request of a conversation."""
        known = RefusedParts(self.store, "model", client)
        known_parts = dict(known.find_refused(tuple(parts), parts, is_first=True))
        search = known.find_search()
        suspects: tuple[str, ...] = ()
        if search is not None:
            suspects = search.left_out
            known_parts = {name: () for name in known_parts if name not in search.tested}
        elif test := known.begin_test(known_parts):
            del known_parts[test]
        refused = _leave_out(known_parts, {name: value for name, value in parts.items() if name not in suspects})
        refused = (*refused, *suspects)
        sent = {name: value for name, value in parts.items() if name not in refused}
        is_accepted = self._call(sent)
        left_out: tuple[str, ...] = ()
        is_repaired = False
        if not is_accepted:
            left_out = search.find_repetition(tuple(sent)) if search is not None else tuple(sent)
            is_repaired = self._call({name: value for name, value in sent.items() if name not in left_out})
            if not is_repaired and len(left_out) < len(sent):
                left_out = tuple(sent)
                is_repaired = self._call({})
        return InFlight(
            known, search, conversation, parts, frozenset(sent), is_accepted, left_out, is_repaired, refused
        )

    def _call(self, sent: Request) -> bool:
        self.calls += 1
        return not self.refuses(sent)

    def end(self, request: InFlight) -> bool:
        """Return whether the client got a reply."""
        before = request.known.find_search()
        if request.is_accepted:
            request.known.record_acceptance(request.search, request.sent, request.parts, request.lacking)
        else:
            request.known.doubt(request.lacking)
        if request.is_repaired:
            spared = tuple(name for name in request.sent if name not in request.left_out)
            request.known.record_refusal(request.search, request.left_out, request.conversation, request.parts, spared)
        request.known.record_acceptance(None, (), request.parts)  # the next turn of the conversation, in its form
        later = request.known.find_search()
        if before is not None and later is not None:  # within a search, suspects only shrink
            restarted = {*request.left_out} - {*before.tested}
            assert {*later.suspects} <= {*before.suspects} or restarted
        return request.is_accepted or request.is_repaired

    def send(self, client: str, parts: Request, conversation: str) -> bool:
        return self.end(self.begin(client, parts, conversation))

    def list_left_out(self, client: str, parts: Request = ALL) -> set[str]:
        known = RefusedParts(self.store, "model", client).find_refused(tuple(parts), parts, is_first=True)
        return {*_leave_out(known, parts)}

    def searches(self, client: str) -> bool:
        return RefusedParts(self.store, "model", client).find_search() is not None


def _leave_out(known: Mapping[str, tuple[str, ...]], parts: Request) -> tuple[str, ...]:
    """Return the known parts that a request with these parts leaves out."""
    sent = {*parts}
    for name, needs in known.items():
        if {name, *needs} <= sent:
            sent.remove(name)
    return tuple(name for name in parts if name not in sent)


def refuses_any(*refused: str) -> Callable[[Request], bool]:
    return lambda sent: any(name in sent for name in refused)


def run(proxy: Proxy, client: str, times: int, parts: Request = ALL, start: str = "") -> None:
    for number in range(times):
        assert proxy.send(client, parts, f"{start} conversation {number}")


@given(refused=st.sets(st.sampled_from(PARTS), max_size=3))
def test_each_refused_part_is_found_and_no_other_one(refused: set[str]) -> None:
    proxy = Proxy(refuses_any(*refused))
    run(proxy, "client", 60)
    assert (proxy.list_left_out("client"), proxy.searches("client")) == (refused, False)
    assert proxy.calls <= 60 + 8 * (len(refused) + 1)


@given(pair=st.sets(st.sampled_from(PARTS), min_size=2, max_size=2))
def test_of_two_parts_that_are_refused_only_together_one_is_left_out(pair: set[str]) -> None:
    proxy = Proxy(lambda sent: pair <= sent.keys())
    run(proxy, "client", 40)
    left_out = proxy.list_left_out("client")
    assert (len(left_out), left_out <= pair, proxy.searches("client")) == (1, True, False)
    for name in pair:  # each of them alone is sent
        assert proxy.list_left_out("client", {part: "" for part in PARTS if part != name}) == set()
    assert proxy.calls <= 40 + 12


@given(
    group=st.sets(st.sampled_from(PARTS), min_size=3, max_size=5), others=st.sets(st.sampled_from(PARTS), max_size=2)
)
def test_a_combination_of_several_parts_is_kept(group: set[str], others: set[str]) -> None:
    proxy = Proxy(lambda sent: group <= sent.keys() or not others.isdisjoint(sent))
    run(proxy, "client", 80)
    assert proxy.searches("client") is False
    kept = proxy.list_left_out("client")
    assert others <= kept
    assert len(kept - others) == (others.isdisjoint(group))
    calls = proxy.calls
    for name in group - others:
        assert proxy.send("client", {part: "" for part in group if part != name}, f"without {name}")
    assert proxy.calls == calls + len(group - others)


@given(refused=st.sampled_from(PARTS), requests=st.lists(SENT, min_size=1, max_size=60))
def test_requests_with_some_parts_only_find_no_innocent_one(refused: str, requests: list[Request]) -> None:
    proxy = Proxy(refuses_any(refused))
    for number, parts in enumerate(requests):
        assert proxy.send("client", parts, f"conversation {number}")
    assert proxy.list_left_out("client") <= {refused}


@given(requests=st.lists(SENT, min_size=1, max_size=60))
def test_a_part_is_not_known_by_one_conversation(requests: list[Request]) -> None:
    proxy = Proxy(refuses_any("a"))
    for parts in requests:
        assert proxy.send("client", parts, "the same")
    assert proxy.list_left_out("client") == set()


@given(requests=st.lists(SENT, min_size=1, max_size=60), refused=st.dictionaries(st.sampled_from(PARTS), st.just("5")))
def test_values_that_were_not_sent_before_fail_no_request(requests: list[Request], refused: Request) -> None:
    proxy = Proxy(lambda sent: any(sent.get(name) == value for name, value in refused.items()))
    for number, parts in enumerate(requests):
        assert proxy.send("client", parts, f"conversation {number}")
    assert proxy.list_left_out("client", dict.fromkeys(PARTS, "7")) <= proxy.list_left_out("client") | {*refused}
    assert proxy.list_left_out("client", dict.fromkeys(PARTS, "5")) <= {*refused}


@given(refused=st.sets(st.sampled_from(PARTS), max_size=3), varied=st.sets(st.sampled_from(PARTS)))
def test_a_search_ends_although_each_conversation_has_other_values(refused: set[str], varied: set[str]) -> None:
    proxy = Proxy(refuses_any(*refused))
    for number in range(60):
        assert proxy.send("client", {name: str(number) if name in varied else "" for name in PARTS}, str(number))
    assert (proxy.list_left_out("client"), proxy.searches("client")) == (refused, False)
    assert proxy.calls <= 60 + 8 * (len(refused) + 1)


def test_a_server_that_refuses_what_is_no_part_is_not_searched_for_ever() -> None:
    proxy = Proxy(lambda sent: proxy.calls % 3 == 1 and bool(sent))
    for number in range(200):
        proxy.send("client", ALL, f"conversation {number}")
    assert (proxy.searches("client"), len(proxy.list_left_out("client")) <= 1) == (False, True)


def test_a_refused_value_does_not_show_that_other_values_are_refused() -> None:
    proxy = Proxy(lambda sent: sent.get("c") == "5")
    run(proxy, "client", 20, {**ALL, "c": "5"})
    assert proxy.list_left_out("client", {**ALL, "c": "5"}) == {"c"}
    assert proxy.list_left_out("client", {**ALL, "c": "0.2"}) == set()
    calls = proxy.calls
    run(proxy, "client", 1, {**ALL, "c": "0.2"})
    assert proxy.calls == calls + 1
    run(proxy, "client", 20, {**ALL, "c": "7"})
    assert proxy.list_left_out("client", {**ALL, "c": "7"}) == set()


def test_two_refused_values_show_that_the_server_refuses_the_part() -> None:
    proxy = Proxy(refuses_any("c"))
    run(proxy, "client", 20, {**ALL, "c": "5"})
    run(proxy, "client", 20, {**ALL, "c": "7"}, "later")
    assert proxy.list_left_out("client", {**ALL, "c": "0.2"}) == {"c"}


def test_what_two_clients_have_shown_holds_for_all_until_one_request_with_it_is_accepted() -> None:
    proxy = Proxy(refuses_any("a"))
    left_out = []
    for client in ("first", "second"):
        run(proxy, client, 20)
        left_out.append(proxy.list_left_out("third"))
    assert left_out == [set(), {"a"}]
    other = RefusedParts(proxy.store, "model", "third", "another account")
    assert other.find_refused(PARTS, ALL, is_first=True) == {}
    third = RefusedParts(proxy.store, "model", "third")
    assert third.find_refused(PARTS, ALL, is_first=False) == {}  # a running conversation keeps its form
    third.record_acceptance(None, ("a",), ALL)
    assert [proxy.list_left_out(client) for client in ("first", "third")] == [{"a"}, set()]


@given(seed=st.integers(0, 10_000), share=st.sampled_from((0.1, 0.5, 0.9)))
def test_a_server_that_refuses_at_random_shows_nothing_for_others(seed: int, share: float) -> None:
    chosen = Random(seed)
    proxy = Proxy(lambda sent: chosen.random() < share)
    for number in range(30):
        for client in ("one", "two", "three"):
            proxy.send(client, ALL, f"conversation {number}")
    assert proxy.list_left_out("another client") == set()


def test_after_a_week_one_request_tests_a_part() -> None:
    proxy = Proxy(refuses_any("a"))
    run(proxy, "client", 20)
    for week in range(1, 5):
        proxy.now += WEEK + 1
        calls = proxy.calls
        parallel = [proxy.begin("client", ALL, f"{week}.{number}") for number in range(3)]
        assert [("a" in request.sent) for request in parallel] == [True, False, False]
        assert all(map(proxy.end, parallel))
        run(proxy, "client", 20, start=f"week {week}")
        assert proxy.list_left_out("client") == {"a"}
        assert proxy.calls - calls <= 23 + 8
    proxy.now += WEEK + 1
    proxy.refuses = refuses_any()
    run(proxy, "client", 1, start="repaired")
    assert proxy.list_left_out("client") == set()


EVENT = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(("one", "two", "three")), SENT),
    st.tuples(st.just("end"), st.integers(0, 5), st.none()),
    st.tuples(st.just("wait"), st.sampled_from((60.0, 2 * 24 * 3600.0, WEEK + 1)), st.none()),
    st.tuples(st.just("refuse"), st.sets(st.sampled_from(PARTS), max_size=2), st.none()),
)


@given(events=st.lists(EVENT, max_size=80))
def test_in_any_order_of_events_each_request_is_answered_and_in_the_end_only_refused_parts_are_left_out(
    events: list[tuple[str, object, Request | None]],
) -> None:
    proxy = Proxy(refuses_any())
    running: list[InFlight] = []
    refused: set[str] = set()
    for number, (kind, detail, parts) in enumerate(events):
        if kind == "begin":
            running.append(proxy.begin(str(detail), parts or {}, f"conversation {number}"))
        elif kind == "end" and running:
            assert isinstance(detail, int)
            assert proxy.end(running.pop(detail % len(running))) or refused
        elif kind == "wait":
            assert isinstance(detail, float)
            proxy.now += detail
        elif kind == "refuse":
            assert isinstance(detail, set)
            refused = detail
            proxy.refuses = refuses_any(*refused)
    for request in running:
        proxy.end(request)
    for week in range(3):  # the clients go on: what was true before is tested again
        proxy.now += WEEK + 1
        for client in ("one", "two", "three"):
            for number in range(40):
                proxy.now += 700
                proxy.send(client, ALL, f"{week} {number}")
    assert [proxy.list_left_out(client) for client in ("one", "two", "three")] == [refused] * 3


def test_the_text_of_an_instance_with_another_version_is_no_search() -> None:
    search = begin_search(("a", "b", "c"), "conversation", ALL)
    assert decode_search(encode_search(search)) == search
    assert [decode_search(text) for text in ("", "{}", "[[],[]]", '[["a"],["b"]]', "[" * 5_000)] == [None] * 5
