"""The contents of a row of the table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.call import Act, Call, Script
from tests.faults.client import Answer, Asking, encode_request, request_of
from tests.faults.expected import Case, Cases
from tests.faults.protocols import ProviderProtocol
from tests.faults.upstream import FaultyUpstream


@dataclass(frozen=True)
class FaultContext:
    """One request of one row: the client's side, and the provider asked."""

    protocol: ProviderProtocol
    streams: bool
    port: int
    """The port on which the proxy listens."""
    upstream: FaultyUpstream


@dataclass
class Observed:
    """The outcome of one request."""

    answer: Answer
    seconds: float | None = None
    """Until the client had its last byte; where it left, until the provider saw that."""
    problems: list[str] = field(default_factory=list)


def ask(context: FaultContext, **fields: object) -> Observed:
    """Send the request of every client, and read the response."""
    asking = Asking(context.port, context.upstream.words_came.set)
    try:
        asking.send(encode_request(request_of(context.protocol, streams=context.streams, **fields)))
        answer = asking.read_answer()
    finally:
        asking.close()
    return Observed(answer, answer.seconds)


def ask_with(**fields: object) -> Callable[[FaultContext], Observed]:
    def ask_more(context: FaultContext) -> Observed:
        return ask(context, **fields)

    return ask_more


def ask_chain(context: FaultContext) -> Observed:
    """Ask for the route of the wire: a model that its provider may not have, and then the usual one."""
    return ask(context, model=context.protocol.route)


def ask_twice(context: FaultContext) -> Observed:
    """Ask, and ask again once the first reply is whole: only the second one is the row's."""
    ask(context)
    context.upstream.wait_for(lambda: all(call.rests for call in context.upstream.calls))
    context.upstream.asked = 0
    return ask(context)


@dataclass(frozen=True, kw_only=True)
class FaultCase:
    """One fault."""

    phase: str
    fault: str
    """Description in plain text; with the phase it is the row's name."""
    scripts: Sequence[Script]
    """Behaviour of the provider, connection by connection; the last script serves all that follow."""
    cases: Cases
    differ: Mapping[str, Cases] = field(default_factory=dict)
    """Name of a protocol → outcome of the fault there."""
    because: str = ""
    """Why it differs there."""
    settings: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[FaultContext], Observed] = ask
    arm: Callable[[FaultyUpstream], None] | None = None
    """Change of the provider's address that no script can make."""
    scheme: str = "http"
    heavy: bool = False
    """True if it moves so much that one protocol after the other is asked."""

    @property
    def name(self) -> str:
        return f"{self.phase}: {self.fault}"

    def case(self, protocol: ProviderProtocol, streams: bool) -> Case | None:
        return self.differ.get(protocol.name, self.cases).of(streams)


def fault_case(phase: str, fault: str, cases: Cases, *acts: Act, **options: Any) -> FaultCase:
    """Return a fault. `acts`: what the provider does after it has received a request, unless there are `scripts`."""
    return FaultCase(phase=phase, fault=fault, cases=cases, **{"scripts": ((Call.receive, *acts),), **options})
