"""Table of the page Providers that shows the features and limits of several models side by side.

`build_matrix` returns the table as a `Matrix`. Each `MatrixColumn` is a model. Each row is a feature, such as images or
the context window, and has one `MatrixCell` for each model.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.ledger import dashboard_queries as queries
from anthropic_proxy.ledger.model_costs import ModelCosts
from anthropic_proxy.plugins import ModelFeatures

_MAX_MODELS = 8


class MatrixCell(Struct, frozen=True):
    """Cell of the table: one feature or limit of one model, as a sign, a text or both."""

    sign: str = ""
    role: str = ""
    text: str = ""
    """Text of the cell. With a sign: its meaning for screen readers."""
    note: str = ""
    """Source of the value, if it differs from the source of the other values of the model. "": the same source."""


class MatrixColumn(Struct, frozen=True):
    """Head of one column of the table, which names a model and its provider."""

    prefix: str
    model: str
    provider: str


class Matrix(Struct, frozen=True):
    """Table of models and their features: the columns are models, and the rows are features.

    Each row has a title, and one cell for each column.
    """

    columns: Sequence[MatrixColumn]
    rows: Sequence[tuple[str, Sequence[MatrixCell]]]


def build_matrix(context: PageContext) -> Matrix:
    """Return the table with the features of the models of the Claude tiers, and of the most used other models."""
    features = context.describe_models(_list_names(context))
    columns = []
    for one in features:
        prefix, _, model = one.model.partition("/")
        columns.append(MatrixColumn(prefix, model, one.provider))
    rows = [(title, [cell(one) for one in features]) for title, cell in _ROWS] if features else []
    return Matrix(columns, rows)


def _list_names(context: PageContext) -> list[str]:
    costs = ModelCosts(context.settings)
    targets = [target for one in context.setup.mapping for target in (one.target, *one.fallbacks)]
    used = sorted(queries.sum_models(context.connection, context.selection), key=lambda one: -one.sums.requests)
    names = [f"{costs.find_prefix(one.provider)}/{one.model}" for one in used if one.provider and one.model]
    return [name for name in dict.fromkeys([*targets, *names]) if "…" not in name][:_MAX_MODELS]


def _number(field: str) -> Callable[[ModelFeatures], MatrixCell]:
    def build(one: ModelFeatures) -> MatrixCell:
        value = one.context_window if field == "context_window" else one.max_output
        text = "unknown" if value is None else formats.count(value)
        return MatrixCell(text=text, note=one.other_sources.get(field, ""))

    return build


def _mark(field: str, find: Callable[[ModelFeatures], bool]) -> Callable[[ModelFeatures], MatrixCell]:
    def build(one: ModelFeatures) -> MatrixCell:
        sign, role, text = ("✓", "ok", "works") if find(one) else ("✕", "error", "unsupported")
        return MatrixCell(sign, role, text, one.other_sources.get(field, ""))

    return build


def _place(find: Callable[[ModelFeatures], str]) -> Callable[[ModelFeatures], MatrixCell]:
    signs = {"provider": ("✓", "ok", "works"), "proxy": ("~", "warn", "emulated by the proxy")}
    return lambda one: MatrixCell(*signs.get(find(one), ("✕", "error", "unsupported")))


def _thinking(one: ModelFeatures) -> MatrixCell:
    levels = [level for level in one.efforts if level != "none"]
    text = ", ".join(levels) or ("budget in tokens" if one.has_thinking_budget else "")
    note = one.other_sources.get("efforts", "")
    return MatrixCell(text=text, note=note) if text else MatrixCell("–", "none", "not applicable", note)


_ROWS: Sequence[tuple[str, Callable[[ModelFeatures], MatrixCell]]] = (
    ("Tools", _mark("tools", lambda one: one.tools)),
    ("Images", _mark("images", lambda one: one.images)),
    ("PDF documents", _mark("documents", lambda one: one.documents)),
    ("Thinking, levels", _thinking),
    ("Web search", _place(lambda one: one.web_search)),
    ("Web fetch", _place(lambda one: one.web_fetch)),
    ("Context window, tokens", _number("context_window")),
    ("Output limit, tokens", _number("max_output")),
    ("Learned from errors", lambda one: MatrixCell(text=", ".join(one.adaptations) or formats.UNKNOWN)),
    ("Source", lambda one: MatrixCell(text=one.source)),
)
