"""Parts of requests to the Messages API."""

from typing import Any

USER = {"role": "user", "content": "hello"}
READ: dict[str, Any] = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": list(messages) or [USER], **fields}
