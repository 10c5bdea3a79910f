"""End and token counts of a reply: what a provider reports after the last content.

With a finish reason, such as `length`, a provider reports why a reply ended. One table serves all wires,
because servers also send values of other protocols and undocumented ones.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from anthropic_proxy.engine.messages.deltas import Stop
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.errors import UnreadableReply

FinishKind = Literal["end", "calls", "limit", "window", "unreadable", "blocked", "failed", "unknown"]
"""Meaning of a finish reason. `end`: the reply is complete. `calls`: the reply ends with tool calls. `limit`: the reply
was cut at the output limit or for repetition. `window`: the context window is full. `unreadable`: the server could not
read the model's output, such as a malformed tool call. `blocked`: a content filter stopped the reply. `failed`: the
server stopped the reply after an error. `unknown`: any other finish reason."""

NO_VALUES = frozenset(("null", "none", "None"))
"""Texts that some servers send in place of no value: as a finish reason in each chunk (DashScope), or as the name of a
call in its later fragments (litellm issue 12513)."""
NORMAL_ENDS = ("end_turn", "tool_use")
"""Stop reasons of a complete reply."""
_MAX_CHARACTERS = 100
"""Maximum number of characters of a finish reason that are read. The remaining characters are ignored."""
# Sources of the values (read 2026-11-20): vLLM `v1/engine/__init__.py` (abort, error, repetition); SGLang (abort);
# Z.ai's Chat Completion reference (sensitive, model_context_window_exceeded, network_error); vercel/ai
# `map-mistral-finish-reason.ts` (model_length); DeepSeek's API reference (insufficient_system_resource); TGI
# (eos_token); LM Studio's SDK (contextLengthReached, maxPredictedTokensReached); Cohere (MAX_TOKENS); OpenRouter's SDK
# (error); Google's reference of `FinishReason` (2026-11: the last six of `blocked`, and CONTINUATION).
_PATTERNS: Mapping[FinishKind, str] = {
    "end": r"^(?:stop|end|eos)(?:_?(?:turn|token|sequence|string|stringfound|found))?$|^completed?$",
    "calls": r"^(?:tool|function)_?(?:calls?|use)$",
    "window": r"context|model_length|window",
    # Google's Chat Completions API sends "function_call_filter: MALFORMED_FUNCTION_CALL", LiteLLM the second part in
    # lower case (its `OpenAIChatCompletionFinishReason`; read 2026-11-23).
    "unreadable": r"malformed|unexpected_tool_call|missing_thought_signature",
    "blocked": r"filter|sensitiv|safety|block|moderat|guardrail|refus|prohibit|recitation|policy|^spii$|^language$"
    r"|model_armor|^escalation$|^pup_|^image_",
    "failed": r"error|abort|cancel|fail|insufficient|interrupt|time(?:d_)?out|unavailable|overload|rate_?limit",
    "limit": r"length|max_?[a-z_]*tokens|token_?limit|output_?limit|truncat|repetition|^continuation$",
}
"""Meaning of a finish reason → pattern of its names. The first row that matches counts. Finish reasons are
searched in lower case, with `_` in place of `-` and space."""
_KINDS = [(kind, compile_later(pattern, most=_MAX_CHARACTERS)) for kind, pattern in _PATTERNS.items()]


@lru_cache(maxsize=64)
def _classify_reason(reason: str) -> FinishKind:
    word = reason.lower().replace("-", "_").replace(" ", "_")
    return next((kind for kind, pattern in _KINDS if pattern.search(word)), "unknown")


def find_finish_kind(reason: str, native_reason: str = "") -> FinishKind:
    """Return the meaning of a provider's finish reason: `limit` for `length`. Case is ignored.

    A gateway adds `native_reason`, the reason of the provider behind it. OpenRouter reports a reply that was cut as
    `tool_calls` with the native reason `max_output_tokens` (recorded).
    """
    kind = _classify_reason(reason[:_MAX_CHARACTERS])
    if not native_reason:
        return kind
    native = _classify_reason(native_reason[:_MAX_CHARACTERS])
    if native == "unreadable" or (native in ("limit", "window", "blocked") and kind in ("end", "calls", "unknown")):
        return native
    return kind


def build_unreadable_reply(provider: str, reason: str) -> UnreadableReply:
    return UnreadableReply(f"{provider}: the model's reply could not be read ({reason})", provider=provider)


def build_blocked_reply_stop(provider: str, reason: str) -> Stop:
    """Return the last delta of a reply that the provider blocked. Its stop reason is `refusal`.

    `provider` and `reason` are part of the explanation for the client.
    """
    explanation = f"Blocked by {provider}: {reason}"
    return Stop("refusal", details={"type": "refusal", "category": None, "explanation": explanation})


def build_stop(
    kind: FinishKind, provider: str, reason: str, *, refusal: str = "", is_cut: bool = False, fills_window: bool = False
) -> Stop:
    """Return the end of a reply with the finish reason `reason`, which means `kind`.

    `refusal`: words of the model's own refusal. `is_cut`: a tool call has no end. `fills_window`: input and output fill
    the context window, so that no higher output limit helps.
    """
    if refusal:
        return Stop("refusal", details={"type": "refusal", "category": None, "explanation": refusal})
    if kind == "blocked":
        return build_blocked_reply_stop(provider, reason)
    if kind == "window" or (fills_window and (kind == "limit" or is_cut)):
        return Stop("model_context_window_exceeded")
    if kind == "limit" or is_cut:
        return Stop("max_tokens")
    return Stop("tool_use" if kind == "calls" else "end_turn")


_Count = int | None


def split_input_tokens(total: _Count, read: _Count, written: _Count) -> tuple[_Count, _Count, _Count]:
    """Split a provider's `total`, which includes cached input, into uncached tokens, cache reads and cache writes.

    The Messages API counts cached input separately. None: not reported. Counts that contradict `total`
    are corrected. A `total` below 0 is returned unchanged, because `UsageBounds` replaces it with a note.
    """
    if total is None or total < 0:
        return total, read, written
    reads, writes = read or 0, written or 0
    if reads >= 0 <= writes and reads + writes <= total:
        return total - reads - writes, read, written
    # OpenRouter (for Gemini) and Azure (for Grok) send counts that contradict the total (recorded 2026).
    reads, writes = max(reads, 0), max(writes, 0)
    within = reads if reads <= total else 0
    writes = min(writes, max(total - within, 0))
    uncached = max(total - within - writes, 0)
    return uncached, None if read is None else reads, None if written is None else writes


def explain_total(total: int, prompt: int, output: _Count, thinking: _Count, cached: int) -> tuple[int, _Count, _Count]:
    """Return input, output and thinking of a reply whose `total` is above `prompt + output`, with what it has beyond.

    That is cached input, if the prompt does not have it (Portkey 1.15.2, for Anthropic and Bedrock), or thinking, if
    the output does not have it (xAI: recorded xai/tool_call), or if the total alone states it (Google's Chat
    Completions API: recorded openai_chat/tool_calls_without_id).
    """
    spent = output or 0
    more = total - prompt - spent
    if prompt < 0 or spent < 0:
        return prompt, output, thinking
    if cached and more in (cached, cached + (thinking or 0)) and more != thinking:
        return prompt + cached, spent + more - cached if more > cached else output, thinking
    return prompt, spent + more, thinking or more
