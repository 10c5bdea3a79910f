"""Request of the next call: the sent blocks of the reply become the last assistant message."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from anthropic_proxy.messages.models import Message, MessagesRequest
from anthropic_proxy.messages.models.blocks import read_blocks


def append_assistant_blocks(request: MessagesRequest, raws: Sequence[Raw]) -> MessagesRequest:
    """Return the request with these blocks appended to the last assistant message, or as a new one."""
    if not raws:
        return request
    blocks = read_blocks(Raw(msgspec.json.encode(list(raws))), "messages")
    messages = [*request.messages]
    last = messages[-1]
    if last.role == "assistant":
        messages[-1] = Message("assistant", [*last.blocks, *blocks])
    else:
        messages.append(Message("assistant", blocks))
    size = request.size and request.size + sum(memoryview(raw).nbytes for raw in raws)
    return replace(request, messages=messages, size=size)


def without_forced_tool(request: MessagesRequest) -> MessagesRequest:
    """Return the request without a forced tool: the forced call is made already."""
    choice = request.tool_choice
    if choice is None or choice.type not in ("any", "tool"):
        return request
    return replace(request, tool_choice=replace(choice, type="auto", name=None))
