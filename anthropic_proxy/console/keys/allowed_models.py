"""Which models, providers and routes a virtual key and its team may use."""

from collections.abc import Sequence

from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.errors import PermissionDenied
from anthropic_proxy.plugins import AdmissionRequest


def require_allowed_models(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """Raise `PermissionDenied` if a virtual key or its team may not use a model or provider of `request`."""
    for scope in scopes:
        rules = scope.rules
        used = [f"{target.prefix}/{target.model}" for target in request.targets]
        normalized = request.normalized_model or request.model  # an alias may name another provider
        if not rules.allows_model([normalized, request.mapped_model or normalized]):
            denied = next((name for name in used if not rules.allows_model([name])), None)
            if denied is not None or not used:
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the model {request.model!r} ({denied}). Allowed: "
                    f"{', '.join(rules.models)}. Another list:  {scope.format_change_command('--models LIST')}",
                    code="key-models",
                )
        for target in request.targets:
            if not rules.allows_provider(target.prefix):
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the provider {target.prefix!r}, to which {request.model!r} is "
                    f"sent. Allowed: {', '.join(rules.providers)}. Another list:  "
                    f"{scope.format_change_command('--providers LIST')}",
                    code="key-models",
                )


def require_allowed_route(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """A list of allowed routes excludes requests without a route."""
    for scope in scopes:
        if scope.rules.allows_route(request.route):
            continue
        allowed = ", ".join(scope.rules.routes)
        if request.route:
            raise PermissionDenied(
                f"{scope.describe()} does not allow the route {request.route!r}, which matches this request. Allowed: "
                f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}",
                code="key-routes",
            )
        raise PermissionDenied(
            f"{scope.describe()} allows only requests of certain routes, and no route matches this one. Allowed: "
            f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}",
            code="key-routes",
        )
