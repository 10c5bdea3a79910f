"""Replies of Chat Completions.

Sources: the API references of OpenAI (chat/object, chat/streaming), Azure OpenAI (content filtering), Groq, xAI,
DeepSeek, Moonshot, Z.ai, OpenRouter (cost, comments), and the pages on OpenAI compatibility of Google and Ollama.
"""

from typing import Any

from tests.support.provider_replies.content import ARGUMENTS, PLAN, WORDS, sse

SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
PREDICTIONS = {"audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
TIMES = {"queue_time": 0.04, "prompt_time": 0.01, "completion_time": 0.05, "total_time": 0.06}


def usage(prompt: int, completion: int, cached: int = 0, reasoning: int = 0, *, apart: bool = False) -> dict[str, Any]:
    """Return OpenAI's complete usage. `apart`: `completion_tokens` excludes reasoning (xAI, Gemini's endpoint)."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion + (reasoning if apart else 0),
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, **PREDICTIONS},
    }


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    choices = [] if delta is None else [choice]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": choices, **fields}


def completion(message: dict[str, Any], finish: str, counts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "choices": [choice],
        "usage": counts,
        **fields,
    }


def chat_call(identity: str, arguments: str, **fields: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": "weather", "arguments": arguments}, **fields}


OPENAI: dict[str, Any] = {"service_tier": "default", "system_fingerprint": "fp_1"}
CHUNK: dict[str, Any] = {**OPENAI, "usage": None, "obfuscation": "x9Kd"}
FIRST = {"role": "assistant", "content": "", "refusal": None}
CALL = chat_call("call_1", "".join(ARGUMENTS))
GROQ_USAGE = {"prompt_tokens": 210, "completion_tokens": 15, "total_tokens": 225, **TIMES}
CHAT_STREAMS: dict[str, bytes] = {
    "openai text": sse(
        chunk(FIRST, **CHUNK),
        *(chunk({"content": word}, **CHUNK) for word in WORDS),
        chunk({}, "stop", **CHUNK),
        chunk(None, **CHUNK | {"usage": usage(16, 9)}),
        done=True,
    ),
    "openai parallel calls": sse(
        chunk({"role": "assistant", "content": None}, **CHUNK),
        chunk({"tool_calls": [chat_call("call_1", "", index=0)]}, **CHUNK),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, **CHUNK),
        chunk({"tool_calls": [chat_call("call_2", "", index=1)]}, **CHUNK),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": '{"city":"Oslo"}'}}]}, **CHUNK),
        chunk({}, "tool_calls", **CHUNK),
        chunk(None, **CHUNK | {"usage": usage(90, 40, cached=64)}),
        done=True,
    ),
    "azure with filter results": sse(
        {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
        },
        *(chunk({"content": word}, content_filter_results=SAFE, **CHUNK) for word in WORDS),
        chunk({}, "stop", **CHUNK),
        chunk(None, **CHUNK | {"usage": usage(20, 9, reasoning=4)}),
        done=True,
    ),
    "groq usage beside x_groq": sse(
        chunk({"role": "assistant", "content": None}, system_fingerprint="fp_1", x_groq={"id": "req_1", "seed": 7}),
        chunk({"tool_calls": [chat_call("tk1", "".join(ARGUMENTS), index=0)]}),
        chunk({}, "tool_calls", x_groq={"id": "req_1", "usage": GROQ_USAGE}, usage=GROQ_USAGE),
        done=True,
    ),
    "xai reasoning outside completion": sse(
        *(chunk({"role": "assistant", "reasoning_content": piece}, system_fingerprint="fp_1") for piece in PLAN),
        chunk({"tool_calls": [chat_call("call_1", "".join(ARGUMENTS), index=0)]}),
        chunk({}, "tool_calls"),
        chunk(None, usage=usage(291, 26, cached=244, reasoning=189, apart=True) | {"num_sources_used": 0}),
        done=True,
    ),
    "deepseek reasoning": sse(
        chunk({"role": "assistant", "content": None, "reasoning_content": ""}, system_fingerprint="fp_1", usage=None),
        *(chunk({"content": None, "reasoning_content": piece}, usage=None) for piece in PLAN),
        *(chunk({"content": word, "reasoning_content": None}, usage=None) for word in WORDS),
        chunk(
            {"content": "", "reasoning_content": None},
            "stop",
            usage=usage(10, 40, reasoning=21) | {"prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": 10},
        ),
        done=True,
    ),
    "zai reasoning": sse(
        *(chunk({"role": "assistant", "reasoning_content": piece}) for piece in PLAN),
        *(chunk({"role": "assistant", "content": word}) for word in WORDS),
        chunk({"role": "assistant", "content": ""}, "stop", usage=usage(12, 44, cached=2, reasoning=30)),
        done=True,
    ),
    "openrouter cost": sse(
        *(chunk({"role": "assistant", "content": word}, provider="Acme") for word in WORDS),
        chunk({"role": "assistant", "content": ""}, "length", provider="Acme"),
        chunk(
            None, usage=usage(16, 9) | {"cost": 0, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}
        ),
        comments=9,
        done=True,
    ),
}
"""Provider and its deviation → stream."""
CHAT_REPLIES: dict[str, dict[str, Any]] = {
    "openai text": completion(
        {"content": "".join(WORDS), "refusal": None, "annotations": []}, "stop", usage(16, 9), **OPENAI
    ),
    "openai calls": completion(
        {"content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
        "tool_calls",
        usage(80, 17),
        **OPENAI,
    ),
    "openai with moderation": completion(
        {"content": "".join(WORDS), "refusal": None},
        "stop",
        usage(16, 9, reasoning=3),
        moderation={
            "input": {"type": "moderation_results", "model": "omni", "results": [{"flagged": False, "categories": {}}]},
            "output": {"type": "moderation_results", "model": "omni", "results": []},
        },
        **OPENAI,
    ),
    "gemini's endpoint, a call without an id": completion(
        {
            "extra_content": {"google": {"thought": True, "thought_signature": "c2ln"}},
            "thought_signature": "c2ln",
            "tool_calls": [chat_call("", "{}")],
        },
        "tool_calls",
        {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
    ),
    "xai call": completion(
        {"content": "", "reasoning_content": "".join(PLAN), "tool_calls": [CALL], "refusal": None},
        "tool_calls",
        usage(291, 26, cached=244, reasoning=189, apart=True) | {"cost_in_usd_ticks": 1_399_000},
    ),
    "deepseek thinking with a call": completion(
        {"content": "", "reasoning_content": "".join(PLAN), "tool_calls": [CALL | {"index": 0}]},
        "tool_calls",
        usage(300, 60, cached=256, reasoning=40) | {"prompt_cache_hit_tokens": 256, "prompt_cache_miss_tokens": 44},
        system_fingerprint="fp_1",
    ),
    "moonshot reasoning": completion(
        {"content": "".join(WORDS), "reasoning_content": "".join(PLAN)},
        "stop",
        {"prompt_tokens": 30, "completion_tokens": 50, "total_tokens": 80, "cached_tokens": 16},
    ),
    "groq call": completion(
        {"reasoning": "".join(PLAN), "tool_calls": [CALL]},
        "tool_calls",
        {**GROQ_USAGE, "completion_tokens_details": {"reasoning_tokens": 6}},
        usage_breakdown=None,
        x_groq={"id": "req_1"},
        **OPENAI,
    ),
    "ollama's endpoint": completion(
        {"content": "", "reasoning": "".join(PLAN), "tool_calls": [CALL | {"index": 0}]},
        "tool_calls",
        {"prompt_tokens": 61, "completion_tokens": 30, "total_tokens": 91},
        system_fingerprint="fp_ollama",
    ),
}
