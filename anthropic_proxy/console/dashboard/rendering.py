"""Pages rendered by Jinja from the templates of this package."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from anthropic_proxy import __version__
from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import BASE, HEIGHT, trace_sparkline
from anthropic_proxy.console.dashboard.columns import DEFAULT_COLUMNS
from anthropic_proxy.console.dashboard.page_context import FailedPanel
from anthropic_proxy.console.dashboard.responses import SECURITY_HEADERS, compress_response, load_assets
from anthropic_proxy.console.dashboard.view_query import session_link
from anthropic_proxy.plugins import RouteRequest, RouteResponse


@cache
def load_environment() -> Environment:
    """Values in a template are escaped for HTML. A template that uses a name without a value raises an error."""
    environment = Environment(
        loader=PackageLoader("anthropic_proxy.console.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (
        *(formats.count, formats.short_count, formats.money, formats.seconds, formats.percent, formats.rate),
        *(formats.clock_time, formats.day_and_time, formats.full_time, formats.describe_zone, formats.ago),
        *(formats.plural, formats.provider_role, session_link, trace_sparkline),
    )
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals["UNKNOWN"] = formats.UNKNOWN
    environment.globals |= {"version": __version__, "assets": load_assets(), "DEFAULT_COLUMNS": DEFAULT_COLUMNS}
    environment.globals |= {"BASE": BASE, "HEIGHT": HEIGHT}
    environment.tests["failed"] = lambda panel: isinstance(panel, FailedPanel)
    return environment


def render_page(
    request: RouteRequest,
    template: str,
    values: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> RouteResponse:
    text = load_environment().get_template(template).render(values)
    fields: dict[str, str] = {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-store",
        **SECURITY_HEADERS,
        **(headers or {}),
    }
    return compress_response(
        request, RouteResponse(status=status, headers=fields, body=text.encode("utf-8", "replace"))
    )
