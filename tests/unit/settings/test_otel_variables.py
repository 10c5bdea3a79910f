"""Variables of OpenTelemetry: those that turn traces on and off, warnings, and the variables of `.env` for the SDK."""

import subprocess
import sys
from pathlib import Path

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.settings_listing import list_settings
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def settings_of(variables: dict[str, str], env_file: str | None = None) -> Settings:
    return load_settings(variables, PROVIDERS, env_file=env_file)


def test_an_unsupported_value_is_a_warning_because_it_may_be_for_another_program() -> None:
    found = settings_of({"OTEL_TRACES_EXPORTER": "zipkin,console"})
    assert found.trace_exporters == ("console",)
    text = 'OTEL_TRACES_EXPORTER is "zipkin", which is ignored. Use otlp, console or none.'
    assert found.warnings == (text,)
    found = settings_of({ENDPOINT: "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert found.trace_exporters == ()
    assert found.warnings == (
        'OTEL_EXPORTER_OTLP_PROTOCOL is "grpc", so no traces are sent. Use http/protobuf and the HTTP port of the '
        "collector, usually 4318.",
    )
    for name in (ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        found = settings_of({ENDPOINT: "127.0.0.1:4318", name: "x"})
        assert found.trace_exporters == ()
        assert found.warnings == (
            f'{name} is "x", so no traces are sent. Use an address that begins with http:// or https://, such as '
            "http://127.0.0.1:4318.",
        )


def test_files_of_libraries_that_do_not_exist_are_warnings(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("OTEL_EXPORTER_OTLP_CERTIFICATE=ca.pem\n")
    (tmp_path / "own.pem").write_text("")
    files = {"SSL_CERT_FILE": str(tmp_path / "all.pem"), "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "own.pem")}
    found = settings_of({ENDPOINT: "http://127.0.0.1:4318", **files}, str(file))
    assert found.trace_exporters == ("otlp",)
    assert found.warnings == (
        f'OTEL_EXPORTER_OTLP_CERTIFICATE is "{tmp_path}/ca.pem", which does not exist. Set in {file}, line 1.',
        f'SSL_CERT_FILE is "{tmp_path}/all.pem", which does not exist. Set in the environment.',
    )
    assert settings_of({}, str(file)).warnings == ()  # no traces


def test_variables_of_the_env_file_are_kept_for_the_sdk_and_never_misspelled(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("OTEL_BSP_SCHEDULE_DELAY=50\nOTEL_METRICS_EXPORTER=none\nOTEL_SERVICE_NAME=from-file\n")
    found = settings_of({"OTEL_SERVICE_NAME": "from-environment", "OTEL_LOGS_EXPORTER": "none"}, str(file))
    kept = {name: secret.reveal() for name, secret in found.otel_variables.items()}
    assert kept == {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRICS_EXPORTER": "none"}
    assert found.warnings == ()


def test_headers_for_the_collector_are_secrets(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer abcdefgh01234567,x-team=1\n")
    for found in (
        settings_of({}, str(file)),
        settings_of({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer abcdefgh01234567,x-team=1"}),
    ):
        assert "Bearer abcdefgh01234567" in found.reveal_all_secrets()
        (row,) = [row for row in list_settings(found, Catalog()) if row.name == "OTEL_EXPORTER_OTLP_HEADERS"]
        assert row.value == "…4567, …"


def test_nothing_of_opentelemetry_is_imported_if_traces_are_off_or_the_extra_is_missing() -> None:
    program = """
import sys
from anthropic_proxy.app import App
from anthropic_proxy.gateway.problems import find_feature_problems
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
off = App(load_settings({"DATABASE_URL": "off"}, PROVIDERS, env_file=None))
unwanted = ("opentelemetry", "anthropic_proxy.gateway.telemetry.traces", "google.protobuf")
assert not [name for name in sys.modules if name.startswith(unwanted)]
sys.modules["opentelemetry"] = None
missing = {"DATABASE_URL": "off", "OTEL_TRACES_EXPORTER": "otlp"}
settings = load_settings(missing, PROVIDERS, env_file=None)
App(settings)
assert "anthropic_proxy.gateway.telemetry.traces.exporter" not in sys.modules
del sys.modules["opentelemetry"]
sys.meta_path.insert(0, type("Hidden", (), {"find_spec": lambda name, *_: hide(name)}))
def hide(name):
    if name.startswith("opentelemetry"):
        raise ModuleNotFoundError(name)
(problem,) = find_feature_problems(settings)
print(problem.text)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Traces need the OpenTelemetry SDK, which is not installed, so none are sent. Install it, or set "
        "OTEL_TRACES_EXPORTER=none:  anthropic-proxy add otel\n"
    )
