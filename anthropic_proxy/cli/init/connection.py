"""Connects `init` with a provider: asks for what it needs, tests it, and asks again for what was wrong."""

import asyncio

from msgspec import structs

from anthropic_proxy.cli.importing.tables import ServerTable
from anthropic_proxy.cli.init.answers import Answers, ChosenProvider, Session, choose_name
from anthropic_proxy.cli.init.candidates import CREDENTIALS, Candidate, Kind, describe_key
from anthropic_proxy.cli.init.models import find_offered_models
from anthropic_proxy.cli.init.probe import ProbeResult, probe
from anthropic_proxy.cli.init.questions import AnotherProviderError, ask_questions
from anthropic_proxy.cli.questions import Option
from anthropic_proxy.console import formats
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.engine.options import ConfiguredProvider
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.hosts import find_netloc
from anthropic_proxy.engine.providers.provider_models import has_model_list
from anthropic_proxy.errors import ConfigurationError, ProxyError, UpstreamError
from anthropic_proxy.secrets import Secret, redact_secrets

_REJECTED_STATUSES = (401, 403)
"""HTTP statuses with which a provider rejects a key. After other failures the key may still be valid."""
# choices after a failed test
_AGAIN = "again"
_OTHER = "other"
_UNTESTED = "keep"
_MAX_TEXT = 200
"""Number of characters of a provider's error text that are shown."""


def connect(session: Session, candidate: Candidate) -> ChosenProvider | None:
    """Ask for what a provider needs, and test it. None: it cannot be used, and another one may be."""
    provider = candidate.provider
    if provider is not None and session.options.address and not provider.base_url_variable:
        raise ConfigurationError(
            f"{provider.prefix} has no setting for its address, so --base-url cannot be used with it. For another "
            "server:  --provider other",
            code="init-without-terminal",
        )
    if provider is not None and session.options.key and not provider.key_variable:
        raise ConfigurationError(
            f"{provider.title} has no API keys, so --key-from-env cannot be used with it.", code="init-without-terminal"
        )
    answers = Answers(session, candidate)
    while True:
        is_repeated = answers.is_rejected or not answers.is_first
        try:
            asked_count = ask_questions(answers)
        except AnotherProviderError:
            return None
        if answers.is_rejected and not answers.key and answers.kind in (Kind.LOCAL, Kind.OTHER):
            answers.is_rejected = False  # rejected without a key too: ask for another address
            if session.options.address:
                return None
        elif is_repeated and not asked_count:
            return None
        elif (backend := _test_all(answers)) is not None or session.questions is None:
            return backend
        if answers.is_rejected:
            del answers.values["key"]
        else:
            answers.values = {}
            answers.is_first = False


def _test_all(answers: Answers) -> ChosenProvider | None:
    """Test the provider at each of its addresses until one is right, or rejects the key."""
    session = answers.session
    provider = answers.candidate.provider
    if provider is not None:
        settings = session.load_with(answers.variables)
        resolved = find_registry(settings).find(provider.name)  # at this address
        backend = ChosenProvider(resolved, settings, answers.variables, proposed_models=answers.candidate.models)
        return _test(backend, answers, is_last=True)
    server = answers.name_server()
    for base_url in server.addresses:
        backend = _describe_server(answers, choose_name(server.stem, base_url, session.settings), base_url)
        tested = _test(backend, answers, is_last=base_url == server.addresses[-1])
        if tested is not None or answers.is_rejected:
            return tested
    return None


def _describe_server(answers: Answers, name: str, base_url: str) -> ChosenProvider:
    present = answers.session.settings
    key = answers.key
    variable = answers.key_variable
    present_key = answers.session.find_present_key(variable)
    is_found = present_key is not None and present_key.text == key
    origin = describe_key(variable, present_key.origin) if present_key and is_found else f"{variable}, as entered"
    table = ConfiguredProvider(name=name, base_url=base_url, wire="chat", has_key=bool(key), key_variable=variable)
    settings = structs.replace(
        present,
        configured_providers=(*(other for other in present.configured_providers if other.name != name), table),
        base_urls={**present.base_urls, name: base_url},
        keys={**present.keys, **({name: (Secret(key, origin),)} if key else {})},
    )
    return ChosenProvider(
        find_registry(settings).find(name),
        settings,
        answers.variables,
        ServerTable(base_url=base_url, key_variable=variable if key else ""),
        has_deployments=answers.kind == Kind.AZURE,
    )


