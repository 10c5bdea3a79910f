"""Replies of the Responses API. Sources: the API references of OpenAI (responses), xAI and DeepSeek."""

from collections.abc import Iterable
from typing import Any

from tests.support.provider_replies.content import ARGUMENTS, PLAN, WORDS, sse


def response(*output: dict[str, Any], counts: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a response object with the fields that echo the request; `counts`: None while it is in progress."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed" if counts else "in_progress",
        "background": False,
        "billing": {"payer": "developer"},
        "completed_at": 2 if counts else None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "gpt-5.6-sol",
        "moderation": None,
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": "24h",
        "reasoning": {"context": "all_turns", "effort": "low", "summary": "detailed"},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tool_usage": {"web_search": {"num_requests": 0}},
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.98,
        "truncation": "disabled",
        "usage": counts,
        "user": None,
        **fields,
    }


def response_usage(read: int, written: int, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": read,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": read + written,
    }


def numbered(*events: dict[str, Any]) -> bytes:
    return sse(*({"sequence_number": place, **event} for place, event in enumerate(events)))


def item_events(place: int, item: dict[str, Any], *between: dict[str, Any], **added: Any) -> list[dict[str, Any]]:
    """Return the events of one output item; `added`: fields of the item that are different at its start."""
    started = {**item, "status": "in_progress", **added}
    inner = [{"item_id": item["id"], "output_index": place, **event} for event in between]
    return [
        {"type": "response.output_item.added", "output_index": place, "item": started},
        *inner,
        {"type": "response.output_item.done", "output_index": place, "item": item},
    ]


def deltas_of(kind: str, pieces: Iterable[str], whole: str, **fields: Any) -> list[dict[str, Any]]:
    last = {"type": f"{kind}.done", whole: "".join(pieces), **fields}
    return [*({"type": f"{kind}.delta", "delta": piece, **fields} for piece in pieces), last]


ENCRYPTED = "gAAAAABp" + "Ab-_9" * 40 + "=="
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": piece} for piece in PLAN],
    "encrypted_content": ENCRYPTED,
}
PLAIN_REASONING = {
    "id": "8f1c",
    "type": "reasoning",
    "status": "completed",
    "content": [{"type": "reasoning_text", "text": "".join(PLAN)}],
    "summary": [],
}
OUTPUT_TEXT = {"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(WORDS)}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [OUTPUT_TEXT]}
FUNCTION_CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "weather",
    "arguments": "".join(ARGUMENTS),
}
RESPONSES: dict[str, dict[str, Any]] = {
    "text": response(MESSAGE | {"phase": "final_answer"}, counts=response_usage(17, 9)),
    "text of an older model": response(MESSAGE, counts=response_usage(663, 9), reasoning={"effort": None}),
    "reasoning and calls": response(
        REASONING,
        FUNCTION_CALL,
        FUNCTION_CALL | {"id": "fc_2", "call_id": "call_2", "arguments": "{}"},
        counts=response_usage(124, 1926, cached=64, reasoning=1792),
    ),
    "reasoning without a summary": response(
        REASONING | {"summary": []}, FUNCTION_CALL, counts=response_usage(40, 30, reasoning=20)
    ),
    "reasoning as text": response(PLAIN_REASONING, FUNCTION_CALL, counts=response_usage(40, 30)),
}
RESPONSE_STREAMS: dict[str, bytes] = {
    "openai text": numbered(
        {"type": "response.created", "response": response()},
        {"type": "response.in_progress", "response": response()},
        *item_events(
            0,
            MESSAGE,
            {"type": "response.content_part.added", "content_index": 0, "part": OUTPUT_TEXT | {"text": ""}},
            *deltas_of("response.output_text", WORDS, "text", content_index=0, logprobs=[], obfuscation="x9"),
            {"type": "response.content_part.done", "content_index": 0, "part": OUTPUT_TEXT},
            content=[],
        ),
        {"type": "response.completed", "response": response(MESSAGE, counts=response_usage(17, 9))},
    ),
    "deepseek reasoning as text": numbered(
        {"type": "response.created", "response": response(content_filters=None)},
        *item_events(
            0,
            PLAIN_REASONING,
            {"type": "response.content_part.added", "content_index": 0, "part": {"type": "reasoning_text", "text": ""}},
            *deltas_of("response.reasoning_text", PLAN, "text", content_index=0),
            content=[],
        ),
        *item_events(
            1, FUNCTION_CALL, *deltas_of("response.function_call_arguments", ARGUMENTS, "arguments"), arguments=""
        ),
        {
            "type": "response.completed",
            "response": response(PLAIN_REASONING, FUNCTION_CALL, counts=response_usage(300, 60, cached=256)),
        },
    ),
    "xai encrypted reasoning": numbered(
        {"type": "response.created", "response": response(temperature=None, top_p=None)},
        *item_events(
            0,
            REASONING | {"summary": [{"type": "summary_text", "text": "".join(PLAN)}]},
            {
                "type": "response.reasoning_summary_part.added",
                "summary_index": 0,
                "part": {"type": "summary_text", "text": ""},
            },
            *deltas_of("response.reasoning_summary_text", PLAN, "text", summary_index=0),
            summary=[],
        ),
        *item_events(1, MESSAGE, *deltas_of("response.output_text", WORDS, "text", content_index=0), content=[]),
        {
            "type": "response.completed",
            "response": response(REASONING, MESSAGE, counts=response_usage(90, 70, reasoning=50)),
        },
    ),
}
