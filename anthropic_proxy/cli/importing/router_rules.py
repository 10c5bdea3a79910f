"""Rules of claude-code-router 3: the condition of each becomes that of a route.

Source: `RouterRule` in packages/core/src/contracts/app.ts and `routerRuleConditionMatches` in
packages/core/src/gateway/claude-code-router-plugin.ts of its repository (read 2026-11).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field, json

from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_MODEL = "request.body.model"
"""Key of the change with which a rule chooses the model."""
_HEADER = compile_anchored(r"request\.headers?\.(?P<name>[A-Za-z0-9][\w-]*)")
_PATTERN_CHARACTERS = compile_later(r"[*?]")
_THINKING_TYPES = {"enabled": True, "adaptive": True, "disabled": False}
_BLOCKS = {"image": "images", "document": "pdfs"}
"""Type of a block in a message → condition."""
_ABSENT = (None, False, "", "undefined")


class RuleChange(Struct):
    """What a rule changes in the request."""

    key: str = ""
    operation: str = "set"
    value: Any = None


class RuleCondition(Struct):
    left: str = ""
    operator: str = ""
    right: Any = None


class RuleFallback(Struct):
    mode: str = ""
    models: list[Any] = []


class RouterRule(Struct):
    type: str = ""
    id: str = ""
    name: str = ""
    enabled: bool = True
    condition: RuleCondition | None = None
    pattern: str = ""
    target: Any = None
    rewrite: RuleChange | None = None
    rewrites: list[RuleChange] = []
    fallback: RuleFallback | None = None

    @property
    def title(self) -> str:
        return self.name or self.id

    def describe_condition(self) -> str:
        """Return its text. "": there is none."""
        condition = self.condition
        return f"{condition.left} {condition.operator} {_as_text(condition.right)}" if condition else self.pattern

    def find_changes(self) -> tuple[object, Sequence[str]]:
        """Return the model that the rule sets, None if it sets none, and the other fields that it changes."""
        changes = [*([self.rewrite] if self.rewrite else []), *self.rewrites]
        model = self.target or None
        others = []
        for change in changes:
            if change.key.strip() == _MODEL and change.operation == "set":
                model = model or _decode_literal(change.value)
            elif change.key:
                others.append(change.key)
        return model, others


class RouterRules(Struct):
    """`routing` of a profile."""

    enabled: bool = False
    rules: list[Any] = field(default_factory=list)


def find_route_conditions(rule: RouterRule) -> Mapping[str, object] | None:
    """Return the conditions of a route that match the same requests. None: no conditions do."""
    if rule.type == "model-prefix":
        return _match_text("model", "starts-with", rule.pattern)
    if rule.type != "condition" or rule.condition is None:
        return None
    left = rule.condition.left.strip()
    operator = rule.condition.operator
    right = _decode_literal(rule.condition.right)
    if left in ("request.tokenCount", "request.token_count"):
        if isinstance(right, bool) or not isinstance(right, int | float) or int(right) != right:
            return None
        limits = {">": right, ">=": right - 1, "<": right, "<=": right + 1}
        number = int(limits.get(operator, 0))
        return {f"input_{'above' if operator.startswith('>') else 'below'}": number} if number > 0 else None
    if header := _HEADER.fullmatch(left):
        match = _match_text("header", operator, right)
        return None if match is None else {"header": {header["name"].lower(): match["header"]}}
    match left.removeprefix("request.").removeprefix("body."):
        case "model":
            return _match_text("model", operator, right)
        case "thinking" | "thinking.type" | "thinking.budget_tokens":
            if left.endswith(".budget_tokens"):
                return {"thinking": True} if operator in (">", ">=") and isinstance(right, int) else None
            if right in _THINKING_TYPES and operator in ("==", "contains", "contains-deep", "starts-with"):
                return {"thinking": _THINKING_TYPES[str(right)]}
            if right in _ABSENT and operator in ("==", "!="):
                return {"thinking": operator == "!="}
        case "tools" if operator.startswith("contains"):
            return {"web_search": True} if "web_search" in _as_text(right) else None
        case "messages" if operator == "contains-deep" and right in _BLOCKS:
            return {_BLOCKS[str(right)]: True}
    return None


def _match_text(name: str, operator: str, right: object) -> Mapping[str, object] | None:
    text = _as_text(right)
    if not text or _PATTERN_CHARACTERS.search(text):
        return None
    if name == "model" and operator == "contains" and text in TIERS:
        return {"tier": text}
    pattern = {"==": text, "starts-with": f"{text}*", "contains": f"*{text}*", "contains-deep": f"*{text}*"}
    return {name: pattern[operator]} if operator in pattern else None


_QUOTED = compile_later(r"^'(.*)'$", re.DOTALL)


def _decode_literal(given: object) -> object:
    """Return the value that claude-code-router reads: JSON, a quoted text, or the text itself."""
    if not isinstance(given, str):
        return given
    text = given.strip()
    try:
        return json.decode(text.encode())
    except ValueError:
        return _QUOTED.sub(r"\1", text)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.encode(value).decode()
