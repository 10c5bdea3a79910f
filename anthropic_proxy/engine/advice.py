"""Problems of settings, and the table of the texts for them.

A function that finds a problem returns a `Problem` with its `ProblemKind` and the facts. The row of the kind has the
sentence and the remedy. So a problem has the same words on each page and in each command.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Literal, TypeAlias

from msgspec import Struct

Severity: TypeAlias = Literal["error", "warning"]
SIGNS: Mapping[Severity, tuple[str, str]] = {"error": ("✕", "error"), "warning": ("!", "warn")}
"""Severity, the most serious first → symbol before a text, and its color (`style.py`)."""


class ProblemKind(Enum):
    """Each row: the sentence with the end and spaces that separate it from the remedy, then the remedy.

    Names in braces are facts of the problem; `subject` and `place` are among them.
    """

    # keys and addresses of providers
    NOT_SET_UP = "{prefix} is not set up: {variable} is not set. ", "{set_variable}"
    UNREADABLE_KEY = "{prefix} has no key: ", "{reason}"
    NO_KEY = "{prefix} has no key: {variable} is not set. ", "{set_variable}"
    NO_KEY_IN_TABLE = (
        "{prefix} has no key: {title} requires one. ",
        'Add it to [providers.{subject}] ({place}):  api_key = {{ env = "{variable}" }}',
    )
    NO_ANSWER = "{name} does not answer at {address}. ", "Start this server.{setting}"
    NO_API = "{name} has no API at {address}.{setting} {question} ", "Try {line}"
    # packages and logins that providers and features need
    NO_GOOGLE_AUTH = "{title} needs google-auth, which is not installed:  ", "{command}"
    NO_PACKAGE_WITHOUT_KEY = "{title} without an API key needs {package}, which is not installed:  ", "{command}"
    NO_LITELLM = "LiteLLM is not installed:  ", "{command}"
    NO_LITELLM_KEY = "{stem} has no key: ", "LiteLLM reads it from a variable {variable}_…, and none is set."
    NO_CREDENTIALS_FILE = (
        "{title} has no credentials file: ",
        "set GOOGLE_APPLICATION_CREDENTIALS, or log in with  gcloud auth application-default login  (on Google Cloud "
        "the metadata server may supply them)",
    )
    UNUSABLE_CREDENTIALS_FILE = "{file} cannot be used: {path}: ", "{reason}."
    NO_GOOGLE_PROJECT = "Vertex AI has no project: ", "set VERTEX_PROJECT in .env or in the environment."
    NO_OLLAMA = "{title} did not answer at {address}. ", "Start it with  ollama serve  or set its address."
    NO_OLLAMA_MODEL = "{title} has no model {model}. ", "Get it with  ollama pull {model}"
    NO_HTML_READER = "FETCH_URLS needs lxml to read HTML pages, which is not installed:  ", "{command}"
    NO_TRACES_PACKAGE = (
        "Traces need the OpenTelemetry SDK, which is not installed, so none are sent. ",
        "Install it, or set OTEL_TRACES_EXPORTER=none:  {command}",
    )
    NO_SEARCH = "Web searches fail: ", "{reason}"
    # models that settings name
    REFUSED_MODEL = "", "{reason}"
    NO_KEY_HERE = "{cause}", "{remedy} Or, for the model of {host}:  {line}"
    UNKNOWN_PREFIX = (
        '{named} "{model}", but {prefix}/ is the prefix of no provider, and {provider} has no such model. ',
        "{prefixes}",
    )
    UNLISTED_MODEL = (
        '{subject} contains "{model}", which has no prefix and is in no model list, so it is sent to {provider}. ',
        "Write {provider}/{model}, or the prefix of another provider.{place}",
    )
    MODEL_OF_OTHER_HOST = (
        '{named} "{model}", a model of {provider}, which has no key. {host} lists this name.{place} ',
        "Did you mean:  {line}",
    )
    REMOVED_PREFIX = (
        '{named} "{model}", of which the prefix is removed, so {sent} is requested. {host} lists this name.{place} ',
        "Did you mean:  {line}",
    )
    OTHER_HOST = "{place} names a model of {title}. For that of {host}:  ", "{line}"
    RETIRED = "{retired}. {successor}{place}{condition}:  ", "{line}"
    RETIRED_WITHOUT_SUCCESSOR = (
        "{retired}, and its successor is not in the list of the server. Another model{place}{condition}:  ",
        "{line}",
    )
    RETIRED_WITHOUT_SUCCESSORS = (
        "{retired}, and not all of their successors are in the list of the server. Other models{place}{condition}:  ",
        "{line}",
    )
    RETIRED_FALLBACK = "{retired}. {others} of {tier} already. {verb}:  ", "{line}"
    UNSEEING_MODEL = (
        "{subject} is {model}, which accepts no images, so it describes no picture. ",
        "Name a model that sees, such as one with ✓ for images in:  anthropic-proxy doctor",
    )
    # settings without effect
    STATED = "{reason}", ""
    UNUSED_ADDRESS = ("{subject} is set, but no request is sent there. ", "Add PREFERRED_PROVIDER={provider} to {file}")
    UNUSED_KEY = (
        "{subject} is set, but only requests that name a model of {name} are sent there. ",
        "Add PREFERRED_PROVIDER={name}, BIG_MODEL and SMALL_MODEL to {file}",
    )
    UNUSED_WITH_DEMO = "{named} set, but ", "{reason}."
    UNUSED_MODELS = "{named} set, but ", "{provider} serves the requested models themselves."
    UNUSED_ALERTS = (
        "[alerts] is set, but without virtual keys there are no budgets. ",
        "Add VIRTUAL_KEYS=true to {file}",
    )
    NO_PRICE = (
        "The limits of {subject} have a budget in dollars, and {models} no known price, so that such requests are "
        "rejected. ",
        "Add to {file}:  {line}",
    )
    SHADOWED_MODELS = (
        "{subject} lists {models}. Without a prefix, {model} is sent to {target}. ",
        "For this server, request {prefix}/{model}",
    )

    # what models refuse
    REFUSED_PARTS = (
        "{lacking} to {subject} in the last ten minutes lacked what the provider refuses in unknown words. ",
        "The page of a request lists what was left out. After a change of the server:  anthropic-proxy doctor --forget "
        "{subject}",
    )

    # several instances of the server
    SEPARATE_LIMITS = (
        "{count} instances share this database without Redis, so each of them counts limits per minute and requests in "
        "progress by itself: a key can use up to {count} times its limit. ",
        "Set REDIS_URL to the same Redis server on all of them.",
    )
    SEPARATE_STORES = (
        "{count} instances do not count limits and budgets together. {uses}. ",
        "Set REDIS_URL to the same Redis server, and REDIS_PREFIX to the same text, on all of them.",
    )
    WAITING_EVENTS = (
        "{subject} has accepted no event of the source {source} for {minutes} min, and {count} {events}. ",
        "Nothing is lost: start this endpoint, or correct its table. The log has its answer.",
    )
    PARKED_EVENTS = (
        "{subject} has rejected {count} {events} of the source {source}: {names}. The last answer was {answer}. ",
        "{places} in the table parked_events, and {sending} sent again, at least once a day: correct this endpoint.",
    )
    WRONG_CLOCK = (
        "The clock of {subject} is {difference}. ",
        "Correct it, for example with NTP. Sign-ins, logs and stored times follow it.",
    )

    def __init__(self, sentence: str, remedy: str) -> None:
        self.sentence = sentence
        self.remedy = remedy


MISSING_KEYS = (
    ProblemKind.NOT_SET_UP,
    ProblemKind.UNREADABLE_KEY,
    ProblemKind.NO_KEY,
    ProblemKind.NO_KEY_IN_TABLE,
    ProblemKind.NO_KEY_HERE,
)


class Problem(Struct, frozen=True, kw_only=True):
    """Something in the settings that prevents replies, or that has no effect."""

    kind: ProblemKind
    subject: str
    """Name of the provider, or of the setting, that has the problem."""
    place: str = ""
    """Where the setting is, as a text. "": the text names no place."""
    route: str = ""
    """The route that has the problem: `route "long" (…)`. "": it is not that of a route, or the text names it."""
    severity: Severity = "error"
    """`error`: requests fail that a Claude tier, a route or a feature sends. `warning`: other requests may fail."""
    facts: Mapping[str, object] = {}

    @property
    def cause(self) -> str:
        sentence = self._format(self.kind.sentence)
        return f"The {self.route}: {sentence}" if self.route else sentence

    @property
    def remedy(self) -> str:
        return self._format(self.kind.remedy)

    @property
    def text(self) -> str:
        return self.cause + self.remedy

    @property
    def is_error(self) -> bool:
        return self.severity == "error"

    @property
    def sign(self) -> str:
        return SIGNS[self.severity][0]

    @property
    def role(self) -> str:
        return SIGNS[self.severity][1]

    @property
    def has_line(self) -> bool:
        """True if the remedy is only a line to copy into a file."""
        return self.kind.remedy == "{line}"

    def _format(self, template: str) -> str:
        return template.format(subject=self.subject, place=self.place, **self.facts)


def report_problem(kind: ProblemKind, subject: str, *, place: str = "", **facts: object) -> Problem:
    return Problem(kind=kind, subject=subject, place=place, facts=facts)


def report_warning(kind: ProblemKind, subject: str, *, place: str = "", **facts: object) -> Problem:
    return Problem(kind=kind, subject=subject, place=place, severity="warning", facts=facts)


def list_texts(problems: Iterable[Problem]) -> list[str]:
    return [problem.text for problem in problems]
