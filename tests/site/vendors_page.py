"""docs/reference/vendors.md: what the proxy does for each vendor, from the registry and the golden cases."""

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from genai_prices.data import providers as known_price_providers

from anthropic_proxy.console.formats import plural
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.lookup import find_vendor
from anthropic_proxy.engine.providers.model_facts import FACTS, load_model_rows
from anthropic_proxy.engine.providers.vendors import VENDORS_FILE, load_vendor
from anthropic_proxy.engine.wires.json_schema import SchemaRules
from anthropic_proxy.engine.wires.openai_chat.effort_forms import EFFORT_FORMS, EffortFormName
from tests.site.pages import DOCS
from tests.support.vendors import HOSTS_OF_OPEN_MODELS, LOCAL_PROGRAMS, Claim, Vendor, cases_of, list_vendors

PAGE = DOCS / "reference/vendors.md"
GUIDE = DOCS / "guide/providers.md"
COLUMNS = (
    "thinking out",
    "thinking back",
    "effort",
    "cache",
    "tools",
    "images, PDF",
    "limits",
    "errors",
    "ends",
    "other",
)
_HEADINGS = ["vendor", "key", "APIs", *COLUMNS[:5], "images", *COLUMNS[6:-1], "price"]
_DEFAULT = "as the default"
_SEARCHED, _NOT_SEARCHED = "unknown: no source found, searched on ", "not looked up"
_PRICED = "cached input has a price of its own"
_PRICE_PACKAGE = (f"genai-prices {version('genai-prices')}", "2026-11")
_OPEN_COLUMNS = ("cache", "images, PDF", "errors", "ends")
"""Columns about the vendor itself, which the dialect alone does not answer."""

_TEXT = """\
# Vendors

<!-- Written by `python3 scripts/fix.py` from engine/providers and vendors.toml: change those instead. -->

What the proxy knows about each vendor beside [the settings](../guide/providers.md). Nothing was tried with an account.
What a server rejects nevertheless is left out of later requests
([reliability](../guide/reliability.md#errors-by-kind)).

**=** as [the default](#the-default) of the API. **≠** something differs: the section of the vendor says what. **?**
unknown: no source found, or not looked up. *Effort*: levels by name, or a switch. *Cache*: a key of the session is
sent, or the client's marks; *by itself*: the vendor documents a cache; *priced*: cached input has a price of its own.
*Images*: how many of the known models accept images. *Limits*: models with known limits; *errors*: limits are learned
from errors. *Errors*: forms that tests replay. *Ends*: models with a date of retirement; *policy*: how the vendor
announces it. *Price*: from the package genai-prices, from the vendor's own list (number of models, date), or from both.

{overview}

Cells with a fact, a case or the default: {known} of {cells}; unknown: {unknown}.

## The default

{default}

*Hosts of open models*: those from Fireworks on, and the programs for a machine of yours. System messages inside a
conversation become reminders there. A section names differences; `pattern: text` holds for models of this pattern. A
number in brackets is the source below the section, with the date of reading; text without a number is from source [1].

{sections}
## Open models at any host

Hosts serve the same weights, so these rules go by the name of the model, at every host from Fireworks on and at unknown
ones. Rules for OpenAI's models hold for Azure too, and those for Claude at every host, over each API.

{open_models}

## Betas

A beta of the client that a cloud does not have is left out and noted. Claude at a cloud is a relay otherwise.

{betas}

## Vendors that have ended

GitHub Models was retired on 30 July 2026 (github.com/orgs/community/discussions/203602, read 2026-11-25), so it has no
entry.
"""


