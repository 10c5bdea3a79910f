"""A session that passes every trigger of the features that the proxy adds to models, and the cached share of each turn.

`python -m tests.support.edited_sessions` prints it for each wire and the relay, with their strict fake servers.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.pdf import document, write_pdf
from tests.support.sdk import MODEL, open_sdk
from tests.support.sessions import PICTURE
from tests.support.wires import EVERY_KIND, Upstream, standing

TURNS = 40
BETAS = ["context-management-2025-06-27", "compact-2026-01-12"]
EDITS: Any = [
    {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 2}},
    {
        "type": "clear_tool_uses_20250919",
        "trigger": {"type": "input_tokens", "value": 10_000},
        "keep": {"type": "tool_uses", "value": 3},
        "clear_at_least": {"type": "input_tokens", "value": 8_000},
        "exclude_tools": ["get_map"],
    },
    {"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}},
]
TOOLS: Any = [
    {"name": name, "description": "Tell about a city.", "input_schema": {"type": "object", "properties": {}}}
    for name in ("get_report", "get_map")
]
MARK = {"type": "ephemeral"}
CITED = {"enabled": True}
SOURCES: Any = [
    document(write_pdf("The grass is green.", "The sky is blue."), title="nature.pdf", citations=CITED),
    {
        "type": "document",
        "title": "Sea",
        "citations": CITED,
        "source": {"type": "text", "media_type": "text/plain", "data": "The sea is deep. The sea is cold."},
    },
]


def run_session(upstream: Upstream) -> Iterator[tuple[int, float, dict[str, Any]]]:
    """Yield input tokens, their cached share, and what happened, for each turn."""
    messages: list[Any] = [{"role": "user", "content": [*SOURCES, {"type": "text", "text": "Read the sources."}]}]
    asks: list[dict[str, Any]] = []
    with open_sdk(base_url=upstream.proxy.url, api_key="the-clients-own", max_retries=0) as client:
        for turn in range(TURNS):
            is_map = turn % 4 == 3
            name = "get_map" if is_map else "get_report"
            call = {"type": "tool_use", "id": f"toolu_{turn}", "name": name, "input": {"turn": turn}}
            text = {
                "type": "text",
                "text": f"Report {turn}. " + "Rain falls on the hills. " * (1_100 if is_map else 220),
            }
            content = [text, *([PICTURE] if is_map else [])]
            result = {"type": "tool_result", "tool_use_id": call["id"], "content": content}
            ask: dict[str, Any] = {
                "type": "text",
                "text": f'Say exactly: Turn {turn}, the <cite n="1">sea</cite>.',
                "cache_control": MARK,
            }
            for earlier in asks[:-1]:
                earlier.pop("cache_control", None)
            asks.append(ask)
            messages += [{"role": "user", "content": "Go on."}] if turn else []
            messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result, ask]}]
            with client.beta.messages.stream(
                model=MODEL,
                max_tokens=4_000,
                tools=TOOLS,
                thinking={"type": "adaptive"},
                betas=BETAS,
                context_management={"edits": EDITS},
                messages=messages,
            ) as stream:
                reply = stream.get_final_message()
            messages.append({"role": "assistant", "content": [_resend(block) for block in reply.content]})
            usage = reply.usage
            cached = usage.cache_read_input_tokens or 0
            tokens = usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0)
            applied = reply.context_management.applied_edits if reply.context_management else []
            yield (
                tokens,
                cached / tokens if tokens else 0.0,
                {
                    "edits": [edit.type for edit in applied],
                    "citations": sum(len(getattr(block, "citations", None) or ()) for block in reply.content),
                    "summaries": sum(block.type == "compaction" for block in reply.content),
                },
            )


def _resend(block: Any) -> dict[str, Any]:
    """Return a block of a reply as one of a request, whose citations have no `file_id` by the types of the SDK."""
    sent: dict[str, Any] = block.to_dict()
    for citation in sent.get("citations") or ():
        citation.pop("file_id", None)
    return {name: value for name, value in sent.items() if value is not None}


def main(names: list[str]) -> None:
    for name in names or EVERY_KIND:
        with tempfile.TemporaryDirectory() as directory, standing(name, Path(directory)) as upstream:
            turns = [*run_session(upstream)]
            breaches = upstream.breaches()
        total = sum(tokens for tokens, _, _ in turns)
        share = sum(tokens * cached for tokens, cached, _ in turns) / total
        print(f"{name}: {total} tokens, {share:.0%} cached; refused by the provider: {len(breaches)} {breaches[:1]}")
        print("  cached % by turn:", " ".join(f"{cached:.0%}".removesuffix("%") for _, cached, _ in turns))
        for what in ("citations", "summaries"):
            print(f"  {what}:", sum(seen[what] for _, _, seen in turns))
        kinds = sorted({kind for _, _, seen in turns for kind in seen["edits"]})
        print("  turns with edits:", {kind: sum(kind in seen["edits"] for _, _, seen in turns) for kind in kinds})


if __name__ == "__main__":
    main(sys.argv[1:])
