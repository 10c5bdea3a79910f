"""Queries of the Grafana dashboard and of the alert rules in deploy/."""

import json
import re
from collections.abc import Iterator

from tests.support.paths import ROOT

DASHBOARD = ROOT / "deploy/grafana/anthropic-proxy.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
_VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".*", "$provider": ".*", "$model": ".*"}
_EXPRESSION = re.compile(r"^ +expr: (?:\|\n((?: {10}.*\n)+)|(.+)\n)", re.MULTILINE)


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in _VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query


def alert_queries() -> list[str]:
    found = _EXPRESSION.findall(ALERTS.read_text("utf-8"))
    return [block or line for block, line in found]
