"""The pages of docs/reference/: command line, metrics and JSON log, from the code."""

import ast
import inspect
import itertools
import re
import typing
from collections.abc import Iterator

from msgspec import Struct

from anthropic_proxy.cli.commands import commands
from anthropic_proxy.gateway.telemetry import metrics
from anthropic_proxy.plugins import Receipt

_MARK = "<!-- Written by `python3 scripts/fix.py` from {source}: change that instead. -->"

_COMMANDS = """\
# Command line

{mark}

Every command with its options. [Commands](../guide/commands.md) describes their use. Without a command,
`serve` runs.
"""
_METRICS = """\
# Metrics

{mark}

`GET /metrics` returns these metrics in the format of Prometheus. [Logs, metrics,
traces](../guide/observability.md#metrics) describes access and alerts.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""
_LOG = """\
# JSON log

{mark}

With `LOG_FORMAT=json`, the log has one JSON object per line. [Logs, metrics, traces](../guide/observability.md#the-log)
describes the log.

Each line has `time` (UTC, RFC 3339) and `level` (`debug`, `info`, `warning`, `error`). A line that is no request has
`message`; at the start of the server `event` is `start`, with `address`, `dashboard`, `sign_in` (the address at which
people sign in from Claude Code), `mapping`, `ready` and `not_set`; a defect of the proxy has `request_id` and `trace`,
its traceback.

## A request

The log has no content of requests and no key. If the request belongs to a trace, `trace_id`, `span_id` and
`trace_flags` are its ids; `span_id` is missing if traces are off. `started_at` is written like `time`, and has the same
value.

{rows}
"""
_LOG_SECTION = """\

## Objects of `{name}`

{rows}
"""


def commands_page() -> str:
    written = commands.generate_docs(output_format="markdown", heading_level=1, include_hidden=False)
    sections = written[written.index("\n## anthropic-proxy ") :]
    sections = re.sub(r"^(anthropic-proxy [\w -]+?) -m [\w.]+", r"\1", sections, flags=re.MULTILINE)  # of `python -m`
    mark = _MARK.format(source="the docstrings in anthropic_proxy/cli")
    return _COMMANDS.format(mark=mark) + sections.replace("```console", "```").rstrip() + "\n"


def metrics_page() -> str:
    """Return the reference of metrics."""
    mark = _MARK.format(source="anthropic_proxy/gateway/telemetry/metrics.py")
    rows = (
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{name}`' for name in one.label_names) or '–'} | {one.help} |"
        for one in vars(metrics).values()
        if isinstance(one, metrics.MetricFamily)
    )
    return _METRICS.format(mark=mark) + "\n".join(rows) + "\n"


def log_page() -> str:
    """Return the reference of the JSON log: a table for each kind of object in it."""
    mark = _MARK.format(source="anthropic_proxy/plugins.py")
    blocks = [_LOG.format(mark=mark, rows=_field_table(Receipt))]
    waiting = list(_nested_records(Receipt, ""))
    for name, record in waiting:
        blocks.append(_LOG_SECTION.format(name=name, rows=_field_table(record)))
        waiting += _nested_records(record, f"{name}.")
    return "".join(blocks)


def _nested_records(record: type[Struct], prefix: str) -> Iterator[tuple[str, type[Struct]]]:
    for name, kind in typing.get_type_hints(record).items():
        for each in (kind, *typing.get_args(kind)):
            if isinstance(each, type) and issubclass(each, Struct) and name != "trace":
                yield f"{prefix}{name}", each


def _field_table(record: type[Struct]) -> str:
    body: list[ast.stmt] = []
    for each in record.__mro__[: record.__mro__.index(Struct)]:
        (definition,) = ast.parse(inspect.getsource(each)).body
        assert isinstance(definition, ast.ClassDef)
        body += definition.body
    rows = ["| field | meaning |", "| --- | --- |"]
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id != "trace":
            assert isinstance(text, ast.Expr), f"{record.__name__}.{field.target.id} has no docstring"
            meaning = " ".join(ast.literal_eval(text.value).split()).replace("|", "\\|").replace("None:", "null:")
            rows.append(f"| `{field.target.id}` | {meaning} |")
    return "\n".join(rows)
