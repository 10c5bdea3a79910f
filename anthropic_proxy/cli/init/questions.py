"""The table of questions of `init` about a provider, and the loop that asks them.

To ask for one more setting, add a row: with the variable of the setting as `field`, the answer becomes a line of
`.env`, and the provider is tested with it.
"""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from msgspec import Struct

from anthropic_proxy.cli.init.answers import Answers, choose_name, read_address
from anthropic_proxy.cli.init.candidates import CREDENTIALS, Kind, find_other_key
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.problems import find_google_project
from anthropic_proxy.gateway.settings.sources import FoundSetting
from anthropic_proxy.gateway.settings.values import AZURE_RESOURCE, decode_keys

_ADDRESS = "--base-url ADDRESS"
_KEY = "--key-from-env VARIABLE"
_NO_ADDRESS = "This is no address of a server, such as http://localhost:8000/v1."
_RESOURCE = "https://{}.openai.azure.com/openai/v1"
_OTHER_PROVIDER = "another provider"
_WITHOUT_KEY = (Kind.LOCAL, Kind.OTHER)
"""Kinds of servers of which most require no key."""
_EMPTY_KEYS = {**CREDENTIALS, **dict.fromkeys(_WITHOUT_KEY, "it needs none")}
"""Kind → what an empty answer to the question for its key means, if not another provider."""


class AnotherProviderError(Exception):
    """The user has entered nothing, to choose another provider."""


class Question(Struct, frozen=True, kw_only=True):
    """A row of the table."""

    field: str
    """`address`, `key`, or a variable of `.env`."""
    kinds: Sequence[Kind]
    """Providers to which the question applies."""
    text: Callable[[Answers], str] = lambda _: ""
    known: Callable[[Answers], str | None]
    """Returns the answer that needs no question: of an option, of the environment, or "" for none. None: ask."""
    decode: Callable[[Answers, str], str] | None = None
    """Returns the answer for the text that the user has entered. Raises `ConfigurationError`, and the user may enter
    another text. None: `field` is a variable, whose setting checks the text."""
    instead: str
    """Option or setting that answers the question, for a pipe that has ended."""
    missing: Callable[[Answers], ConfigurationError] | None = None
    """Returns the error if there is no answer, and nobody to ask. Nothing then leads to another provider. None: nothing
    is an answer."""
    lead: Callable[[Answers], None] = lambda _: None
    """Writes what the user should know before."""
    is_secret: bool = False


def ask_questions(answers: Answers) -> int:
    """Answer the questions of the kind that have no answer yet. Return the number of those that the user was asked.

    Raises `AnotherProviderError`, and `ConfigurationError` without a user.
    """
    asked_count = 0
    for question in QUESTIONS:
        if answers.kind not in question.kinds or question.field in answers.values:
            continue
        answer = question.known(answers)
        if answer is None:
            answer = _ask(question, answers)
            asked_count += 1
        answers.values[question.field] = answer
    return asked_count


def _ask(question: Question, answers: Answers) -> str:
    user = answers.session.questions
    output = answers.session.output
    if user is None and question.missing is not None:
        raise question.missing(answers)
    if user is None:
        return ""
    question.lead(answers)
    ask = user.ask_secret if question.is_secret else user.ask
    while True:
        text = ask(question.text(answers), instead=question.instead)
        if not text and question.missing is None:
            return ""
        if not text:
            raise AnotherProviderError
        try:
            if question.decode is not None:
                return question.decode(answers, text)
            answers.session.load_with({question.field: text})
        except ConfigurationError as error:
            if not user.has_person:  # the next line answers another question
                raise
            output.write_notice(error.message, "✕")
        else:
            return text


def _find_address(answers: Answers) -> str | None:
    """Return the address of the command line, or that of the candidate unless a test has failed there."""
    candidate = answers.candidate
    session = answers.session
    if session.options.address or not answers.is_first:
        return session.options.address or None
    if answers.kind == Kind.INSTALLED and (candidate.detected or session.questions is None):
        return ""
    return candidate.address or (candidate.vendor.base_url if candidate.vendor else "") or None


def _decode_address(_: Answers, text: str) -> str:
    if address := read_address("base_url", text):
        return address
    raise ConfigurationError(_NO_ADDRESS, code="init-without-terminal")


def _miss_address(_: Answers) -> ConfigurationError:
    return ConfigurationError(
        "--base-url is missing. Use the address of the server, such as http://localhost:8000/v1.",
        code="init-without-terminal",
    )


def _name_resource(address: str) -> str:
    parts = urlsplit(address)  # the address of one deployment is not enough
    is_whole = parts.path and "/openai/deployments/" not in parts.path
    return address if is_whole or not address else f"{parts.scheme}://{parts.netloc}/openai/v1"


def _report_no_server(answers: Answers) -> None:
    settings = answers.session.settings
    provider = answers.candidate.provider
    if provider is not None and answers.is_first:
        start = f"To start {provider.title} there:  {provider.prefix} serve"
        tried = settings.base_urls.get(provider.name, provider.base_url)
        answers.session.output.write_notice(f"No server answers at {tried}. {start}", "!")


def _find_location(answers: Answers) -> str:
    """Google serves its newest models at `global` only."""
    is_set = "VERTEX_LOCATION" in answers.session.settings.origins
    return "global" if any(answers.candidate.models) and not is_set else ""