_APIS = {
    "chat": ("Chat Completions", "Chat"),
    "responses": ("Responses", "Responses"),
    "gemini": ("generateContent", "generateContent"),
    "ollama": ("/api/chat", "/api/chat"),
    "messages": ("Messages API", "Messages"),
}
"""Name of an API → its title, and the short one of the overview."""
_DEFAULTS: dict[str, tuple[str, ...]] = {
    "thinking out": (
        "fields `reasoning_content`, `reasoning`; *hosts of open models*: also `<think>` tags in the text",
        "a summary, and encrypted content",
        "parts with `thought: true`",
        "field `thinking`",
        "forwarded",
    ),
    "thinking back": (
        "none; *hosts of open models*: [by model](#open-models-at-any-host)",
        "encrypted content",
        "signatures",
        "field `thinking`",
        "forwarded",
    ),
    "effort": (
        "none is sent; *hosts*: [by model](#open-models-at-any-host)",
        "`reasoning.effort`",
        "`thinkingConfig` by level",
        "`think`",
        "forwarded",
    ),
    "cache": (
        "nothing beside a constant beginning",
        "`prompt_cache_key`",
        "nothing beside a constant beginning",
        "nothing",
        "the client's marks",
    ),
    "tools": (
        "`tools` with `strict`, forced and parallel calls; *hosts*: calls are also read from the text, and names "
        "repaired",
        "`tools` with `strict`, and server tools",
        "`functionDeclarations`",
        "`tools`",
        "forwarded",
    ),
    "images, PDF": (
        "`image_url` with data or an address, in user messages; PDF as `file`",
        "`input_image`, `input_file`, also in results",
        "`inlineData`, `fileData`, also in results",
        "`images`",
        "forwarded",
    ),
    "limits": (
        "`max_completion_tokens`; *hosts*: `max_tokens`; unknown limits are learned from errors",
        "`max_output_tokens`",
        "`maxOutputTokens`",
        "`num_predict`, `num_ctx`",
        "forwarded",
    ),
    "errors": (
        "`error.message`, `type`, `code`, `param`, also without a field `error`, as text, or with a gateway around it",
        "the same, and `response.failed`",
        "`error.status`, `details`",
        "`error`",
        "status and body forwarded",
    ),
}
"""Column → what the proxy does at each of `_APIS` unless something differs."""
_MAX_ERRORS = 6
_SWITCHES = {name for name, form in EFFORT_FORMS.items() if form.switch and not form.level}


def _describe_form(name: EffortFormName) -> str:
    """`reasoning_effort` as `reasoning_effort`, `thinking_effort` as `thinking: {type, effort}`"""
    form = EFFORT_FORMS[name]
    fields: dict[str, list[str]] = {}
    for field, *inner in filter(None, (() if form.level_replaces_switch else form.switch, form.level)):
        fields.setdefault(field, []).extend(inner)
    texts = [f"`{field}: {{{', '.join(inner)}}}`" if inner else f"`{field}`" for field, inner in fields.items()]
    return (" and ".join(texts) or "none is sent") + (", on or off" if name in _SWITCHES else "")


def _code(value: Any) -> str:
    return f"`{value}`"


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) or "none"


