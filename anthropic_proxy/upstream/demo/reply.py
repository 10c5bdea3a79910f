"""What the demo says."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.upstream.demo.arguments import fill_value
from anthropic_proxy.upstream.demo.choice import ToolUse, choose_calls
from anthropic_proxy.upstream.demo.conversation import Conversation, Step
from anthropic_proxy.upstream.demo.facts import find_facts
from anthropic_proxy.upstream.demo.schema import MISSING, resolve_schema
from anthropic_proxy.upstream.demo.texts import Source

_LONGEST_QUOTE = 1500
"""Characters of a tool's result that are repeated."""
_LONGEST_ECHO = 200
_TITLE_WORDS = 6


class Answer(Struct, frozen=True):
    """A reply: text, calls, or both."""

    text: str = ""
    calls: Sequence[ToolUse] = ()


def find_answer(conversation: Conversation, key_variables: Sequence[str]) -> Answer:
    """Decide what to reply. `key_variables`: settings that configure a real provider, the likeliest first."""
    calls = choose_calls(conversation)
    if calls:
        names = " and ".join(dict.fromkeys(call.name for call in calls))
        return Answer(f"I use {names} for this." if conversation.choice == "auto" else "", calls)
    if conversation.json_mode:
        return Answer(_structured(conversation))
    if conversation.steps:
        told = conversation.steps[-max(conversation.done, 1) :]
        return Answer(_results([step for steps in told for step in steps], key_variables))
    if "<summary>" in conversation.prompt:
        return Answer(_summary(key_variables))
    return Answer(_introduction(conversation, key_variables))


def _results(steps: Sequence[Step], key_variables: Sequence[str]) -> str:
    told = "\n\n".join(_result(step) for step in steps)
    return f"{told}\n\n(Demo: I repeat what tools return. For a real model, {_hint(key_variables)}.)"


def _result(step: Step) -> str:
    said = [value for value in step.arguments.values() if isinstance(value, str | int | float)]
    subject = next((value for value in said if not isinstance(value, bool)), None)
    about = f" for {_shorten(str(subject), _LONGEST_ECHO)}" if subject is not None else ""
    if step.failed:
        return f"{step.name} failed{about}:\n\n{_shorten(step.result, _LONGEST_QUOTE)}"
    if not step.result:
        return f"{step.name} returned nothing{about}."
    return f"{step.name} returned this{about}:\n\n{_shorten(step.result, _LONGEST_QUOTE)}"


def _introduction(conversation: Conversation, key_variables: Sequence[str]) -> str:
    lines = [
        "This is the built-in demonstration of anthropic-proxy. It is not a language model: it streams, counts tokens "
        "and calls tools, but it knows nothing.",
    ]
    if conversation.prompt:
        lines.append(f"You said: {_shorten(conversation.prompt, _LONGEST_ECHO)}")
    if conversation.images:
        plural = "attachments" if conversation.images > 1 else "attachment"
        lines.append(f"You sent {conversation.images} {plural}; it arrived, but I can't look at it.")
    if conversation.tools:
        names = ", ".join(tool.name for tool in conversation.tools[:8])
        more = f" and {len(conversation.tools) - 8} more" if len(conversation.tools) > 8 else ""
        lines.append(
            f"You offer me these tools: {names}{more}. Ask for something that one of them does, with the file, command "
            "or name that it needs, and I call it."
        )
    lines.append(
        f"For a real model, {_hint(key_variables)}, or put {key_variables[0]}=… into a file named .env. "
        f"Other settings that work: {', '.join(key_variables[1:]) or 'see .env.example'}."
    )
    return "\n\n".join(lines)


def _hint(key_variables: Sequence[str]) -> str:
    return f"stop the proxy and start it with a provider's key: {key_variables[0]}=… anthropic-proxy"


def _summary(key_variables: Sequence[str]) -> str:
    """Answer a client that compacts its history: it wants these two tags."""
    return (
        "<analysis>The built-in demonstration of anthropic-proxy cannot summarize.</analysis>\n"
        f"<summary>So far this was a demonstration. For a real model, {_hint(key_variables)}.</summary>"
    )


def _structured(conversation: Conversation) -> str:
    """Return JSON that fits the schema, or an object with one text where none is given."""
    if conversation.schema is None:
        return msgspec.json.encode({"answer": "anthropic-proxy demonstration"}).decode()
    schema = resolve_schema(conversation.schema, conversation.schema)
    facts = find_facts(conversation.prompt[:_LONGEST_QUOTE])
    source = Source(facts=facts, subject=(), directory=conversation.directory, today=conversation.today)
    title = (schema.get("properties") or {}).get("title", {})
    value: Any = MISSING
    if isinstance(title, dict) and list(schema.get("required") or ()) == ["title"] and title.get("type") == "string":
        value = {"title": _title(conversation.prompt)}
    if value is MISSING:
        value = fill_value("", conversation.schema, source)
    return msgspec.json.encode({} if value is MISSING else value).decode()


def _title(prompt: str) -> str:
    words = re.findall(r"[\w'’.-]+", re.sub(r"<[^>]+>", " ", prompt[:_LONGEST_QUOTE]))[:_TITLE_WORDS]
    title = " ".join(words) or "Demonstration"
    return title[0].upper() + title[1:]


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest].rstrip()} … ({len(text):,} characters in all)"
