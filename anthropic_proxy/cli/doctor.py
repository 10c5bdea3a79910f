"""Command `doctor`: sends test requests to the configured providers, and prints the features that work.

It also prints remedies for problems, and tables for `anthropic-proxy.toml` that adapt the proxy to an unknown server.
"""

import os
import sys
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anthropic_proxy.lab.doctor import Backend, ProbeTotals, Report
    from anthropic_proxy.lab.doctor.run_recorder import RunRecorder
    from anthropic_proxy.services import Services
    from anthropic_proxy.settings import Settings
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date

from anthropic_proxy import doctor_run
from anthropic_proxy.lab.doctor import Report
from anthropic_proxy.lab.doctor.learned_facts import list_learned_models
from anthropic_proxy.lab.doctor.run_recorder import RunRecorder
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.routing.catalog import store_learned_models
from anthropic_proxy.settings import Settings

MAX_UNCONFIRMED_REQUESTS = 150
"""Number of expected requests above which the command asks the user before it sends them."""


class _Options(NamedTuple):
    """Options of the command."""

    names: "Sequence[str]"
    """Providers or models to examine. Empty: all that the settings configure."""
    asks: bool
    """True: ask the user before many requests."""
    searches_dialect: bool
    """True: probe the deviations of known servers too."""
    as_json: bool
    report: Path | None
    learns: bool
    """True: store the results."""
    is_attached: bool
    """True: the parent process is a proxy, whose settings this process has. During a run, it holds the lock of stored
    runs, and this process stops when its standard input ends."""


def doctor(
    *names: Annotated[str, Parameter(completer=complete_providers)],
    yes: Annotated[bool, Parameter(name="--yes", negative="")] = False,
    dialect: Annotated[bool, Parameter(name="--dialect", negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    report: Path | None = None,
    learn: bool = True,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="")] = False,
    attached: Annotated[bool, Parameter(name="--attached", negative="", show=False)] = False,
) -> None:
    """Probe the configured backends: address, key, tools, images, thinking, limits and more.

    The requests are sent to the real providers and cost a few thousand tokens. Exit status: 0 all backends are ready,
    1 a fix is needed, 2 no provider is configured or none responds.

    Parameters
    ----------
    names
        Providers (openai) or models (openai/gpt-4.1); by default all that the settings configure.
    yes
        Do not ask before many requests.
    dialect
        Examine known servers too for deviations from the API, not only unknown servers.
    as_json
        Print the report as JSON.
    report
        File for the report, without secrets: Markdown, or JSON if its name ends with .json.
    learn
        Store the observed limits and features, for the next start or reload of the proxy and for the dashboard.
    dry_run
        Print the models and the expected cost, and send nothing.
    attached
        The dashboard uses this option when it starts the command: examine what the settings of this process configure,
        not the proxy that runs on PORT. The dashboard holds the lock that allows only one stored run at a time. The run
        stops when standard input ends.
    """
    options = _Options(names, not yes, dialect, as_json, report, learn, attached)
    if dry_run:
        _print_estimate(options)
    else:
        sys.exit(_run(options))


def _run(options: _Options) -> int:
    """Send the probes, store and write the results, and return the exit status."""
    import asyncio  # noqa: PLC0415  # --help needs none of it

    from anthropic_proxy.platforms.child_process import stop_process_when_stdin_ends  # noqa: PLC0415

    settings = load_command_settings(resolves_keys=True, of_running_proxy=not options.is_attached)
    _require_writable(options.report)
    if options.is_attached:
        stop_process_when_stdin_ends()
    with ExitStack() as stack:
        result, recorder = asyncio.run(_examine(settings, options, stack))
        directory = settings.data_directory if options.learns else None
        lines = [] if directory is None else store_results(recorder, result, directory)  # the output may fail
    try:
        _write_results(result, settings, as_json=options.as_json, file=options.report)
    finally:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    return result.exit_status


