"""Compare the token estimate with the counts that providers reported, and fit its constants.

    python -m bench.token_counts    constants of each family, and the tables of decision 0012

`bench/token_counts.tsv` has facts of recorded requests: what a request contains in numbers (messages, tools, sizes of
images, words, digits and other features of its texts), the input tokens that the provider reported, and `before`: the
estimate before families of models. Decision 0012 names the recordings and the program that read them.
"""

import csv
import json
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.messages.tokens import (
    DEFAULT_FAMILY,
    TokenFacts,
    TokenFamily,
    count_image_units,
    estimate_tokens,
    weigh_message_text,
    weigh_text,
)
from anthropic_proxy.engine.providers.token_families import FAMILIES_FILE, find_family_name

TABLE = Path(__file__).with_suffix(".tsv")
PAGE = Path(__file__).parents[1] / "docs/contributing/decisions/0012-token-estimate.md"
BEGIN, END = "<!-- errors: begin, written by python -m bench.token_counts -->\n", "<!-- errors: end -->"
MIN_LARGE_TOKENS = 1_000
"""Reported tokens above which a request counts as large. In smaller ones, text of the provider dominates."""


class CountedRequest(Struct, frozen=True):
    """One row of the table."""

    source: str
    """Repository and commit of the recording."""
    number: int
    """Number of the text. Requests with a file, a long line, a tool or a picture in common have the same number."""
    provider: str
    model: str
    characters: int
    """Size of the request as a Messages API request in JSON, without base64."""
    reported: int
    before: int
    """Estimate of the version before families of models."""
    facts: TokenFacts

    @property
    def kind(self) -> str:
        facts = self.facts
        if facts.pages:
            return "pdf"
        if facts.images:
            return "image"
        if facts.calls or facts.results:
            return "calls"
        return "tools" if facts.tools else "text"


# Table


_COLUMNS = ("source", "number", "provider", "model", "characters", "reported", "before")
_TEXTS = ("text", "tool_text")


def read_table() -> list[CountedRequest]:
    rows = []
    with TABLE.open(newline="") as file:
        for cells in csv.DictReader(file, delimiter="\t"):
            images = [
                None if size == "?" else (int(size.split("x")[0]), int(size.split("x")[1]))
                for size in cells.pop("images").split()
            ]
            row: dict[str, Any] = {name: cells.pop(name) for name in _COLUMNS}
            texts = {name: tuple(map(float, cells.pop(name).split())) for name in _TEXTS}
            row["facts"] = msgspec.convert({**cells, **texts, "images": images}, TokenFacts, strict=False)
            rows.append(msgspec.convert(row, CountedRequest, strict=False))
    return rows


# Fit

_BOUNDS = {
    "per_request": (0.0, 80.0),
    "thinking": (0.0, 60.0),
    "per_message": (0.0, 12.0),
    "per_call": (0.0, 30.0),
    "per_result": (0.0, 30.0),
    "any_tool": (0.0, 1_000.0),
    "forced_tool": (0.0, 150.0),
    "per_tool": (0.0, 100.0),
    "per_property": (0.0, 4.0),
    "text": (0.95, 1.7),
    "tool_text": (0.9, 1.5),
    "tool_json": (0.8, 1.7),
    "image_base": (0.0, 1_000.0),
    "per_image_unit": (0.0, 3.0),
    "per_page": (100.0, 4_000.0),
    "page_text": (0.0, 2.0),
}
"""Constant → minimum and maximum of its fitted value."""
_IMAGE_CONSTANTS = ("image_base", "per_image_unit")
_START_WEIGHT = 0.02
"""Weight of the distance from the start values, so that a constant with few requests stays near them."""
_ROUNDS, _SWEEPS = 15, 30
_MAX_SHARE = 0.1
"""Maximum share of one request in the fit of a family."""
_EASE = 20
"""Tokens that are added to estimate and count before they are compared. In a request of 10 tokens one is 10 %."""
_MIN_GAIN = 0.02
"""Share by which start values must be worse than fitted ones to be replaced. Smaller differences are chance."""
_PAGE_RANGE = 1.25
"""Maximum factor between the start value of a page and its fitted value, because few requests have PDFs."""


