"""Replies of generateContent. Sources: the API references of Gemini and Vertex AI (GenerateContentResponse)."""

from typing import Any

from tests.support.provider_replies.content import PLAN, WORDS, sse


def gemini(*parts: dict[str, Any], finish: str | None = None, index: bool = True, **counts: Any) -> dict[str, Any]:
    """Return one reply or chunk. `counts`: of `usageMetadata`, each with its details by modality."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}}
    details = {
        f"{name}TokensDetails": [{"modality": "TEXT", "tokenCount": counts[f"{name}TokenCount"]}]
        for name in ("prompt", "candidates")
        if f"{name}TokenCount" in counts
    }
    return {
        "candidates": [candidate | ({"finishReason": finish} if finish else {}) | ({"index": 0} if index else {})],
        "usageMetadata": {**counts, **details},
        "modelVersion": "gemini-3-flash-preview",
        "responseId": "r1",
    }


def google_counts(read: int, written: int, thought: int = 0) -> dict[str, Any]:
    return {
        "promptTokenCount": read,
        "candidatesTokenCount": written,
        "totalTokenCount": read + written + thought,
        **({"thoughtsTokenCount": thought} if thought else {}),
    }


def google_call(**call: Any) -> dict[str, Any]:
    return {"functionCall": call}


SIGNED = {"thoughtSignature": "EpAICo0IAb4-9vuk"}
GEMINI_STREAMS: dict[str, bytes] = {
    "text with a late signature": sse(
        gemini({"text": WORDS[0]}, **google_counts(9, 3, 302)),
        gemini({"text": "".join(WORDS[1:])}, **google_counts(9, 9, 302)),
        gemini({"text": "", **SIGNED}, finish="STOP", **google_counts(9, 9, 302)),
    ),
    "thoughts": sse(
        *(gemini({"text": piece, "thought": True}, **google_counts(20, 0, 8)) for piece in PLAN),
        *(gemini({"text": word}, **google_counts(20, 6, 30)) for word in WORDS),
        gemini({"text": ""}, finish="STOP", **google_counts(20, 9, 30)),
    ),
    "a signed call, then empty text": sse(
        gemini(google_call(name="weather", args={"city": "Bergen"}) | SIGNED, **google_counts(29, 15, 45)),
        gemini({"text": ""}, finish="STOP", **google_counts(29, 15, 45)),
    ),
    "a call with empty arguments": sse(
        gemini(google_call(name="now", args={}) | SIGNED, **google_counts(29, 10, 202)),
        gemini({"text": ""}, finish="STOP", **google_counts(29, 10, 202)),
    ),
}
GEMINI_REPLIES: dict[str, dict[str, Any]] = {
    "text": gemini({"text": "".join(WORDS), **SIGNED}, finish="STOP", **google_counts(2, 9, 213)),
    "vertex": gemini({"text": "".join(WORDS)}, finish="STOP", trafficType="ON_DEMAND", **google_counts(13, 8)),
    "a call": gemini(
        google_call(name="weather", args={"city": "Oslo"}) | SIGNED, finish="STOP", **google_counts(29, 22)
    ),
}
