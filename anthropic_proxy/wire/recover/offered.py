"""The tools that an answer may call, by whatever name a model gives them."""

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from anthropic_proxy.messages.types import Tool
from anthropic_proxy.messages.types.tools import is_client_tool
from anthropic_proxy.wire.contract import Call

UNNAMED = "unnamed_tool"
"""Stands for the name that a call lacks and that nothing tells.

An empty name is no answer: the Messages API and every other provider refuse a history that holds one. Under this one
the clients that we know (Claude Code, the tool runner of the official SDKs) tell the model that there is no such tool,
and it calls again.
"""
_COUNT = re.compile(r":\d+$")
"""What ids of calls add to a name: `functions.Read:0`."""
_NAMESPACE = re.compile(r"[^.:/]*[.:/]")
_LONGEST_NAME = 512
"""Characters of a name that is looked for behind namespaces, each of which is one more way to read it."""


class OfferedTools:
    """Finds the one tool that was meant; None wherever two could be."""

    def __init__(self, call: Call) -> None:
        choice = call.request.tool_choice
        kind = choice.type if choice is not None else "auto"
        self._given = call.request.tools if kind != "none" else []
        self._forced = choice.name if choice is not None and kind == "tool" else None
        self._aliases = call.aliases
        self._folded: dict[str, set[str]] | None = None

    def __bool__(self) -> bool:
        return any(map(is_client_tool, self._given))

    @functools.cached_property
    def _tools(self) -> dict[str, Tool]:
        return {tool.name: tool for tool in self._given if is_client_tool(tool)}

    def match(self, name: str) -> str | None:
        """Return the client's own name of the tool that a model calls `name`.

        The very name counts first; then the name behind namespaces (`functions.`, `default_api.`) and without the count
        of an id; then any of them in another case and with `-` for `_`.
        """
        if name in self._tools:
            return self._aliases.get(name, name)
        if len(name) > _LONGEST_NAME:
            return None
        endings = _endings_of(name)
        for ending in endings:
            if ending in self._tools:
                return self._aliases.get(ending, ending)
        for ending in endings:
            if found := self._by_fold().get(_fold(ending)):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def match_arguments(self, arguments: str) -> str | None:
        """Return the client's own name of the tool that a call without a name must mean.

        It is the one that is forced, the only one that is offered, or the only one whose schema takes these arguments:
        all that it requires are there, and none that it does not know.
        """
        if self._forced is not None or len(self._tools) == 1:
            name = self._forced or next(iter(self._tools))
            return self._aliases.get(name, name)
        try:
            given = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return None
        fitting = [name for name in self._tools if self._takes(name, given)]
        return self._aliases.get(fitting[0], fitting[0]) if len(fitting) == 1 else None

    def properties_of(self, name: str) -> Mapping[str, Any]:
        """Return the properties that a tool's schema knows, by the client's own name; empty where it says none."""
        said = next((said for said in self._tools if self._aliases.get(said, said) == name), "")
        properties = self._schema_of(said).get("properties")
        return properties if isinstance(properties, dict) else {}

    def _takes(self, name: str, given: Collection[str]) -> bool:
        schema = self._schema_of(name)
        required, properties = schema.get("required"), schema.get("properties")
        needed = set(required) if isinstance(required, list) else set()
        known = set(properties) if isinstance(properties, dict) else set()
        return needed <= set(given) <= known

    def _schema_of(self, name: str) -> Mapping[str, Any]:
        tool = self._tools.get(name)
        if tool is None or not tool.input_schema:
            return {}
        schema = msgspec.json.decode(tool.input_schema)
        return schema if isinstance(schema, dict) else {}

    def _by_fold(self) -> dict[str, set[str]]:
        if self._folded is None:
            self._folded = {}
            for said in self._tools:
                own = self._aliases.get(said, said)
                for spelling in (said, own):
                    self._folded.setdefault(_fold(spelling), set()).add(own)
        return self._folded


def _endings_of(name: str) -> list[str]:
    """Return a name without its count and then, one by one, without its namespaces."""
    endings = [_COUNT.sub("", name.strip())]
    while namespace := _NAMESPACE.match(endings[-1]):
        endings.append(endings[-1][namespace.end() :])
    return [ending for ending in endings if ending]


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")
