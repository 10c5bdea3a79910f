"""Parts of requests to Ollama."""

from typing import Any

USER = {"role": "user", "content": "hello"}
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = {"type": "function", "function": {"name": "Read", "description": "Reads.", "parameters": PARAMETERS}}
CALL = {"id": "call_a", "function": {"index": 0, "name": "Read", "arguments": {"path": "/a"}}}
ASKS = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [CALL]}
TOOL_RESULT = {"role": "tool", "content": "text", "tool_name": "Read", "tool_call_id": "call_a"}


def body(*messages: Any, options: Any = None, **fields: Any) -> dict[str, Any]:
    return {
        "model": "qwen3:8b",
        "messages": list(messages) or [USER],
        "truncate": False,
        "shift": False,
        "options": {"num_ctx": 8192, "num_predict": 10} if options is None else options,
    } | fields
