"""The texts and arguments that every reply has, and their framing as SSE."""

import json
from typing import Any

PLAN = ("The user wants the weather. ", "I call the tool “weather” for Bergen.")
WORDS = ("In Bergen ", "it rains ", "— as so often, 雨 ☔.")


def sse(*payloads: Any, comments: int = 0, done: bool = False) -> bytes:
    events = [b": PROCESSING\n\n"] * comments
    events += [b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n" for payload in payloads]
    return b"".join(events) + b"data: [DONE]\n\n" * done
