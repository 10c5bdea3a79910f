"""The dashboard: web pages at `/dashboard` about requests, costs and failures.

The data comes from the ledger, the database of client requests. The package is a plugin, which is enabled if the
packages of the extra `dashboard` are installed.
"""

from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Plugin

__all__ = ["open_plugin"]


def open_plugin(settings: Settings) -> Plugin:
    """The template engine and other libraries for pages are not loaded here, but when the first page is requested."""
    from anthropic_proxy.console.dashboard.oidc_sign_in import require_usable_identity_provider  # noqa: PLC0415
    from anthropic_proxy.console.dashboard.routes import Dashboard  # noqa: PLC0415

    require_usable_identity_provider(settings)

    dashboard = Dashboard(settings)
    return Plugin(routes=dashboard.routes(), start=dashboard.start, stop=dashboard.stop)
