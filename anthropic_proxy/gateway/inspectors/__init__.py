"""Inspectors of the tables `[[inspectors]]`: patterns, and a guardrail service."""

from collections.abc import Sequence

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.inspectors.guardrail import GuardrailInspector
from anthropic_proxy.gateway.inspectors.patterns import PatternInspector
from anthropic_proxy.gateway.settings.fields import InspectorRule
from anthropic_proxy.plugins import Inspector


def open_inspectors(
    rules: Sequence[InspectorRule],
    http: HttpCalls,
    background: BackgroundWork,
    previous: Sequence[Inspector] = (),
) -> Sequence[Inspector]:
    """Return an inspector for each rule. Those of `previous` with the same rule are kept, with what they remember."""
    kept = {
        inspector.scope.name: inspector
        for inspector in previous
        if isinstance(inspector, GuardrailInspector | PatternInspector)
    }
    inspectors: list[Inspector] = []
    for rule in rules:
        inspector = kept.get(rule.table.name)
        if inspector is None or inspector.rule != rule:
            is_local = rule.table.type == "patterns"
            inspector = PatternInspector(rule, background) if is_local else GuardrailInspector(rule, http)
        elif isinstance(inspector, GuardrailInspector):
            inspector.replace_http(http)
        inspectors.append(inspector)
    return inspectors
