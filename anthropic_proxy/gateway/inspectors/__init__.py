"""Inspectors of the tables `[[inspectors]]`: patterns, and a guardrail service."""

from collections.abc import Sequence

from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.inspectors.guardrail import GuardrailInspector
from anthropic_proxy.gateway.inspectors.patterns import PatternInspector
from anthropic_proxy.gateway.settings.fields import InspectorRule
from anthropic_proxy.plugins import Inspector


def open_inspectors(
    rules: Sequence[InspectorRule], http: HttpCalls, previous: Sequence[Inspector] = ()
) -> Sequence[Inspector]:
    """Return an inspector for each rule. Those of `previous` with the same rule are kept, with what they remember."""
    kept = {one.scope.name: one for one in previous if isinstance(one, GuardrailInspector | PatternInspector)}
    found: list[Inspector] = []
    for rule in rules:
        old = kept.get(rule.table.name)
        if old is not None and old.rule == rule:
            inspector = old
        else:
            inspector = PatternInspector(rule) if rule.table.type == "patterns" else GuardrailInspector(rule)
        if isinstance(inspector, GuardrailInspector):
            inspector.http = http
        found.append(inspector)
    return found