def _list_schema_rules(rules: SchemaRules) -> str:
    return _listed(
        text
        for holds, text in (
            (rules.inlines_references, "schemas without `$ref`"),
            (not rules.allows_recursion, "no recursion in schemas"),
            (rules.requires_types, "a type in each schema"),
            (not rules.allows_empty_texts, "no empty text in `enum`"),
            (rules.allows_basics_only, "basic keywords only"),
        )
        if holds
    )


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
    "requires_thinking_with_calls": ("thinking back", _either("required before each call, else added", "")),
    "thinking_retention_field": ("thinking back", lambda value: f"kept by `{value}`"),
    "replays_reasoning_details": ("thinking back", _either("`reasoning_details` unchanged", "")),
    "replays_thinking": ("thinking back", _either("`encrypted_content`", "not sent back")),
    "requires_signatures": ("thinking back", _either("signatures are required", "signatures are not required")),
    "replays_signatures": ("thinking back", _either("signatures", "no signatures")),
    "verifies_signatures": ("thinking back", _either("signatures are verified", "signatures are not verified")),
    "sends_past_thinking": ("thinking back", _either("", "past thinking is removed")),
    "placeholder_encoding": ("thinking back", lambda value: f"the placeholder of a signature as {value}"),
    "effort_form": ("effort", _describe_form),
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
    "prompt_settings": (
        "cache",
        lambda value: "depends on " + ", ".join(f"`{name}`" for name in value) if value else "",
    ),
    "loaded_tools": ("cache", lambda value: f"loaded tools: {value}"),
    "sends_additional_tools": ("cache", _either("loaded tools as `additional_tools`", "")),
    "keep_alive": ("cache", lambda value: f"`keep_alive` {value}"),
    "offers_decisions": ("other", _either("checks of tool calls by `/decisions`", "")),
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
    "schema_rules": ("tools", _list_schema_rules),
    "schema_language": ("tools", _list_schema_rules),
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
        lambda value: {
            "keep": "system messages stay",
            "remind": "system messages between others become reminders",
            "prefer_remind": "system messages between others become reminders, until the cached tokens fall behind one",
        }[value],
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
    "thinking_forms": ("other", lambda value: f"types of `thinking`: {_listed(map(_code, value))}"),
    "max_effort_without_thinking": ("effort", lambda value: f"at most {_code(value)} without thinking"),
    "tools_as_functions": (
        "tools",
        lambda value: f"{_listed(map(_code, value))} as a function" if value else "each version of a tool",
    ),
    "accepts_sampling": ("other", _either("", "no `temperature`, `top_p`, `top_k`")),
    "accepts_prefill": ("other", _either("", "no prefill")),
    "version_in_body": ("other", lambda value: f"`anthropic_version: {value}` in the body"),
    "accepts_newer_versions": ("other", _either("", "no newer API version")),
    "sends_betas_in_body": ("other", _either("betas also in the body", "")),
    "betas": (
        "other",
        lambda value: {(): "no betas", ("*",): "the client's betas"}.get(
            value, "known betas only, [see below](#betas)"
        ),
    ),
    "renamed_betas": ("other", lambda value: f"renamed: {_pairs(value)}"),
    "dropped_fields": ("other", lambda value: f"without {_listed(map(_code, value))}"),
    "betas_listed_on": ("other", lambda value: f"betas after {value} are tried"),
    "unproven_betas": ("other", lambda value: "the proxy summarizes conversations" if value else ""),
    "accepts_media_urls": ("images, PDF", _either("", "files as base64 data only")),
    "streams_tool_input": ("tools", _either("", "`eager_input_streaming` is added")),
    "missing_tools": ("tools", lambda value: f"without server tools {_listed(map(_code, value))}"),
    "tool_versions": ("tools", lambda value: f"only {_listed(map(_code, value))}"),
    "drops_rejected_fields": ("other", _either("rejected betas and fields are not sent again", "")),
    "repairs_unknown_refusals": ("errors", _either("", "a refusal in unknown words is not repaired")),
}
"""Field of a dialect → column of the table, and text for a value. "": nothing to say."""
UNSAID = {
    *("signature_tag", "has_model_list", "sends_stream_field", "stream_path", "count_path", "server_tool_names"),
    *("server_tool_form", "server_tool_setting_names", "requests_search_sources", "accepts_excluded_domains"),
    *("sends_user_location", "sends_max_tool_calls", "sends_container", "sends_require_approval", "removed_betas"),
    *("suspected_betas", "accepted_betas"),
    *("search_with_functions", "searches_billed_per_reply", "counts_whole_request"),
}
"""Fields without a text: internal ones, and details of search settings (docs/guide/matrix.md)."""