def _test(backend: ChosenProvider, answers: Answers, *, is_last: bool) -> ChosenProvider | None:
    """Test a provider, print the result, and return it with the models that it lists.

    None: the key was rejected, or the server did not answer and the user does not keep the settings. If there are more
    addresses, a server without a model list is not reported.
    """
    provider = backend.provider
    session = answers.session
    keys = backend.settings.keys.get(provider.name, ())
    uses_token = answers.kind in CREDENTIALS and not keys
    answers.is_rejected = False
    if session.options.skips_test or not (uses_token or has_model_list(provider)):
        return backend
    while True:
        try:
            result = asyncio.run(probe(backend, uses_token=uses_token))
        except UpstreamError as error:
            message = error.message.rstrip(".")
            message = message if message.startswith(provider.prefix) else f"{provider.prefix}: {message}"
            said = " ".join(redact_secrets(error.provider_text, [key.reveal() for key in keys]).split())
            text = f'{message}. It says: "{formats.shorten(said, _MAX_TEXT)}"' if said else f"{message}."
            answers.is_rejected = error.status in _REJECTED_STATUSES
        except ProxyError as error:
            text = error.message
        else:
            break
        if answers.is_rejected:
            if not keys and session.questions is not None:
                session.output.write_notice(f"{provider.prefix} requires a key.", "!")
                return None
            session.output.write_notice(text, "✕")
            if keys and not backend.variables:
                session.output.write_notice(f"The key is {keys[0]}, {keys[0].origin}. Replace it there.")
            return None
        if not is_last:
            return None
        session.output.write_notice(text, "✕")
        if (chosen := _choose_after_failure(session)) != _AGAIN:
            return backend if chosen == _UNTESTED else None
    tested = structs.replace(backend, models=result.models, list_owner=result.list_owner)
    _report_success(tested, answers, result)
    # Azure lists the models that could be deployed
    return backend if backend.has_deployments else tested


def _report_success(tested: ChosenProvider, answers: Answers, result: ProbeResult) -> None:
    output = answers.session.output
    provider = tested.provider
    check = output.mark("✓")
    duration = formats.seconds(to_microseconds(result.seconds))
    if result.models is None:
        output.write_line(f"  {check} {CREDENTIALS[answers.kind]} found, {duration}")
        return
    retired = len(result.models) - len(find_offered_models(tested))
    left_out = f", {retired} retired {'one is' if retired == 1 else 'ones are'} left out" if retired else ""
    host = find_netloc(tested.settings.base_urls.get(provider.name, provider.base_url))
    count = formats.plural(len(result.models) + len(result.left_out), "model")
    answered = f"accepted by {host}" if result.is_key_accepted else f"{host} answers"
    output.write_line(f"  {check} {answered}, {count}, {duration}{left_out}")
    if names := result.left_out:
        have = "1 has a name" if len(names) == 1 else f"{len(names)} have names"
        shown = formats.shorten(", ".join(names), _MAX_TEXT)
        answers.session.warn(
            f"{have} that cannot be used: {shown}. Start the server with another name for it:  --alias NAME "
            "(llama.cpp), --served-model-name NAME (vLLM)"
        )
    if tested.settings.keys.get(provider.name) and not result.is_key_accepted:
        output.write_line("    The first message checks the key: this server has not said whether it accepts it.")


def _choose_after_failure(session: Session) -> str:
    """Return what to do after a test that failed for another reason than a rejected key: `_AGAIN`, …"""
    if session.questions is None:
        session.output.write_notice("The settings were not tested. To write them without a test, add --skip-test.")
        return _OTHER
    if not session.questions.has_person:  # a pipe has one line for it, yes or no
        question = "Keep the settings without a test?"
        return _UNTESTED if session.questions.confirm(question, default=False, instead="--skip-test") else _OTHER
    options = [
        Option(_AGAIN, "Try again"),
        Option(_OTHER, "Enter something else"),
        Option(_UNTESTED, "Keep the settings without a test"),
    ]
    return session.questions.select("What next?", options, instead="--skip-test")
