"""Ollama's rules for a chat request beyond the types of its fields, and our rules for its silent corrections."""

from collections.abc import Iterator
from typing import Any

from messages_conformance.backends.ollama.rules import check_format, check_images
from messages_conformance.backends.ollama.shapes import check
from tests.support.fakes.ollama.models import Model
from tests.support.fakes.server import ContractViolation

_ROLES = ("system", "user", "assistant", "tool")


def check_body(body: dict[str, Any], name: str, model: Model) -> Iterator[ContractViolation]:
    """Yield every rule that a chat request breaks."""
    shapes = list(check(body, "ChatRequest", "ChatRequest"))
    yield from shapes
    if any(breach.rule != "unknown_field" for breach in shapes):
        return
    yield from _check_abilities(body, name, model)
    yield from _check_window(body, model)
    yield from _check_tools(body)
    yield from _check_messages(body, model)
    yield from check_format(body.get("format"))
    if body.get("format") is not None and body.get("tools"):
        yield ContractViolation("format_with_tools", "a format binds every token, so no tool could be called", "format")


def _check_abilities(body: dict[str, Any], name: str, model: Model) -> Iterator[ContractViolation]:
    if not model.can("completion"):
        yield ContractViolation("no_chat", f'"{name}" does not support chat', "model")
    if body.get("tools") and not model.can("tools"):
        yield ContractViolation("no_tools", f"registry.ollama.ai/library/{name} does not support tools", "tools")
    if body.get("think") and not model.can("thinking"):
        yield ContractViolation("no_thinking", f'"{name}" does not support thinking', "think")
    if model.family == "gptoss" and isinstance(body.get("think"), bool):
        yield ContractViolation(
            "think_level", "gpt-oss passes over true and false; it wants low, medium or high", "think"
        )


def _check_window(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    asked = (body.get("options") or {}).get("num_ctx")
    if not model.remote and not asked:
        yield ContractViolation("window", "without num_ctx the server chooses, perhaps 4096", "options.num_ctx")
    if model.remote and asked is not None:
        yield ContractViolation("window_in_cloud", "a model in the cloud has its whole window", "options.num_ctx")
    for name in ("truncate", "shift"):
        if body.get(name, True):
            yield ContractViolation("silent_loss", f"without {name}: false a conversation is cut in silence", name)


def _check_tools(body: dict[str, Any]) -> Iterator[ContractViolation]:
    tools = body.get("tools")
    if tools is None:
        return
    if not tools:
        yield ContractViolation("tools_empty", "tools is empty", "tools")
    names = [tool["function"]["name"] for tool in tools]
    for tool in tools:
        if tool["type"] != "function" or tool["function"]["parameters"]["type"] != "object":
            yield ContractViolation("tool_type", "a tool is a function, and its parameters are an object", "tools")
        if not tool["function"]["name"]:
            yield ContractViolation("tool_name", "a tool has no name", "tools")
    if len(set(names)) < len(names):
        yield ContractViolation("tool_twice", "two tools have the same name", "tools")


def _check_messages(body: dict[str, Any], model: Model) -> Iterator[ContractViolation]:
    messages = body["messages"]
    if not messages:
        yield ContractViolation("messages_empty", "no messages: the model would only be loaded", "messages")
    if messages and not any(message["role"] == "user" for message in messages):
        yield ContractViolation("no_user", "no user query found in messages", "messages")
    waiting: list[tuple[str, str]] = []
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message["role"] not in _ROLES:
            yield ContractViolation("role", f"{where} has the role {message['role']!r}", where)
        if message["role"] == "system" and position:
            yield ContractViolation(
                "mid_conversation_system", f"{where}: templates move a system message to the beginning", where
            )
        if message["role"] != "tool" and waiting:
            yield ContractViolation("unanswered", f"{where} comes before the results of {waiting}", where)
            waiting = []
        yield from _check_pictures(message, model, where)
        if message["role"] == "tool":
            yield from _check_result(message, waiting, where)
        elif message["role"] == "assistant":
            waiting = [(call["function"]["name"], call.get("id", "")) for call in message.get("tool_calls") or ()]
        yield from _check_content(message, where)
    if waiting:
        yield ContractViolation("unanswered", f"the results of {waiting} are missing", "messages")
    begins = messages and messages[-1]["role"] == "assistant"
    if begins and model.can("thinking") and body.get("think") is not False and model.family != "gptoss":
        text = "Assistant response prefill is incompatible with enable_thinking."
        yield ContractViolation("prefill_thinking", text, "think")


def _check_content(message: dict[str, Any], where: str) -> Iterator[ContractViolation]:
    if message["role"] != "assistant":
        for name in ("thinking", "tool_calls"):
            if name in message:
                yield ContractViolation("misplaced", f"{where}.{name}: only the assistant has that", f"{where}.{name}")
    has_content = any(message.get(name) for name in ("content", "images", "tool_calls"))
    if not has_content and message["role"] != "tool":
        yield ContractViolation("content_empty", f"{where} says nothing", where)


def _check_result(message: dict[str, Any], waiting: list[tuple[str, str]], where: str) -> Iterator[ContractViolation]:
    answered = (message.get("tool_name", ""), message.get("tool_call_id", ""))
    if not waiting:
        yield ContractViolation("result_without_call", f"{where} answers no call", where)
    elif waiting[0] != answered:
        yield ContractViolation("result_order", f"{where} answers {answered}, but {waiting[0]} waits", where)
        waiting.pop(0)
    else:
        waiting.pop(0)


def _check_pictures(message: dict[str, Any], model: Model, where: str) -> Iterator[ContractViolation]:
    yield from check_images(message, where)
    for _ in message.get("images") or ():
        if not model.can("vision"):
            yield ContractViolation(
                "no_vision", "this model is missing data required for image input", f"{where}.images"
            )
        if message["role"] != "user":
            yield ContractViolation("image", "templates show the user's pictures only", f"{where}.images")
