"""The summaries of Anthropic's server: one takes the place of a conversation, within a reply or as the whole reply.

Source: platform.claude.com, "Compaction on demand" and "Compaction at a token threshold", read 2026-11.
"""

from typing import Any

from tests.support.fakes.anthropic.reading import count, read_conversation
from tests.support.fakes.anthropic.replies import GeneratedReply
from tests.support.fakes.anthropic.rules import sign
from tests.support.fakes.model_scripts import SUMMARY_ORDER, decide
from tests.support.fakes.scripted_model import Turn

_TRIGGER: dict[str, Any] = {"value": 150_000}


def write_summary(body: dict[str, Any]) -> tuple[GeneratedReply, dict[str, Any]] | None:
    """Return the summary that a request leads to, and the request that is left. None: it leads to none."""
    edits = (body.get("context_management") or {}).get("edits") or ()
    edit = next((one for one in edits if one["type"] == "compact_20260112"), None)
    if "compaction" not in body and (edit is None or _count(body) < (edit.get("trigger") or _TRIGGER)["value"]):
        return None
    conversation = read_conversation(body)
    conversation.turns.append(Turn("user", [SUMMARY_ORDER]))
    text = decide(conversation).text.removeprefix("<summary>").removesuffix("</summary>")
    block = {"type": "compaction", "content": text}
    if edit is None:
        block["signature"] = sign(text)
    generated = GeneratedReply(blocks=[(block, [])])
    if edit is None or edit.get("pause_after_compaction"):
        generated.reason = "compaction"
    generated.summarized = {"input_tokens": _count(body), "output_tokens": len(text.split())}
    return generated, {**body, "messages": [{"role": "assistant", "content": [block]}]}


def _count(body: dict[str, Any]) -> int:
    return count([body.get("tools"), body.get("system"), body["messages"]])