def _importance(row: CountedRequest) -> float:
    """Large requests matter, because they fill context windows. None decides alone."""
    return 0.2 + min(row.reported, 1_000) / 500


def _parts(facts: TokenFacts, family: TokenFamily) -> list[float]:
    """Return the factors of the constants in `_BOUNDS` in the estimate of a request."""
    units = sum(count_image_units(size, family) for size in facts.images)
    has_tools = min(facts.tools, 1)
    counts = [facts.messages, facts.calls, facts.results, has_tools, facts.forces_tool * has_tools, facts.tools]
    amounts = [1, facts.thinks, *counts, facts.tool_marks]
    texts = weigh_message_text(facts, family), weigh_text(facts.tool_text), facts.tool_json
    return [*amounts, *texts, len(facts.images), units, facts.pages, facts.page_text]


class Example(Struct):
    """A request, and the factors of the constants in its estimate."""

    row: CountedRequest
    parts: list[float]


def fit_family(examples: Sequence[Example], start: TokenFamily, kept: Collection[str] = ()) -> TokenFamily:
    """Return a family with the constants of least absolute logarithmic error, near those of `start`.

    The logarithm of estimate through count has the same size for half and for twice the count. The relative error has
    not (-50 % and +100 %), so its minimum is an estimate that is too low.

    `kept`: names of constants that stay as they are in `start`, as do those that no example has. Coordinate descent on
    squares whose weights follow from the estimates and errors of the round before.
    """
    bounds_by_name = dict(_BOUNDS, per_page=(start.per_page / _PAGE_RANGE, start.per_page * _PAGE_RANGE))
    bounds_by_name["per_request"] = 0.0, start.per_request + 8
    if start.image_rule not in ("area", "patches of 32"):  # rules whose constants are published
        kept = (*kept, *_IMAGE_CONSTANTS)
    if start.forced_tool:  # a family whose prompts for tools are published
        kept = (*kept, "any_tool")
    if start.page_text == 1:  # families whose providers document that they add the text of a page
        kept = (*kept, "page_text")
    kept = (*kept, "forced_tool", *(("tool_text", "per_property") if start.tool_json else ("tool_json",)))
    given = [float(getattr(start, name)) for name in _BOUNDS]
    places = [
        place
        for place, name in enumerate(_BOUNDS)
        if name not in kept and any(example.parts[place] for example in examples)
    ]
    names = [list(_BOUNDS)[place] for place in places]
    bounds, values = [bounds_by_name[name] for name in names], [given[place] for place in places]
    importances = [_importance(example.row) for example in examples]
    most = _MAX_SHARE * sum(importances)
    equations = []
    for example, importance in zip(examples, importances, strict=True):
        amounts = [float(example.parts[place]) for place in places]
        parts = [(i, amount) for i, amount in enumerate(amounts) if amount]
        fixed = sum(map(float.__mul__, given, example.parts)) - sum(map(float.__mul__, values, amounts))
        equations.append((parts, fixed + _EASE, example.row.reported + _EASE, min(importance, most)))
    everything = range(len(places))
    anchors = [_START_WEIGHT * 100 / max(high - low, 0.1) ** 2 for low, high in bounds]
    for _ in range(_ROUNDS):
        matrix = [[0.0] * len(places) for _ in places]
        target = [anchor * given[place] for anchor, place in zip(anchors, places, strict=True)]
        for i, anchor in enumerate(anchors):
            matrix[i][i] = anchor
        for parts, fixed, wanted, importance in equations:
            estimate = max(fixed + sum(values[i] * amount for i, amount in parts), 1)
            weight = importance / (max(abs(estimate - wanted), 0.02 * estimate) * estimate)
            for i, amount in parts:
                weighted = weight * amount
                target[i] += weighted * (wanted - fixed)
                row = matrix[i]
                for j, other in parts:
                    row[j] += weighted * other
        for _ in range(_SWEEPS):
            for i in everything:
                row = matrix[i]
                others = sum(map(float.__mul__, row, values)) - row[i] * values[i]
                values[i] = min(max((target[i] - others) / row[i], bounds[i][0]), bounds[i][1])
    return structs.replace(start, **{name: round(value, 2) for name, value in zip(names, values, strict=True)})