@asynccontextmanager
async def _open_backends(
    settings: "Settings", options: _Options
) -> "AsyncIterator[tuple[Services, Sequence[Backend]]]":
    """Return a context manager with the services and the backends to examine."""
    import io  # noqa: PLC0415

    from anthropic_proxy.lab.doctor import select_backends  # noqa: PLC0415
    from anthropic_proxy.log import Log  # noqa: PLC0415
    from anthropic_proxy.services import open_services  # noqa: PLC0415

    services = await open_services(settings, log=Log(io.StringIO()))
    try:
        if not settings.keys or options.names:
            await services.catalog.refresh_listing("ollama")
        yield services, select_backends(services, options.names, searches_known_servers=options.searches_dialect)
    finally:
        await services.close()


async def _examine(settings: "Settings", options: _Options, stack: ExitStack) -> "tuple[Report, RunRecorder]":
    """Send the probes (test requests) to the configured backends, and return the report and the open recorder.

    `stack` closes the recorder. Raises `ConfigurationError` if a user of the dashboard stops the run.
    """
    import asyncio  # noqa: PLC0415

    from anthropic_proxy.lab.doctor import estimate_totals  # noqa: PLC0415

    async with _open_backends(settings, options) as (services, backends):
        expected = estimate_totals(backends)
        _announce(backends, expected, settings, asks=options.asks)
        # after the question, because the lock keeps the dashboard from a run of its own
        directory = settings.data_directory if options.learns and not options.names else None
        opened = open_recorder(settings, directory, is_attached=options.is_attached)
        recorder = await asyncio.to_thread(stack.enter_context, opened)
        recorder.start(expected.requests)
        try:
            return await _show_run(services, backends, recorder, shows_table=not options.as_json), recorder
        except asyncio.CancelledError:
            if recorder.is_stopped:
                raise ConfigurationError("The run was stopped on the page Providers of the dashboard.") from None
            raise


async def _show_run(
    services: "Services", backends: "Sequence[Backend]", recorder: "RunRecorder", *, shows_table: bool
) -> "Report":
    """Run the doctor, show and store its progress, and return the report. `recorder` may cancel this task."""
    import asyncio  # noqa: PLC0415

    from anthropic_proxy.cli.doctor_table import DoctorProgress  # noqa: PLC0415
    from anthropic_proxy.lab.doctor import Diagnosis, run_doctor  # noqa: PLC0415

    run = asyncio.current_task()
    assert run is not None
    with DoctorProgress(shows_table=shows_table) as progress:

        def show(diagnoses: "Sequence[Diagnosis]") -> None:
            progress.update(diagnoses)
            recorder.update_diagnoses(diagnoses)

        tasks = [
            asyncio.create_task(progress.report_unfinished_backends()),
            asyncio.create_task(recorder.store_progress_periodically(run.cancel)),
        ]
        try:
            return await run_doctor(services, backends, show)
        finally:
            for task in tasks:
                task.cancel()


def _describe_cost(backends: "Sequence[Backend]", expected: "ProbeTotals", price: float | None) -> tuple[str, str]:
    """Return the number of backends and the expected cost as texts: `2 backends`, `about 41 requests and …`."""
    from anthropic_proxy.money import NANO_DOLLARS, format_amount  # noqa: PLC0415

    shown = f", {format_amount(price * NANO_DOLLARS)}" if price else ""
    cost = f"about {expected.requests} requests and {expected.input_tokens:,} tokens{shown}"
    return f"{len(backends)} {'backend' if len(backends) == 1 else 'backends'}", cost


def _print_estimate(options: _Options) -> None:
    """Print the models to examine and the expected cost. No probe is sent."""
    import asyncio  # noqa: PLC0415
    import json  # noqa: PLC0415

    from anthropic_proxy.lab.doctor import estimate_price, estimate_totals  # noqa: PLC0415

    settings = load_command_settings(of_running_proxy=not options.is_attached)

    async def find_backends() -> "Sequence[Backend]":
        async with _open_backends(settings, options) as (_, found):
            return [one for one in found if one.target.provider.transport != "demo"]  # it has no model to examine

    backends = asyncio.run(find_backends())
    expected, models = estimate_totals(backends), [one.prefixed_id for one in backends]
    price = estimate_price(backends, settings)
    if options.as_json:
        found = {"models": models, "requests": expected.requests, "tokens": expected.input_tokens, "price": price}
        print(json.dumps(found))
        return
    count, cost = _describe_cost(backends, expected, price)
    print(f"{count}: {cost}.", *models, sep="\n  ")