class _Sources:
    """Sources of one section, numbered in the order of their first use."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def number(self, source: str, date: str) -> str:
        return f"[{self.numbers.setdefault((_without_scheme(source), date), len(self.numbers) + 1)}]"

    def text(self) -> str:
        return "\n".join(f"- [{number}] {source}, read {date}" for (source, date), number in self.numbers.items())


def _without_scheme(source: str) -> str:
    return re.sub(r"https?://", "", source)


def written_page() -> str:
    rows = overview()
    cells = [cell for row in rows for cell in row]
    unknown = sum(cell in ("?", "unknown") for cell in cells)
    return _TEXT.format(
        overview="\n".join(f"| {' | '.join(row)} |" for row in (_HEADINGS, ["---"] * len(_HEADINGS), *rows)),
        known=len(cells) - unknown,
        cells=len(cells),
        unknown=unknown,
        default=_default_table(),
        sections="\n".join(map(_section, _group_by_vendor())),
        open_models=_open_models(),
        betas=_betas(),
    )


def overview() -> list[list[str]]:
    """Return the cells of the first table."""
    return [_overview_row(group) for group in _group_by_vendor()]


def written_guide() -> str:
    """Return the guide with a row for each host of `vendors.toml`, between the rows that are written by hand."""
    rows = ""
    for table in map(load_vendor, HOSTS_OF_OPEN_MODELS):
        addresses = ", ".join(filter(None, (_code(table.base_url), table.also_at)))
        rows += f"| {table.title} | {addresses} | {table.differences} |\n"
    text = GUIDE.read_text("utf-8")
    begin = text.index("\n", text.index("\n| Groq, Moonshot, xAI |") + 1) + 1
    return text[:begin] + rows + text[text.index("| any other |") :]


def _default_table() -> str:
    apis = [title for title, _ in _APIS.values()]
    lines = [f"| | {' | '.join(apis)} |", "| --- " * (len(apis) + 1) + "|"]
    return "\n".join([*lines, *(f"| {column} | {' | '.join(texts)} |" for column, texts in _DEFAULTS.items())])


def _group_by_vendor() -> list[list[Vendor]]:
    """Return the APIs of each vendor, the vendors in the order of the registry."""
    groups: dict[str, list[Vendor]] = {}
    for vendor in list_vendors():
        groups.setdefault(vendor.name, []).append(vendor)
    order = list(_APIS)
    return [sorted(group, key=lambda vendor: order.index(vendor.api)) for group in groups.values()]


def _overview_row(group: Sequence[Vendor]) -> list[str]:
    """Return the cells of a vendor: those of its first API, in short."""
    first = group[0]
    anchor = re.sub(r"[^\w -]", "", first.title.lower()).replace(" ", "-")
    programs = ", ".join(_code(one.key_variable) for one in LOCAL_PROGRAMS)
    keys = programs if first.name == "local" else first.keys
    apis = ", ".join(_APIS[vendor.api][1] for vendor in group if not vendor.is_for_own_addresses)
    texts = dict(_rows(first, _Sources()))
    marks = {column: "=" if text == _DEFAULT else "?" if _is_unknown(text) else "≠" for column, text in texts.items()}
    marks["effort"] = _effort(first) or marks["effort"]
    marks["cache"] = _cache(first) or marks["cache"]
    rows = [row.capabilities for row in load_model_rows(first.models_table) if row.capabilities.known]
    if rows:
        marks["images, PDF"] = f"{sum(row.accepts_images for row in rows)} of {len(rows)}"
    marks["limits"] = str(len(rows)) if rows else "errors"
    if cases := sum(_is_error(case) for vendor in group for case in cases_of(vendor.name, vendor.api)):
        marks["errors"] = str(cases)
    if marks["ends"] != "?":
        marks["ends"] = str(len(first.owner.retired_models)) if first.owner.retired_models else "policy"
    shown = [marks[column] for column in COLUMNS[:-1]]
    return [f"[{first.title}](#{anchor})", keys, apis, *shown, _price(first)]


def _effort(vendor: Vendor) -> str:
    claims = [claim for claim in vendor.claims() if claim.field == "effort_form" and not claim.is_shared]
    forms = {claim.value for claim in claims} - {"omit"}
    texts = {"levels": forms - _SWITCHES, "on or off": forms & _SWITCHES}
    return ", ".join(text for text, holds in texts.items() if holds)


def _cache(vendor: Vendor) -> str:
    fields = {claim.field for claim in vendor.claims() if claim.value}
    texts = {
        "key": fields & {"session_field", "session_header"} or vendor.api == "responses",
        "marks": "sends_cache_marks" in fields,
        "by itself": "automatic" in _facts(vendor).get("cache", [""])[0],
        "priced": _cached_prices(vendor, _Sources()),
    }
    return ", ".join(text for text, holds in texts.items() if holds)


def _facts(vendor: Vendor) -> dict[str, list[str]]:
    """Return what the vendor documents beside its dialect: column → text, source, date."""
    facts: dict[str, list[str]] = read_facts().get(vendor.name, {}).get("facts", {})
    return facts


def _unknown(vendor: Vendor) -> str:
    """Return the text of a column without a fact."""
    date = read_facts().get(vendor.name, {}).get("searched_on")
    return f"{_SEARCHED}{date}" if date else _NOT_SEARCHED


def _is_unknown(text: str) -> bool:
    return text == _NOT_SEARCHED or text.startswith(_SEARCHED)


@cache
def read_facts() -> dict[str, Any]:
    """Return name of a vendor → its table of `vendors.toml`."""
    return tomllib.loads(VENDORS_FILE.read_text("utf-8"))


def _price(vendor: Vendor) -> str:
    if vendor.unpriced:
        return vendor.unpriced
    if vendor.name == "ollama":
        return "free on a machine of yours"
    sources = ["genai-prices"] if _find_price_provider(vendor) is not None else []
    if prices := FACTS.file.find_prices(vendor.models_table):
        sources.append(f"{plural(len(prices.models), 'model')}, {prices.read_date}")
    return " and ".join(sources) or "unknown"


def _find_price_provider(vendor: Vendor) -> Any:
    owner, address = vendor.owner, vendor.address.replace("*.", "example.").replace("{region}", "us-east-1")
    address = owner.price_url or address
    address = address if address.startswith("http") else f"https://{address}"
    return next((one for one in known_price_providers if re.match(one.api_pattern, address)), None)


def _section(group: Sequence[Vendor]) -> str:
    sources, first = _Sources(), group[0]
    sources.number(first.source, first.read_date)
    pages = (("keys", first.owner.keys_url), ("documentation", first.owner.docs_url))
    links = [f"[{text}]({url})" for text, url in pages if url]
    lines = [
        f"## {first.title}",
        "",
        f"Key: {'; '.join(filter(None, (first.key_header, first.keys, ', '.join(links))))}.",
    ]
    if first.owner is find_vendor(first.owner.name, PROVIDERS):
        lines[-1] += f" Table: `[providers.{first.owner.name}]`."
    if others := first.list_other_addresses():
        lines[-1] += f" Also at {', '.join(map(_code, others))}."
    if first.name == "local":
        lines += ["", "| program | usual address | variable of the key |", "| --- | --- | --- |"]
        lines += [
            f"| [{one.title}]({one.docs_url}) | `{one.base_url}` | `{one.key_variable}` |" for one in LOCAL_PROGRAMS
        ]
    for vendor in group:
        address, rows = _code(_without_scheme(vendor.find_api_address())), _rows(vendor, sources)
        if vendor.is_relay:
            rows = [(column, text) for column, text in rows if text != _DEFAULT and not _is_unknown(text)]
            lines += ["", f"Messages API, [forwarded](../guide/providers.md#servers-with-the-messages-api): {address}."]
            lines[-1] += " Otherwise as the default:" if rows else " All as the default."
            if not rows:
                continue
        lines += ["", f"| {_APIS[vendor.api][0]} | {address} |", "| --- | --- |"]
        lines += [f"| {', '.join(columns)} | {text} |" for text, columns in _by_text(rows).items()]
    lines += _price_lines(first, sources) + _end_lines(first, sources)
    return "\n".join([*lines, "", sources.text(), ""])


def _by_text(rows: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the columns of each text, those with the default and the unknown ones last."""
    found: dict[str, list[str]] = {}
    for column, text in sorted(rows, key=lambda row: (_is_unknown(row[1]), row[1] == _DEFAULT)):
        found.setdefault(text, []).append(column)
    return found


