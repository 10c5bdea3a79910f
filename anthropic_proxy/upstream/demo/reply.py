"""The reply to a request: a tool call, or a text that states what the demo is."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from anthropic_proxy.upstream.demo.calls import find_call
from anthropic_proxy.upstream.demo.defaults import default_value, fill_call
from anthropic_proxy.upstream.demo.requests import DemoRequest, ToolUse, remove_reminders

MAX_QUOTED_RESULTS = 8
MAX_QUOTED_CHARACTERS = 1_500
"""Results of the last reply that are repeated, and characters of each."""
_ERROR_MARK = "[tool error]"
_FINAL_TOOL = "StructuredOutput"
"""The tool by which Claude Code requests structured output. A reply without a call of it is an error there."""


class Reply(Struct, frozen=True):
    """Text, a tool call, or both."""

    text: str = ""
    call: ToolUse | None = None


def build_reply(request: DemoRequest, variables: Sequence[str]) -> Reply:
    """Return the reply. `variables`: settings that configure a provider, the most common first.

    Raises `WorkLimitExceeded` if the schema of a tool or of the reply requires values that are too large.
    """
    call = None if request.choice == "none" else find_call(request)
    if request.choice not in {"auto", "none"}:
        forced = _force(request, call)
        return Reply(call=forced) if forced else Reply(_introduce(request, variables))
    if call is not None and call not in request.calls:
        return Reply(f"The demonstration calls {call.name}.", call)
    final = next((tool for tool in request.tools if tool.name == _FINAL_TOOL), None)
    if final and request.choice == "auto" and all(made.name != _FINAL_TOOL for made in request.calls):
        return Reply(call=fill_call(final, {}))
    if request.wants_json:
        schema = {"type": "object"} if request.schema is None else request.schema
        return Reply(msgspec.json.encode(default_value("output_config.format.schema", schema)).decode())
    if request.results:
        return Reply(_repeat(request.results, variables))
    return Reply(_introduce(request, variables))


def _force(request: DemoRequest, call: ToolUse | None) -> ToolUse | None:
    """Return the call that `tool_choice` requires: the obvious one, or else one with default arguments."""
    allowed = [tool for tool in request.tools if request.choice in {"required", f"tool:{tool.name}"}]
    if call and any(tool.name == call.name for tool in allowed):
        return call
    return next((fill_call(tool, {}) for tool in allowed), None)


def _repeat(results: Sequence[tuple[str, str]], variables: Sequence[str]) -> str:
    texts = [_quote(name, text) for name, text in results[:MAX_QUOTED_RESULTS]]
    return "\n\n".join([*texts, f"(The demonstration repeats tool results. {_explain(variables)})"])


def _quote(name: str, result: str) -> str:
    failed = result.startswith(_ERROR_MARK)
    text = remove_reminders(result.removeprefix(_ERROR_MARK)).strip()
    if len(text) > MAX_QUOTED_CHARACTERS:
        text = f"{text[:MAX_QUOTED_CHARACTERS].rstrip()} … ({len(text):,} characters in total)"
    return f"{name} {'failed' if failed else 'returned'}:\n\n{text or '(no text)'}"


def _introduce(request: DemoRequest, variables: Sequence[str]) -> str:
    texts = [
        "This is the built-in demonstration of anthropic-proxy. It is not a language model and knows nothing.",
        f"{_explain(variables)} Other variables for this: {', '.join(variables[1:]) or 'see .env.example'}.",
    ]
    if request.tools:
        texts.append(
            "It calls your tools for a few plain requests only: list the files here · read a.txt · run `echo hi` · "
            "What's the weather in Paris?"
        )
    text = "\n\n".join(texts)
    # A client that compacts its history looks for these tags.
    return f"<summary>{text}</summary>" if "<summary>" in request.prompt else text


def _explain(variables: Sequence[str]) -> str:
    return f"For a real model, put {variables[0]}=… into a file named .env and start the proxy again."
