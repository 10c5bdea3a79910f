"""Search for the client tool that a model means by the name or the arguments of a tool call."""

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.models.tools import is_client_tool
from anthropic_proxy.engine.wires.contract import BaseDialect, Call

UNNAMED_TOOL = "unnamed_tool"
"""Tool name in the reply for a call without a name, if its tool cannot be found. A name is necessary, because all
providers reject an empty one in later requests. Clients return an error for the unknown tool, and the model calls
again."""
_COUNT = re.compile(r":\d+$")
"""Pattern of the counter that models append to a tool name: `functions.Read:0`."""
_NAMESPACE = re.compile(r"[^.:/]*[.:/]")
_MAX_NAME_LENGTH = 512
"""Maximum length of a tool name that is searched without its namespaces (`functions.`). Each one costs a lookup."""


class OfferedTools:
    """Index of the client's tools in one request. No tool is offered if the tool choice is `none`."""

    def __init__(self, call: Call[BaseDialect]) -> None:
        choice = call.request.tool_choice
        kind = choice.type if choice is not None else "auto"
        loaded = [tool for tools in call.request.loaded_tools.values() for tool in tools]
        self._given = [*call.request.tools, *loaded] if kind != "none" else []
        self._forced = choice.name if choice is not None and kind == "tool" else None
        self._aliases = call.client_tool_names

    def __bool__(self) -> bool:
        """Return True if at least one tool of the client is offered."""
        return any(map(is_client_tool, self._given))

    @functools.cached_property
    def _tools(self) -> dict[str, Tool]:
        return {tool.name: tool for tool in self._given if is_client_tool(tool)}

    def find_tool_name(self, name: str) -> str | None:
        """Return the client's name of the tool that a model calls `name`. None: no tool matches, or several."""
        if name in self._tools:
            return self._aliases.get(name, name)
        if len(name) > _MAX_NAME_LENGTH:
            return None
        # the name without counter and with ever fewer namespaces (`a.b.c:0`: `a.b.c`, `b.c`, `c`),
        # then with upper and lower case, `-` and `_` equal
        endings = [_COUNT.sub("", name.strip())]
        while namespace := _NAMESPACE.match(endings[-1]):
            endings.append(endings[-1][namespace.end() :])
        endings = [ending for ending in endings if ending]
        for ending in endings:
            if ending in self._tools:
                return self._aliases.get(ending, ending)
        for ending in endings:
            if found := self._names_by_fold.get(_fold(ending)):
                return next(iter(found)) if len(found) == 1 else None
        return None

    def find_tool_name_by_arguments(self, arguments: str) -> str | None:
        """Return the client's name of the tool for a call without a name. None: no tool fits, or several.

        A forced tool or a single offered tool always fits. Otherwise, the arguments must fit the schema of the tool.
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

    def schema_properties(self, name: str) -> Mapping[str, Any]:
        """Return the properties in the input schema of a tool: property name → schema. `name`: the client's name.

        Empty: the tool is not offered, or has no properties.
        """
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

    @functools.cached_property
    def _names_by_fold(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = {}
        for sent_name in self._tools:
            own = self._aliases.get(sent_name, sent_name)
            for spelling in (sent_name, own):
                names.setdefault(_fold(spelling), set()).add(own)
        return names


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")
