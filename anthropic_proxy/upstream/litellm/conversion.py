"""Conversion between Chat Completions and the arguments and objects of LiteLLM.

Signed reasoning is `thinking_blocks` in LiteLLM and `reasoning_details` in the wire.
"""

from typing import Any

import msgspec

_ALWAYS: dict[str, Any] = {
    "num_retries": 0,  # `exchange` retries itself
    "max_retries": 0,
    "_skip_mcp_handler": True,  # the MCP gateway of LiteLLM must not handle tools of the client
}


def to_litellm_arguments(body: bytes, timeout: float) -> dict[str, Any]:
    """Return the arguments of `acompletion`. `timeout`: seconds without data."""
    arguments: dict[str, Any] = msgspec.json.decode(body)
    for message in arguments["messages"]:
        details = message.pop("reasoning_details", None)
        if details and (blocks := [_to_thinking_block(detail) for detail in details if _is_signed(detail)]):
            message["thinking_blocks"] = blocks
    return {**arguments, **_ALWAYS, "timeout": timeout}


class ChunkConverter:
    """Converts the chunks or the body of one LiteLLM reply to JSON values."""

    def __init__(self) -> None:
        self._blocks = 0
        """Number of complete thinking blocks. Fragments of one block have the same index."""

    def convert(self, answer: Any) -> dict[str, Any]:
        """Return a chunk or body as JSON values."""
        # no warnings: the models of LiteLLM contain values that violate their annotations
        fields: dict[str, Any] = answer.model_dump(mode="json", exclude_none=True, warnings=False)
        for choice in fields.get("choices", ()):
            message = choice.get("delta") or choice.get("message") or {}
            if blocks := message.pop("thinking_blocks", None):
                message["reasoning_details"] = [self._to_reasoning_detail(block) for block in blocks]
        return fields

    def _to_reasoning_detail(self, block: dict[str, Any]) -> dict[str, Any]:
        detail: dict[str, Any] = {"index": self._blocks}
        if data := block.get("data"):
            detail |= {"type": "reasoning.encrypted", "data": data}
        else:
            detail |= {"type": "reasoning.text", "text": block.get("thinking") or ""}
            detail |= {"signature": block["signature"]} if block.get("signature") else {}
        if data or block.get("signature"):
            self._blocks += 1
        return detail


def _is_signed(detail: dict[str, Any]) -> bool:
    return bool(detail.get("signature") or detail.get("data"))


def _to_thinking_block(detail: dict[str, Any]) -> dict[str, Any]:
    if "data" in detail:
        return {"type": "redacted_thinking", "data": detail["data"]}
    return {"type": "thinking", "thinking": detail.get("text", ""), "signature": detail["signature"]}
