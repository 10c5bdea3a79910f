"""A session with a prefix that a provider caches."""

from typing import Any

from tests.support.sessions import PDF, PICTURE, Session


def use(identifier: str, name: str = "Read", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": identifier, "name": name, "input": given}


def result(identifier: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identifier, "content": content}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


THOUGHT = {"type": "thinking", "thinking": "Let me see.", "signature": "px1.own"}
SESSION = Session(
    ["You are helpful.", "Work with care."],
    [
        {"role": "user", "content": [text("<system-reminder>Be brief.</system-reminder>"), text("Compare them.")]},
        {"role": "system", "content": [text("Tools to load: Later.")]},
        {"role": "assistant", "content": [THOUGHT, text("Reading."), use("t1", path="a"), use("t2", "2nd.tool")]},
        {"role": "user", "content": [result("t2", [text("pear"), PICTURE]), result("t1", "apple")]},
        {"role": "system", "content": [text("The date has changed.")]},
        {"role": "assistant", "content": [use("t3", "mcp__files__look up", path="b")]},
        {"role": "user", "content": [result("t3", [PDF]), text("Go on.")]},
        {"role": "assistant", "content": [THOUGHT, text("They differ.")]},
        {"role": "user", "content": [text("Again, please."), PICTURE]},
        {"role": "system", "content": []},
        {"role": "assistant", "content": [THOUGHT, use("t4", path="a")]},
        {"role": "user", "content": [result("t4", "apple")]},
        {"role": "assistant", "content": [text("Still.")]},
        {"role": "user", "content": [text("Thanks.")]},
    ],
)
"""A session with everything that a beginning was ever changed by."""
