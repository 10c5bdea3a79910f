"""`RefusedParts`: what is known about the parts of requests that a model refuses for an unknown reason.

The requests of one client show which part the server refuses (`part_search.py`), with the values that they had: a value
that is wrong, such as a temperature of 5, does not show that the server refuses the parameter. Two different values do.
What two clients have shown holds for all, until one request with the part is accepted. After a week, one request tests
whether the part is still refused.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.providers.part_search import (
    MAX_SEARCHES,
    SEARCHES_SECONDS,
    PartSearch,
    begin_search,
    decode_search,
    encode_search,
)

TESTED_AFTER_SECONDS = 7 * 24 * 3600.0
"""Seconds after which one request tests whether a part is still refused."""
FORGOTTEN_AFTER_SECONDS = 2 * TESTED_AFTER_SECONDS
"""Seconds after which a part is forgotten that no request has tested."""
TEST_SECONDS = 600.0
"""Seconds until another request tests a part, if the last one has shown nothing."""
REFUSED_TWICE_SECONDS = 24 * 3600.0
"""Seconds for which it is known that a conversation was refused in the plain form too."""
MIN_CLIENTS = 2
"""Number of clients whose requests must have shown that a part is refused, before it is left out for all."""
MIN_CONFIRMATIONS = 8
"""Number of requests of a client without the part that must be accepted, none refused between them, before what it has
shown counts for others: a server that refuses at random goes on refusing."""
_MIN_VALUES = 2
"""Number of refused values of a part that show that the server refuses each value."""
_MAX_VALUES = 8
"""Maximum number of values that are kept for a part, and of clients that have shown it."""
KNOWS_PARTS = "refused parts"
"""Key of a value that exists if something is known about a part of any model, so that other requests read nothing."""


class _Refused(Struct, array_like=True):
    values: dict[str, tuple[str, ...]]
    """The refused values, with the parts without which each is accepted. Parts without values have the value ""."""
    is_about_values: bool = False
    """True if another value was accepted."""
    confirmations: int = 0
    """Requests without the part that were accepted since it is known, none refused between them."""

    def find_needs(self, value: str) -> tuple[str, ...] | None:
        """Return the parts without which a value is accepted. None: it is not known to be refused."""
        if value in self.values:
            return self.values[value]
        shows_each = len(self.values) >= _MIN_VALUES and not self.is_about_values
        return self.values[next(reversed(self.values))] if shows_each else None

    def is_refuted(self, sent: Collection[str]) -> bool:
        """Return True if the acceptance of a request with the part and those in `sent` shows that it is not refused."""
        return any({*needs} <= {*sent} for needs in self.values.values())


class RefusedParts:
    """What is known for the requests of one client (`learner`) to one model (`model`, with its server).

    `account` names whose requests may share what they have shown: those with the same account at the provider.
    """

    def __init__(self, store: MemoryValues, model: str, learner: str, account: str = "") -> None:
        self._store = store
        self.model = model
        self._flag = f"parts model:{model}"
        self._search = f"parts:{learner}:{model}"
        self._searches = f"searches:{learner}:{model}"
        self._own = f"part:{learner}:{model}:"
        self._shared = f"part of all:{account}:{model}:"
        self._learner = hashlib.blake2b(learner.encode(errors="replace"), digest_size=8).hexdigest()

    @property
    def exist(self) -> bool:
        """False: nothing is known about the model, for any client."""
        return self._store.read(self._flag) is not None

    def find_search(self) -> PartSearch | None:
        return decode_search(self._store.read(self._search) or "")

    def list_known(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the parts of which a value is known to be refused, for any client."""
        return tuple(name for name in names if self._read_own(name).values or self._read_shared(name))

    def list_shown(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the parts of which the requests of this client have shown that a value is refused."""
        return tuple(name for name in names if self._read_own(name).values)

    def find_refused(
        self, names: Collection[str], values: Mapping[str, str], *, is_first: bool
    ) -> Mapping[str, tuple[str, ...]]:
        """Return the parts that a request leaves out, because their value is known to be refused, each with the parts
        without which it is accepted.

        `is_first`: the request begins a conversation. What other clients have shown changes no running one.
        """
        refused = dict[str, tuple[str, ...]]()
        for name in self.list_known(names):
            value = values.get(name, "")
            needs = self._read_own(name).find_needs(value)
            if needs is None and is_first:
                needs = self._find_shared_needs(name, value)
            if needs is not None:
                refused[name] = needs
        return refused

    def list_watched(self, names: Collection[str], values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the parts of which the acceptance of a request with them would show something new."""
        watched = dict[str, None]()
        for name in self.list_known(names):
            own, shared = self._read_own(name), self._read_shared(name)
            if shared or not own.is_about_values or own.find_needs(values.get(name, "")) is not None:
                watched[name] = None
                for refused in (own, *shared.values()):
                    watched.update(dict.fromkeys(part for needs in refused.values.values() for part in needs))
        return tuple(watched)

    def begin_test(self, refused: Collection[str]) -> str:
        """Return the part that the first request of a conversation tests, because it is known for a week. "": none."""
        for name in refused:
            own, shared = self._own + name, self._shared + name
            remaining = max(map(self._store.find_remaining_seconds, (own, shared)))
            key = f"tested:{own if self._store.read(own) else shared}"
            is_due = remaining <= FORGOTTEN_AFTER_SECONDS - TESTED_AFTER_SECONDS
            if is_due and not self._store.read(key):
                self._store.write(key, "yes", TEST_SECONDS)
                return name
        return ""

    def record_acceptance(
        self,
        known: PartSearch | None,
        sent: Collection[str],
        values: Mapping[str, str],
        lacking: Collection[str] = (),
    ) -> None:
        """Store that a request with the parts `sent`, and without those in `lacking`, was accepted.

        `known`: the search when it was prepared.
        """
        search = self.find_search()
        partial = () if search is None or not search.partners or search != known else search.tested
        for name in self.list_known([name for name in sent if name not in partial]):
            own, shared = self._read_own(name), self._read_shared(name)
            needs = own.values.get(values.get(name, ""))
            if own.values and (needs is None or {*needs} <= {*sent}):
                own.values.pop(values.get(name, ""), None)
                own.is_about_values = True
                self._write(self._own + name, own if own.values else None)
            kept = {learner: refused for learner, refused in shared.items() if not refused.is_refuted(sent)}
            if kept != shared:
                self._write(self._shared + name, kept or None)
        for name in self.list_shown(lacking):
            own = self._read_own(name)
            if own.confirmations < MIN_CONFIRMATIONS:
                own.confirmations += 1
                self._write(self._own + name, own)
                if own.confirmations == MIN_CONFIRMATIONS:
                    self._share(name, own)
        serves_search = search == known or (
            search is not None and not search.partners and not {*search.suspects}.isdisjoint(sent)
        )
        if search is not None and serves_search and (later := search.record_acceptance(sent)) != search:
            self._end_step(later)

    def record_refusal(
        self,
        known: PartSearch | None,
        left_out: Sequence[str],
        conversation: str,
        values: Mapping[str, str],
        spared: Sequence[str] = (),
    ) -> None:
        """Store that a request was refused, and accepted without the parts `left_out`, which are not content. It had
        the parts `spared` both times.

        `known`: the search when the request was prepared. If it is another one now, the request shows nothing: it did
        not differ in the parts that are tested now.
        """
        search = self.find_search()
        if search != known or not left_out:
            return
        if search is not None and {*left_out} <= {*search.tested}:
            search = search.record_refusal(left_out, conversation, values, spared)
        elif search is not None and (later := search.record_unclear_refusal()) is not None:
            search = later
        else:
            if not self._may_begin_search():
                self._store_search(None)
                return
            search = begin_search(left_out, conversation, values, first=self.list_known(left_out)[:1])
        self._end_step(search)

    def _end_step(self, search: PartSearch | None) -> None:
        """Store a search after a request that has shown something, and the part that is known by now."""
        name = "" if search is None else search.proven
        if search is None or not name:
            self._store_search(search)
            return
        self._store.write(self._searches, "0", SEARCHES_SECONDS)
        own = self._read_own(name)
        own.values.update(dict.fromkeys((value for _, value in search.proofs), search.needs or ()))
        own.values = dict([*own.values.items()][-_MAX_VALUES:])
        own.confirmations = 0
        self._write(self._own + name, own, is_new=True)
        self._store_search(search.end_test())

    def doubt(self, lacking: Collection[str]) -> None:
        """Store that a request was refused although it lacked these parts, so that they are not shared yet."""
        for name in self.list_shown(lacking):
            own = self._read_own(name)
            if 0 < own.confirmations < MIN_CONFIRMATIONS:
                own.confirmations = 0
                self._write(self._own + name, own)

    def _share(self, name: str, own: _Refused) -> None:
        clients = self._read_shared(name)
        clients.pop(self._learner, None)
        clients[self._learner] = own
        self._write(self._shared + name, dict([*clients.items()][-_MAX_VALUES:]), is_new=True)

    def fails_again(self, conversation: str) -> bool:
        """Store that a request of a conversation has failed with status 500, and was accepted in the plain form. Return
        True if that has happened to the one before, too.
        """
        key = f"failed:{conversation}"
        has_failed = bool(self._store.read(key))
        self._write_text(key, "yes", TEST_SECONDS)
        return has_failed

    def record_second_refusal(self, conversation: str) -> None:
        """Store that a conversation was refused in the plain form too."""
        self._write_text(f"refused twice:{conversation}", "yes", REFUSED_TWICE_SECONDS)

    def was_refused_twice(self, conversation: str) -> bool:
        return bool(self._store.read(f"refused twice:{conversation}"))

    def record_second_failure(self, conversation: str) -> None:
        """Store that a conversation has failed in the plain form too."""
        self._write_text(f"failed twice:{conversation}", "yes", REFUSED_TWICE_SECONDS)

    def has_failed_twice(self, conversation: str) -> bool:
        return bool(self._store.read(f"failed twice:{conversation}"))

    def forget_failure(self, conversation: str) -> None:
        if self._store.read(f"failed:{conversation}"):
            self._write_text(f"failed:{conversation}", "", TEST_SECONDS)

    def _may_begin_search(self) -> bool:
        """Count a search that begins. Return False if too many had no result."""
        known = self._store.read(self._searches) or "0"
        count = int(known) if known.isdecimal() else 0
        if count >= MAX_SEARCHES:
            return False
        remaining = self._store.find_remaining_seconds(self._searches)
        self._store.write(self._searches, str(count + 1), remaining or SEARCHES_SECONDS)
        return True

    def _find_shared_needs(self, name: str, value: str) -> tuple[str, ...] | None:
        """Return the parts without which enough clients have shown a value to be accepted. None: too few have."""
        shown = Counter(refused.find_needs(value) for refused in self._read_shared(name).values())
        del shown[None]
        needs, count = max(shown.items(), key=itemgetter(1), default=(None, 0))
        return needs if count >= MIN_CLIENTS else None

    def _read_own(self, name: str) -> _Refused:
        try:
            return decode_json(self._store.read(self._own + name) or "[{}]", _Refused)
        except InvalidJson:  # the text of an instance with another version
            return _Refused({})

    def _read_shared(self, name: str) -> dict[str, _Refused]:
        try:
            return decode_json(self._store.read(self._shared + name) or "{}", dict[str, _Refused])
        except InvalidJson:
            return {}

    def _store_search(self, search: PartSearch | None) -> None:
        self._write_text(self._search, "" if search is None else encode_search(search), TESTED_AFTER_SECONDS)

    def _write(self, key: str, known: _Refused | dict[str, _Refused] | None, *, is_new: bool = False) -> None:
        seconds = FORGOTTEN_AFTER_SECONDS if is_new else self._store.find_remaining_seconds(key)
        if seconds:
            self._write_text(key, "" if known is None else msgspec.json.encode(known).decode(), seconds)

    def _write_text(self, key: str, text: str, seconds: float) -> None:
        self._store.write(key, text, seconds)
        self.announce(key, seconds)

    def announce(self, key: str, seconds: float) -> None:
        """Let requests to the model look for what is stored under `key` for these seconds, such as a form."""
        for flag in (KNOWS_PARTS, self._flag):
            self._store.write(flag, key, max(seconds, self._store.find_remaining_seconds(flag)))
