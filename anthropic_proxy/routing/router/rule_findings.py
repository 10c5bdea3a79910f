"""Problems and warnings about the targets of routes (`[[routes]]`) in the configuration file.

A target is a provider and model that a route names. `list_rule_problems_and_warnings` returns the texts, and
`list_rule_choices` the models.
"""

from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.router.model_names import ModelChoice, choose_models_for_rule
from anthropic_proxy.routing.router.targets import find_preferred_provider, find_problem
from anthropic_proxy.settings import ConfiguredRoute, Settings

_ANY_MODEL = "claude-sonnet"
"""Model id that stands for the requested one when a route has the target `default` (the model mapping). Problems of
this model are reported with the model mapping."""


def list_rule_choices(settings: Settings, catalog: Catalog) -> list[tuple[ConfiguredRoute, ModelChoice]]:
    """Return each model that a route of the configuration file names as target, with the first route that names it."""
    found: dict[str, tuple[ConfiguredRoute, ModelChoice]] = {}
    preferred = find_preferred_provider(settings, catalog)
    for rule in settings.routes:
        for choice in choose_models_for_rule(rule, _ANY_MODEL, preferred, settings, catalog):
            if choice.variable == rule.targets_setting:
                found.setdefault(choice.prefixed_id, (rule, choice))
    return list(found.values())


def list_rule_problems_and_warnings(settings: Settings, catalog: Catalog) -> tuple[list[str], list[str]]:
    """Return two lists of texts: targets of routes that cannot reply, and models with a guessed provider.

    A provider is guessed if a model id has no provider prefix and is in no model list.
    """
    problems, warnings = [], []
    for rule, choice in list_rule_choices(settings, catalog):
        if problem := find_problem(choice, settings, catalog):
            problems.append(problem if rule.name in problem else f"The {rule.label}: {problem}")
        elif choice.note:
            warnings.append(
                f'{rule.targets_setting} contains "{choice.model}", which has no prefix and is in no model list, so it '
                f"is sent to {choice.provider.prefix}. Write {choice.prefixed_id}, or the prefix of another provider. "
                f"Set in {rule.origin.replace(' line ', ', line ')}."
            )
    return problems, warnings