def _starts() -> dict[str, TokenFamily]:
    """Return the families before the fit: how they count images, as their providers describe it.

    The texts that the chat templates of GLM-4.5, Qwen3 and Qwen3-Coder put around tools have about 130, 100 and 230
    tokens; that of Llama 3.3 begins each request with 30. Those of DeepSeek R1, GLM-4.5 and Qwen3 keep only what
    follows the last `</think>` of an earlier reply. Mistral's are those of its tokenizer (`tekken_240911.json` of
    mistral-common 1.13.1), for 296 texts: licenses, code and pages in English, some of them in capitals. Its template
    has one token before the conversation, and two around a message.

    The templates of DeepSeek, GLM, Qwen, Llama 3 and Mistral contain tools as JSON, which the weights of texts count
    5 % low against o200k. Claude reads JSON too, behind a prompt whose tokens are published (platform.claude.com/docs,
    "Tool use", 2026-11): 313 for Claude 4, 497 from 4.5, 675 for Opus 4.7, 290 to 354 later, and more if `tool_choice`
    is `any` or `tool`. In 22 recorded texts, Claude before Opus 4.7 counts 1.16 times the tokens of o200k.

    OpenAI reads the text and an image of each page (developers.openai.com, "File inputs", 2026-11). An image costs
    about 1,000 tokens over Chat Completions since May 2026, about 220 before, and 30 to 80 over Responses before
    GPT-5.6, whose images have the higher detail: the largest counts, because a window must not overflow.
    """
    json_tools = TokenFamily(per_tool=8, per_property=0, tool_text=0, tool_json=1.05)
    claude = TokenFamily(
        per_tool=0,
        per_property=0,
        tool_text=0,
        tool_json=1.16,
        thinking=26,
        any_tool=497,
        forced_tool=92,
        text=1.16,
        image_rule="patches of 28",
        max_image_units=1_568,
        per_page=1_700,
        page_text=1.12,
    )
    openai = TokenFamily(
        image_rule="tiles", image_base=85, per_image_unit=170, max_image_units=16, per_page=1_000, page_text=1
    )
    mistral = structs.replace(json_tools, per_request=1, per_message=2, text=1.06, per_digit=0.6, per_capital=0.1)
    gemini = TokenFamily(per_request=0, per_message=0, any_tool=0, image_rule="flat", per_image_unit=0, per_page=258)
    starts = {
        "claude-4": structs.replace(claude, any_tool=313, forced_tool=2),
        "claude": claude,
        "claude-opus-4-7": structs.replace(
            claude,
            thinking=0,
            any_tool=675,
            forced_tool=129,
            text=1.5,
            tool_json=1.5,
            max_image_units=4_784,
            per_page=1_600,
            page_text=1.4,
        ),
        "claude-5": structs.replace(
            claude,
            thinking=0,
            any_tool=322,
            forced_tool=120,
            text=1.5,
            tool_json=1.5,
            max_image_units=4_784,
            per_page=1_600,
            page_text=1.4,
        ),
        "openai": openai,
        "openai-mini": structs.replace(
            openai, image_rule="patches of 32", image_base=0, per_image_unit=1.62, max_image_units=1_536
        ),
        "openai-4o-mini": structs.replace(openai, image_base=2_833, per_image_unit=5_667),
        "openai-nano": structs.replace(
            openai, image_rule="patches of 32", image_base=0, per_image_unit=2.46, max_image_units=1_536
        ),
        "gpt-oss": structs.replace(openai, per_request=68),
        "gemini-2": structs.replace(
            gemini, image_base=0, image_rule="cells", per_image_unit=258, max_image_units=65, per_page=577
        ),
        "gemini-2.5": structs.replace(gemini, image_base=258),
        "gemini-3": structs.replace(gemini, image_base=1_100, per_page=560),
        "deepseek": structs.replace(json_tools, per_page=800, any_tool=270),
        "deepseek-r1": TokenFamily(drops_reasoning=True),
        "deepseek-4": structs.replace(json_tools, per_page=800, any_tool=270, per_request=75),
        "glm": structs.replace(json_tools, per_page=800, any_tool=130, drops_reasoning=True),
        "qwen": structs.replace(json_tools, any_tool=100, drops_reasoning=True),
        "qwen-coder": structs.replace(json_tools, any_tool=230),
        "llama-3": structs.replace(json_tools, per_request=30),
        "mistral": structs.replace(mistral, per_page=800, image_rule="rows of 28", max_image_units=3_080),
        "pixtral": structs.replace(mistral, per_page=100, page_text=1, image_rule="rows of 16", max_image_units=4_160),
        "llama-4": TokenFamily(per_page=100, page_text=1, image_rule="canvas", per_image_unit=145, max_image_units=17),
        "nova": TokenFamily(per_page=3_000, image_rule="flat", image_base=1_825, per_image_unit=0),
        "nova-2": TokenFamily(per_page=3_000),
    }
    return {name: structs.replace(family, name=name) for name, family in starts.items()}


