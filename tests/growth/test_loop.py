"""The event loop is free for others while a request with many small parts is served, whatever the parts are."""

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from anthropic_proxy.engine.wires.failures.quoted_prompts import RequestWords, count_bytes_on_loop
from tests.growth import loop
from tests.growth.measure import NOISE_CHARACTERS
from tests.growth.operations import converse
from tests.growth.rows_loop import ROWS, fill
from tests.growth.rows_texts import read_calls

WIRES = ("server", "responses", "gemini", "ollama", "relay", "moonshot", "bedrock")
COUNT = "/v1/messages/count_tokens"
FORMS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    **{wire: lambda fields, wire=wire: converse(wire, fields, 1) for wire in WIRES},
    "server, streamed": lambda fields: converse("server", {**fields, "stream": True}, 1),
    "server, three turns": lambda fields: converse("server", fields, 3),
    "server, count": lambda fields: converse("server", fields, 1, COUNT),
}
"""Where a request goes, and how → requests with given fields, the first of which is short."""
LOCKING = ("server", "relay", "bedrock", "server, count")
"""Forms in which C functions are measured."""
IN_EACH_RUN = [
    ("sentences of two characters", "server"),
    ("uses that are cleared", "moonshot"),
    ("steps with one call id", "relay"),
    ("tools", "server, streamed"),
    ("beginnings of marks in a summary", "moonshot"),
    ("lone surrogates in one text", "bedrock"),
]


def list_holding(name: str, forms: Iterable[str]) -> list[str]:
    """Return how the requests of a row hold the loop too long. Empty: they do not."""
    fields = fill(ROWS[name])
    found: list[str] = []
    for form in forms:
        units, outcome = loop.try_again(loop.find_longest_turn, lambda form=form: FORMS[form](fields))
        if units > loop.MAX_UNITS or outcome.startswith("500"):
            found.append(f"{form}: a turn of {units:.0f} units, {outcome}")
        if form in LOCKING:
            units, call = loop.try_again(loop.find_locked_call, lambda form=form: FORMS[form](fields))
            if units > loop.MAX_UNITS:
                found.append(f"{form}: a call of {units:.0f} units, {call}")
    return found


@pytest.mark.parametrize(("name", "form"), IN_EACH_RUN)
def test_no_step_of_a_request_holds_the_loop(name: str, form: str) -> None:
    assert list_holding(name, [form]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_no_step_of_any_form_of_a_request_holds_the_loop(name: str) -> None:
    assert list_holding(name, FORMS) == []


@pytest.mark.parametrize(
    "part", ["word ", "Some of a text.\n", '{"name": "probe", "arguments": ', "[{", "<b>x</b> ", "`a` "]
)
def test_the_search_for_calls_in_a_text_costs_little_for_each_character(part: str) -> None:
    text = part * (NOISE_CHARACTERS // len(part))

    def time_reading() -> float:
        started = time.thread_time()
        read_calls(text)
        return time.thread_time() - started

    assert min(time_reading() for _ in range(8)) <= 3 * loop.time_unit()


REPEATED: Mapping[str, Any] = {
    "names": ["abcdefghijkl"],
    "longer names": ["abcdefghijkl" * 6],
    "names with slashes": ["src/lib/main/java"],
    "texts in base64": [base64.b64encode(b"The grass is green. " * 20).decode()],
    "texts of eight bits in base64": [base64.b64encode(("Grün. " * 60).encode("cp1252")).decode()],
    "texts in UTF-16 and base64": [base64.b64encode(("Зелёный " * 30).encode("utf-16")).decode()],
    "escapes": "ü",
    "escapes in words": "Das ist alles schön und grün. ",
    "escapes in lines": "schön\n",
    "escapes between backslashes": "\\ ü",
    "quotation marks": '"',
}


@pytest.mark.parametrize("what", REPEATED)
def test_a_short_error_is_compared_with_a_request_at_once(what: str) -> None:
    part = REPEATED[what]
    text = "The field is not valid. " * 4
    body = json.dumps(part * (1_300_000 // len(json.dumps(part)))).encode()
    assert len(text) <= count_bytes_on_loop(len(body))

    def time_comparison() -> float:
        started = time.thread_time()
        RequestWords(body).find_quotes(text)
        return time.thread_time() - started

    assert min(time_comparison() for _ in range(4)) <= loop.MAX_UNITS * loop.time_unit()


def test_a_long_step_and_a_long_call_are_found() -> None:
    async def hold() -> str:
        total = sum(number for number in range(3_000_000))
        return f"{' ' * 200_000_000}{total}"[-1:].replace(" ", "")

    assert loop.find_longest_turn([hold])[0] > loop.MAX_UNITS
    units, call = loop.find_locked_call([hold])
    assert units > 0
    assert call
