"""`WorkBudget`: limit on the work that the JSON Schemas of one client request may cause.

Theory of operation. A small schema can describe a huge tree, because references and alternatives multiply. So work is
counted before it is done, in steps (visits to schemas) and nodes (written keys and values), and ends with
`WorkLimitExceeded`. Work that would block the event loop raises `WorkPostponed`, and the caller repeats it in a thread.
Cached results count again on each use, so that the limits of a request do not depend on the cache.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, TypeVarTuple, cast

from anthropic_proxy.engine.bounded import SizedCache
from anthropic_proxy.engine.slices import give_way
from anthropic_proxy.errors import InvalidRequest

MAX_SCHEMA_STEPS = 1_000_000
"""Maximum steps for all schemas of a client request. A request above it is rejected with 400. A step is a visit to a
schema or keyword, or 64 bytes of JSON, and takes one to three microseconds. An ordinary tool takes 50 to 500 steps."""
MAX_SCHEMA_NODES = 500_000
"""Maximum nodes of all schemas of a client request, as they are written for the provider. A request above it is
rejected with 400. A node is a key, a value or 64 characters of text. A definition counts for each reference to it."""
MAX_SCHEMA_DEPTH = 200
"""Maximum nesting of a schema. Schemas that it refers to count as nested in it. The limit keeps recursion below
Python's limit."""
BYTES_PER_STEP = 64
STEPS_OF_SLICE = 4_000
NODES_PER_STEP = 4
CHARACTERS_PER_NODE = 64
MAX_KEPT_BYTES = 15 * 1024 * 1024
"""Maximum size of all results that are kept (`WorkCache`). The least recently used ones are dropped."""
_BYTES_PER_RESULT = 1_000
ADVICE = "Refer to fewer definitions from each other, or list fewer alternatives."
"""Remedy in the error message about a schema that exceeds a limit."""


class WorkLimitExceeded(InvalidRequest):
    """Error 400: the JSON Schemas of a client request cause too much work."""

    code = "schema-work"


class WorkPostponed(Exception):
    """Exception for work on JSON Schemas that would block the event loop too long.

    The caller repeats the work in a thread.
    """


class CountedWork(NamedTuple):
    steps: int = 0
    nodes: int = 0