_SAME_TEXT = frozenset({"openai", "openai-mini", "openai-4o-mini", "openai-nano"})
"""Families that differ only in images and PDFs. Requests without these to any of them fit the other constants."""
_PARTS = {
    "thinking": ("thinking",),
    "pdf": ("per_page", "page_text"),
    "image": _IMAGE_CONSTANTS,
    "calls": ("per_call", "per_result"),
    "tools": ("any_tool", "per_tool", "per_property", "tool_text", "tool_json"),
    "text": ("per_request", "per_message", "text"),
}
"""Kind of requests → constants that only they have, or, for `text`, that all have."""


class FittedFamily(Struct):
    """A family, and the estimates of its requests by constants that were fitted without the same recording."""

    family: TokenFamily
    estimates: dict[int, int]
    """Position in the table → tokens."""


def fit_families(rows: Sequence[CountedRequest]) -> list[FittedFamily]:
    """Return the families of `_starts`.

    Constants that predict other recordings worse than their start values, which come from documents or are those of
    unknown models, keep these. This is decided for each kind of requests.
    """
    fitted = []
    for name, start in _starts().items():
        members = {
            place: Example(row, _parts(row.facts, start))
            for place, row in enumerate(rows)
            if find_family_name(row.model) == name
            or (name in _SAME_TEXT and find_family_name(row.model) in _SAME_TEXT and row.kind not in ("image", "pdf"))
        }
        kept: set[str] = set()
        fits_without: dict[tuple[int, frozenset[str]], TokenFamily] = {}
        for kind, constants in _PARTS.items():
            of_kind = {
                place: example
                for place, example in members.items()
                if (example.row.facts.thinks if kind == "thinking" else example.row.kind == kind)
            }
            fits, keeps = (
                _total_error(of_kind, _predict(members, of_kind, start, names, fits_without))
                for names in (kept, {*kept, *constants})
            )
            if keeps <= fits * (1 + _MIN_GAIN):
                kept |= set(constants)
        own = {place: example for place, example in members.items() if find_family_name(example.row.model) == name}
        estimates = _predict(members, own, start, kept, fits_without)
        fitted.append(FittedFamily(fit_family(list(members.values()), start, kept), estimates))
    return fitted


def join_estimates(families: Iterable[FittedFamily]) -> dict[int, int]:
    return {place: tokens for fitted in families for place, tokens in fitted.estimates.items()}


def _predict(
    members: Mapping[int, Example],
    asked: Mapping[int, Example],
    start: TokenFamily,
    kept: Collection[str],
    fits: dict[tuple[int, frozenset[str]], TokenFamily],
) -> dict[int, int]:
    """Return the estimates of some requests, each by the constants that fit the members of other recordings.

    `fits`: the constants by the number that they do not know and by the names that are kept.
    """
    estimates = {}
    for number in {example.row.number for example in asked.values()}:
        key = number, frozenset(kept)
        if key not in fits:
            others = [example for example in members.values() if example.row.number != number]
            fits[key] = fit_family(others, start, kept)
        family = fits[key]
        estimates |= {
            place: estimate_tokens(example.row.facts, family)
            for place, example in asked.items()
            if example.row.number == number
        }
    return estimates


