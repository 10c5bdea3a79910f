"""Cache of encoded tools and schemas. Their work counts in the budget of each request that uses them."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar, TypeVarTuple

from anthropic_proxy.messages.work_budget import Cost, WorkBudget

_Argument = TypeVar("_Argument")
_Encoded = TypeVar("_Encoded")
_Arguments = TypeVarTuple("_Arguments")


class WorkCache(Generic[_Argument, *_Arguments, _Encoded]):
    """Keeps the results of a function by an identity of its argument and by the further arguments.

    A result that was kept counts as the work that it took, so that a limit does not depend on the cache. Two threads
    may use it at once.
    """

    def __init__(
        self,
        encode: Callable[[_Argument, WorkBudget, *_Arguments], _Encoded],
        identity: Callable[[_Argument], Hashable] | None,
        max_kept: int,
    ) -> None:
        """Make a cache of `max_kept` results. `identity`: None for arguments that can be hashed themselves."""
        self._encode = encode
        self._identity = identity
        self._max_kept = max_kept
        self._kept: OrderedDict[Hashable, tuple[_Encoded, Cost]] = OrderedDict()

    def find(self, argument: _Argument, budget: WorkBudget, *arguments: *_Arguments) -> _Encoded:
        """Return the result of the function, kept or new."""
        place = (argument if self._identity is None else self._identity(argument), *arguments)
        found = self._kept.get(place)
        if found is None:
            before = budget.cost
            encoded = self._encode(argument, budget, *arguments)
            self._keep(place, (encoded, budget.cost.since(before)))
            return encoded
        with suppress(KeyError):  # another thread may have removed it
            self._kept.move_to_end(place)
        budget.repeat(found[1])
        return found[0]

    def _keep(self, place: Hashable, entry: tuple[_Encoded, Cost]) -> None:
        self._kept[place] = entry
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
