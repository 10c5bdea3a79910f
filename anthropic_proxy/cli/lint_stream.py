"""Command `lint-stream`: checks a captured event stream of the Messages API.

Each violation of the rules, such as an event in the wrong order, is printed as one line.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import Parameter

if TYPE_CHECKING:
    from anthropic_proxy.cli.output import Output
    from anthropic_proxy.lab.stream_grammar import EventGrammar

EXIT_INVALID = 1
"""Exit status 1: the stream has violations of the grammar."""

MAX_SHOWN_OF_ONE_KIND = 3
"""Maximum number of printed violations that have the same rule, and the same text except for its numbers. `--json`
prints all."""
MAX_STREAM_BYTES = 64 * 1024 * 1024
"""Maximum size of a stream, the same as of a reply that the proxy collects."""
_NUMBER = re.compile(r"\d+")


def lint_stream(
    file: Path,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Check a captured event stream of the Messages API against the grammar of its events.

    Each violation is one line: file, line, event, rule and cause. Exit status 0: valid; 1: violations.

    Parameters
    ----------
    file
        Server-sent events as received, for example by `curl -N`; `-` for standard input.
    as_json
        Print one JSON object instead.
    """
    from anthropic_proxy.cli.output import (  # noqa: PLC0415  # --help needs none of it
        Output,
        describe_input,
        read_input,
    )
    from anthropic_proxy.lab.stream_grammar import EventGrammar  # noqa: PLC0415

    grammar, output = EventGrammar(), Output()
    content = read_input(file, MAX_STREAM_BYTES)
    if other := _find_other_format(content):
        _reject(f"{describe_input(file)} is no event stream: it contains {other}")
    grammar.feed_bytes(content)
    violations = grammar.finish()
    if as_json:
        output.write_json(
            {"file": str(file), "valid": not violations, "events": grammar.event_count, "violations": violations}
        )
    else:
        _write_report(output, grammar, describe_input(file))
    if violations:
        sys.exit(EXIT_INVALID)


def _reject(message: str) -> NoReturn:
    from anthropic_proxy.log import Log, escape_unprintable  # noqa: PLC0415

    Log(form="plain").write_line(f"✕ {escape_unprintable(message)}", level="error")
    sys.exit(EXIT_INVALID)


def _find_other_format(content: bytes) -> str:
    """Return the format of `content`, a reply that is no event stream: a web page, a JSON error, another API.

    "": unknown.
    """
    start = content.removeprefix(b"\xef\xbb\xbf").strip()
    if start.startswith(b"<"):
        return "a web page (HTML). Check the URL of the request."
    if b'"chat.completion.chunk"' in start.partition(b"\n")[0]:
        return "chunks of OpenAI Chat Completions, not events of the Messages API."
    try:
        reply = json.loads(start)
    except (ValueError, RecursionError):
        return ""
    error = reply.get("error") if isinstance(reply, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if isinstance(message, str):
        return f"a JSON error: {message}"
    return "JSON. Set stream to true in the request."


def _write_report(output: "Output", grammar: "EventGrammar", name: str) -> None:
    from anthropic_proxy.log import escape_unprintable  # noqa: PLC0415

    repeated: Counter[tuple[str, str]] = Counter()
    for violation in grammar.violations:
        kind = (violation.rule, _NUMBER.sub("0", violation.message))
        repeated[kind] += 1
        if repeated[kind] <= MAX_SHOWN_OF_ONE_KIND:
            position = output.paint(f"{name}:{violation.line}" if violation.line else name, "quiet")
            rule = output.paint(violation.rule, "error")
            output.write_line(f"{position}: {rule}: {escape_unprintable(str(violation))}")
    for (rule, _), number in repeated.items():
        if number > MAX_SHOWN_OF_ONE_KIND:
            omitted = _count(number - MAX_SHOWN_OF_ONE_KIND, "similar violation")
            output.write_line(f"{output.paint(name, 'quiet')}: {output.paint(rule, 'error')}: {omitted} not shown")
    events = _count(grammar.event_count, "event")
    if grammar.violations:
        violations = _count(len(grammar.violations), "violation")
        output.write_line(output.paint(f"✕ {violations} in {events}", "error"))
    else:
        output.write_line(output.paint(f"✓ {events}, no violations", "ok"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
