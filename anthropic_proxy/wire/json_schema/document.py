"""A client's schema as a document: its local references, resolved once each."""

from typing import Any
from urllib.parse import unquote

from anthropic_proxy.messages.work_budget import CHARACTERS_PER_NODE, WorkBudget
from anthropic_proxy.wire.json_schema.rules import Schema

_MAX_INDEX_DIGITS = 9
"""Digits of a list index in a reference; Python refuses to read integers of more than 4,300."""
_MISSING = object()


class Document:
    """Finds the targets of references in one schema, and counts the work in a budget."""

    def __init__(self, root: Schema, budget: WorkBudget) -> None:
        self.root = root
        self.budget = budget
        self._targets: dict[str, Any] = {}

    def find(self, reference: str) -> Any:
        """Return the target of a local reference (`#/$defs/Name`); None for a reference to nothing."""
        target = self._targets.get(reference, _MISSING)
        if target is _MISSING:
            self.budget.spend(1 + len(reference) // CHARACTERS_PER_NODE + reference.count("/"))
            target = self._targets[reference] = self._resolve(reference)
        return target

    def follow(self, schema: Schema) -> Schema:
        """Return the schema with references at its own level replaced; a cycle ends with the keywords read so far."""
        seen: set[str] = set()
        while isinstance(reference := schema.get("$ref"), str) and reference not in seen:
            seen.add(reference)
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            target = self.find(reference)
            schema = {**target, **beside} if isinstance(target, dict) else beside
            self.budget.spend(1 + len(schema))
        return {key: value for key, value in schema.items() if key != "$ref"}

    def _resolve(self, reference: str) -> Any:
        if not reference.startswith("#"):
            return None
        found: Any = self.root
        for step in reference[1:].split("/")[1:]:
            if isinstance(found, list) and _is_index(step) and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict):
                spellings = map(_unescaped, (step, unquote(step)))  # not every client percent-encodes
                found = next((found[name] for name in spellings if name in found), None)
            else:
                return None
        return found


def _is_index(step: str) -> bool:
    return step.isdecimal() and len(step) <= _MAX_INDEX_DIGITS


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
