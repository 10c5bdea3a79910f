"""The dashboard: web pages at `/dashboard` about requests, costs and failures, from the tables of the ledger.

The ledger is the database of client requests. This package is a plugin, which is enabled if the packages of the extra
`dashboard` are installed. It loads them with the first page.
"""

from anthropic_proxy.plugins import Plugin
from anthropic_proxy.settings import Settings

__all__ = ["open_plugin"]


def open_plugin(settings: Settings) -> Plugin:
    """Return the plugin of the dashboard, with the routes below `/dashboard`. Page libraries are not loaded yet."""
    from anthropic_proxy.dashboard.oidc_routes import require_usable_provider  # noqa: PLC0415
    from anthropic_proxy.dashboard.routes import Dashboard  # noqa: PLC0415

    require_usable_provider(settings)

    dashboard = Dashboard(settings)
    return Plugin(routes=dashboard.routes(), start=dashboard.start, stop=dashboard.stop)
