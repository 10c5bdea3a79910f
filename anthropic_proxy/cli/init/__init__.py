"""Command `init`: asks for a provider, its key and two models, tests them, and writes the settings files.

A provider of this proxy gets variables in `.env`. A vendor with the API of OpenAI, or another server with it, gets a
table in `anthropic-proxy.toml` too. A proxy that runs with these files reloads them.

`candidates` are the providers to choose from. The table of `questions` fills `answers`, `connection` tests them by
`probe`, `model_questions` adds two models, and `write` writes the result.
"""

import asyncio
import sys
from typing import Annotated

from cyclopts import Parameter
from msgspec import structs

from anthropic_proxy.cli import EXIT_FAILED
from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.cli.init.answers import Options, Session, read_address
from anthropic_proxy.cli.init.candidates import MOST_USED, OTHER_SERVER, Candidate, find_candidate, list_candidates
from anthropic_proxy.cli.init.connection import connect
from anthropic_proxy.cli.init.model_questions import EXAMPLE_MODEL, choose_models
from anthropic_proxy.cli.init.pictures import choose_describing_model
from anthropic_proxy.cli.init.probe import find_local_servers
from anthropic_proxy.cli.init.write import Written, report_next_steps, write_settings
from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.questions import Option, open_questions
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, copy_environment
from anthropic_proxy.gateway.settings.place import require_settings_folder

_AZURE = "azure"


def init(
    *,
    provider: Annotated[str | None, Parameter(completer=complete_providers)] = None,
    key_from_env: str | None = None,
    base_url: str | None = None,
    big_model: str | None = None,
    small_model: str | None = None,
    model_of: list[str] | None = None,
    skip_test: bool = False,
    yes: bool = False,
) -> None:
    """Parameters
    ----------
    provider
        Provider to use, such as openai, or other for a server of yours; by default the command asks.
    key_from_env
        Environment variable with the key. By default the command finds the key, or asks for it.
    base_url
        Address of the server, for --provider other, and for a provider at another address than its own.
    big_model
        Model for sonnet, opus and fable; by default the command asks.
    small_model
        Model for haiku; by default the command asks. With --yes: a small model of the same family, else the big model.
    model_of
        Model behind a deployment of Azure, such as team-large=gpt-5.6-sol; once for each deployment.
    skip_test
        Do not send the key to the provider.
    yes
        Ask nothing, and write the lines without confirmation.
    """
    if provider is not None:  # a mistyped name is an error also without a terminal
        find_candidate(list_candidates(Settings(), {}), provider)
    elif yes or base_url is not None:
        raise ConfigurationError(
            "--provider is missing. Use openai, deepseek or another provider, or other for a server of yours, with "
            "--base-url.",
            code="init-without-terminal",
        )
    address = "" if base_url is None else read_address("--base-url", base_url)
    if base_url is not None and not address:
        raise ConfigurationError(
            f'--base-url is "{base_url}". Use the address of a server, such as http://localhost:8000/v1.',
            code="init-without-terminal",
        )
    output = Output()
    environ = copy_environment()
    key = "" if key_from_env is None else environ.get(key_from_env, "").strip()
    if key_from_env is not None and not key:
        raise ConfigurationError(
            f"--key-from-env is {key_from_env}, but this variable is not set.", code="init-without-terminal"
        )
    deployments = {}
    for text in model_of or ():
        deployment, _, model = text.partition("=")
        if not (deployment and model) or provider != _AZURE:
            raise ConfigurationError(
                f'--model-of is "{text}". Use the name of a deployment of Azure and that of its model, with '
                f"--provider {_AZURE}:  --model-of team-large={EXAMPLE_MODEL}",
                code="init-without-terminal",
            )
        deployments[deployment] = model
    models = {"BIG_MODEL": big_model, "SMALL_MODEL": small_model}
    options = Options(address, key, key_from_env or "", models, deployments, skip_test)
    folder = require_settings_folder(environ)
    settings = load_command_settings(of_running_proxy=False)
    session = Session(output, None if yes else open_questions(output), options, environ, settings, folder)
    try:
        written = _run(session, provider)
    except (EOFError, KeyboardInterrupt):
        output.write_notice("Cancelled. Nothing was written.")
        sys.exit(130)
    if written is None:
        sys.exit(EXIT_FAILED)
    report_next_steps(session, written)


def _run(session: Session, name: str | None) -> Written | None:
    """Ask for missing values, test them and write the lines. None: nothing is written."""
    settings = session.settings
    candidates = list_candidates(settings, asyncio.run(find_local_servers(settings)))
    candidate = None if name is None else find_candidate(candidates, name)
    while True:
        if candidate is None:
            assert session.questions is not None
            preferred = settings.preferred_provider
            present = [entry.name for entry in candidates if entry.provider and entry.provider.name == preferred]
            ordered = sorted(candidates, key=lambda entry: entry.name not in present)
            listed = [entry for entry in ordered if entry.detected or entry.name in (*present, *MOST_USED)]
            chosen = session.questions.select(
                "Which provider has the models?",
                [Option(entry.name, entry.title, entry.note, entry.name == OTHER_SERVER) for entry in ordered],
                "".join(present),
                len(listed),
                instead="--provider NAME",
                accepts=lambda text: bool(read_address("base_url", text)),
            )
            other = Candidate(OTHER_SERVER, chosen, address=read_address("base_url", chosen))
            candidate = next((entry for entry in candidates if entry.name == chosen), other)
        backend = connect(session, candidate)
        if backend is not None:
            models = choose_models(session, backend)
            return write_settings(session, backend, models, choose_describing_model(session, backend, models))
        if session.questions is None:
            return None
        # address and key of the command line belong to the provider that cannot be used
        session = structs.replace(session, options=structs.replace(session.options, address="", key=""))
        candidate = None