def _rows(vendor: Vendor, sources: _Sources) -> list[tuple[str, str]]:
    """Return every column with its text, and `other` only if something differs."""
    cells: dict[str, list[str]] = {column: [] for column in COLUMNS}
    for claim in vendor.claims():
        is_said = claim.field == "replayed_thinking_field" and vendor.config.dialect.replays_reasoning_details
        if (
            claim.field not in UNSAID
            and not (is_said and not claim.value)
            and (not claim.is_shared or (vendor.name == "openai" and "claude" not in claim.pattern))
        ):
            _add_phrase(cells, claim, sources)
    if not vendor.is_relay:
        cells["limits"] += _limits(vendor, sources)
        cells["images, PDF"] += _images(vendor, sources)
        for column, (text, source, date) in _facts(vendor).items():
            cells[column].append(f"{text} {sources.number(source, date)}")
        cells["cache"] += _cached_prices(vendor, sources)
    if vendor.accepts_pdf:
        cells["images, PDF"].append("PDF at every model")
    if vendor.owner.retired_models and not vendor.is_relay:
        cells["ends"].append("below")
    errors = [_code(case.folder.name) for case in cases_of(vendor.name, vendor.api) if _is_error(case)]
    if errors:
        cells["errors"].append(
            "tests replay " + (", ".join(errors) if len(errors) <= _MAX_ERRORS else f"{len(errors)} forms")
        )
    texts = {column: _merge(cells[column]) for column in COLUMNS}
    if vendor.api == "messages" and not vendor.is_relay:  # Claude at a cloud
        texts["images, PDF"] = texts["images, PDF"] or _DEFAULT
    for column in COLUMNS[:-1]:
        texts[column] = texts[column] or (_unknown(vendor) if column in _OPEN_COLUMNS else _DEFAULT)
    return [(column, text) for column, text in texts.items() if text]


