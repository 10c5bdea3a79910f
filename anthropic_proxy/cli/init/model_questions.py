"""The questions of `init` about the two models, and about the model behind a deployment of Azure."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date

from msgspec import Struct

from anthropic_proxy.cli.importing.tables import ServerTable
from anthropic_proxy.cli.init.answers import ChosenProvider, Session
from anthropic_proxy.cli.init.models import (
    describe_facts,
    describe_retirement,
    find_default_models,
    find_offered_models,
    find_retirement_date,
    find_small_model,
    has_price,
    is_too_small,
    list_successors,
    sort_models,
)
from anthropic_proxy.cli.models import ModelFacts
from anthropic_proxy.cli.questions import Option
from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor.server_tables import find_window_setting
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import MIN_SESSION_TOKENS
from anthropic_proxy.engine.providers.lookup import describe_larger_window, find_known_model, find_origin
from anthropic_proxy.engine.providers.model_ids import is_model_name
from anthropic_proxy.engine.routing.problems import find_unknown_prefix, has_plain_model_names
from anthropic_proxy.engine.routing.replacements import find_retirement
from anthropic_proxy.errors import ConfigurationError, find_similar_choice, find_similar_choices, join_with_and
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.telemetry.log.columns import count_columns, pad

EXAMPLE_MODEL = "gpt-5.6-sol"
_PRICE_UNIT = "$ per million tokens"
_LISTED_MODELS = 4
"""Number of models that the list of a server shows at first."""
_OTHER_MODEL = "another"
"""Choice "another model" in the list of models."""
_SIMILAR_MODELS = 3
"""Number of listed models that are offered in place of a typed name."""
_MAX_TEXT = 200
"""Number of characters of a list of models in a notice."""
_MAX_MODELS = 600
"""Number of characters of a list of models in an error message."""


class ModelQuestion(Struct, frozen=True):
    variable: str
    text: str
    tiers: str
    """Claude tiers with this model."""

    @property
    def flag(self) -> str:
        """Option with the same value."""
        return f"--{self.variable.lower().replace('_', '-')}"


MODEL_QUESTIONS = (
    ModelQuestion("BIG_MODEL", "Big model, for sonnet, opus and fable", "sonnet, opus, fable"),
    ModelQuestion("SMALL_MODEL", "Small model, for haiku", "haiku"),
)


def choose_models(session: Session, backend: ChosenProvider) -> dict[str, str]:
    """Return the variables for the big and the small model."""
    offered = find_offered_models(backend)
    defaults = find_default_models(backend, offered)
    if backend.table is not None:
        _add_deployments(session, backend, backend.table)
    agreed = _propose(session, backend, offered, defaults)
    variables: dict[str, str] = {}
    unknown: list[str] = []
    for question, default, proposed in zip(MODEL_QUESTIONS, defaults, agreed, strict=True):
        if proposed:
            model = f"{backend.provider.prefix}/{proposed}"
        else:
            big = variables.get("BIG_MODEL", "").partition("/")[2]
            model = _choose_model(session, backend, question, offered, default=default, big=big)
        if not model:
            continue
        name = model.partition("/")[2]
        is_new = model not in variables.values()
        variables[question.variable] = model
        if is_new and (facts := offered.get(name)) is not None:
            _report_window(session, backend, facts)
        retirement = find_retirement(backend.provider, name)
        if retirement is not None and retirement.applies_on(date.today()):
            successor = f". Its successor:  {retirement.successor}" if retirement.successor else ""
            session.warn(f"{name} is retired since {retirement.retired_on}{successor}")
        if backend.table is not None and backend.has_deployments:
            origin = getattr(PROVIDERS.find("openai"), f"default_{question.variable.lower()}")
            if not _find_model_of(session, backend, backend.table, name, origin):
                unknown.append(name)
    if unknown:
        names = [*dict.fromkeys(unknown)]
        field = session.output.paint(f'model_of = "{EXAMPLE_MODEL}"', "type")
        options = session.output.paint(" ".join(f"--model-of {name}={EXAMPLE_MODEL}" for name in names), "type")
        session.warn(
            f"Limits and prices of {join_with_and(names)} are unknown: add  {field}  in {CONFIG_FILE}. The option for "
            f"it:  {options}"
        )
    if session.questions is None:  # without a list of models, a default that is still served needs no line
        variables = {**list_successors(backend.provider, date.today()), **variables}
    return variables


def _report_window(session: Session, backend: ChosenProvider, facts: ModelFacts) -> None:
    """Say whether the sessions of Claude Code fit: always for an own server, whose start decides the window."""
    larger = describe_larger_window(backend.provider, PROVIDERS, backend.list_owner)
    window = facts.max_input
    if window is not None and is_too_small(facts):
        text = f"{facts.model} has a context window of {window:,} tokens. Sessions reach {MIN_SESSION_TOKENS:,}."
        session.warn(text if larger is None else f"{text} For a larger one, {larger[1]}:  {larger[0]}")
    elif not (backend.table is not None or backend.provider.uses_installed_models) or larger is None:
        return  # a built-in provider, whose models the proxy knows
    elif window is not None:
        fits = f"{facts.model} has a context window of {window:,} tokens: Claude Code fits"
        session.output.write_line(f"  {session.output.mark('✓')} {fits}")
    else:
        way = find_window_setting(backend.provider, facts.model.partition("/")[2], backend.settings).sentence
        session.warn(
            f"The server does not state the context window of {facts.model}. Sessions reach {MIN_SESSION_TOKENS:,} "
            f"tokens. If you know it, {way}."
        )


def _propose(
    session: Session, backend: ChosenProvider, offered: Mapping[str, ModelFacts], defaults: tuple[str, str]
) -> tuple[str, str]:
    """Return the big and the small model if there is no choice, or if the user accepts the proposed ones.

    "": the user chooses them in lists.
    """
    asks = session.questions
    output = session.output
    if asks is None or not backend.models or any(session.options.models.values()) or backend.provider.serves_claude:
        return "", ""
    names = [*dict.fromkeys(defaults)]
    if len(offered) == 1:
        names = [*offered]
    elif (
        not asks.has_person
        or not all(name in offered for name in names)
        or any(_find_present_model(session, backend, question.variable) for question in MODEL_QUESTIONS)
    ):  # the lists propose the present ones
        return "", ""
    tiers = [question.tiers for question in MODEL_QUESTIONS]
    labels = [", ".join(tiers)] if len(names) == 1 else tiers
    width = max(map(len, labels)), max(map(count_columns, names))
    rows = [f"  {label:<{width[0]}}  → {pad(name, width[1])}  " for label, name in zip(labels, names, strict=True)]
    facts = [describe_facts(offered[name], date.today()) for name in names]
    lines = [row + fact for row, fact in zip(rows, facts, strict=True)]
    if output.width and max(map(count_columns, lines)) > output.width:
        indent = " " * (width[0] + len("    → "))
        lines = [line for row, fact in zip(rows, facts, strict=True) for line in (row, f"{indent}{fact.strip()}")]
    for line in lines:
        output.write_line(line.rstrip())
    unit = f" ({_PRICE_UNIT})" if any(has_price(offered[name]) for name in names) else ""
    if len(offered) > 1 and not asks.confirm(f"Use these models?{unit}", default=True, instead="--yes"):
        return "", ""
    return names[0], names[-1]


def _choose_model(
    session: Session,
    backend: ChosenProvider,
    question: ModelQuestion,
    offered: Mapping[str, ModelFacts],
    *,
    default: str,
    big: str,
) -> str:
    """Return a model with its prefix, from the option, the user, or without both the default. "": it needs no line.

    `big`: the chosen big model, for the question about the small one.
    """
    provider = backend.provider
    option = session.options.models.get(question.variable)
    if option is not None:
        model = _add_prefix(option, backend, offered, f"{question.flag} is", f"{question.flag} ")
        if backend.models and not backend.has_deployments:
            _report_unlisted(session, model, backend, [*offered])
        return model
    usable = {name: fact for name, fact in offered.items() if backend.models and not is_too_small(fact)}
    if backend.models and default not in offered:
        default = ""
    if not default and big:
        default = find_small_model(big, [*usable]) or big
    default = _find_present_model(session, backend, question.variable) or default
    if session.questions is not None and not provider.serves_claude:
        default = default or next(iter(sort_models(backend, usable, "", date.today())), "")
        return _ask_model(session, question, backend, default)
    if backend.table is None and not any(backend.proposed_models) and (not backend.models or provider.serves_claude):
        return ""
    if not default and len(usable) != 1:
        names = formats.shorten(", ".join(usable), _MAX_MODELS)
        known = f" {provider.prefix} has: {names}." if names else ""
        if not names and offered:
            small = formats.shorten(", ".join(offered), _MAX_MODELS)
            known = f" The context windows of the models of {provider.prefix} are too small for Claude Code: {small}."
            if larger := describe_larger_window(provider, PROVIDERS, backend.list_owner):
                known += f" For a larger one, {larger[1]}:  {larger[0]}"
        raise ConfigurationError(
            f"--big-model is missing, the model for sonnet, opus and fable.{known}", code="init-without-terminal"
        )
    return f"{provider.prefix}/{default or next(iter(usable))}"


def _ask_model(session: Session, question: ModelQuestion, backend: ChosenProvider, default: str) -> str:
    """Return the name of a model with its prefix."""
    asks = session.questions
    prefix = f"{backend.provider.prefix}/"
    instead = f"{question.flag} NAME"
    assert asks is not None
    listed = find_offered_models(backend)
    model = ""
    text = f"{question.text}: its name without {prefix}"
    if listed:
        unit = f" ({_PRICE_UNIT})" if any(map(has_price, listed.values())) else ""
        facts = sort_models(backend, listed, default, date.today())
        options = [Option(name, note=describe_facts(fact, date.today())) for name, fact in facts.items()]
        options.append(Option(_OTHER_MODEL, "another model", "not in the list", True))
        few = 0 if len(options) <= _LISTED_MODELS + 1 else _LISTED_MODELS
        model = asks.select(f"{question.text}{unit}", options, default, few, instead=instead, accepts=is_model_name)
        if model in listed:
            return f"{prefix}{model}"
        model = "" if model == _OTHER_MODEL else model
        text = f"Name of the model, without {prefix}"
        default = ""
    while True:
        model = model or asks.ask(text, default, instead=instead)
        if name := _check_model(session, question, backend, listed, model):
            return name
        model = ""


def _check_model(
    session: Session, question: ModelQuestion, backend: ChosenProvider, listed: Mapping[str, ModelFacts], model: str
) -> str:
    """Return a typed model with its prefix, or the listed one that the user means. "": another name is asked for."""
    asks = session.questions
    prefix = f"{backend.provider.prefix}/"
    assert asks is not None
    problem = "" if is_model_name(model) else "A model name is not empty, and has no spaces and commas."
    try:
        name = "" if problem else _add_prefix(model, backend, listed, "The model is", "")
    except ConfigurationError as error:
        problem = error.message
    if problem:
        session.output.write_notice(problem, "✕")
        return ""
    if not backend.models or backend.has_deployments or not _is_unlisted(name, backend, listed):
        return name
    if not asks.has_person:  # the next line answers another question
        _report_unlisted(session, name, backend, [*listed])
        return name
    typed = name.removeprefix(prefix)
    number = formats.plural(len(listed), "listed model")
    options = [Option(similar) for similar in find_similar_choices(typed, listed, _SIMILAR_MODELS)]
    options += [Option(_OTHER_MODEL, "another name"), Option(typed, note="use it nevertheless")]
    text = f"{typed} is not one of the {number}. Which one do you mean?"
    chosen = asks.select(text, options, instead=f"{question.flag} NAME")
    return "" if chosen == _OTHER_MODEL else f"{prefix}{chosen}"


def _find_present_model(session: Session, backend: ChosenProvider, variable: str) -> str:
    """Return the model of the provider that a setting has, without prefix. "": none, or a retired one."""
    present = session.settings.raw_values.get(variable)
    prefix = f"{backend.provider.prefix}/"
    model = "" if present is None or not present.reveal().startswith(prefix) else present.reveal()[len(prefix) :]
    day = find_retirement_date(backend, model)
    return "" if day is not None and day <= date.today() else model


def _report_unlisted(session: Session, model: str, backend: ChosenProvider, offered: Sequence[str]) -> None:
    """Report a model of the provider that its server does not list, which a server may serve nevertheless."""
    prefix, _, name = model.partition("/")
    if _is_unlisted(model, backend, offered):
        nearest = find_similar_choice(name, offered)
        names = formats.shorten(", ".join(offered), _MAX_TEXT)
        has = f"Did you mean:  {nearest}" if nearest else f"It has: {names}."
        session.warn(f"{prefix} does not list {name}. {has}")


def _is_unlisted(model: str, backend: ChosenProvider, offered: Collection[str]) -> bool:
    """`model`: name with prefix. One of another provider is not in this list anyway."""
    prefix, _, name = model.partition("/")
    return prefix == backend.provider.prefix and name not in offered and f"{name}:latest" not in offered


def _add_prefix(name: str, backend: ChosenProvider, offered: Collection[str], subject: str, lead: str) -> str:
    """Return a model name with the prefix of its provider, which is another one if the name has that prefix.

    Raises `ConfigurationError`, which begins with `subject`, if the name has the prefix of no provider. If models of
    the chosen provider may have a slash in their names, each name is one of its own.
    """
    provider = backend.provider
    settings = backend.settings
    if name not in offered and (problem := find_unknown_prefix(name, provider, settings, named=subject, lead=lead)):
        raise ConfigurationError(problem.text, code="invalid-setting")
    is_of_other = "/" in name and name not in offered and has_plain_model_names(provider, settings)
    return name if is_of_other or name.startswith(f"{provider.prefix}/") else f"{provider.prefix}/{name}"


def _add_deployments(session: Session, backend: ChosenProvider, table: ServerTable) -> None:
    """Add the models of the option `--model-of` to a table."""
    by_name = {configured.name: configured for configured in backend.settings.configured_providers}
    described = by_name[backend.provider.name]
    origin = find_origin(described, PROVIDERS)
    for name, model in session.options.deployments.items():
        if find_known_model(model, origin, PROVIDERS) is None:
            raise ConfigurationError(
                f'--model-of is "{name}={model}". Use the id of a model that the proxy knows, such as '
                f"{EXAMPLE_MODEL} (anthropic-proxy models lists them).",
                code="init-without-terminal",
            )
        table.models[name] = {"model_of": model}


def _find_model_of(
    session: Session, backend: ChosenProvider, table: ServerTable, deployment: str, default: str
) -> bool:
    """Ask for the model behind a deployment, unless its name is that of a model. `default`: the first of the list.

    False: the model is unknown, and the user is not asked.
    """
    openai = PROVIDERS.find("openai")
    today = date.today()
    if deployment in openai.known_models or deployment in table.models:
        return True
    if session.questions is None:
        return False
    dates = {name: find_retirement_date(backend, name) for name in reversed(openai.known_models)}
    offered = {name: day for name, day in dates.items() if day is None or day > today}
    options = [Option(name, note=describe_retirement(day, today)) for name, day in offered.items()]
    options.append(Option(_OTHER_MODEL, "another model", "not in the list"))
    text = f"Model behind {deployment}"
    flag = f"--model-of {deployment}={EXAMPLE_MODEL}"
    if (model := session.questions.select(text, options, default, instead=flag)) != _OTHER_MODEL:
        table.models[deployment] = {"model_of": model}
    return True
