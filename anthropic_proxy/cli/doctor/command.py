"""Command `doctor`: sends test requests to the configured providers, and prints the features that work.

It also prints remedies for problems, and tables for `anthropic-proxy.toml` that adapt the proxy to an unknown server.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
from cyclopts import Parameter
from msgspec import Struct, structs

from anthropic_proxy.cli.command_line import is_verbose
from anthropic_proxy.cli.command_settings import NO_PROVIDER, load_command_settings
from anthropic_proxy.cli.completion import complete_providers
from anthropic_proxy.cli.doctor.auto_mode_report import AutoModeProgress, encode_run, format_run, write_earlier
from anthropic_proxy.cli.doctor.report import DoctorProgress, encode_report, write_report
from anthropic_proxy.cli.local_proxy import administrator_token, require_proxy
from anthropic_proxy.cli.output import Output, open_data_output
from anthropic_proxy.cli.proxy_client import delete
from anthropic_proxy.cli.remote_proxy import find_remote_proxy
from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor.auto_mode import CaseRuns, plan_measurement
from anthropic_proxy.console.doctor.auto_mode_runs import AutoModeRun, load_runs, store_run
from anthropic_proxy.console.doctor.findings import Backend
from anthropic_proxy.console.doctor.learned import store_facts
from anthropic_proxy.console.doctor.report import Report
from anthropic_proxy.console.doctor.run import Estimate, estimate_run, open_backends, run_doctor
from anthropic_proxy.console.doctor.stored_runs import (
    DoctorRun,
    complete_run,
    describe_not_stored,
    mask_keys,
    new_run,
    store_complete,
)
from anthropic_proxy.console.keys.unpriced import read_unpriced
from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.providers.hosts import find_missing_key
from anthropic_proxy.errors import ClientError, ConfigurationError
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_amount
from anthropic_proxy.gateway.permissions import REFUSALS_PATH
from anthropic_proxy.gateway.problems import describe_demo
from anthropic_proxy.gateway.running_proxy import find_running_proxy, name_reload_command
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.columns import wrap_text
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable
from anthropic_proxy.secrets import new_redactor, redact_json_value

MAX_UNCONFIRMED_REQUESTS = 150
"""Number of expected requests above which the command asks the user before it sends them."""
MAX_UNCONFIRMED_COST = NANO_DOLLARS // 10
"""Expected nano-dollars of a measurement of auto mode up to which the command does not ask."""
EXIT_INTERRUPTED = 130
"""Exit status after Ctrl+C, as shells state it."""


class _Forgotten(Struct):
    text: str


class _Options(NamedTuple):
    names: Sequence[str]
    """Providers or models to examine. Empty: all that the settings configure."""
    asks: bool
    """True: ask the user before many requests."""
    searches_dialect: bool
    """True: probe the deviations of known servers too."""
    as_json: bool
    report: Path | None
    learns: bool
    """True: store the results."""


def doctor(
    *names: Annotated[str, Parameter(completer=complete_providers)],
    yes: bool = False,
    dialect: bool = False,
    as_json: bool = False,
    report: Path | None = None,
    learn: Annotated[bool, Parameter(negative="--no-learn")] = True,
    dry_run: bool = False,
    auto_mode: bool = False,
    forget: str | None = None,
) -> None:
    """Parameters
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
    auto_mode
        Measure a model as the checker of tool calls (auto mode): it decides the published cases, and the misses and
        false alarms are printed beside those of earlier runs; with -v, all wrong verdicts. By default the model that
        answers checks now.
    forget
        Send nothing to the model, and let the running proxy forget what refusals of it have shown: openai/gpt-4.1.
    """
    options = _Options(names, not yes, dialect, as_json, report, learn)
    if auto_mode:
        if len(options.names) > 1:
            raise ConfigurationError("--auto-mode measures one model at a time.", code="auto-mode-options")
        if options.report is not None or options.searches_dialect:
            text = "--auto-mode cannot be combined with --report and --dialect."
            raise ConfigurationError(text, code="auto-mode-options")
    settings = load_command_settings(resolves_keys=not dry_run, of_running_proxy=True)
    if forget is not None:
        _forget_refusals(settings, forget)
        return
    if auto_mode:
        _show_auto_mode(settings, options, dry_run=dry_run)
        return
    if dry_run:
        _show_estimate(settings, options)
        return
    _require_writable(options.report)
    run, result = asyncio.run(_examine(settings, options))
    lines = [] if settings.data_directory is None or not learn else _store_results(settings, run, result)
    try:
        secrets = settings.reveal_all_secrets()
        today = date.today()
        file = options.report
        try:
            if file is not None:
                form: Literal["json", "markdown"] = "json" if file.suffix.lower() == ".json" else "markdown"
                file.write_text(encode_report(result, form, today, secrets), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"--report: {file} cannot be written: {describe_os_error(error)}.", code="report-not-written"
            ) from None
        finally:
            if options.as_json:
                open_data_output().write(encode_report(result, "json", today, secrets))
                sys.stderr.write(f"Done: {result.cost_summary}.\n")
            else:
                write_report(result, settings, secrets)
    finally:
        output = Output()
        for line in lines:
            output.write_notice(line)
    sys.exit(result.exit_status)


async def _examine(settings: Settings, options: _Options) -> tuple[DoctorRun | None, Report]:
    """Send the probes to the backends. The run is None if it has only some of them: the dashboard does not show it."""
    async with _open_backends(settings, options) as (services, backends):
        expected = estimate_run(backends, settings)
        count, cost = _describe_cost(expected)
        _confirm(f"Probing {count}", cost, expected.requests, asks=options.asks)
        run = None if options.names else new_run(settings, expected.requests)
        with DoctorProgress(shows_table=not options.as_json) as progress:
            reporting = asyncio.create_task(progress.report_unfinished())
            try:
                checks_settings = not options.names
                unpriced = read_unpriced(settings) if checks_settings else ()
                return run, await run_doctor(
                    services, backends, progress.update, checks_settings=checks_settings, further_problems=unpriced
                )
            finally:
                reporting.cancel()


def _open_backends(
    settings: Settings, options: _Options
) -> AbstractAsyncContextManager[tuple[Services, Sequence[Backend]]]:
    return open_backends(settings, options.names, searches_known_servers=options.searches_dialect)


def _show_estimate(settings: Settings, options: _Options) -> None:
    async def estimate() -> Estimate:
        async with _open_backends(settings, options) as (_, found):
            return estimate_run([backend for backend in found if not backend.is_demo], settings)

    expected = asyncio.run(estimate())
    if options.as_json:
        print(json.dumps(structs.asdict(expected)))
    elif not expected.models:
        Output().write_line(NO_PROVIDER.format(demo=describe_demo(settings)))
    else:
        count, cost = _describe_cost(expected)
        for line in (f"{count}: {cost}.", *(f"  {model}" for model in expected.models)):
            Output().write_line(line)


def _describe_cost(expected: Estimate) -> tuple[str, str]:
    shown = f", {format_amount(expected.price * NANO_DOLLARS)}" if expected.price else ""
    cost = f"about {expected.requests} requests and {expected.tokens:,} tokens{shown}"
    return formats.plural(len(expected.models), "model"), cost


def _store_results(settings: Settings, run: DoctorRun | None, result: Report) -> list[str]:
    """Store the facts about models, and the results for the dashboard. Return lines for stderr."""
    directory, lines = settings.data_directory, []
    assert directory is not None
    try:
        changed = store_facts(directory, result.diagnoses)
    except OSError as error:
        lines.append(f"✕ {describe_not_stored('facts', directory, error)}")
    else:
        if changed:
            limits = f"the found limits of {formats.plural(changed, 'model')}"
            running = find_running_proxy(directory, settings.port)
            reload = name_reload_command(running) if running is not None else ""
            lines.append(
                f"To use {limits} now:  {reload}" if reload else f"The proxy uses {limits} from its next start."
            )
    try:
        if run is not None:
            store_complete(directory, mask_keys(complete_run(run, result), new_redactor(settings.reveal_all_secrets())))
    except OSError as error:
        lines.append(f"✕ {describe_not_stored('results', directory, error)}")
    return lines


def _confirm(purpose: str, cost: str, requests: int, *, asks: bool, option: str = "") -> None:
    for line in wrap_text(f"{purpose}: {cost}.", Output().width):
        sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
    if not asks or requests <= MAX_UNCONFIRMED_REQUESTS:
        return
    remedy = f"To send them without a question:  anthropic-proxy doctor {option}--yes"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigurationError(f"The probes need {cost}. {remedy}", code="probe-cost")
    sys.stderr.write("Send them? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigurationError(f"Nothing was sent. {remedy}", code="probe-cost")


async def _measure_auto_mode(settings: Settings, options: _Options, *, dry_run: bool) -> AutoModeRun | None:
    """Return the measurement, also one that the user interrupts. None: the user only wants to know what it needs."""
    auto_mode = settings.auto_mode
    async with _open_backends(settings, options) as (services, backends):
        if options.names:
            chosen = next((one for one in backends if "sonnet" in one.tiers), backends[0])
            auto_mode = structs.replace(auto_mode, model=chosen.prefixed_id, confirm_with=None)
        try:
            measured = await plan_measurement(services, auto_mode)
        except ClientError as error:
            raise ConfigurationError(error.message, code="auto-mode-options") from None
        if any(target.provider.transport == "demo" for target in measured.targets):
            raise ConfigurationError(NO_PROVIDER.format(demo=describe_demo(settings)), code="auto-mode-options")
        names = " and ".join(measured.names)
        if dry_run and options.as_json:
            amount = None if measured.cost is None else measured.cost / NANO_DOLLARS
            content = {"models": measured.names, "requests": measured.requests, "tokens": measured.tokens}
            print(json.dumps({**content, "price": amount}))
            return None
        shown = f", {format_amount(measured.cost)}" if measured.cost else ""
        cost = f"about {measured.requests} requests and {measured.tokens:,} tokens{shown}"
        if dry_run:
            Output().write_line(f"{names}: {cost}.")
            return None
        for target in measured.targets:
            if missing := find_missing_key(target.provider, settings):
                raise ConfigurationError(missing.text, code="auto-mode-options")
        is_cheap = measured.cost is not None and measured.cost <= MAX_UNCONFIRMED_COST
        words = f"--auto-mode {options.names[0]} " if options.names else "--auto-mode "
        _confirm(f"Measuring {names}", cost, measured.requests, asks=options.asks and not is_cheap, option=words)
        runs = CaseRuns(services, measured)
        with AutoModeProgress(runs, auto_mode.timeout_seconds, shows_table=not options.as_json) as progress:
            reporting = asyncio.create_task(progress.report_unfinished())
            with suppress(asyncio.CancelledError):  # Ctrl+C: what has run was paid
                await runs.run(progress.update)
            reporting.cancel()
        return runs.build_run()


def _forget_refusals(settings: Settings, model: str) -> None:
    """Raises `ConfigurationError` if no proxy responds, and the error of the proxy."""
    path = f"{REFUSALS_PATH}?{urlencode({'model': model})}"
    if (remote := None if settings.virtual_keys else find_remote_proxy()) is not None:
        text = msgspec.convert(remote.request("DELETE", path), _Forgotten).text
    else:
        proxy = require_proxy(settings)
        token = administrator_token(settings, proxy)
        reply = delete(proxy.host, proxy.port, path, token, proxy.certificate_file)
        text = decode_json(reply, _Forgotten).text
    Output().write_line(f"  {escape_unprintable(text)}")


def _show_auto_mode(settings: Settings, options: _Options, *, dry_run: bool) -> None:
    run = asyncio.run(_measure_auto_mode(settings, options, dry_run=dry_run))
    if run is None:
        return
    redact, directory, output = new_redactor(settings.reveal_all_secrets()), settings.data_directory, Output()
    run = msgspec.convert(redact_json_value(msgspec.to_builtins(run), redact), AutoModeRun)
    earlier, notice = load_runs(directory), ""
    if options.learns and directory is not None and run.cases:  # the output may fail
        try:
            notice = f"Stored with all wrong verdicts:  {store_run(directory, run)}"
        except OSError as error:
            notice = f"✕ The run cannot be stored in {directory}: {describe_os_error(error)}."
    if options.as_json:
        open_data_output().write(encode_run(run, earlier))
    else:
        for line in format_run(run, lists_all=is_verbose.get()):
            output.write_line(escape_unprintable(line))
        write_earlier(output, run, earlier)
    if notice:
        output.write_notice(notice)
    if run.is_partial:
        sys.exit(EXIT_INTERRUPTED)


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
    raise ConfigurationError(f"--report: {file} cannot be written: {reason}.", code="report-not-written")
