"""The contents of a row of the table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.call import Act, Call, Script
from tests.faults.client import Answer, Asking, encode_request, request_of
from tests.faults.expected import Case, Cases
from tests.faults.upstream import FaultyUpstream
from tests.faults.voices import Voice


@dataclass(frozen=True)
class Scene:
    """One request of one row: the client's side, and the provider asked."""

    voice: Voice
    streams: bool
    port: int
    """The port on which the proxy listens."""
    upstream: FaultyUpstream


@dataclass
class Seen:
    """The outcome of one request."""

    answer: Answer
    seconds: float | None = None
    """Until the client had its last byte; where it left, until the provider saw that."""
    problems: list[str] = field(default_factory=list)


def ask(scene: Scene, **fields: object) -> Seen:
    """Ask as every client does, and read what comes."""
    asking = Asking(scene.port, scene.upstream.words_came.set)
    try:
        asking.send(encode_request(request_of(scene.voice, streams=scene.streams, **fields)))
        answer = asking.read_answer()
    finally:
        asking.close()
    return Seen(answer, answer.seconds)


def ask_with(**fields: object) -> Callable[[Scene], Seen]:
    """Return a client that sends further fields in its request."""

    def ask_more(scene: Scene) -> Seen:
        return ask(scene, **fields)

    return ask_more


def ask_twice(scene: Scene) -> Seen:
    """Ask, and ask again once the first reply is whole: only the second one is the row's."""
    ask(scene)
    scene.upstream.wait_for(lambda: all(call.rests for call in scene.upstream.calls))
    scene.upstream.asked = 0
    return ask(scene)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault."""

    phase: str
    fault: str
    """Description in plain text; with the phase it is the row's name."""
    scripts: Sequence[Script]
    """Behaviour of the provider, connection by connection; the last script serves all that follow."""
    cases: Cases
    differ: Mapping[str, Cases] = field(default_factory=dict)
    """Name of a voice → what becomes of it there."""
    because: str = ""
    """Why it differs there."""
    settings: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[Scene], Seen] = ask
    arm: Callable[[FaultyUpstream], None] | None = None
    """Does to the provider's address what no script can."""
    scheme: str = "http"
    heavy: bool = False
    """True if it moves so much that one voice after the other is asked."""

    @property
    def name(self) -> str:
        return f"{self.phase}: {self.fault}"

    def case(self, voice: Voice, streams: bool) -> Case | None:
        return self.differ.get(voice.name, self.cases).of(streams)


def answers(*acts: Act) -> Sequence[Script]:
    """Return the scripts of a provider that reads the request and then does the same to each."""
    return ((Call.hear, *acts),)
