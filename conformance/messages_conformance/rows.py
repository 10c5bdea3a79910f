"""Checks as rows of data: the files `checks/*.toml`, read and validated.

A row says which requests are sent, what a scripted upstream answers, and what is expected. `checks/shared`
has named requests, which the requests of rows extend with `like`, and the sources that rows name.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

CHECKS_FOLDER = Path(__file__).parent / "checks"
REQUESTS_FILE = Path("shared", "requests.toml")
SOURCES_FILE = Path("shared", "sources.toml")
VERSIONS = ("2023-06-01", "2026-10-21")
"""Values of the header `anthropic-version` that the suite knows."""
FROZEN_SETS = (*VERSIONS, "claude-code-2.1.332")
"""Sets whose rows do not change any more."""
DRAFT = "draft"
SETS = (*FROZEN_SETS, DRAFT)
NEEDS: Mapping[str, str] = {
    "backend": "a scripted upstream (--backend)",
    "tools": "tools",
    "forced-tools": "a model that takes a forced tool (tool_choice any or tool)",
    "images": "images",
    "image-addresses": "images by their address, which the server fetches from the internet",
    "documents": "documents",
    "thinking": "thinking with a budget (type enabled)",
    "adaptive-thinking": "thinking of the type adaptive",
    "thinking-off": "a model that takes thinking of the type disabled",
    "effort": "all levels of effort, from low to max",
    "context-editing": "edits of the context (context_management)",
    "compaction": "compaction (compaction, compact_20260112, compaction blocks)",
    "citations": "citations of documents and search results",
    "json-schema": "structured output (output_config.format, strict tools)",
    "count": "the endpoint count_tokens",
    "models-list": "the list of models",
    "caching": "prompt caching",
    "keys": "a key that the server checks (MESSAGES_API_KEY)",
    "long-prompts": "a model that takes prompts of 16,000 tokens",
    "upstream-forced-tools": "a backend whose protocol can force a tool",
    "refusals": "a backend whose protocol reports refusals",
    "cached-tokens": "a backend whose protocol reports cached tokens",
    "written-tokens": "a backend whose protocol reports tokens that were written to a cache",
    "signatures": "a backend whose protocol has signatures of thinking",
    "upstream-citations": "a backend whose protocol has citations of the Messages API",
    "upstream-one-call": "a backend whose protocol can limit a reply to one call",
    "many-tools": "a backend whose protocol takes more than 128 tools",
    "upstream-messages": "a backend with the Messages API",
    "thinking-tokens": "a backend whose protocol reports tokens of thinking",
}
"""What a row can need → its description."""


_TRIALS_OF_A_MODEL = 3


class SuiteError(Exception):
    """The suite, its arguments or its files are wrong, not the server."""


class Level(StrEnum):
    MUST = "MUST"
    """The API reference or the official SDK says it."""
    SHOULD = "SHOULD"
    """Claude Code needs it."""
    MAY = "MAY"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that the client does; most checks have a single request."""

    do: str = "request"
    """Name in the table `STEPS`."""
    method: str = "POST"
    path: str = "/v1/messages"
    headers: Mapping[str, str | None]
    """Beside the usual ones. None: the usual header of this name is not sent."""
    body: Mapping[str, Any] | None
    """None: no body."""
    raw: str | None = None
    """Text that is sent instead of `body`, such as invalid JSON."""
    cut_after: str = ""
    """Name of the event after which the client closes the connection. "": it reads to the end."""
    arguments: Mapping[str, Any]
    """Further fields, for steps with another `do`."""


Expectation = Mapping[str, Any]
"""One key is a name in the table `EXPECTATIONS`, the others are its arguments."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule of the Messages API, and how it is tried."""

    id: str
    """`GROUP.name`; never changes."""
    level: Level
    rule: str
    """The rule in one sentence."""
    source: str
    """Title, place in it, and address."""
    read: date
    """Day on which the source was read."""
    versions: tuple[str, ...]
    sets: tuple[str, ...]
    needs: tuple[str, ...]
    repeats: int
    """Number of trials of which one has to pass, where a model can fail the check by its weakness. A scripted upstream
    gets one trial."""
    given: tuple[Expectation, ...]
    """What a real model has to do, in the words of `expect`, such as calling a tool. If it does not, the check says
    nothing about the server. A scripted upstream does it always, so this is not judged there."""
    steps: tuple[Step, ...]
    replies: tuple[Mapping[str, Any], ...]
    """What the scripted upstream answers, in the order of its calls; the last one for all further calls."""
    expect: tuple[Expectation, ...]

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]


