"""Environment variables by which Claude Code, and the status line of the proxy, know the models that reply, and those
with which Claude Code sends its metrics.
"""

from urllib.parse import quote

MAX_CONTEXT, COMPACT_WINDOW = "CLAUDE_CODE_MAX_CONTEXT_TOKENS", "CLAUDE_CODE_AUTO_COMPACT_WINDOW"
"""Window of the model in tokens, and the window of which Claude Code compacts the conversation at the end."""
TOOL_SEARCH = "ENABLE_TOOL_SEARCH"
"""Variable by which Claude Code defers tools: the model first gets their names, and loads those that it needs."""
NO_LONG_CONTEXT = "CLAUDE_CODE_DISABLE_1M_CONTEXT"
HINTS = "CLAUDE_CODE_GATEWAY_HINT_HEADERS"
"""Variable with which Claude Code sends headers that say what a request is for."""
LIST_MODELS = "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY"
LIMITING_MODEL = "ANTHROPIC_PROXY_LIMITING_MODEL"
"""Variable with the model that has the window, if a route or another tier can send the conversation to it."""
ASSUMED_MODEL = "ANTHROPIC_PROXY_ASSUMED_MODEL"
"""Variable with the model whose unknown window is assumed."""
TELEMETRY = "CLAUDE_CODE_ENABLE_TELEMETRY"
"""Variable with which Claude Code sends telemetry, as the variables `OTEL_…` say."""
OTEL_PREFIX = "OTEL_"
NO_TELEMETRY = ("DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""Variables of a person who wants no telemetry."""


def list_telemetry_variables(address: str, token: str) -> dict[str, str]:
    """Return the variables with which Claude Code sends its metrics, and nothing else, to the proxy at `address`.

    `token`: credential for the proxy. "": it needs none.
    """
    variables = {
        TELEMETRY: "1",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
    }
    return variables | (
        {"OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Bearer%20{quote(token, safe='')}"} if token else {}
    )