class WorkBudget:
    """Counts the work on the JSON Schemas of one request and raises `WorkLimitExceeded` above a limit.

    Not safe for two threads at once.
    """

    __slots__ = (
        *("_nodes", "_postpones", "_purpose", "_steps", "_steps_here", "_tool_names"),
        *("field", "max_depth", "max_nodes", "max_steps"),
    )

    def __init__(
        self,
        field: str,
        *,
        purpose: str = "convert",
        max_steps: int = MAX_SCHEMA_STEPS,
        max_nodes: int = MAX_SCHEMA_NODES,
        max_depth: int = MAX_SCHEMA_DEPTH,
        max_steps_here: int | None = None,
        tool_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.field = field
        """Path of the schema that causes the counted work, for error messages: `tools.Read.input_schema`."""
        self.max_steps = max_steps
        self.max_nodes = max_nodes
        self.max_depth = max_depth
        self._purpose = purpose
        self._tool_names = tool_names
        """Tool name sent upstream → different tool name of the client. Error messages contain the client's name."""
        self._steps = self._nodes = 0
        self._postpones = max_steps_here is not None
        self._steps_here = STEPS_OF_SLICE if max_steps_here is None else max_steps_here
        """Number of steps left before `WorkPostponed` is raised, or before the thread gives way. Cached results do not
        reduce it."""

    @property
    def counted_work(self) -> CountedWork:
        return CountedWork(self._steps, self._nodes)

    def count_steps(self, steps: int = 1) -> None:
        """Count steps of work before they are done. Raises `WorkLimitExceeded` above the limit of the request.

        Raises `WorkPostponed` if the steps would block the event loop too long.
        """
        self._steps += steps
        if self._steps > self.max_steps:
            needs = f"it needs more than {self.max_steps:,} steps to {self._purpose}"
            raise self._exceeded(f"{needs}; that is the limit. {ADVICE}")
        self._steps_here -= steps
        if self._steps_here < 0:
            if self._postpones:
                raise WorkPostponed
            self._steps_here = STEPS_OF_SLICE
            give_way()

    def count_nodes(self, nodes: int) -> None:
        """Count nodes (written keys and values) before they are written. Every 4 nodes also count as a step."""
        self._nodes += nodes
        if self._nodes > self.max_nodes:
            raise self._exceeded(
                f"it has more than {self.max_nodes:,} nodes when its references are written out; that is the "
                f"limit. {ADVICE}"
            )
        self.count_steps(1 + nodes // NODES_PER_STEP)

    def count_decoding_steps(self, text: Sized) -> None:
        self.count_steps(1 + len(text) // BYTES_PER_STEP)

    def require_allowed_depth(self, depth: int) -> None:
        if depth > self.max_depth:
            raise self._exceeded(self._too_deep())

    def count_cached_work(self, work: CountedWork) -> None:
        """Count the work of a cached result as if it were computed again. Raises `WorkLimitExceeded` above a limit."""
        # limits must not depend on the cache
        self._nodes += work.nodes
        self._steps += work.steps
        if self._nodes > self.max_nodes or self._steps > self.max_steps:
            self._steps_here += 1
            self.count_nodes(0)

    @contextmanager
    def error_field(self, field: str) -> Iterator[None]:
        """Return a context manager in which errors of this budget name `field` as the path of the schema.

        A `RecursionError` in the `with` statement becomes `WorkLimitExceeded`.
        """
        before, self.field = self.field, field
        try:
            yield
        except RecursionError:
            raise self._exceeded(self._too_deep()) from None
        finally:
            self.field = before

    def tool_schema_path(self, upstream_name: str) -> str:
        return f"tools.{self.client_tool_name(upstream_name)}.input_schema"

    def client_tool_name(self, upstream_name: str) -> str:
        return self._tool_names.get(upstream_name, upstream_name)

    def _too_deep(self) -> str:
        return (
            f"it nests schemas more than {self.max_depth} levels deep when its references are written out; that "
            "is the limit."
        )

    def _exceeded(self, limit: str) -> WorkLimitExceeded:
        return WorkLimitExceeded(f"{self.field}: {limit}")


def count_json_nodes(value: Any) -> int:
    """Return the number of keys and values. An object that occurs several times counts each time."""
    # by identity, so that the time is linear in the number of different objects
    counts: dict[int, int] = {}
    open_values = [value]
    while open_values:
        one = open_values[-1]
        inside: Iterable[Any] = ()
        if isinstance(one, dict):
            inside = one.values()
        elif isinstance(one, list):
            inside = one
        members = [] if id(one) in counts else [member for member in inside if isinstance(member, dict | list)]
        uncounted = [member for member in members if id(member) not in counts]
        if uncounted:
            open_values += uncounted
            continue
        open_values.pop()
        if id(one) not in counts:
            scalars = [member for member in inside if not isinstance(member, dict | list)]
            sizes = [len(text) for text in (one, *scalars) if isinstance(text, str)]
            own = 1 + len(scalars) + sum(size // CHARACTERS_PER_NODE for size in sizes)
            if isinstance(one, dict):
                own += len(one) + sum(map(len, one)) // CHARACTERS_PER_NODE
            counts[id(one)] = own + sum(counts[id(member)] for member in members)
    return counts[id(value)]


_Argument = TypeVar("_Argument")
_Encoded = TypeVar("_Encoded")
_Arguments = TypeVarTuple("_Arguments")


class WorkCache(Generic[_Argument, *_Arguments, _Encoded]):
    """Thread-safe cache for the results of a function that counts its work in a `WorkBudget`.

    All caches of a process have one bound of their size in bytes: a small schema may become a large result.
    """

    kept: ClassVar[SizedCache[Hashable, tuple[Any, CountedWork]]] = SizedCache(MAX_KEPT_BYTES)

    def __init__(
        self,
        encode: Callable[[_Argument, WorkBudget, *_Arguments], _Encoded],
        identity: Callable[[_Argument], Hashable] | None,
        measure: Callable[[_Argument, _Encoded], int],
    ) -> None:
        """Create an empty cache for the results of the function `encode`.

        `identity`: function that returns the cache key of the first argument. None: the argument itself is the key.
        `measure`: function that returns the bytes of the first argument and of its result.
        """
        self._encode = encode
        self._identity = identity
        self._measure = measure

    def get_or_encode(self, argument: _Argument, budget: WorkBudget, *arguments: *_Arguments) -> _Encoded:
        place = (self, argument if self._identity is None else self._identity(argument), *arguments)
        found = self.kept.get(place)
        if found is None:
            steps, nodes = budget.counted_work
            encoded = self._encode(argument, budget, *arguments)
            after = budget.counted_work
            work = CountedWork(after.steps - steps, after.nodes - nodes)
            size = _BYTES_PER_RESULT + self._measure(argument, encoded)
            if size <= MAX_KEPT_BYTES // 4:  # a larger one would displace those of other clients
                self.kept.put(place, (encoded, work), size)
            return encoded
        budget.count_cached_work(found[1])
        return cast("_Encoded", found[0])
