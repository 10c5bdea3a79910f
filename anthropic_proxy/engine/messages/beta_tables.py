"""The known betas of the Messages API, which the header `anthropic-beta` names: what each is about."""

CONTEXT_BETA = "context-management-2025-06-27"
"""Beta of the field `context_management`."""
FORM_BETAS = frozenset(
    (
        *("adaptive-thinking", "cache-diagnosis", "claude-code", "context-1m", "context-management"),
        *("dev-full-thinking", "effort", "extended-cache-ttl", "fine-grained-tool-streaming", "interleaved-thinking"),
        *("mid-conversation-output-config", "mid-conversation-system", "mid-conversation-system-clear-at"),
        *("model-context-window-exceeded", "per-turn-control", "prompt-caching", "prompt-caching-scope"),
        *("thinking-display-updates", "thinking-token-count", "token-counting", "token-efficient-tools"),
    )
)
"""Betas, without their dates, that decide only about the form of a request or reply: how the prompt is cached, how much
the model thinks and how that is shown, how a reply is streamed, when old results are cleared. A request without them
has the same content, or is refused."""
KEPT_BETAS = frozenset(
    (
        *("admin-user-sign-out", "analytics-usage-cost", "ce-plugins", "ce-user-management", "dreaming"),
        *("experimental-claude-tag", "managed-agents", "message-batches", "message-threads", "oauth"),
        *("spend-limit-reads", "telemetry-destinations", "user-profiles", "user-profiles-billing", "webhooks"),
        *("advanced-tool-use", "advisor-tool", "agent-memory", "code-execution", "computer-use", "inline-tools"),
        *("mcp-client", "mcp-servers", "mcp-tunnels", "mid-conversation-tool-changes", "skills", "tool-examples"),
        *("tool-search-tool", "web-fetch", "web-search"),
        *("compact", "files-api", "max-tokens-3-5-sonnet", "output-128k", "output-300k", "pdfs", "structured-outputs"),
        *("dangerous-tool-use", "redact-thinking", "thinking-binding-controls"),
        *("fallback-credit", "fast-mode", "server-side-fallback", "task-budgets"),
    )
)
"""Further known betas, without their dates. No plainer form leaves them out: they are about other endpoints, tools,
content and limits, safety, and about the price or the model of a reply. Source of both: `AnthropicBetaParam` of the SDK
`anthropic` 2.10.0, and the betas in `vendors.toml` and of Claude Code, read 2026-11-28."""