def load_checks(folder: Path = CHECKS_FOLDER) -> tuple[Check, ...]:
    """Read all rows, by file and place in it. Raises `SuiteError`."""
    named = _read_toml(folder / REQUESTS_FILE)
    sources = _read_toml(folder / SOURCES_FILE)
    checks = list[Check]()
    for file in sorted(folder.glob("*.toml")):
        for number, row in enumerate(_read_toml(file).get("check", []), start=1):
            reader = _RowReader(f"{file.name}, check {row.get('id', number)}", named, sources)
            checks.append(reader.read(row))
    if repeated := _find_repeated(check.id for check in checks):
        raise SuiteError(f"two checks have the id {repeated}")
    return tuple(checks)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`; tables are merged, everything else is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SuiteError(f"{file} cannot be read: {error}") from error


def _find_repeated(values: Iterable[str]) -> str | None:
    seen = set[str]()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


_ROW_FIELDS = frozenset({field.name for field in fields(Check)} - {"read"} | {"where", "request", "reply"})
_STEP_FIELDS = frozenset(field.name for field in fields(Step)) - {"arguments"}


class _RowReader:
    def __init__(self, place: str, named: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
        self._place = place
        self._named = named
        self._sources = sources

    def read(self, row: Mapping[str, Any]) -> Check:
        for name in row:
            self._require(name in _ROW_FIELDS, f"there is no field {name}")
        for name in ("id", "level", "rule", "source", "sets", "expect"):
            self._require(name in row, f"{name} is missing")
        identifier = row["id"]
        self._require(isinstance(identifier, str) and "." in identifier, f"id is {identifier!r}, not GROUP.name")
        self._require(("request" in row) != ("steps" in row), "it needs either request or steps")
        self._require(not ("reply" in row and "replies" in row), "it has reply and replies")
        expect = tuple(row["expect"])
        self._require(bool(expect), "it expects nothing")
        source = self._sources[self._find_value("source", row["source"], tuple(self._sources))]
        parts = (source["title"], row.get("where"), source.get("url"))
        return Check(
            id=identifier,
            level=Level(self._find_value("level", row["level"], tuple(Level))),
            rule=row["rule"],
            source=", ".join(filter(None, parts)),
            read=source["read"],
            versions=self._find_values("versions", row.get("versions", VERSIONS), VERSIONS),
            sets=self._find_values("sets", row["sets"], SETS),
            needs=self._find_values("needs", row.get("needs", ()), tuple(NEEDS)),
            repeats=row.get("repeats", _TRIALS_OF_A_MODEL if "given" in row else 1),
            given=tuple(row.get("given", ())),
            steps=tuple(map(self._read_step, row["steps"] if "steps" in row else [row["request"]])),
            replies=tuple(row["replies"] if "replies" in row else [row["reply"]] if "reply" in row else ()),
            expect=expect,
        )

    def _read_step(self, given: Mapping[str, Any]) -> Step:
        table = self._extend(given)
        body = table.get("body")
        if "stream" in table and body is not None:
            body = {**body, "stream": table["stream"]}
        known = {name: value for name, value in table.items() if name in _STEP_FIELDS}
        arguments = {name: value for name, value in table.items() if name not in (*_STEP_FIELDS, "stream", "like")}
        self._require(not arguments or "do" in known, f"a request has no field {', '.join(arguments)}")
        # TOML has no null: false removes a header
        headers = {name: value or None for name, value in table.get("headers", {}).items()}
        return Step(**{**known, "headers": headers, "body": body, "arguments": arguments})

    def _extend(self, table: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request with the fields of the named one that it is `like`."""
        name = table.get("like")
        if name is None:
            return table
        self._find_value("like", name, tuple(self._named))
        return merge(self._extend(self._named[name]), table)

    def _find_values(self, field: str, values: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
        self._require(isinstance(values, (list, tuple)), f"{field} is {values!r}, not a list")
        return tuple(self._find_value(field, value, allowed) for value in values)

    def _find_value(self, field: str, value: str, allowed: Sequence[str]) -> str:
        self._require(value in allowed, f"{field} has {value!r}; allowed: {', '.join(allowed)}")
        return value

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise SuiteError(f"{self._place}: {message}")
