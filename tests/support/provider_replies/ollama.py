"""Replies of `/api/chat`. Source: docs/api.md of Ollama."""

import json
from typing import Any

from tests.support.provider_replies.content import PLAN, WORDS


def ollama_line(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    full_message = {"role": "assistant", "content": "", **message}
    return {
        "model": "qwen3:8b",
        "created_at": "2026-11-20T08:00:00.123456789Z",
        "message": full_message,
        "done": False,
        **fields,
    }


def ndjson(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


OLLAMA_COUNTS = {
    "total_duration": 4_883_583_458,
    "load_duration": 1_334_875,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 342_546_000,
    "eval_count": 282,
    "eval_duration": 4_535_599_000,
}
OLLAMA_CALL = {"function": {"name": "weather", "arguments": {"city": "Bergen"}}}
OLLAMA_END = {"done": True, **OLLAMA_COUNTS}
OLLAMA_STREAMS: dict[str, bytes] = {
    "text": ndjson(*(ollama_line({"content": word, "images": None}) for word in WORDS), ollama_line({}, **OLLAMA_END)),
    "text in one line": ndjson(ollama_line({"content": "".join(WORDS), "images": None}, **OLLAMA_END)),
    "a call": ndjson(ollama_line({"tool_calls": [OLLAMA_CALL]}), ollama_line({}, done_reason="stop", **OLLAMA_END)),
    "a call in the last line": ndjson(ollama_line({"tool_calls": [OLLAMA_CALL]}, done_reason="stop", **OLLAMA_END)),
    "a call with an id": ndjson(
        ollama_line({"tool_calls": [{"id": "call_1", "function": {"index": 0, **OLLAMA_CALL["function"]}}]}),
        ollama_line({}, done_reason="stop", **OLLAMA_END),
    ),
    "thinking, then text": ndjson(
        *(ollama_line({"thinking": piece}) for piece in PLAN),
        *(ollama_line({"content": word}) for word in WORDS),
        ollama_line({}, done_reason="stop", **OLLAMA_END),
    ),
    "thinking until the limit": ndjson(
        *(ollama_line({"thinking": piece}) for piece in PLAN), ollama_line({}, done_reason="length", **OLLAMA_END)
    ),
}
