"""Rules of virtual keys and teams: allowed models, limits and budgets.

Users write each rule as a text, such as `50USD/month`. Amounts in counters are whole numbers of tokens or nano-dollars
(10⁻⁹ dollars).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal, get_args

from msgspec import Struct, structs

from anthropic_proxy.engine.options import NAME, matches_model
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_price

Unit = Literal["usd", "tokens"]
Period = Literal["day", "week", "month", "total"]
"""Period of a budget. Days, weeks (of ISO 8601, from Monday) and months begin at midnight. `total`: the budget is never
renewed."""
PERIODS: Sequence[Period] = get_args(Period)
MAX_AMOUNT = 1_000_000_000_000
MAX_DOLLARS = 9_000_000
MAX_COUNTER_AMOUNT = MAX_DOLLARS * NANO_DOLLARS
"""Maximum amount in a counter of the store, in nano-dollars. Redis counts with numbers of double precision, which are
exact up to 2⁵³."""
_BUDGET = compile_anchored(
    r"(?P<dollar>\$)?\s*+(?P<number>\d{1,13}(?:\.\d{1,9})?)\s*+(?P<scale>[kKmM])?\s*+"
    r"(?P<unit>usd|tokens?)?\s*+/\s*+(?P<period>day|week|month|total)"
    r"(?:\s++for\s++(?P<models>[^\s,]{1,200}))?(?:\s++(?P<soft>soft))?",
    re.IGNORECASE,
)
_SCALES = {"k": 1_000, "m": 1_000_000}
BUDGET_FORMS = (
    "Use an amount and a period, such as 50USD/month, 20USD/week, 5USD/day, 2000000tokens/day or 100USD/total; then, "
    "if it is not for all models, for and a pattern; and soft, if it only warns: 20USD/day for claude-opus-* soft"
)
MAX_NAME_CHARACTERS = 64
MAX_PERSON_CHARACTERS = 100
"""Maximum for names with an e-mail address. Metrics have no longer labels."""
_MAX_BUDGETS = 20
_MAX_PATTERNS = 100
_MAX_PATTERN_CHARACTERS = 200


class Budget(Struct, frozen=True, omit_defaults=True):
    amount: float
    unit: Unit
    period: Period
    since: float = 0.0
    """Time at which a budget of this unit and period was set and none existed, in seconds since the epoch. 0: before
    the period, or stored by an earlier version."""
    used_before: int = 0
    """Nano-dollars or tokens that were used in the hour of `since` before it. The sums of an hour have them too."""
    soft: bool = False
    """True: the budget warns, and refuses no request."""
    models: str = ""
    """Pattern of the models for whose replies it counts, with or without the prefix of the provider: `claude-opus-*`,
    `openai/*`. "": all models."""

    def describe(self) -> str:
        """Return the budget as text with all its digits: `$50.00 per month`, `2,000,000 tokens per day`,
        `$20.00 per day for claude-opus-* (soft)`.
        """
        span = "in total" if self.period == "total" else f"per {self.period}"
        amount = format_price(self.amount) if self.unit == "usd" else f"{self.amount:,.0f} tokens"
        models = f" for {self.models}" if self.models else ""
        return f"{amount} {span}{models}{' (soft)' if self.soft else ''}"

    @property
    def encoded_text(self) -> str:
        unit = "USD" if self.unit == "usd" else "tokens"
        return self.format_with(f"{Decimal(str(self.amount)).normalize():f}{unit}")

    def format_with(self, amount: str) -> str:
        """Return the text of the budget with another `amount`: `AMOUNT/day for claude-opus-*`."""
        models = f" for {self.models}" if self.models else ""
        return f"{amount}/{self.period}{models}{' soft' if self.soft else ''}"

    def counts(self, model: str) -> bool:
        """Return True if replies of `model`, which has the prefix of its provider, count for the budget."""
        if not self.models:
            return True
        return any(matches_model(name, self.models) for name in (model, model.partition("/")[2]))

    @property
    def counter_amount(self) -> int:
        amount = int(Decimal(str(self.amount)) * (NANO_DOLLARS if self.unit == "usd" else 1))
        return min(amount, MAX_COUNTER_AMOUNT)


class Rules(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Allowed models, limits and budgets of a virtual key or a team. None or empty: no limit."""

    models: tuple[str, ...] = ()
    """Patterns of allowed models, with `*` and `?`: `claude-*`, `openai/gpt-4.1-mini`."""
    providers: tuple[str, ...] = ()
    """Prefixes of allowed providers, and names of public servers beside them (`ServerName`): `brave`, `web`."""
    routes: tuple[str, ...] = ()
    """Names of allowed `[[routes]]` of the configuration file. If not empty, a request that no route matches is
    rejected."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Maximum number of input and output tokens per minute, without those read from a cache."""
    concurrency: int | None = None
    budgets: tuple[Budget, ...] = ()
    """Budgets, at most one for each unit, period and pattern of models, and a soft one beside it."""

    @property
    def restrict_models(self) -> bool:
        """True if the rules hold only for requests whose models and prices are known."""
        has_lists = self.models or self.providers or self.routes
        return bool(has_lists) or any(budget.unit == "usd" or budget.models for budget in self.budgets)

    def allows_model(self, names: Iterable[str]) -> bool:
        """Without patterns, every model is allowed. No pattern allows a name with a comma, because some gateways read
        `a,b` as two models (LiteLLM, "Batch completion").
        """
        single = [name for name in names if "," not in name]
        return not self.models or any(matches_model(name, pattern) for name in single for pattern in self.models)

    def allows_provider(self, prefix: str) -> bool:
        return not self.providers or prefix in self.providers

    def allows_route(self, name: str) -> bool:
        """`name` "": no route matches the request."""
        return not self.routes or name in self.routes