def _announce(backends: "Sequence[Backend]", expected: "ProbeTotals", settings: "Settings", *, asks: bool) -> None:
    """Print the expected number of requests and tokens on stderr.

    `asks`: ask the user before many requests. Raises `ConfigurationError` if the user does not accept.
    """
    from anthropic_proxy.lab.doctor import estimate_price  # noqa: PLC0415

    count, cost = _describe_cost(backends, expected, estimate_price(backends, settings))
    sys.stderr.write(f"Probing {count}: {cost}.\n")
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
    if not os.path.isdir(file.parent):
        reason = f"there is no folder {file.parent}"
    elif os.path.isdir(file):
        reason = "it is a folder"
    elif not os.access(file if os.path.exists(file) else file.parent, os.W_OK):
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
    try:
        if file is not None:
            form: Literal["json", "markdown"] = "json" if file.suffix.lower() == ".json" else "markdown"
            file.write_text(encode_report(result, form, today, secrets), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--report: {file} cannot be written: {describe_os_error(error)}.") from None
    finally:
        if as_json:
            sys.stdout.write(encode_report(result, "json", today, secrets))
            sys.stderr.write(f"Done: {result.cost_summary}.\n")
        else:
            write_report(result, secrets)


_LOCK_SECONDS = 1.0
"""Seconds for which the command waits for the lock of stored runs. A page of the dashboard may hold it for a moment."""


@contextmanager
def open_recorder(settings: Settings, directory: Path | None, *, is_attached: bool) -> Iterator[RunRecorder]:
    """Return a context manager that yields the recorder, which stores the run for the dashboard.

    `directory` is the data directory. With None, nothing is stored. The context manager holds a lock, so that no other
    run is stored meanwhile. With `is_attached`, the dashboard has started this run and already holds the lock. If
    another run holds it, or the folder cannot be written, a line is written to stderr and nothing is stored.
    """
    with ExitStack() as stack:
        if directory is not None and not is_attached:
            try:
                with ExitStack() as opened:
                    opened.enter_context(doctor_run.locked_run(directory, _LOCK_SECONDS))
                    doctor_run.remove_current(directory)  # an earlier run that failed
                    stack.enter_context(opened.pop_all())
            except OSError as error:
                folder = doctor_run.find_folder(directory)
                is_locked = isinstance(error, TimeoutError)
                reason = "another run is in progress" if is_locked else f"{describe_os_error(error)} ({folder})"
                sys.stderr.write(f"! This run is not stored for the dashboard: {reason}.\n")
                directory = None
        yield RunRecorder(directory, settings, time.time)
        if directory is not None and not is_attached:
            with suppress(OSError):
                doctor_run.remove_current(directory)


def store_results(recorder: RunRecorder, result: Report, directory: Path) -> list[str]:
    """Store the complete run for the dashboard, and the observed limits and features of models in `directory`.

    Return lines for stderr: one with the file in which the limits and features are stored, and one for each failure.
    """
    lines = _store_facts(result, directory)
    try:
        recorder.finish(result)
    except OSError as error:
        lines.append(f"✕ The results cannot be stored in {directory}: {describe_os_error(error)}.")
    return lines


def _store_facts(result: Report, directory: Path) -> list[str]:
    learned = list_learned_models(result.diagnoses, date.today())
    if not learned:
        return []
    try:
        file = store_learned_models(directory, learned, date.today())
    except OSError as error:
        is_locked = isinstance(error, TimeoutError)
        reason = "another run stores its facts" if is_locked else describe_os_error(error)
        return [f"✕ The facts cannot be stored in {directory}: {reason}."]
    noun = "model" if len(learned) == 1 else "models"
    return [f"Facts about {len(learned)} {noun} for the next start or reload: {file}"]
