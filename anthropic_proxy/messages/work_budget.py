"""`WorkBudget`: limits on the work that the schemas of one request may cause.

A schema of a few hundred bytes can describe a tree of any size: references, alternatives and unions multiply. Code that
walks data of a client or a model therefore counts each visit, and everything that it writes, before the work is done.
The limits hold for all schemas of a request together, so a thousand schemas below a limit do not add up to more.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar, TypeVarTuple

from anthropic_proxy.errors import InvalidRequest

MAX_STEPS = 1_000_000
"""Steps for all schemas of a request. A step is a visit to a schema or to one of its keywords, or 64 bytes of JSON.
An ordinary tool takes 50 to 500 steps; a step takes one to three microseconds."""
MAX_NODES = 500_000
"""Nodes of all schemas of a request as they are written for the provider: with references replaced by their targets
and alternatives copied, where the provider needs that. A node is a key, a value or 64 characters."""
MAX_SCHEMA_DEPTH = 200
"""Levels of schemas inside schemas, references followed. It keeps recursion far below the limit of the interpreter."""
BYTES_PER_STEP = 64
"""Bytes of decoded JSON text per step."""
NODES_PER_STEP = 4
"""Encoded nodes per step."""
CHARACTERS_PER_NODE = 64
"""Characters of a text that count as one node."""
ADVICE = "Refer to fewer definitions from each other, or list fewer alternatives."


class WorkLimitExceeded(InvalidRequest):
    """A schema causes more work than a request may: the text names the schema and the limit."""


class WorkPostponed(Exception):
    """The work does not fit into the steps allowed on the event loop; the caller repeats it in a thread."""


class Cost(NamedTuple):
    """Work that was counted."""

    steps: int = 0
    nodes: int = 0

    def subtract(self, before: "Cost") -> "Cost":
        """Return the part of this work that was counted after another."""
        return Cost(self.steps - before.steps, self.nodes - before.nodes)


class WorkBudget:
    """Counts the work on the schemas of one request and raises `WorkLimitExceeded` above a limit.

    Not safe for two threads at once: each request, and each attempt to encode it, has its own.
    """

    __slots__ = (
        *("_nodes", "_purpose", "_steps", "_steps_here", "_tool_names"),
        *("field", "max_depth", "max_nodes", "max_steps"),
    )

    def __init__(
        self,
        field: str,
        *,
        purpose: str = "convert",
        max_steps: int = MAX_STEPS,
        max_nodes: int = MAX_NODES,
        max_depth: int = MAX_SCHEMA_DEPTH,
        max_steps_here: int | None = None,
        tool_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.field = field
        """Path of the field under way, for errors: `tools.Read.input_schema`."""
        self.max_steps, self.max_nodes, self.max_depth = max_steps, max_nodes, max_depth
        self._purpose = purpose
        self._tool_names = tool_names
        """Names of tools as sent → the client's own names, where they differ."""
        self._steps = self._nodes = 0
        self._steps_here = max_steps + 1 if max_steps_here is None else max_steps_here
        """Steps left before `WorkPostponed` is raised; remembered costs do not count."""

    @property
    def cost(self) -> Cost:
        """Work counted so far."""
        return Cost(self._steps, self._nodes)

    def spend(self, steps: int = 1) -> None:
        """Count steps that are about to be done."""
        self._steps += steps
        if self._steps > self.max_steps:
            raise self._exceeded(
                f"it needs more than {self.max_steps:,} steps to {self._purpose}; that is the limit. {ADVICE}"
            )
        self._steps_here -= steps
        if self._steps_here < 0:
            raise WorkPostponed

    def write(self, nodes: int) -> None:
        """Count nodes that are about to be written, with the steps that take."""
        self._nodes += nodes
        if self._nodes > self.max_nodes:
            raise self._exceeded(
                f"it has more than {self.max_nodes:,} nodes when its references are written out; that is the "
                f"limit. {ADVICE}"
            )
        self.spend(1 + nodes // NODES_PER_STEP)

    def decode(self, text: Sized) -> None:
        """Count the decoding of JSON text."""
        self.spend(1 + len(text) // BYTES_PER_STEP)

    def require_depth(self, depth: int) -> None:
        """Raise `WorkLimitExceeded` for a schema at a greater depth than allowed."""
        if depth > self.max_depth:
            raise self._exceeded(self._too_deep())

    def repeat(self, cost: Cost) -> None:
        """Count the work of a cached result, so that a limit does not depend on the contents of a cache."""
        self._nodes += cost.nodes
        self._steps += cost.steps
        if self._nodes > self.max_nodes or self._steps > self.max_steps:
            self._steps_here += 1
            self.write(0)

    @contextmanager
    def work_on(self, field: str) -> Iterator[None]:
        """Name another field in errors for the time of a block."""
        before, self.field = self.field, field
        try:
            yield
        except RecursionError:
            raise self._exceeded(self._too_deep()) from None
        finally:
            self.field = before

    def field_of_tool(self, name: str) -> str:
        """Return the path of the schema of a tool under the name that the client gave it."""
        return f"tools.{self.own_name(name)}.input_schema"

    def own_name(self, name: str) -> str:
        """Return the name that the client gave a tool."""
        return self._tool_names.get(name, name)

    def _too_deep(self) -> str:
        return (
            f"it nests schemas more than {self.max_depth} levels deep when its references are written out; that "
            "is the limit."
        )

    def _exceeded(self, limit: str) -> WorkLimitExceeded:
        return WorkLimitExceeded(f"{self.field}: {limit}")


def count_nodes(value: Any) -> int:
    """Return the nodes of a decoded JSON value that may contain an object many times: each time counts.

    Takes time linear in the number of different objects.
    """
    counts: dict[int, int] = {}
    open_values = [value]
    while open_values:
        one = open_values[-1]
        members = [] if id(one) in counts else list(_containers_in(one))
        uncounted = [member for member in members if id(member) not in counts]
        if uncounted:
            open_values += uncounted
            continue
        open_values.pop()
        if id(one) not in counts:
            counts[id(one)] = _own_nodes(one) + sum(counts[id(member)] for member in members)
    return counts[id(value)]


def _containers_in(value: Any) -> Iterator[Any]:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (member for member in members if isinstance(member, dict | list))


def _own_nodes(value: Any) -> int:
    """Return the nodes of a value without the lists and objects in it."""
    if isinstance(value, str):
        return 1 + len(value) // CHARACTERS_PER_NODE
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(len, value)) // CHARACTERS_PER_NODE + _scalar_nodes(value.values())
    return 1 + _scalar_nodes(value) if isinstance(value, list) else 1


def _scalar_nodes(values: Iterable[Any]) -> int:
    return sum(
        1 + len(one) // CHARACTERS_PER_NODE if isinstance(one, str) else 1
        for one in values
        if not isinstance(one, dict | list)
    )


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
            self._keep(place, (encoded, budget.cost.subtract(before)))
            return encoded
        with suppress(KeyError):  # another thread may have removed it
            self._kept.move_to_end(place)
        budget.repeat(found[1])
        return found[0]

    def _keep(self, place: Hashable, entry: tuple[_Encoded, Cost]) -> None:
        self._kept[place] = entry
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
