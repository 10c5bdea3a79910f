"""Anthropic's rules on a request beyond its types, in its own words."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.messages.rules import (
    blocks_of,
    check_limits,
    check_messages,
    check_pairs,
    check_tools,
)
from tests.support.fakes.anthropic.models import Model
from tests.support.fakes.anthropic.shapes import check_request
from tests.support.fakes.server import ContractViolation

OURS = "px1."
"""The prefix of the proxy's own signatures: none may ever get here."""


def sign(text: str) -> str:
    """Return the signature that this server gives to a thought; no other is accepted for it."""
    return base64.b64encode(b"Ev" + hashlib.sha512(f"anthropic:{text}".encode()).digest()).decode()


def _check_signatures(messages: list[dict[str, Any]]) -> Iterator[ContractViolation]:
    for position, message in enumerate(messages):
        for number, block in enumerate(blocks_of(message)):
            place = f"messages.{position}.content.{number}"
            if block["type"] == "thinking" and block["signature"] not in (sign(block["thinking"]), sign("")):
                yield ContractViolation("signature", f"{place}: Invalid `signature` in `thinking` block", place)
            if block["type"] == "redacted_thinking" and block["data"] != sign("redacted"):
                yield ContractViolation("data", f"{place}: Invalid `data` in `redacted_thinking` block", place)


def _check_features(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    choice = (body.get("tool_choice") or {}).get("type")
    if choice in ("any", "tool") and not model.forced_tools:
        text = f'tool_choice.type: "{choice}" is not supported on this model. Use "auto" or "none".'
        yield ContractViolation("forced", text, "tool_choice")
    for number, tool in enumerate(body.get("tools") or ()):
        kind = tool.get("type") or ""
        if kind.startswith("computer_2") and model.computer.startswith("computer_toolset_"):
            yield ContractViolation("computer", f"tools.{number}: '{kind}' is not supported on this model.", "tools")


def _check_limits(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    limit = body["max_tokens"]
    if limit > model.output:
        text = f"max_tokens: {limit} > {model.output}, which is the maximum allowed number of output tokens"
        yield ContractViolation("output_limit", f"{text} for {body['model']}", "max_tokens")
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "adaptive" and "adaptive" not in model.thinking:
        yield ContractViolation("adaptive", "adaptive thinking is not supported on this model", "thinking")
    elif (form := thinking.get("type")) is not None and form not in model.thinking:
        text = f'"thinking.type.{form}" is not supported for this model. Use "thinking.type.{model.thinking[-1]}"'
        yield ContractViolation("thinking_type", f'{text} and "output_config.effort" to control thinking.', "thinking")
    if (effort := (body.get("output_config") or {}).get("effort")) and not model.allows_effort(
        effort, thinking.get("type", "")
    ):
        text = f"thinking.type: '{thinking['type']}' is not supported at effort '{effort}'"
        yield ContractViolation("effort", text, "output_config")


def _check_thinking(body: dict[str, Any]) -> Iterator[ContractViolation]:
    """The tool calls since the last question begin with thinking if it is on by hand, and have none if it is off."""
    kind = (body.get("thinking") or {}).get("type", "disabled")
    for edit in (body.get("context_management") or {}).get("edits", ()):
        if kind == "disabled" and edit["type"] == "clear_thinking_20251015":
            text = "`clear_thinking_20251015` strategy requires `thinking` to be enabled or adaptive"
            yield ContractViolation("clear_thinking", text, "context_management")
    replies: list[tuple[int, dict[str, Any]]] = []
    for position, message in reversed([*enumerate(body["messages"])]):
        if message["role"] == "assistant":
            replies.append((position, message))
        elif message["role"] == "user" and all(block["type"] != "tool_result" for block in blocks_of(message)):
            break
    if not replies or body["messages"][-1]["role"] == "assistant":
        return
    position, first = replies[-1]
    found = blocks_of(first)[0]["type"]
    if kind == "enabled" and found not in ("thinking", "redacted_thinking"):
        place = f"messages.{position}.content.0.type"
        text = (
            f"{place}: Expected `thinking` or `redacted_thinking`, but found `{found}`. When `thinking` is enabled, a "
            "final `assistant` message must start with a thinking block (preceeding the lastmost set of `tool_use` and "
            "`tool_result` blocks). We recommend you include thinking blocks from previous turns. To avoid this "
            "requirement, disable `thinking`."
        )
        yield ContractViolation("no_thinking", text, place)
    for position, message in replies if kind == "disabled" else ():
        for number, block in enumerate(blocks_of(message)):
            if block["type"] in ("thinking", "redacted_thinking"):
                place = f"messages.{position}.content.{number}"
                text = (
                    f"{place}: When thinking is disabled, an `assistant` message in the final position cannot contain "
                    f"`{block['type']}`. To use thinking blocks, enable `thinking` in your request."
                )
                yield ContractViolation("thinking_off", text, place)


def check_body(
    body: dict[str, Any], model: Model, betas: str = "", *, counting: bool = False
) -> Iterator[ContractViolation]:
    """Yield every rule that a request breaks; the real server would name the first."""
    shapes = list(check_request(body, betas, counting=counting))
    yield from shapes
    if any(breach.rule != "unknown_field" for breach in shapes):
        return
    messages = body["messages"]
    yield from check_messages(messages)
    if not messages:
        return
    yield from _check_signatures(messages)
    if messages[-1]["role"] == "assistant" and not model.prefill:
        text = "This model does not support assistant message prefill. The conversation must end with a user message."
        yield ContractViolation("prefill", text, "messages")
    else:
        yield from check_pairs(messages)
    yield from check_tools(body)
    yield from _check_features(body, model)
    yield from _check_thinking(body)
    if not counting:
        yield from check_limits(body)
        yield from _check_limits(body, model)
