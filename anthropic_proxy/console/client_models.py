"""What Claude Code is told about the models that reply to it: names, descriptions, and when to search for tools.

Claude Code knows Anthropic's models only. The ids that it requests stay the same, so that routes, fallbacks and prices
of the proxy apply. Only what it shows is replaced. Read in, and tested with, version 2.1.330.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.client_variables import LIST_MODELS, NO_LONG_CONTEXT, TOOL_SEARCH
from anthropic_proxy.engine.messages.tokens import estimate_text_tokens
from anthropic_proxy.errors import join_with_and
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

TIERS = ("opus", "sonnet", "haiku", "fable")
"""Families of models for which Claude Code has a row in its menu `/model`, with variables of its own."""
MAIN_MODELS = ("opus", "sonnet")
"""Models that Claude Code requests for a conversation, if the user chooses none."""
MODELS_PATH = "/v1/models?limit=1000"
WINDOW_ASSUMED = "max_input_tokens_assumed"
"""Field of a model in the model list of the proxy: True if its window is unknown."""
MODELS_TIMEOUT_SECONDS = 5.0
"""Maximum seconds for a reply about models. The proxy first waits for those of the servers."""
_SHORT_WINDOW, _LONG_WINDOW = 200_000, 1_000_000
"""Windows in tokens that Claude Code assumes for its own models: with `NO_LONG_CONTEXT`, and without it."""
MAX_TOOL_TOKENS = 10_000
"""Size of deferrable tools in tokens above which Claude Code defers them.

Definitions are sent with each request, mostly read from the provider's cache. A tool that is loaded later needs one
more request, which reads the whole prompt. Below this size, that costs more than it saves.
"""
_OTHER_ROWS = ("ANTHROPIC_CUSTOM_MODEL_OPTION", LIST_MODELS)
"""Variables of the user by which `/model` has further rows."""
_SEARCH_TOOL = "ToolSearch"
_MAX_TOOL_SHARE = 0.1
"""The same as a share of the window, for small windows. It is the default of Claude Code."""


class TierModel(Struct, frozen=True):
    """The model that replies to requests for the newest Claude model of a tier."""

    tier: str
    id: str
    """Id that Claude Code requests: `claude-opus-5-5`."""
    target: str
    """Model with the prefix of its provider: `openai/gpt-4.1`. "": Anthropic itself."""
    window: int
    """Input limit of the target in tokens. 0: the proxy states none."""
    is_assumed: bool = False
    """True if `window` is an assumption of the proxy."""
    route: str = ""
    """Route that sends a conversation to `target`. "": the model mapping does."""
    otherwise: str = ""
    """Model that replies to requests that do not meet `route`. "": there is none."""
    other_routes: tuple[str, ...] = ()
    """Routes that can send requests of a conversation to other models."""


def find_tier_models(listing: Any) -> Sequence[TierModel]:
    """Return the model of each tier. `listing`: the JSON of `MODELS_PATH`; a malformed entry is left out."""
    entries = listing.get("data") if isinstance(listing, dict) else None
    found: dict[str, TierModel] = {}
    for entry in entries if isinstance(entries, list) else ():
        name, target = (entry.get("id"), entry.get("target")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(target, str | None):
            continue
        words = name.split("-")
        if words[0] == "claude" and len(words) > 1 and words[1] in TIERS and words[1] not in found:
            keys = ("target", "route", "otherwise")
            shown, route, otherwise = (escape_unprintable(str(entry.get(key) or "")) for key in keys)
            window, listed = entry.get("max_input_tokens"), entry.get("other_routes")
            size, is_assumed = window if isinstance(window, int) else 0, entry.get(WINDOW_ASSUMED) is True
            others = tuple(escape_unprintable(str(one)) for one in listed) if isinstance(listed, list) else ()
            found[words[1]] = TierModel(words[1], name, shown, size, is_assumed, route, otherwise, others)
    return [found[tier] for tier in TIERS if tier in found]


def list_name_variables(
    models: Iterable[TierModel], prices: Mapping[str, str], effective: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables with which the menu `/model` shows the models that reply.

    `prices`: target → price as text. A tier for which `effective`, the variables of the client, has an own model, name
    or description is left out.
    """
    variables: dict[str, str] = {}
    for model in models:
        name = f"ANTHROPIC_DEFAULT_{model.tier.upper()}_MODEL"
        if not model.target or any(f"{name}{suffix}" in effective for suffix in ("", "_NAME", "_DESCRIPTION")):
            continue
        variables |= {
            name: model.id,
            f"{name}_NAME": model.target,
            f"{name}_DESCRIPTION": _describe_model(model, [model.tier], prices),
        }
    return variables


