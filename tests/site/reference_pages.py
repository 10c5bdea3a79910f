"""The pages of docs/reference/: settings from .env.example, the command line from cyclopts, metrics from the code."""

import re
from collections.abc import Iterator

from anthropic_proxy.cli import commands
from anthropic_proxy.metrics import families
from anthropic_proxy.metrics.families import MetricFamily
from anthropic_proxy.routing.providers import PROVIDERS
from anthropic_proxy.settings.load import list_variables
from tests.support.paths import ROOT

SETTINGS_SOURCE = ROOT / ".env.example"
_ASSIGNMENT = re.compile(r"(?:# )?([A-Z][A-Z0-9_]*)=(.*)")
_PLACEHOLDER = re.compile(r"your-")
_MARK = "<!-- Written by `python3 scripts/fix.py` from {source}: change that instead. -->"

_SETTINGS = """\
# Settings

{mark}

Every variable of the environment or of `.env`. [Configuration](../guide/configuration.md) describes their precedence.
An empty value counts as not set. Names are links: `#openai_api_key`.
"""
_COMMANDS = """\
# Command line

{mark}

Every command with its options. [Commands](../guide/commands.md) describes their use. In a checkout the program is
`.venv/bin/anthropic-proxy`. Without a command, `serve` runs.
"""
_METRICS = """\
# Metrics

{mark}

`GET /metrics` returns these metrics in the format of Prometheus. [Operations](../guide/operations.md#metrics) describes
access, limits and workers.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""


def settings_page() -> str:
    """Return the reference of settings: a table for each section of .env.example."""
    blocks = [_SETTINGS.format(mark=_MARK.format(source=".env.example"))]
    for section in re.split(r"^## ", SETTINGS_SOURCE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        rows = "\n".join(_setting_rows(text))
        blocks.append(f"## {title}\n\n| variable = default or example | meaning |\n| --- | --- |\n{rows}\n")
    return "\n".join(blocks)


def documented_settings() -> set[str]:
    """Return the variables of .env.example."""
    return {match[1] for match in map(_ASSIGNMENT.fullmatch, SETTINGS_SOURCE.read_text("utf-8").splitlines()) if match}


def known_settings() -> set[str]:
    """Return the variables that the proxy reads."""
    return set(list_variables(PROVIDERS))


def commands_page() -> str:
    """Return the reference of commands, as cyclopts writes it from the docstrings."""
    written = commands.generate_docs(output_format="markdown", heading_level=1, include_hidden=False)
    sections = written[written.index("\n## anthropic-proxy ") :]
    sections = re.sub(r"^(anthropic-proxy [\w -]+?) -m [\w.]+", r"\1", sections, flags=re.MULTILINE)  # of `python -m`
    mark = _MARK.format(source="the docstrings in anthropic_proxy/cli")
    return _COMMANDS.format(mark=mark) + sections.replace("```console", "```").rstrip() + "\n"


def metrics_page() -> str:
    """Return the reference of metrics."""
    mark = _MARK.format(source="anthropic_proxy/metrics/families.py")
    rows = (
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{name}`' for name in one.label_names) or '–'} | {one.help} |"
        for one in vars(families).values()
        if isinstance(one, MetricFamily)
    )
    return _METRICS.format(mark=mark) + "\n".join(rows) + "\n"


def setting_comments() -> Iterator[tuple[list[str], str]]:
    """Yield the variables of .env.example with the comment that describes them."""
    comment: list[str] = []
    names: list[str] = []
    for line in [*SETTINGS_SOURCE.read_text("utf-8").splitlines(), ""]:
        if match := _ASSIGNMENT.fullmatch(line):
            names.append(match[1])
            continue
        if names:
            yield names, " ".join(comment)
            comment, names = [], []
        comment = [*comment, line.removeprefix("# ")] if line.startswith("# ") else []


def _setting_rows(text: str) -> Iterator[str]:
    """Find the variables of a section. The comment lines before variables describe all of them."""
    comment: list[str] = []
    variables: list[str] = []
    for line in [*text.splitlines(), "# "]:
        match = _ASSIGNMENT.fullmatch(line)
        if match is None and variables:
            yield f"| {'<br>'.join(variables)} | {' '.join(comment).replace('|', chr(92) + '|')} |"
            comment, variables = [], []
        if match:
            value = "" if _PLACEHOLDER.match(match[2]) else f" = `{match[2]}`"
            variables.append(f'<a id="{match[1].lower()}"></a>`{match[1]}`{value}')
        elif line.startswith("# "):
            comment.append(line.removeprefix("# ").replace("<", "&lt;"))
        else:
            comment = []