def _find_key(answers: Answers) -> str | None:
    session = answers.session
    kind = answers.kind
    variable = answers.key_variable
    if answers.is_rejected:
        return None
    if session.options.key or not variable:
        return session.options.key
    asks = session.questions is not None
    present = session.find_present_key(variable, is_exported=kind == Kind.AZURE and asks)
    present = present or find_other_key(variable)
    if present is not None and (answers.is_first or kind == Kind.LOCAL) and (kind != Kind.OTHER or not asks):
        return present.text
    return "" if kind in (Kind.LOCAL, Kind.INSTALLED) else None  # most of them require none


def _decode_key(answers: Answers, text: str) -> str:
    try:
        decode_keys(FoundSetting(answers.key_variable, text, "environment", (text,)))
    except ConfigurationError:
        problem = "A key has no spaces and no letters outside ASCII."
        raise ConfigurationError(problem, code="init-without-terminal") from None
    return text


def _lead_to_key(answers: Answers) -> None:
    output = answers.session.output
    candidate = answers.candidate
    if candidate.kind == Kind.OTHER and not answers.is_rejected:  # the user did not choose the name
        output.write_line(f"  Its name here:  {output.paint(name_table(answers), 'type')}")
    if candidate.keys_url:
        output.write_line(f"  Create a key:  {output.paint(candidate.keys_url, 'type')}")


def name_table(answers: Answers) -> str:
    """Return the name of the table of a server, before a test has shown which of its addresses is right."""
    settings = answers.session.settings
    server = answers.name_server()
    names = [choose_name(server.stem, address, settings) for address in server.addresses]
    tables = [table.name for table in settings.configured_providers]
    return next((name for name in names if name in tables), names[0])


def _ask_for_key(kinds: Sequence[Kind], missing: Callable[[Answers], ConfigurationError] | None = None) -> Question:
    return Question(
        field="key",
        kinds=kinds,
        text=lambda answers: (
            f"API key, saved as {answers.key_variable} (empty: {_EMPTY_KEYS.get(answers.kind, _OTHER_PROVIDER)})"
        ),
        known=_find_key,
        decode=_decode_key,
        instead=_KEY,
        missing=missing,
        lead=_lead_to_key,
        is_secret=True,
    )


def _ask_for_place(text: str, variable: str, kind: Kind, known: Callable[[Answers], str | None]) -> Question:
    """Return the question for the place of a cloud, unless `known` finds it in the settings."""

    def miss(answers: Answers) -> ConfigurationError:
        assert answers.candidate.provider is not None  # a cloud
        missing = f"{answers.candidate.provider.title} is not set up: set {variable} in the environment."
        return ConfigurationError(missing, code="init-without-terminal")

    return Question(
        field=variable,
        kinds=[kind],
        text=lambda _: f"{text} ({variable}; empty: {_OTHER_PROVIDER})",
        known=lambda answers: "" if known(answers) else None,
        instead=f"the variable {variable}",
        missing=miss,
    )


QUESTIONS = (
    Question(
        field="address",
        kinds=[Kind.INSTALLED],
        text=lambda _: f"OLLAMA_API_BASE, its address (empty: {_OTHER_PROVIDER})",
        known=_find_address,
        decode=_decode_address,
        instead=_ADDRESS,
        missing=_miss_address,
        lead=_report_no_server,
    ),
    Question(
        field="address",
        kinds=[Kind.AZURE],
        text=lambda _: f"Name of the resource, or its address (empty: {_OTHER_PROVIDER})",
        known=lambda answers: _name_resource(answers.session.options.address) or None,
        decode=lambda answers, text: _name_resource(
            _decode_address(answers, _RESOURCE.format(text) if AZURE_RESOURCE.fullmatch(text) else text)
        ),
        instead=_ADDRESS,
        missing=lambda _: ConfigurationError(
            "--base-url is missing. Use the address of the resource, such as "
            "https://my-resource.openai.azure.com/openai/v1.",
            code="init-without-terminal",
        ),
    ),
    Question(
        field="address",
        kinds=[Kind.LOCAL, Kind.OTHER],
        text=lambda _: f"Its address, such as localhost:8000 (empty: {_OTHER_PROVIDER})",
        known=_find_address,
        decode=_decode_address,
        instead=_ADDRESS,
        missing=_miss_address,
    ),
    _ask_for_place(
        "Id of the Google Cloud project",
        "VERTEX_PROJECT",
        Kind.GOOGLE,
        known=lambda answers: find_google_project(answers.session.settings),
    ),
    _ask_for_place(
        "Region of Amazon Bedrock, such as us-east-1",
        "AWS_REGION",
        Kind.AWS,
        known=lambda answers: answers.session.settings.aws_region,
    ),
    _ask_for_place(
        "Name of the resource in Foundry",
        "ANTHROPIC_FOUNDRY_RESOURCE",
        Kind.FOUNDRY,
        known=lambda answers: answers.session.settings.foundry_resource or answers.address,  # with it, none is needed
    ),
    Question(field="VERTEX_LOCATION", kinds=[Kind.GOOGLE], known=_find_location, instead="VERTEX_LOCATION"),
    _ask_for_key(
        [Kind.KEY, Kind.INSTALLED, Kind.VENDOR],
        missing=lambda answers: ConfigurationError(
            f"{answers.candidate.name} has no key: {answers.key_variable} is not set. Set it in the environment, or "
            "name its variable with --key-from-env.",
            code="init-without-terminal",
        ),
    ),
    _ask_for_key([*CREDENTIALS, *_WITHOUT_KEY]),
)
"""All questions about a provider, in the order in which they are asked."""
