"""What the demo reads out of a Chat Completions body: what is asked, what may be called, what was called already."""

import contextlib
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec
from msgspec import Struct, field

_REMINDER = re.compile(r"<(system-reminder|local-command-[a-z]+|command-[a-z]+)>")
_DIRECTORY = re.compile(r"working directory(?: is)?:?\s*[`\"']?(/[^\n`\"'<]*|[A-Za-z]:\\[^\n`\"'<]*)", re.IGNORECASE)
_TODAY = re.compile(r"\b(?:today's date|today is|current date)(?: is)?:?\s*(\d{4}-\d{2}-\d{2})\b", re.IGNORECASE)
_NUMBERING = re.compile(r"^\s*\d+(?:→|\t)", re.MULTILINE)
_FAILED = "[tool error]"


class Tool(Struct, frozen=True):
    """A function that the client offers."""

    name: str
    description: str
    schema: dict[str, Any]


class Step(Struct, frozen=True):
    """One call that was made, and what came back."""

    name: str
    arguments: dict[str, Any]
    result: str = ""
    failed: bool = False


class Conversation(Struct, frozen=True, kw_only=True):
    """The request, as far as the demo understands it."""

    model: str = "demo"
    prompt: str = ""
    """What the user asked last, without the client's own remarks."""
    directory: str | None = None
    """The client's working directory, where it says so."""
    today: date
    """As the client says it, else as it is here."""
    tools: Sequence[Tool] = ()
    choice: str = "auto"
    """`auto`, `none`, `required`, or `tool` together with `chosen`."""
    chosen: str | None = None
    parallel: bool = True
    steps: Sequence[Sequence[Step]] = ()
    """Calls since the last finished answer; calls of one reply stand together."""
    done: int = 0
    """How many of the steps came after the prompt."""
    images: int = 0
    """Pictures that came with the prompt or with a result."""
    limit: int | None = None
    """Tokens that the reply may have."""
    stream: bool = False
    includes_usage: bool = False
    json_mode: bool = False
    schema: dict[str, Any] | None = None
    """Schema that the reply must fit, where one is given."""
    size: int = 0
    """Characters of everything that the model would read."""


class _Turn(Struct):
    """What was seen while the messages were walked."""

    prompt: str = ""
    steps: list[list[Step]] = field(default_factory=list)
    done: int = 0
    images: int = 0
    size: int = 0
    directory: str | None = None
    today: date | None = None
    waiting: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Identifier of a call → where it stands in `steps`."""
    after_result: bool = False
    answered: bool = False
    """An answer without calls was given, so what follows is a new turn."""


def decode_conversation(body: bytes, today: date) -> Conversation:
    """Read a Chat Completions body. Raises `msgspec.DecodeError` where it is no JSON object.

    `today` counts where the client does not tell the day.
    """
    request = msgspec.json.decode(body, type=dict[str, Any])
    turn = _Turn()
    for message in request.get("messages") or ():
        _walk(turn, message)
    tools = [_tool(entry["function"]) for entry in request.get("tools") or () if "function" in entry]
    choice = request.get("tool_choice") or "auto"
    chosen = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    reply_format = request.get("response_format") or {}
    schema = (reply_format.get("json_schema") or {}).get("schema")
    return Conversation(
        model=request.get("model") or "demo",
        prompt=turn.prompt,
        directory=turn.directory,
        today=turn.today or today,
        tools=tools,
        choice="tool" if chosen else str(choice),
        chosen=chosen,
        parallel=request.get("parallel_tool_calls") is not False,
        steps=turn.steps,
        done=turn.done,
        images=turn.images,
        limit=request.get("max_completion_tokens") or request.get("max_tokens"),
        stream=bool(request.get("stream")),
        includes_usage=bool((request.get("stream_options") or {}).get("include_usage")),
        json_mode=reply_format.get("type") in {"json_schema", "json_object"},
        schema=schema,
        size=turn.size + sum(len(tool.name) + len(tool.description) + len(str(tool.schema)) for tool in tools),
    )


def plain(result: str) -> str:
    """Return a tool's result without the client's remarks and without line numbers."""
    text = without_remarks(result).strip("\n")
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and all(_NUMBERING.match(line) for line in lines):
        text = _NUMBERING.sub("", text)
    return text.strip()


def without_remarks(text: str) -> str:
    """Return a text without what the client, not the user, put between tags; a tag that never closes is text."""
    kept = []
    place = 0
    unclosed = set()
    for opening in _REMINDER.finditer(text):
        if opening.start() < place or opening[1] in unclosed:
            continue
        closing = f"</{opening[1]}>"
        end = text.find(closing, opening.end())
        if end < 0:
            unclosed.add(opening[1])
            continue
        kept.append(text[place : opening.start()])
        place = end + len(closing)
    return "".join([*kept, text[place:]])


def _tool(function: dict[str, Any]) -> Tool:
    schema = function.get("parameters")
    return Tool(function["name"], function.get("description") or "", schema if isinstance(schema, dict) else {})


def _walk(turn: _Turn, message: dict[str, Any]) -> None:
    role = message.get("role")
    text, images = _content(message.get("content"))
    turn.size += len(text)
    for directory in _DIRECTORY.findall(text) if role in {"system", "developer", "user"} else ():
        turn.directory = directory.strip().rstrip(".,") or None
    for day in _TODAY.findall(text) if role in {"system", "developer", "user"} else ():
        with contextlib.suppress(ValueError):
            turn.today = date.fromisoformat(day)
    if role == "assistant":
        _walk_answer(turn, message.get("tool_calls") or ())
    elif role == "tool":
        _walk_result(turn, str(message.get("tool_call_id")), text)
        turn.images += images
    elif role == "user":
        _walk_prompt(turn, without_remarks(text).strip(), images)


def _walk_answer(turn: _Turn, calls: Sequence[dict[str, Any]]) -> None:
    if not calls:
        turn.answered = True
        return
    turn.after_result = False
    turn.done += 1
    steps = []
    for place, call in enumerate(calls):
        function = call.get("function") or {}
        turn.waiting[str(call.get("id"))] = (len(turn.steps), place)
        turn.size += len(function.get("arguments") or "")
        steps.append(Step(str(function.get("name")), _arguments(function.get("arguments"))))
    turn.steps.append(steps)


def _walk_result(turn: _Turn, call_id: str, text: str) -> None:
    turn.after_result = True
    place = turn.waiting.pop(call_id, None)
    if place is None:
        return
    step = turn.steps[place[0]][place[1]]
    failed = text.startswith(_FAILED)
    result = plain(text.removeprefix(_FAILED).lstrip() if failed else text)
    turn.steps[place[0]][place[1]] = Step(step.name, step.arguments, result, failed)


def _walk_prompt(turn: _Turn, prompt: str, images: int) -> None:
    if turn.after_result and images:
        # The wire moves the pictures of tool results into a user message of their own; it asks nothing.
        turn.images += images
        return
    if not prompt and not images:
        return
    if turn.answered:
        turn.answered = False
        turn.steps = []
        turn.waiting = {}
    turn.prompt, turn.images, turn.done = prompt, images, 0
    turn.after_result = False


def _content(content: Any) -> tuple[str, int]:
    """Return the text of a message's content, and how many pictures or files it holds."""
    if isinstance(content, str):
        return content, 0
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if part.get("type") == "text"]
    return "\n".join(texts), sum(part.get("type") in {"image_url", "file"} for part in parts)


def _arguments(text: Any) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, TypeError):
        return {}
