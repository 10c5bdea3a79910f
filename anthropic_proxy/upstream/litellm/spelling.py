"""A body of Chat Completions → LiteLLM's arguments, and its objects → chunks and bodies of that wire.

LiteLLM has a field of its own for signed reasoning, `thinking_blocks`; the wire knows it as `reasoning_details`.
"""

from typing import Any

import msgspec

_ALWAYS: dict[str, Any] = {
    "num_retries": 0,  # the corridor makes its own attempts
    "max_retries": 0,
    "_skip_mcp_handler": True,  # tools are the client's; LiteLLM's own MCP gateway has no part in them
}


def spell_arguments(body: bytes, timeout: float) -> dict[str, Any]:
    """Return what `acompletion` takes. `timeout`: seconds of silence."""
    arguments: dict[str, Any] = msgspec.json.decode(body)
    for message in arguments["messages"]:
        details = message.pop("reasoning_details", None)
        if details and (blocks := [_spell_block(detail) for detail in details if _is_signed(detail)]):
            message["thinking_blocks"] = blocks
    return {**arguments, **_ALWAYS, "timeout": timeout}


class Speller:
    """Says LiteLLM's chunks, or its whole reply, as plain JSON values; one object an answer."""

    def __init__(self) -> None:
        self._blocks = 0
        """Thinking blocks that are complete: fragments of one have the same index."""

    def spell(self, answer: Any) -> dict[str, Any]:
        """Return one chunk or body."""
        # no warnings: LiteLLM fills its models with what its own annotations do not allow
        said: dict[str, Any] = answer.model_dump(mode="json", exclude_none=True, warnings=False)
        for choice in said.get("choices", ()):
            piece = choice.get("delta") or choice.get("message") or {}
            if blocks := piece.pop("thinking_blocks", None):
                piece["reasoning_details"] = [self._spell_detail(block) for block in blocks]
        return said

    def _spell_detail(self, block: dict[str, Any]) -> dict[str, Any]:
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


def _spell_block(detail: dict[str, Any]) -> dict[str, Any]:
    if "data" in detail:
        return {"type": "redacted_thinking", "data": detail["data"]}
    return {"type": "thinking", "thinking": detail.get("text", ""), "signature": detail["signature"]}
