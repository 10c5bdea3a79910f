"""Command `doctor`: sends test requests to the configured providers, and prints the features that work.

It also prints useful settings.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anthropic_proxy.lab.doctor import Backend, Report
    from anthropic_proxy.settings import Settings

MAX_UNCONFIRMED_REQUESTS = 150
"""Number of expected requests above which the command asks the user before it sends them."""


def doctor(
    *names: Annotated[str, Parameter(completer=complete_providers)],
    yes: Annotated[bool, Parameter(name="--yes", negative="")] = False,
    dialect: Annotated[bool, Parameter(name="--dialect", negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    report: Path | None = None,
    learn: bool = True,
) -> None:
    """Probe the configured backends: address, key, tools, images, thinking, limits and more.

    The requests are sent to the real providers and cost a few thousand tokens. Exit status: 0 all backends are ready,
    1 a fix is needed, 2 no provider answers.

    Parameters
    ----------
    names
        Providers (openai) or models (openai/gpt-4.1); by default all that the settings configure.
    yes
        Do not ask before many requests.
    dialect
        Probe the deviations of known servers too, not only those of unknown ones.
    as_json
        Print the report as JSON.
    report
        File for the report, without secrets: Markdown, or JSON if its name ends with .json.
    learn
        Store the observed limits and features, for the next start or reload of the proxy.
    """
    import asyncio  # noqa: PLC0415  # --help needs none of it

    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    _require_writable(report)
    result = asyncio.run(_examine(settings, names, asks=not yes, searches=dialect, quiet=as_json))
    _write_results(result, settings, as_json=as_json, file=report)
    if learn and settings.data_directory is not None:
        _store_facts(result, settings.data_directory)
    sys.exit(result.exit_status)


def _store_facts(result: "Report", directory: Path) -> None:
    """Store the observed limits and features of models in `directory`, and print the name of the file on stderr."""
    from datetime import date  # noqa: PLC0415

    from anthropic_proxy.lab.doctor.learned_facts import list_learned_models  # noqa: PLC0415
    from anthropic_proxy.platforms.os_errors import describe_os_error  # noqa: PLC0415
    from anthropic_proxy.routing.catalog import store_learned_models  # noqa: PLC0415

    learned = list_learned_models(result.diagnoses, date.today())
    if not learned:
        return
    try:
        file = store_learned_models(directory, learned, date.today())
    except OSError as error:
        sys.stderr.write(f"! The facts cannot be stored in {directory}: {describe_os_error(error)}.\n")
        return
    noun = "model" if len(learned) == 1 else "models"
    sys.stderr.write(f"Facts about {len(learned)} {noun} for the next start or reload: {file}\n")


async def _examine(
    settings: "Settings", names: "Sequence[str]", *, asks: bool, searches: bool, quiet: bool
) -> "Report":
    """Send the probes (test requests) to the configured backends, and return the report.

    `asks`: ask the user before many requests. `searches`: probe the deviations of known servers too. `quiet`: True:
    show no table while the probes run.
    """
    import asyncio  # noqa: PLC0415
    import io  # noqa: PLC0415

    from anthropic_proxy.cli.doctor_table import DoctorProgress  # noqa: PLC0415
    from anthropic_proxy.lab.doctor import run_doctor, select_backends  # noqa: PLC0415
    from anthropic_proxy.log import Log  # noqa: PLC0415
    from anthropic_proxy.services import open_services  # noqa: PLC0415

    services = await open_services(settings, log=Log(io.StringIO()))
    try:
        if not settings.keys or names:
            await services.catalog.refresh_listing("ollama")
        backends = select_backends(services, names, searches_known_servers=searches)
        _announce(backends, settings, asks=asks)
        with DoctorProgress(shows_table=not quiet) as progress:
            waiting = asyncio.create_task(progress.report_unfinished_backends())
            try:
                return await run_doctor(services, backends, progress.update)
            finally:
                waiting.cancel()
    finally:
        await services.close()


def _announce(backends: "Sequence[Backend]", settings: "Settings", *, asks: bool) -> None:
    """Print the expected number of requests and tokens on stderr.

    `asks`: ask the user before many requests. Raises `ConfigurationError` if the user does not accept.
    """
    from anthropic_proxy.lab.doctor import estimate_cost, estimate_price  # noqa: PLC0415

    expected = estimate_cost(backends)
    noun = "backend" if len(backends) == 1 else "backends"
    price = estimate_price(backends, settings)
    shown = f", about ${price:.3f}" if price else ""
    cost = f"about {expected.requests} requests and {expected.input_tokens:,} tokens{shown}"
    sys.stderr.write(f"Probing {len(backends)} {noun}: {cost}.\n")
    sys.stderr.flush()
    if not asks or expected.requests <= MAX_UNCONFIRMED_REQUESTS:
        return
    remedy = "To send them without a question:  anthropic-proxy doctor --yes"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError(f"The probes need {cost}. {remedy}")
    sys.stderr.write("Send them? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigurationError(f"Nothing was sent. {remedy}")


def _require_writable(file: Path | None) -> None:
    """Raise `ConfigurationError` if the report `file` cannot be written. None: no file.

    This is checked before the first request to a provider, which costs money.
    """
    if file is None:
        return
    if not file.parent.is_dir():
        reason = f"there is no folder {file.parent}"
    elif file.is_dir():
        reason = "it is a folder"
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        reason = "no permission"
    else:
        return
    raise ConfigurationError(f"--report: {file} cannot be written: {reason}.")


def _write_results(result: "Report", settings: "Settings", *, as_json: bool, file: Path | None) -> None:
    from datetime import date  # noqa: PLC0415

    from anthropic_proxy.cli.doctor_table import write_report  # noqa: PLC0415
    from anthropic_proxy.lab.doctor.report import encode_report  # noqa: PLC0415
    from anthropic_proxy.platforms.os_errors import describe_os_error  # noqa: PLC0415

    secrets, today = settings.reveal_all_secrets(), date.today()
    if as_json:
        sys.stdout.write(encode_report(result, "json", today, secrets))
    else:
        write_report(result, secrets)
    if file is not None:
        form: Literal["json", "markdown"] = "json" if file.suffix.lower() == ".json" else "markdown"
        try:
            file.write_text(encode_report(result, form, today, secrets), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--report: {file} cannot be written: {describe_os_error(error)}.") from None
    if as_json:
        sys.stderr.write(f"Done: {result.cost}.\n")