def _images(vendor: Vendor, sources: _Sources) -> list[str]:
    rows = [row for row in load_model_rows(vendor.models_table) if row.capabilities.known]
    if not rows:
        return []
    able = [row for row in rows if row.capabilities.accepts_images]
    numbers = dict.fromkeys(sources.number(row.source, row.read_date) for row in able or rows)
    count = "all" if len(able) == len(rows) else f"{len(able)} of {len(rows)}" if able else "none of the"
    return [f"images at {count} known models {''.join(numbers)}"]


def _cached_prices(vendor: Vendor, sources: _Sources) -> list[str]:
    prices = FACTS.file.find_prices(vendor.models_table)
    if "cache" in _facts(vendor) or vendor.unpriced:
        return []
    if prices is not None:
        is_priced, source = (
            any(table.cache_read is not None for table in prices.models.values()),
            (prices.source, prices.read_date),
        )
    else:
        known = _find_price_provider(vendor)
        given = str([model.prices for model in known.models]) if known is not None else ""
        is_priced, source = re.search(r"cache_read_mtok=(?!None)", given) is not None, _PRICE_PACKAGE
    return [f"{_PRICED} {sources.number(*source)}"] if is_priced else []


def _price_lines(vendor: Vendor, sources: _Sources) -> list[str]:
    prices = FACTS.file.find_prices(vendor.models_table)
    if prices is None:
        return []
    rows = (
        f"| `{model}` | {' | '.join(_dollars(amount) for amount in (table.input, table.cache_read, table.output))} |"
        for model, table in prices.models.items()
    )
    number = sources.number(prices.source, prices.read_date)
    return ["", f"| price of a million tokens {number} | input | cached | output |", "| --- | --- | --- | --- |", *rows]


def _dollars(value: float | None) -> str:
    return "" if value is None else f"${value:,.4f}".rstrip("0").rstrip(".")


def _end_lines(vendor: Vendor, sources: _Sources) -> list[str]:
    ends: dict[tuple[str, str, str], list[str]] = {}
    for model, end in vendor.owner.retired_models.items():
        key = (end.retired_on, _code(end.successor), sources.number(end.source, end.read_date))
        ends.setdefault(key, []).append(_code(model))
    rows = [
        f"| {', '.join(models)} | {day} {number} | {successor} |" for (day, successor, number), models in ends.items()
    ]
    return ["", "| model | ends | successor |", "| --- | --- | --- |", *rows] if rows else []


def _open_models() -> str:
    """Return the rules that hold at every host of open models."""
    sources = _Sources()
    cells: dict[str, list[str]] = {column: [] for column in COLUMNS}
    host = next(vendor for vendor in list_vendors() if vendor.name == "fireworks")
    for claim in host.claims():
        if claim.is_shared:
            _add_phrase(cells, claim, sources)
    rows = "\n".join(f"| {column} | {text} |" for column in COLUMNS if (text := _merge(cells[column])))
    return f"| | models |\n| --- | --- |\n{rows}\n\n{sources.text()}"


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


def _add_phrase(cells: dict[str, list[str]], claim: Claim, sources: _Sources) -> None:
    if claim.field not in PHRASES:
        row = f'    "{claim.field}": ("<column>", lambda value: f"<text with {{value}}>"),'
        raise LookupError(f"tests/site/vendors_page.py: add to PHRASES a row, or the name to UNSAID:\n{row}")
    column, describe = PHRASES[claim.field]
    text = describe(claim.value)
    if text and claim.pattern != "*":
        text = f"`{claim.pattern}`: {text} {sources.number(claim.source, claim.read_date)}"
    cells[column].append(text)


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


def _limits(vendor: Vendor, sources: _Sources) -> list[str]:
    rows = [row for row in load_model_rows(vendor.models_table) if row.capabilities.known]
    if not rows:
        return []
    windows = [row.capabilities.context_window for row in rows]
    outputs = [row.capabilities.max_output for row in rows if row.capabilities.max_output is not None]
    numbers = dict.fromkeys(sources.number(row.source, row.read_date) for row in rows)
    output = f", output {_range(outputs)}" if outputs else ""
    return [f"window {_range(windows)}{output} {''.join(numbers)}"]


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _is_error(case: Any) -> bool:
    return case.folder.parent.name == "errors" or case.folder.name.startswith("policy_")
