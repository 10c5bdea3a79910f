"""Command `lint-stream`: checks a captured event stream of the Messages API.

Each violation of the rules, such as an event in the wrong order, is printed as one line.
"""

import json
import sys
from codecs import BOM_UTF8
from collections import Counter
from pathlib import Path

from anthropic_proxy.cli.output import Output, describe_input, read_input
from anthropic_proxy.console import formats
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from messages_conformance.grammar import EventGrammar

EXIT_INVALID = 1
"""Exit status 1: the stream has violations of the grammar."""

MAX_SHOWN_OF_ONE_KIND = 3
"""Maximum number of printed violations that have the same rule, and the same text except for its numbers. `--json`
prints all."""
MAX_STREAM_BYTES = 64 * 1024 * 1024
"""Maximum size of a stream, the same as of a reply that the proxy collects."""
_NUMBER = compile_later(r"\d+")


def lint_stream(file: Path, /, *, as_json: bool = False) -> None:
    """Parameters
    ----------
    file
        Server-sent events as received, for example by `curl -N`; `-` for standard input.
    as_json
        Print one JSON object instead.
    """
    grammar = EventGrammar()
    output = Output()
    content = read_input(file, MAX_STREAM_BYTES)
    if other := _find_other_format(content):
        message = f"✕ {describe_input(file)} is no event stream: it contains {other}"
        Log(form="plain").write_line(escape_unprintable(message), level="error")
        sys.exit(EXIT_INVALID)
    grammar.feed_bytes(content)
    violations = grammar.finish()
    if as_json:
        output.write_json(
            {"file": str(file), "valid": not violations, "events": grammar.event_count, "violations": violations}
        )
        sys.exit(EXIT_INVALID if violations else 0)

    name = describe_input(file)
    repeated: Counter[tuple[str, str]] = Counter()
    for violation in violations:
        kind = (violation.rule, _NUMBER.sub("0", violation.message))
        repeated[kind] += 1
        if repeated[kind] <= MAX_SHOWN_OF_ONE_KIND:
            position = output.paint(f"{name}:{violation.line}" if violation.line else name, "quiet")
            rule = output.paint(violation.rule, "error")
            output.write_line(f"{position}: {rule}: {escape_unprintable(str(violation))}")
    for (rule, _), number in repeated.items():
        if number > MAX_SHOWN_OF_ONE_KIND:
            omitted = formats.plural(number - MAX_SHOWN_OF_ONE_KIND, "similar violation")
            output.write_line(f"{output.paint(name, 'quiet')}: {output.paint(rule, 'error')}: {omitted} not shown")
    events = formats.plural(grammar.event_count, "event")
    if violations:
        output.write_line(output.paint(f"✕ {formats.plural(len(violations), 'violation')} in {events}", "error"))
        sys.exit(EXIT_INVALID)
    output.write_line(output.paint(f"✓ {events}, no violations", "ok"))


def _find_other_format(content: bytes) -> str:
    """Return the format of `content`, a reply that is no event stream: a web page, a JSON error, another API.

    "": unknown.
    """
    start = content.removeprefix(BOM_UTF8).strip()
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
