"""Results that a client may expect where something fails: as text for the table and as a check of an answer."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.client import Answer
from tests.faults.protocols import BEGUN, WHOLE


@dataclass(frozen=True)
class Complete:
    """The whole reply, as if nothing had happened."""

    text: str = WHOLE
    stop: str = "end_turn"
    words: str = "the complete reply"

    def check(self, answer: Answer) -> Iterator[str]:
        if answer.status != 200:
            yield f"{answer.status} {answer.error or answer.body[:200]!r}"
            return
        if answer.error:
            yield f"an error at the end: {answer.error}"
        if answer.text != self.text:
            yield f"the text is {answer.text[:80]!r} ({len(answer.text)} characters)"
        if answer.stop_reason != self.stop:
            yield f"stop_reason {answer.stop_reason!r}"


@dataclass(frozen=True)
class Refused:
    """A real HTTP status with an error envelope."""

    status: int
    kind: str
    wait: int | str | None = None
    """The value of `retry-after`; None: there is none."""
    final: bool = False
    """True if the client is instructed not to try again."""
    message: str = ""
    """The whole message, where it is fixed."""

    @property
    def words(self) -> str:
        text = f" “{self.message}”" if self.message else ""
        wait = "" if self.wait is None else f", `retry-after: {self.wait}`"
        return f"{self.status} `{self.kind}`{text}{wait}{', `x-should-retry: false`' if self.final else ''}"

    def check(self, answer: Answer) -> Iterator[str]:
        if (answer.status, answer.error.get("type")) != (self.status, self.kind):
            yield f"{answer.status} {answer.error or answer.body[:200]!r}"
            return
        if not answer.error.get("message"):
            yield "an error without a message"
        if self.message and answer.error["message"] != self.message:
            yield f"the message is {answer.error['message']!r}"
        if not answer.headers.get("request-id"):
            yield "no request-id"
        wait = answer.headers.get("retry-after")
        if wait != (None if self.wait is None else str(self.wait)):
            yield f"retry-after {wait!r}"
        if (answer.headers.get("x-should-retry") == "false") != self.final:
            yield f"x-should-retry {answer.headers.get('x-should-retry')!r}"


@dataclass(frozen=True)
class Cut:
    """The part that had arrived, and then the event with the reason why there is no more."""

    kind: str = "api_error"
    text: str = BEGUN

    @property
    def words(self) -> str:
        return f"the content so far, then `error` (`{self.kind}`)"

    def check(self, answer: Answer) -> Iterator[str]:
        if answer.status != 200 or not answer.streamed:
            yield f"{answer.status} {answer.error or answer.body[:200]!r}"
            return
        if answer.error.get("type") != self.kind:
            yield f"the last event is {(answer.events or [None])[-1]}"
        if answer.text != self.text:
            yield f"the text is {answer.text[:80]!r}"
        if answer.stop_reason is not None:
            yield f"a silent end: {answer.stop_reason}"


@dataclass(frozen=True)
class Passed:
    """The provider's own bytes, however odd."""

    words: str = "forwarded unchanged"

    def check(self, answer: Answer) -> Iterator[str]:
        if answer.status != 200 or not answer.body:
            yield f"{answer.status} {answer.body[:200]!r}"


@dataclass(frozen=True)
class ClientDisconnected:
    """Nothing: the client had left."""

    words: str = "no client; the upstream call is closed"

    def check(self, answer: Answer) -> Iterator[str]:
        yield from ()


Expected = Complete | Refused | Cut | Passed | ClientDisconnected


@dataclass(frozen=True)
class Case:
    """The outcome of a fault, and how often the provider was asked."""

    expected: Expected
    calls: int = 1

    @property
    def words(self) -> str:
        often = {0: "no call", 1: "1 call", 2: "2 calls"}.get(self.calls, f"{self.calls} calls")
        return f"{self.expected.words} ({often})"


@dataclass(frozen=True)
class Cases:
    """The same fault for a client that streams and for one that does not."""

    streamed: Case | None
    whole: Case | None
    """None: there is no such thing."""

    def of(self, streams: bool) -> Case | None:
        return self.streamed if streams else self.whole


def both(expected: Expected, calls: int = 1) -> Cases:
    return Cases(Case(expected, calls), Case(expected, calls))


def streamed(expected: Expected, calls: int = 1) -> Cases:
    return Cases(Case(expected, calls), None)


def whole(expected: Expected, calls: int = 1) -> Cases:
    return Cases(None, Case(expected, calls))


def check_answer(expected: Expected, answer: Answer) -> Iterator[str]:
    """Yield the violations in a response: in its content, and in its end."""
    if isinstance(expected, ClientDisconnected):
        return
    if answer.hung:
        yield "it hangs"
    elif not answer.complete:
        yield f"it ends in the middle ({answer.status}, {answer.body[-80:]!r})"
    yield from expected.check(answer)
    if not isinstance(expected, Passed):
        yield from answer.faults