LIMIT_FIELDS = ("requests_per_minute", "tokens_per_minute", "concurrency")
LIST_FIELDS = ("models", "providers", "routes")
_EXAMPLES = {"models": "names or patterns such as claude-*", "providers": "prefixes such as openai"}


def require_name(field: str, value: str) -> None:
    """Raises `InvalidRequest` if `value` is no name of a key, an owner, a team or a cost center."""
    if not is_name(value):
        raise InvalidRequest(
            f"The {field} is {value[:80]!r}. Use at most {_find_longest_name(value)} printable characters without "
            "spaces at its ends.",
            code="virtual-key-fields",
        )


def is_name(value: str) -> bool:
    return len(value) <= _find_longest_name(value) and value.isprintable() and value == value.strip()


def _find_longest_name(value: str) -> int:
    return MAX_PERSON_CHARACTERS if "@" in value else MAX_NAME_CHARACTERS


def require_valid_rules(rules: Rules) -> Rules:
    """Raises `InvalidRequest` for an invalid value, or for two budgets that differ only in their amounts."""
    for name in LIMIT_FIELDS:
        value = getattr(rules, name)
        if value is not None and not 1 <= value <= MAX_AMOUNT:
            raise InvalidRequest(
                f"{name} is {value}. Use a whole number from 1 to {MAX_AMOUNT:,}, or null: no limit.",
                code="virtual-key-limits",
            )
    for name in LIST_FIELDS:
        patterns = getattr(rules, name)
        if len(patterns) > _MAX_PATTERNS:
            raise InvalidRequest(
                f"{name} has {len(patterns)} entries. Use at most {_MAX_PATTERNS}.", code="virtual-key-limits"
            )
        for pattern in patterns:
            has_form = NAME.fullmatch(pattern) is not None if name == "routes" else " " not in pattern
            if not (bool(pattern) and len(pattern) <= _MAX_PATTERN_CHARACTERS and pattern.isprintable() and has_form):
                example = _EXAMPLES.get(name, "names of [[routes]] in anthropic-proxy.toml")
                raise InvalidRequest(f"{name} contains {pattern[:40]!r}. Use {example}.", code="virtual-key-limits")
    if len(rules.budgets) > _MAX_BUDGETS:
        raise InvalidRequest(
            f"budgets has {len(rules.budgets)} entries. Use at most {_MAX_BUDGETS}.", code="virtual-key-limits"
        )
    seen = set()
    for budget in rules.budgets:
        if not (budget.models.isprintable() and len(budget.models) <= _MAX_PATTERN_CHARACTERS) or (
            {*" ,"} & {*budget.models}
        ):
            raise InvalidRequest(
                f"budgets has the models {budget.models[:40]!r}. Use one name or pattern, such as claude-opus-*.",
                code="virtual-key-limits",
            )
        maximum = MAX_DOLLARS if budget.unit == "usd" else MAX_AMOUNT
        if not 0 < budget.amount <= maximum or not budget.counter_amount:
            raise InvalidRequest(
                f"budgets has the amount {budget.amount:,.12g}. Use a number above 0 up to {maximum:,}.",
                code="virtual-key-limits",
            )
        if budget.unit == "tokens" and budget.amount != int(budget.amount):
            raise InvalidRequest(
                f"budgets has the amount {budget.amount:g} in tokens. Use a whole number.", code="virtual-key-limits"
            )
        kind = structs.replace(budget, amount=0, since=0, used_before=0)
        if kind in seen:
            raise InvalidRequest(
                f"budgets has two amounts in {budget.format_with(budget.unit)}. Use one of them.",
                code="virtual-key-limits",
            )
        seen.add(kind)
    return rules


def decode_budget(text: str) -> Budget:
    """Return the budget in `text`, such as `50USD/month` or `20USD/day for claude-opus-* soft`. Raises `InvalidRequest`
    if the text is no budget.
    """
    match = _BUDGET.fullmatch(text.strip())
    if match is None or bool(match["dollar"]) == bool(match["unit"]):
        raise InvalidRequest(f'The budget is "{text[:60]}". {BUDGET_FORMS}.', code="virtual-key-limits")
    scale = _SCALES.get((match["scale"] or "").lower(), 1)
    unit: Unit = "tokens" if (match["unit"] or "").lower().startswith("token") else "usd"
    periods: Mapping[str, Period] = {name: name for name in PERIODS}
    period = periods[(match["period"] or "").lower()]
    amount = float(Decimal(match["number"]) * scale)
    return Budget(amount, unit, period, soft=match["soft"] is not None, models=match["models"] or "")
