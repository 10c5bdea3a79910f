"""The plugin of the tables `[[inspectors]]`, loaded only if there is one."""

from anthropic_proxy.gateway.inspectors.guardrail import GuardrailInspector
from anthropic_proxy.gateway.inspectors.patterns import PatternInspector
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Inspector, Plugin


def open_plugin(settings: Settings) -> Plugin:
    inspectors: list[Inspector] = []
    services: list[GuardrailInspector] = []
    for rule in settings.inspectors:
        if rule.table.type == "patterns":
            inspectors.append(PatternInspector(rule))
        else:
            services.append(GuardrailInspector(rule))
            inspectors.append(services[-1])

    async def start(gateway: Gateway) -> None:
        for service in services:
            service.gateway = gateway

    return Plugin(inspectors=inspectors, start=start)
