"""Errors of providers, as their servers send them, and what the proxy makes of each: `tests/golden_texts/errors`.

An error is one or several statuses (`stream`: inside a reply) and the body, or only the message of an error of OpenAI's
form (`raw`: a body that looks like one); then response headers, and what is known of the request (`estimate` and
`window` in tokens, `effort`). What no line of a result names has its default.
"""

import re

import msgspec
import pytest

from anthropic_proxy.engine.wires import failures
from anthropic_proxy.errors import UnreadableReply
from tests.support.golden_texts import Check, golden_files

ASKED = 64_000
KNOWN = {"estimate": "20000", "window": "0", "effort": ""}
ERROR = re.compile(r"((?:\d{3}|stream)\b(?: \d{3}\b)*) ?(.*)")
NAMES = frozenset(("temperature", "parallel_tool_calls", "reasoning_effort", "store", "strict", "stream_options"))


def convert(status: str, body: str, given: dict[str, str]) -> str:
    """Return the results for one status, as lines."""
    known = KNOWN | given
    if body.startswith("raw "):
        body = body.removeprefix("raw ")
    elif body and body[0] not in "{[<":
        body = msgspec.json.encode({"error": {"message": body}}).decode()
    if status == "stream":
        fault = failures.read_error_object(msgspec.json.decode(body), 200, {})
    else:
        fault = failures.decode_error_body(int(status), given, body.encode())
    counts = failures.KnownTokenCounts(int(known["window"]) or None, lambda: int(known["estimate"]), ASKED)
    error = failures.build_upstream_error(fault, "groq", counts)
    text, effort = fault.message, known["effort"]
    end = failures.find_reply_end(fault, "groq", has_content=True)
    cause = msgspec.to_builtins(error.cause) if error.cause else {}
    results = {
        "retryable": error.retryable,
        "x-should-retry": {None: "", True: "true", False: "false"}[error.should_retry],
        "retry-after": error.retry_after,
        "parameter": error.parameter,
        "cause": " ".join(f"{name}={value}" for name, value in cause.items() if value not in (None, True)),
        "ends the reply": end and end.reason,
        "rejected setting": failures.find_rejected_parameter(text, NAMES),
        "rejected role": failures.rejects_developer_role(text),
        "rejected content of results": failures.rejects_tool_result_content(text, error.parameter),
        "rejected images of results": failures.rejects_tool_result_images(text, error.parameter),
        "effort instead": effort and failures.find_replacement_effort(text, effort, effort),
        "unreadable": isinstance(error, UnreadableReply),
        "for the log": "".join(getattr(error, "__notes__", ())),
    }
    assert error.provider == "groq"
    first = f"{error.status} {error.error_type} ({error.code}): {error.message}"
    others = "; ".join(f"{name}: {value}" for name, value in results.items() if value)
    return f"{first}\n{others}" if others else first


def convert_all(error: str) -> str:
    """Return the results of all statuses of an error. Equal results are written once."""
    first, *more = error.split("\n")
    statuses, body = ERROR.fullmatch(first).groups()
    given = dict(line.split(": ", 1) for line in more)
    found: dict[str, list[str]] = {}
    for status in statuses.split():
        found.setdefault(convert(status, body, given), []).append(status)
    return "\n".join((f"{' '.join(having)}\n" if len(found) > 1 else "") + result for result, having in found.items())


@pytest.mark.parametrize("name", golden_files("errors"))
def test_errors_of_providers(name: str, golden: Check) -> None:
    golden(name, convert_all)
