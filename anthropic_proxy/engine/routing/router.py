"""The plan of a client request: which providers and models serve it. `build_plan` returns a `Plan`.

The way from the requested model id to a plan:

- `choices.py`: the *preferred provider* serves Claude models, and ids without a prefix that no provider lists.
  `choose_models` finds the models for an id, each as a `ModelChoice`. A route of the configuration file names the
  models itself.
- `targets.py`: a choice becomes a `Target`, with wire, dialect, base URL and the limits of the model.
- `replacements.py`: the successors of retired models, and the settings that name them.
- `problems.py`: why a choice cannot be called, as a text with a remedy.

A choice that cannot become a target is left out with a note, unless no other is left. `PlanCache` computes each plan
once for the settings and the catalog.
"""

from collections.abc import Sequence

from msgspec import Struct, structs

from anthropic_proxy.engine.messages.fidelity import Fidelity
from anthropic_proxy.engine.options import ConfiguredRoute, EngineOptions
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.choices import (
    choose_models,
    choose_models_for_route,
    find_preferred_provider,
    resolve_model_name_and_tier,
)
from anthropic_proxy.engine.routing.targets import Target, build_target, prefer_wire_with_tools
from anthropic_proxy.engine.wires.bound_requests import Place
from anthropic_proxy.errors import ClientError


class RoutingQuery(Struct, frozen=True):
    """The properties of a client request from which its plan is computed."""

    model: str
    server_tools: frozenset[str] = frozenset()
    """Kinds of the server tools in the client request, without version (`web_search`). Empty: none."""
    route: ConfiguredRoute | None = None
    """Table `[[routes]]` that matches the request. None: no route matches."""


class Plan(Struct, frozen=True):
    """The targets of a client request, with the reason for the log."""

    targets: Sequence[Target]
    """In the order of the attempts: first choice, then fallbacks. Never empty."""
    reason: str
    """Text with the rule and setting that selected the first target, for the log."""
    notes: Sequence[str] = ()
    """Notices that are logged once: unexpected choices, and fallbacks that cannot serve requests."""
    fidelity: Fidelity = "best-effort"
    """`strict`: reject the request if a target can serve it only with losses. `best-effort`: serve it."""
    is_relayed: bool = False
    """True if `Target.is_relayed` is True for every target."""
    route: ConfiguredRoute | None = None
    """Table `[[routes]]` that chose the targets. None: the model mapping of the settings."""
    requested: str = ""
    """Model id for which the targets were chosen. "": the caller has chosen them."""
    places: frozenset[Place] = frozenset()
    """Providers and models of the targets. Computed."""

    def __post_init__(self) -> None:
        structs.force_setattr(self, "places", frozenset((one.provider.name, one.model) for one in self.targets))


def build_plan(query: RoutingQuery, settings: EngineOptions, catalog: Catalog) -> Plan:
    """Return the plan of a client request. Raises `ClientError` with a remedy if no target can serve it."""
    preferred_provider = find_preferred_provider(settings, catalog)
    route = query.route
    if route is None:
        choices = choose_models(query.model, preferred_provider, settings, catalog)
        tier = choices[0].tier
    else:
        choices = choose_models_for_route(route, query.model, preferred_provider, settings, catalog)
        _, tier = resolve_model_name_and_tier(query.model, preferred_provider, settings)
    targets: list[Target] = []
    notes: list[str] = [choice.note for choice in choices if choice.note]
    rejection: ClientError | None = None
    for choice in choices:
        try:
            target = build_target(choice, settings, catalog)
            if query.server_tools:
                target = prefer_wire_with_tools(target, query.server_tools, settings)
            targets.append(target)
        except ClientError as error:
            rejection = rejection or error
            notes.append(error.message)
    if not targets and rejection is not None:
        raise rejection
    fidelity = settings.tier_fidelities.get(tier, settings.fidelity)
    is_relayed = all(target.is_relayed for target in targets)
    return Plan(targets, choices[0].reason, notes, fidelity, is_relayed, route, query.model)


_MAX_ENTRIES = 1_024
"""Maximum number of cached plans. Further plans are computed for each request."""


class PlanCache:
    """Plans of recent queries, for one edition of settings and catalog."""

    def __init__(self) -> None:
        self._cached: tuple[EngineOptions | None, Catalog | None, int, dict[RoutingQuery, Plan]] = None, None, 0, {}
        """Options, catalog and its edition, with the plans for them. A change replaces the tuple: a thread that still
        computes a plan for the earlier contents adds it to the earlier dict."""
        self.some_relayed = False
        """True if any plan returned by this cache is relayed."""

    def find_plan(self, query: RoutingQuery, settings: EngineOptions, catalog: Catalog) -> Plan:
        known_settings, known_catalog, edition, plans = self._cached
        if known_settings is not settings or known_catalog is not catalog or edition != catalog.edition:
            plans = {}
            self._cached = settings, catalog, catalog.edition, plans
        plan = plans.get(query)
        if plan is None:
            plan = build_plan(query, settings, catalog)
            self.some_relayed = self.some_relayed or plan.is_relayed
            if len(plans) < _MAX_ENTRIES:
                plans[query] = plan
        return plan
