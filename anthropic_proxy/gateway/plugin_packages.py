"""Optional features of this project as plugins, and plugins of other installed packages that `PLUGINS` names."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from anthropic_proxy.errors import ConfigurationError, is_installed, require_package
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Plugin

ENTRY_POINT_GROUP = "anthropic_proxy.plugins"
"""Group of the entry points of other packages. The name of an entry point can be listed in `PLUGINS`."""
PLUGIN_PACKAGES: Sequence[tuple[str, Callable[[Settings], bool]]] = (
    ("anthropic_proxy.console.ledger.plugin", Settings.has_ledger),
    ("anthropic_proxy.console.session_models.plugin", Settings.has_ledger),
    ("anthropic_proxy.console.api_document", Settings.has_ledger),
    ("anthropic_proxy.console.gateway_protocol.telemetry", Settings.has_ledger),
    ("anthropic_proxy.console.gateway_protocol.plugin", lambda settings: settings.virtual_keys),
    ("anthropic_proxy.console.scim.plugin", lambda settings: settings.virtual_keys),
    ("anthropic_proxy.console.keys.own_budget", lambda settings: bool(settings.budgets) and not settings.virtual_keys),
    ("anthropic_proxy.gateway.telemetry.traces", Settings.has_traces),
    ("anthropic_proxy.gateway.prices.updates", lambda settings: settings.price_update_days > 0),
    ("anthropic_proxy.console.dashboard.plugin", lambda settings: is_installed("jinja2")),
)
"""Pairs of import name and condition of a plugin package. The package is imported and opened if its condition is True
for the settings."""


def require_usable_features(settings: Settings) -> Settings:
    """Raise `ConfigurationError` if a sign-in, tokens or budgets are set that cannot work, at the start and at a
    reload.
    """
    if settings.budgets and not settings.has_ledger():
        raise ConfigurationError(
            "BUDGET is set, but DATABASE_URL is off: what was used is counted in that database. Unset DATABASE_URL, or "
            "set it to a database, or unset BUDGET.",
            code="budget-without-database",
        )
    if settings.oidc is not None and not settings.requires_client_key and is_installed("jinja2"):
        raise ConfigurationError(  # every client reads the stored requests without a sign-in
            "OIDC_ISSUER is set, but clients need no key, so they read all requests without a sign-in. Set "
            "PROXY_API_KEY too, or set VIRTUAL_KEYS=true and start the proxy again.",
            code="identity-provider",
        )
    if settings.sign_in is not None:
        require_package("The sign-in from Claude Code (SIGN_IN_SECRET) needs Authlib", "authlib", "oidc")
        require_package(
            "The page for the sign-in from Claude Code (SIGN_IN_SECRET) needs Jinja2", "jinja2", "dashboard"
        )
    if settings.oidc is not None:
        require_package("Sign-in with OIDC_ISSUER needs Authlib", "authlib", "oidc")
        if settings.oidc.client_key is not None or settings.oidc.client_key_file is not None:
            import_module("anthropic_proxy.console.identity.client_keys").load_client_key(settings.oidc)
    if settings.virtual_keys and settings.token_issuers:
        require_package("Tokens of identity providers ([token_issuers]) need joserfc", "joserfc", "oidc")
    return settings


def open_plugins(settings: Settings) -> Iterator[Plugin]:
    """Disabled packages are not imported. Raises `ConfigurationError` for a name that no installed package has, and for
    features that cannot work.
    """
    require_usable_features(settings)
    for package, is_enabled in PLUGIN_PACKAGES:
        if is_enabled(settings):
            plugin: Plugin = import_module(package).open_plugin(settings)
            yield plugin
    for name in dict.fromkeys(settings.plugins):
        from importlib.metadata import entry_points  # noqa: PLC0415  # only if PLUGINS is set

        points = entry_points(group=ENTRY_POINT_GROUP)
        found = [point for point in points if point.name == name]
        if not found:
            raise ConfigurationError(
                f'No installed package has the plugin "{name}" of PLUGINS. '
                f"Plugins of installed packages: {', '.join(sorted(points.names)) or 'none'}.",
                code="plugin-not-found",
            )
        packages = ", ".join(f"{point.dist.name} {point.dist.version}" for point in found if point.dist is not None)
        if len(found) > 1:
            raise ConfigurationError(
                f'Several installed packages have the plugin "{name}" of PLUGINS: {packages}.', code="plugin-not-found"
            )
        try:
            installed = found[0].load()(settings)
        except ConfigurationError as error:
            raise ConfigurationError(
                *(f'Plugin "{name}" of PLUGINS: {text}' for text in error.messages), code=error.code
            ) from error
        except Exception as error:
            error.add_note(f'This error is from the plugin "{name}" of PLUGINS ({packages}).')
            raise
        if not isinstance(installed, Plugin):
            raise ConfigurationError(
                f'The plugin "{name}" of PLUGINS ({packages}) returned no object of the class Plugin.',
                code="plugin-not-found",
            )
        yield installed