def _total_error(examples: Mapping[int, Example], estimates: Mapping[int, int]) -> float:
    """Return the sum of the absolute logarithmic errors, each at most 1, by the importance of the requests."""
    return sum(
        _importance(example.row) * min(1, abs(math.log((estimates[place] + _EASE) / (example.row.reported + _EASE))))
        for place, example in examples.items()
    )


class Errors(Struct):
    """Relative errors of the requests of one kind to one provider, before families and with them."""

    provider: str
    kind: str
    is_large: bool
    texts: set[int] = set()
    """Numbers of the texts of these requests."""
    before: list[float] = []
    after: list[float] = []

    @property
    def figures(self) -> list[float]:
        """Median, 90th percentile of the absolute errors and their mean, before and after, in percent."""
        return [
            figure * 100
            for errors in (self.before, self.after)
            for figure in (statistics.median(errors), _p90(errors), mean_error(errors))
        ]


def list_errors(rows: Sequence[CountedRequest], estimates: Mapping[int, int]) -> list[Errors]:
    """`estimates`: position in the table → tokens. A request without one has the estimate for unknown models."""
    groups: dict[tuple[str, str, bool], Errors] = {}
    for place, row in enumerate(rows):
        after = estimates.get(place) or estimate_tokens(row.facts, DEFAULT_FAMILY)
        is_large = row.reported > MIN_LARGE_TOKENS
        for provider, kind in ((row.provider, row.kind), ("all", "all")):
            group = groups.setdefault((provider, kind, is_large), Errors(provider, kind, is_large))
            group.texts.add(row.number)
            group.before.append(row.before / row.reported - 1)
            group.after.append(after / row.reported - 1)
    return [group for _, group in sorted(groups.items())]


def list_worse(groups: Sequence[Errors]) -> list[Errors]:
    """Return the groups with a larger median, 90th percentile or mean than before, by more than 0.05 points."""
    return [
        group
        for group in groups
        if any(
            abs(after) > abs(before) + 0.05 for before, after in zip(group.figures[:3], group.figures[3:], strict=True)
        )
    ]


def mean_error(errors: Sequence[float]) -> float:
    """Return the mean of the absolute errors, each counted as at most 1."""
    return statistics.mean(min(1, abs(error)) for error in errors)


def _p90(errors: Sequence[float]) -> float:
    ordered = sorted(map(abs, errors))
    return ordered[min(len(ordered) * 9 // 10, len(ordered) - 1)]


def error_tables(groups: Sequence[Errors]) -> str:
    """Return the tables of the decision."""
    lines = []
    for is_large, title in ((True, "above 1,000 tokens"), (False, "of at most 1,000 tokens")):
        lines += [f"Requests {title}:", ""]
        lines.append("| provider, kind | n | texts | before: median | p90 | mean | after: median | p90 | mean |")
        lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for group in groups:
            if group.is_large == is_large:
                cells = " | ".join(f"{figure:.{1 - place % 3 % 2}f}" for place, figure in enumerate(group.figures))
                lines.append(f"| {group.provider}, {group.kind} | {len(group.after)} | {len(group.texts)} | {cells} |")
        lines.append("")
    return "\n".join([*lines, ""])


def _write_families(families: Sequence[TokenFamily]) -> None:
    lines = [
        json.dumps(
            {
                field: value
                for field in TokenFamily.__struct_fields__
                if (value := getattr(family, field)) != getattr(DEFAULT_FAMILY, field)
            }
        )
        for family in families
    ]
    FAMILIES_FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")


def main() -> None:
    rows = read_table()
    families = fit_families(rows)
    _write_families([fitted.family for fitted in families])
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    tables = error_tables(list_errors(rows, join_estimates(families)))
    PAGE.write_text(f"{before}{BEGIN}{tables}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
