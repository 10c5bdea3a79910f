"""Tools offered in a request, found by the names that models use for them."""

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from anthropic_proxy.messages.models import Tool
from anthropic_proxy.messages.models.tools import is_client_tool
from anthropic_proxy.wire.contract import BaseDialect, Call

UNNAMED = "unnamed_tool"
"""Placeholder for the unknown name of a call.

The Messages API and all other providers reject a history with an empty name. Clients such as Claude Code and the tool
runner of the official SDKs answer this name with an error, and the model calls again.
"""
_COUNT = re.compile(r":\d+$")
"""Counter of call ids that models add to a name: `functions.Read:0`."""
_NAMESPACE = re.compile(r"[^.:/]*[.:/]")
_MAX_NAME_LENGTH = 512
"""Maximum length of a name with namespaces. Each namespace is one more lookup."""


class OfferedTools:
    """Finds the tool that a call refers to. None: ambiguous."""

    def __init__(self, call: Call[BaseDialect]) -> None:
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
        """Return the client's name of the tool that a model calls `name`.

        The order is: the exact name; the name without namespaces (`functions.`, `default_api.`) and without the counter
        of an id; any of them with other case and with `-` for `_`.
        """
        if name in self._tools:
            return self._aliases.get(name, name)
        if len(name) > _MAX_NAME_LENGTH:
            return None
        endings = _endings_of(name)
        for ending in endings:
            if ending in self._tools:
                return self._aliases.get(ending, ending)
        for ending in endings:
            if found := self._by_fold().get(_fold(ending)):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def match_by_arguments(self, arguments: str) -> str | None:
        """Return the client's tool name for a call without a name.

        It is the forced tool, the only offered tool, or the only one with a matching schema: all required properties
        are present and all properties are known.
        """
        if self._forced is not None or len(self._tools) == 1:
            name = self._forced or next(iter(self._tools))
            return self._aliases.get(name, name)
        try:
            given = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            return None
        fitting = [name for name in self._tools if self._accepts(name, given)]
        return self._aliases.get(fitting[0], fitting[0]) if len(fitting) == 1 else None

    def properties_of(self, name: str) -> Mapping[str, Any]:
        """Return the properties in the schema of a tool, given the client's name. Empty: no properties."""
        sent_name = next((tool for tool in self._tools if self._aliases.get(tool, tool) == name), "")
        properties = self._schema_of(sent_name).get("properties")
        return properties if isinstance(properties, dict) else {}

    def _accepts(self, name: str, given: Collection[str]) -> bool:
        schema = self._schema_of(name)
        required, properties = schema.get("required"), schema.get("properties")
        needed = {one for one in required if isinstance(one, str)} if isinstance(required, list) else set()
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
            for sent_name in self._tools:
                own = self._aliases.get(sent_name, sent_name)
                for spelling in (sent_name, own):
                    self._folded.setdefault(_fold(spelling), set()).add(own)
        return self._folded


def _endings_of(name: str) -> list[str]:
    """Return a name without its counter and then, one by one, without its namespaces."""
    endings = [_COUNT.sub("", name.strip())]
    while namespace := _NAMESPACE.match(endings[-1]):
        endings.append(endings[-1][namespace.end() :])
    return [ending for ending in endings if ending]


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")
