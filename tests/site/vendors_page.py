"""docs/guide/vendors.md: what the proxy does for each vendor, from the registry and the golden cases."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anthropic_proxy.engine.providers.catalog import load_model_rows
from tests.site.pages import DOCS
from tests.support.vendors import Claim, Vendor, cases_of, list_vendors

PAGE = DOCS / "guide/vendors.md"
COLUMNS = ("thinking out", "thinking back", "effort", "cache", "tools", "images, PDF", "limits", "errors", "other")

_TEXT = """\
# Vendors

<!-- Written by `python3 scripts/fix.py` from anthropic_proxy/engine/providers: change that instead. -->

What the proxy knows about each vendor beside [the settings](providers.md). The rows name differences from the API
itself, whose own vendor is the first row of each table; an empty cell means none. `pattern: text` holds for models of
this pattern; rules for OpenAI's models hold for Azure too, and those for open models stand in the last row of the first
table. A number in brackets is the source, with the date of reading, [below](#sources); text without a number is
from the source of the vendor's row. None of it was tried with an account. What a server rejects nevertheless is left
out of later requests ([reliability](reliability.md#errors-by-kind)).

A token count, the model list and the errors of a vendor are read in the form in which it sends them; the column
*errors* names cases with errors in a form of the vendor's own, which tests replay.
{tables}
## Betas

A beta of the client that a cloud does not have is left out and noted. Claude at a cloud is a relay otherwise.

{betas}

## Sources

{sources}
"""
_TITLES = {
    "chat": "Chat Completions",
    "responses": "Responses",
    "gemini": "Google's generateContent",
    "ollama": "Ollama's /api/chat",
    "messages": "Messages API",
}
_FORMS = {
    "reasoning": "`reasoning: {effort}`",
    "reasoning_enabled": "`reasoning: {enabled}`, on or off",
    "enable_thinking": "`enable_thinking`, on or off",
    "chat_template_kwargs": "`chat_template_kwargs: {enable_thinking}`, on or off",
    "chat_template_args": "`chat_template_args: {enable_thinking}`, on or off",
    "thinking": "`thinking: {type}`, on or off",
    "thinking_and_effort": "`thinking: {type}` and `reasoning_effort`",
    "reasoning_effort": "`reasoning_effort`",
    "omit": "none is sent",
}


def _code(value: Any) -> str:
    return f"`{value}`"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) or "none"


def _pairs(value: Any) -> str:
    return ", ".join(f"{first} → {second}" for first, second in value)


def _either(yes: str, no: str) -> Callable[[Any], str]:
    return lambda value: yes if value else no


PHRASES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "thinking_request_field": ("thinking out", lambda value: f"asked for by `{value}`"),
    "thinking_tags": ("thinking out", _either("also from `<think>` tags in the text", "")),
    "requests_summaries": ("thinking out", _either("a summary is asked for", "no summary is asked for")),
    "replayed_thinking_field": (
        "thinking back",
        lambda value: {"": "not sent back", "both": "`reasoning` and `reasoning_content`"}.get(value, _code(value)),
    ),
    "thinking_replay_scope": (
        "thinking back",
        lambda value: {"calls": "in each message with calls", "every": "in each message"}.get(value, ""),
    ),
    "thinking_retention_field": ("thinking back", lambda value: f"kept by `{value}`"),
    "replays_reasoning_details": ("thinking back", _either("`reasoning_details` unchanged", "")),
    "replays_thinking": ("thinking back", _either("`encrypted_content`", "not sent back")),
    "requires_signatures": ("thinking back", _either("signatures are required", "signatures are not required")),
    "replays_signatures": ("thinking back", _either("signatures", "no signatures")),
    "verifies_signatures": ("thinking back", _either("signatures are verified", "signatures are not verified")),
    "sends_past_thinking": ("thinking back", _either("", "past thinking is removed")),
    "placeholder_encoding": ("thinking back", lambda value: f"the placeholder of a signature as {value}"),
    "effort_form": ("effort", lambda value: _FORMS[value]),
    "effort_names": ("effort", lambda value: _pairs(value) or "by its own name"),
    "forced_effort_with_tools": (
        "effort",
        lambda value: f"with tools always {value}" if value else "the same with tools",
    ),
    "reasoning_mode": (
        "effort",
        lambda value: {
            "always": "always thinks",
            "unless_off": "thinks unless it is switched off",
            "never": "never thinks",
            "if_asked": "thinks if asked",
        }[value],
    ),
    "can_reason": ("effort", _either("thinks", "does not think")),
    "thinking": ("effort", lambda value: f"`thinkingConfig` by {value}" if value != "none" else "does not think"),
    "min_budget_tokens": ("effort", lambda value: f"budget from {value:,} tokens"),
    "max_budget_tokens": ("effort", lambda value: f"budget up to {value:,} tokens"),
    "think_form": ("effort", lambda value: {"only_level": "`think` by level only"}.get(value, f"`think` as {value}")),
    "session_field": ("cache", lambda value: f"key of the session in `{value}`" if value else "no key"),
    "session_header": ("cache", lambda value: f"key of the session in the header `{value}`"),
    "sends_cache_marks": ("cache", _either("the client's marks", "no marks")),
    "sends_cache_field": ("cache", _either("", "marks in messages only")),
    "sends_cache_breakpoint": ("cache", _either("a breakpoint behind the system text", "no breakpoint")),
    "loaded_tools": ("cache", lambda value: f"loaded tools: {value}"),
    "sends_additional_tools": ("cache", _either("loaded tools as `additional_tools`", "")),
    "keep_alive": ("cache", lambda value: f"`keep_alive` {value}"),
    "accepts_tools": ("tools", _either("", "none")),
    "accepts_forced_tool": (
        "tools",
        lambda value: {
            "never": "cannot be forced",
            "any": "can be forced, but not by name",
            "not_thinking": "cannot be forced while it thinks",
            "always": "can be forced",
        }[value],
    ),
    "sends_strict": ("tools", _either("`strict`", "no `strict`")),
    "sends_parallel_tool_calls": ("tools", _either("", "cannot be limited to one call")),
    "sends_tool_stream": ("tools", _either("`tool_stream`", "")),
    "tool_name_pattern": ("tools", lambda value: f"names like `{value}`"),
    "max_tool_name_length": ("tools", lambda value: f"names up to {value} characters"),
    "schema_rules": (
        "tools",
        lambda value: _listed(
            text
            for holds, text in (
                (value.inlines_references, "schemas without `$ref`"),
                (not value.allows_type_beside_alternatives, "no `type` beside `anyOf`"),
                (value.allows_basics_only, "basic keywords only"),
            )
            if holds
        ),
    ),
    "schema_form": ("tools", lambda value: f"schemas as {value}"),
    "call_id_form": (
        "tools",
        lambda value: {"nine": "call ids of nine characters", "counted": "counted call ids"}.get(value, "short ids"),
    ),
    "sends_call_ids": ("tools", _either("call ids", "no call ids")),
    "requires_message_after_results": ("tools", _either("a message between results and user text", "")),
    "buffers_tool_arguments": ("tools", _either("arguments are checked", "")),
    "repairs_tool_names": ("tools", _either("names are repaired", "names are not repaired")),
    "repairs_tool_arguments": ("tools", _either("arguments are repaired", "")),
    "text_call_formats": ("tools", _either("calls are also read from the text", "no calls are read from the text")),
    "server_tools": ("tools", lambda value: f"own tools: {_listed(value)}"),
    "server_tools_exclusive": ("tools", _either("own tools not beside others", "")),
    "accepts_forced_server_tool": ("tools", _either("", "own tools cannot be forced")),
    "reply_schema_form": (
        "tools",
        lambda value: {
            "json_object": "a reply schema as `json_object` and text",
            "ask": "a reply schema as a forced tool, or text",
            "json_schema": "a reply schema as `json_schema`",
        }[value],
    ),
    "reply_schema_exclusive": ("tools", _either("a reply schema beside tools and in streams as text", "")),
    "accepts_schema_with_functions": ("tools", _either("", "a reply schema beside tools as text")),
    "accepts_image_urls": ("images, PDF", _either("", "no image URLs")),
    "image_types": ("images, PDF", lambda value: _listed(kind.removeprefix("image/").upper() for kind in value)),
    "accepts_media_in_results": ("images, PDF", _either("", "not in tool results")),
    "accepts_file_urls": ("images, PDF", _either("", "no file URLs")),
    "pdf_form": ("images, PDF", lambda value: f"PDF as `{value}`"),
    "accepts_pdf_urls": ("images, PDF", _either("PDF by URL", "")),
    "output_limit_field": ("limits", _code),
    "min_output_tokens": ("limits", lambda value: f"at least {value} output tokens"),
    "sends_num_ctx": ("limits", _either("`num_ctx`", "no `num_ctx`")),
    "accepts_continuation": ("limits", _either("long replies are continued", "")),
    "continuation_version": ("limits", lambda value: f"continued at `{value}`"),
    "always_stream": ("limits", _either("always streamed", "")),
    "has_anthropic_errors": ("errors", _either("", "errors in a form of its own")),
    "system_role": ("other", lambda value: f"system text as `{value}`"),
    "mid_conversation_system": (
        "other",
        lambda value: (
            "system messages between others become reminders" if value == "remind" else "system messages stay"
        ),
    ),
    "accepts_system_messages": ("other", _either("", "system messages become reminders")),
    "prefill_form": ("other", lambda value: f"a last assistant message is continued (`{value}`)"),
    "sampling_support": (
        "other",
        lambda value: {
            "never": "no `temperature`, `top_p`",
            "not_thinking": "`temperature`, `top_p` without thinking only",
            "always": "`temperature`, `top_p`",
        }[value],
    ),
    "sends_sampling": ("other", _either("`temperature`, `topP`, `topK`", "no sampling")),
    "sends_top_k": ("other", _either("`top_k`", "no `top_k`")),
    "omits_null_content": ("other", _either("no `content: null`", "")),
    "sends_user_id": ("other", _either("a hash of the user", "no identifier of the user")),
    "sends_service_tier": ("other", _either("the service tier", "no service tier")),
    "sends_store": ("other", _either("`store: false`", "no `store`")),
    "sends_truncation": ("other", _either("", "no `truncation`")),
    "sends_configuration_updates": ("effort", _either("a changed effort as `configuration_update`", "")),
    "sends_phase": ("other", _either("`phase` of each reply", "")),
    "sends_include_usage": ("other", _either("", "no `stream_options`")),
    "forwards_client_headers": ("other", _either("", "no headers of the client")),
    "forwards_metadata": ("other", _either("", "no `metadata`")),
    "has_count_tokens": ("other", _either("counts tokens", "counts no tokens")),
    "count_paths": (
        "other",
        lambda value: f"counts tokens at {_listed(map(_code, value))}" if value else "counts no tokens",
    ),
    "message_path": ("other", lambda value: f"at `{value}`"),
    "version_in_body": ("other", lambda value: f"`anthropic_version: {value}` in the body"),
    "accepts_newer_versions": ("other", _either("", "no newer API version")),
    "sends_betas_in_body": ("other", _either("betas also in the body", "")),
    "betas": ("other", _either("known betas only, see below", "no betas")),
    "renamed_betas": ("other", lambda value: f"renamed: {_pairs(value)}"),
    "dropped_fields": ("other", lambda value: f"without {_listed(map(_code, value))}"),
    "drops_rejected_fields": ("other", _either("rejected betas and fields are not sent again", "")),
}
"""Field of a dialect → column of the table, and text for a value. "": nothing to say."""
UNSAID = {
    *("signature_tag", "has_model_list", "sends_stream_field", "stream_path", "count_path", "server_tool_names"),
    *("server_tool_form", "server_tool_setting_names", "requests_search_sources", "accepts_excluded_domains"),
    *("sends_user_location", "sends_max_tool_calls", "sends_container", "sends_require_approval", "removed_betas"),
    "suspected_betas",
    *("search_with_functions", "searches_billed_per_reply", "counts_whole_request"),
}
"""Fields without a text: internal ones, and details of search settings (docs/guide/matrix.md)."""


class _Sources:
    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def number(self, source: str, date: str) -> str:
        return f"[{self.numbers.setdefault((source, date), len(self.numbers) + 1)}]"

    def text(self) -> str:
        return "\n".join(
            f"{number}. {_without_scheme(source)}, read {date}" for (source, date), number in self.numbers.items()
        )


def _without_scheme(source: str) -> str:
    return re.sub(r"https?://", "", source)


def written_page() -> str:
    sources = _Sources()
    tables = []
    for api, title in _TITLES.items():
        vendors = [vendor for vendor in list_vendors() if vendor.api == api]
        header = f"| vendor | key | {' | '.join(COLUMNS)} |\n| --- | --- | {' | '.join('---' for _ in COLUMNS)} |"
        rows = [_row(vendor, sources) for vendor in vendors]
        if api == "chat":
            rows.append(_open_models_row(sources))
        tables.append(f"\n## {title}\n\n{header}\n" + "\n".join(rows) + "\n")
    return _TEXT.format(tables="".join(tables), betas=_betas(), sources=sources.text())


def _betas() -> str:
    clouds = [vendor for vendor in list_vendors() if vendor.api == "messages" and _lists_betas(vendor)]
    names = dict.fromkeys(beta for vendor in clouds for beta in vendor.config.dialect.betas)
    lines = [
        f"| beta | {' | '.join(vendor.title for vendor in clouds)} |",
        f"| --- | {' | '.join('---' for _ in clouds)} |",
        *(
            f"| `{beta}` | {' | '.join('yes' if beta in vendor.config.dialect.betas else '' for vendor in clouds)} |"
            for beta in sorted(names)
        ),
    ]
    return "\n".join(lines)


def _lists_betas(vendor: Vendor) -> bool:
    return vendor.config.dialect.betas not in ((), ("*",))


def _row(vendor: Vendor, sources: _Sources) -> str:
    cells: dict[str, list[str]] = {column: [] for column in COLUMNS}
    title = f"**{vendor.title}** `{_without_scheme(vendor.address)}` {sources.number(vendor.source, vendor.read_date)}"
    for claim in vendor.claims():
        if claim.field not in UNSAID and (not claim.is_shared or vendor.name == "openai"):
            column, _ = PHRASES[claim.field]
            cells[column].append(_phrase(claim, sources))
    if vendor.accepts_pdf:
        cells["images, PDF"].append("PDF at every model")
    cells["limits"].append(_limits(vendor, sources))
    cells["errors"] += [_code(case.folder.name) for case in cases_of(vendor.name, vendor.api) if _is_error(case)]
    merged = (_merge(cells[column]) for column in COLUMNS)
    return f"| {title} | {vendor.key} | {' | '.join(merged)} |"


def _open_models_row(sources: _Sources) -> str:
    """Return the row of rules that hold at every host of open models."""
    cells: dict[str, list[str]] = {column: [] for column in COLUMNS}
    host = next(vendor for vendor in list_vendors() if vendor.name == "fireworks")
    for claim in host.claims():
        if claim.is_shared:
            cells[PHRASES[claim.field][0]].append(_phrase(claim, sources))
    merged = (_merge(cells[column]) for column in COLUMNS)
    return f"| **open models at any of these hosts** |  | {' | '.join(merged)} |"


def _phrase(claim: Claim, sources: _Sources) -> str:
    text = PHRASES[claim.field][1](claim.value)
    if claim.pattern == "*" or not text:
        return text
    return f"`{claim.pattern}`: {text} {sources.number(claim.source, claim.read_date)}"


def _merge(texts: Iterable[str]) -> str:
    """Join texts; patterns with the same text and source become one."""
    groups: dict[str, list[str]] = {}
    for text in filter(None, texts):
        found = re.fullmatch(r"(`[^`]+`): (.*)", text)
        pattern, rest = (found[1], found[2]) if found else ("", text)
        groups.setdefault(rest, []).append(pattern)
    joined = "; ".join(
        f"{', '.join(dict.fromkeys(patterns))}: {text}" if patterns[0] else text for text, patterns in groups.items()
    )
    return joined.replace("|", "\\|")


def _limits(vendor: Vendor, sources: _Sources) -> str:
    rows = [row for row in load_model_rows(vendor.models_table) or () if row.capabilities.known]
    if not rows:
        return "learned from errors"
    windows = [row.capabilities.context_window for row in rows]
    outputs = [row.capabilities.max_output for row in rows]
    numbers = dict.fromkeys(sources.number(row.source, row.read_date) for row in rows)
    return f"window {_range(windows)}, output {_range(outputs)} {''.join(numbers)}"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is_error(case: Any) -> bool:
    return case.folder.parent.name == "errors" or case.folder.name.startswith("policy_")


def missing_phrases() -> set[str]:
    """Return fields of dialects without a text."""
    fields = {field for vendor in list_vendors() for field in type(vendor.config.dialect).__struct_fields__}
    return fields - PHRASES.keys() - UNSAID