def _describe_model(model: TierModel, tiers: Sequence[str], prices: Mapping[str, str]) -> str:
    """Return `replies to opus and sonnet by route think, 1.0 M context, $2/$8 per Mtok, other models by route long`."""
    facts = [f"replies to {join_with_and(tiers)}{f' by route {model.route}' if model.route else ''}"]
    window = formats.short_count(model.window)
    if model.window:
        facts.append(f"unknown context, assumed {window}" if model.is_assumed else f"{window} context")
    facts += [prices[model.target]] if model.target in prices else []
    facts += [f"other models by route {join_with_and(model.other_routes)}"] if model.other_routes else []
    return ", ".join(facts)


def list_limit_variables(models: Sequence[TierModel], *, is_managed: bool = False) -> dict[str, str]:
    """Return the variables for long contexts and for tool search, for the models of all tiers.

    `is_managed`: they are sent as managed settings, of which each user would have to approve `NO_LONG_CONTEXT`.
    """
    replaced = [model for model in models if model.target]
    windows = [model.window for model in replaced if model.window]
    if not windows:
        return {TOOL_SEARCH: "true"} if models else {}
    # with this variable Claude Code assumes 200,000 tokens for all its models, and offers no longer window
    has_all_windows = len(replaced) == len(TIERS) and len(windows) == len(TIERS)
    has_short_windows = has_all_windows and max(windows) <= _SHORT_WINDOW and not is_managed
    variables = {NO_LONG_CONTEXT: "1"} if has_short_windows else {}
    assumed = _SHORT_WINDOW if has_short_windows else _LONG_WINDOW
    share = max(round(100 * limit_tool_tokens(min(windows)) / assumed), 1)
    return {**variables, TOOL_SEARCH: "true" if len(replaced) < len(models) else f"auto:{share}"}


def limit_tool_tokens(window: int) -> int:
    """Return the size of deferrable tools, in tokens, above which they are deferred for a model with this window."""
    return min(MAX_TOOL_TOKENS, int(window * _MAX_TOOL_SHARE))


def explain_tool_search(tools: Sequence[Any], window: int) -> str:
    """Return what `ENABLE_TOOL_SEARCH` means for a request of Claude Code with these tools.

    `tools`: field of the request. `window`: window of the target in tokens.
    """
    names = [tool.get("name") for tool in tools if isinstance(tool, dict)]
    tokens, limit = round(estimate_text_tokens(json.dumps(tools).encode())), limit_tool_tokens(window)
    counted = f"{formats.plural(len(tools), 'tool')}, about {tokens:,} tokens in each request"
    if _SEARCH_TOOL in names:
        return f"{counted}; tool search is on, so Claude Code sends further tools when the model needs them"
    if tokens <= limit:
        return f"{counted}; tool search would pay above {limit:,} tokens"
    return (
        f"{counted}; above {limit:,} tokens tool search pays, if most of them are deferrable: start Claude Code by "
        f"anthropic-proxy code, which sets {TOOL_SEARCH}. Below, it costs more: each search is one more request "
        "with the whole prompt"
    )


def build_model_picker(
    models: Sequence[TierModel],
    variables: Mapping[str, str],
    prices: Mapping[str, str],
    effective: Mapping[str, str],
    requested: Sequence[str],
) -> dict[str, Any]:
    """Return the setting `modelPicker`, by which the menu `/model` has one row for each model that replies.

    The header of Claude Code takes names from these rows. The tier of the one model that is `requested` at the start
    therefore has a row of its own. `variables`, `prices` and `effective`: as of `list_name_variables`. Only its tiers
    get rows. If another tier or a model of the user's own has a row in the menu of Claude Code, the rows of that menu
    stay beside them. {}: there are no rows.
    """
    named = [one for one in models if variables.get(f"ANTHROPIC_DEFAULT_{one.tier.upper()}_MODEL") == one.id]
    replaces = len(named) == len(TIERS) and effective.keys().isdisjoint(_OTHER_ROWS)
    tiers: dict[object, list[TierModel]] = {}
    for model in named:
        is_requested = len(requested) == 1 and requested[0].startswith(f"claude-{model.tier}")
        reply = (model.target, model.route, model.other_routes)
        tiers.setdefault(reply if replaces and not is_requested else model.id, []).append(model)
    groups = [(same[0], [one.tier for one in same]) for same in tiers.values()]
    rows = [
        {"model": first.id, "label": first.target, "description": _describe_model(first, names, prices)}
        for first, names in groups
    ]
    return {"options": rows, **({"replaceBuiltInOptions": True} if replaces else {})} if rows else {}
