"""The Grafana dashboard and the alert rules of deploy/: every metric and label in them is on the page `/metrics`."""

import json
import re

from prometheus_client.parser import text_string_to_metric_families

from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.gateway.telemetry.metrics import (
    BUDGET_USED_RATIO,
    CONDITIONS,
    FAMILIES,
    TELEMETRY_DROPS,
    TELEMETRY_REQUESTS,
    MetricsSnapshot,
    MetricsTotals,
    serve_metrics,
)
from anthropic_proxy.plugins import (
    CallCheck,
    Client,
    InspectionRecord,
    LedgerState,
    PrefixChange,
    Receipt,
    RouteRequest,
    StoreState,
)
from tests.site.pages import DOCS
from tests.support.promql import ALERTS, DASHBOARD, alert_queries, dashboard_queries

TARGET_LABELS = {"job", "instance"}
"""Labels that Prometheus adds to each sample."""
_METRIC = re.compile(r"\b((?:anthropic_proxy|process)_\w+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUP = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")


async def real_page() -> str:
    """Return a page of `/metrics` on which each metric has a sample."""
    totals = MetricsTotals(lambda _: False)
    receipt = Receipt(request_id="req_1", client=Client(), started_at=0.0, provider="groq", model="m", status=200)
    receipt.outcome, receipt.first_token_seconds, receipt.failed_attempts = "end_turn", 0.5, ["openai 429"]
    receipt.error_code = "rejected-key"
    receipt.prefix_change = PrefixChange("tools", "tool 3 (WebFetch)", 0.9, 45_000)
    receipt.checks = [CallCheck("toolu_1", "Bash", "flagged", "Deletes data.")]
    receipt.inspections = [InspectionRecord("secrets", "request", "redacted", {"key": 1}, 0.1)]
    receipt.plain_form = ("drop temperature",)
    receipt.fidelity = FidelityReport()
    totals.count_exchange(receipt)
    totals.count_rejected_request(receipt)
    totals.count_dropped_receipt("Observer")
    totals.copy_ledger_state(LedgerState(spending={("build", "4711", "groq", "main"): (3, 30_000_000, 1)}))
    totals.copy_store_state(StoreState(kind="redis"))
    for family in FAMILIES:
        if not family.label_names:
            totals.snapshot.replace(family, 0)
    totals.snapshot.replace(BUDGET_USED_RATIO, 0.8, ("key", "ci", "usd", "day", "", "hard"))
    totals.snapshot.replace(TELEMETRY_REQUESTS, 1, ("forwarded",))
    totals.snapshot.replace(TELEMETRY_DROPS, 1, ("ann",))
    totals.snapshot.replace(CONDITIONS, 1, ("siem",))

    async def collect() -> tuple[MetricsSnapshot, int]:
        return totals.snapshot, 0

    response = await serve_metrics(collect, RouteRequest(path="/metrics"))
    assert isinstance(response.body, bytes)
    return response.body.decode()


async def test_every_query_names_metrics_and_labels_of_the_page() -> None:
    samples = [sample for family in text_string_to_metric_families(await real_page()) for sample in family.samples]
    labels_of = {sample.name: {*sample.labels} for sample in samples}
    queries = [query for _, query in dashboard_queries()] + alert_queries()
    assert len(queries) > 30
    for query in queries:
        found = _METRIC.findall(query)
        assert found, query
        for name, matchers in found:
            assert name in labels_of, f"{name} in {query}"
            assert {*_LABEL.findall(matchers)} <= labels_of[name] | TARGET_LABELS, query
        known = TARGET_LABELS.union(*(labels_of[name] for name, _ in found))
        grouped = {label.strip() for group in _GROUP.findall(query) for label in group.split(",") if label.strip()}
        assert grouped <= known, query


async def test_every_metric_of_the_proxy_is_shown() -> None:
    families = {family.name for family in text_string_to_metric_families(await real_page())}
    shown = " ".join(query for _, query in dashboard_queries())
    assert [name for name in families if name not in shown] == []


def test_the_dashboard_is_ready_to_import() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")
    assert {panel["datasource"]["uid"] for panel in panels if "targets" in panel} == {"${datasource}"}
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len({*cells})
    assert max(x for x, _ in cells) == 23


def test_the_runbook_has_an_entry_for_each_alert() -> None:
    """The first table of the page leads from what an operator sees to an entry of the page."""
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text("utf-8"))
    table = (DOCS / "guide/runbook.md").read_text("utf-8").partition("\n## ")[0]
    assert [alert for alert in alerts if not re.search(rf"^\|.*`{alert}`.*\| .*\(#", table, re.MULTILINE)] == []
    assert sorted({*re.findall(r"`(AnthropicProxy\w+)`", table)} - {*alerts}) == []
