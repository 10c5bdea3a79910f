"""Problems and warnings about the models in routes (`[[routes]]`) of the configuration file.

No request is sent to a provider. In function names, `rule` means a route of the configuration file, because `Route`
means the targets of one client request. `list_rule_choices` returns the models that the rules name.
`list_rule_problems_and_warnings` returns texts about models that cannot reply, or that have no prefix and are in no
model list.
"""

from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.router.model_names import ModelChoice, choose_models_for_rule
from anthropic_proxy.routing.router.targets import describe_choice_problem, find_preferred_provider
from anthropic_proxy.settings import ConfiguredRoute, Settings

_ANY_MODEL = "claude-sonnet"
"""Model id that stands for the requested one when a route has the target `default` (the model mapping). Problems of
this model are reported with the model mapping."""


def list_rule_choices(settings: Settings, catalog: Catalog) -> list[tuple[ConfiguredRoute, ModelChoice]]:
    """Return the models that routes of the configuration file name by id, each with the first route that names it.

    Targets that are a Claude tier, or `default`, are not included.
    """
    found: dict[str, tuple[ConfiguredRoute, ModelChoice]] = {}
    preferred = find_preferred_provider(settings, catalog)
    for rule in settings.routes:
        for choice in choose_models_for_rule(rule, _ANY_MODEL, preferred, settings, catalog):
            if choice.variable == rule.targets_setting:
                found.setdefault(choice.prefixed_id, (rule, choice))
    return list(found.values())


def list_rule_problems_and_warnings(settings: Settings, catalog: Catalog) -> tuple[list[str], list[str]]:
    """Return two lists of texts about models in routes: problems that prevent replies, and warnings."""
    problems, warnings = [], []
    for rule, choice in list_rule_choices(settings, catalog):
        if problem := describe_choice_problem(choice, settings, catalog):
            problems.append(problem if rule.name in problem else f"The {rule.label}: {problem}")
        elif choice.note:
            warnings.append(
                f'{rule.targets_setting} contains "{choice.model}", which has no prefix and is in no model list, so it '
                f"is sent to {choice.provider.prefix}. Write {choice.prefixed_id}, or the prefix of another provider. "
                f"Set in {rule.origin.replace(' line ', ', line ')}."
            )
    return problems, warnings
