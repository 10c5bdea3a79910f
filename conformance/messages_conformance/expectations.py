"""The vocabulary of expectations: each function returns sentences about what is wrong, none if all is right."""

from collections.abc import Callable, Mapping
from typing import Any

from messages_conformance.grammar import EventGrammar
from messages_conformance.trial import Trial

Arguments = Mapping[str, Any]
Expect = Callable[[Arguments, Trial], list[str]]


def expect_status(arguments: Arguments, trial: Trial) -> list[str]:
    """`status = 200`: the status of the last reply."""
    status = trial.last.status
    return [] if status == arguments["status"] else [f"the status is {status} instead of {arguments['status']}"]


def expect_header(arguments: Arguments, trial: Trial) -> list[str]:
    """`header = "content-type"`, `starts = "application/json"`: the begin of a header of the last reply."""
    value = trial.last.header(arguments["header"])
    if value is not None and value.lower().startswith(arguments["starts"]):
        return []
    return [f"the header {arguments['header']} is {value!r}, it does not begin with {arguments['starts']!r}"]


def expect_path(arguments: Arguments, trial: Trial) -> list[str]:
    """`path = "content.0.type"`, `equals = "text"`: a value in the message of the last reply."""
    value: Any = trial.last.message
    for part in arguments["path"].split("."):
        try:
            value = value[int(part) if isinstance(value, list) else part]
        except (KeyError, IndexError, TypeError, ValueError):
            return [f"the message has no {arguments['path']}"]
    wanted = arguments["equals"]
    return [] if value == wanted else [f"{arguments['path']} of the message is {value!r} instead of {wanted!r}"]


def expect_grammar(_arguments: Arguments, trial: Trial) -> list[str]:
    """`grammar = true`: the stream of the last reply has the order and the forms of events of the API."""
    grammar = EventGrammar()
    grammar.feed_bytes(trial.last.body)
    return [str(violation) for violation in grammar.finish()]


EXPECTATIONS: Mapping[str, Expect] = {
    "status": expect_status,
    "header": expect_header,
    "path": expect_path,
    "grammar": expect_grammar,
}
"""Key of a table `[[check.expect]]` → the function that judges. A table has exactly one of these keys."""
