"""Examples of the published commit e08544dc: settings that users have copied from it are still read, or are refused
with a line that says where they belong now.

The texts are copies of `.env.example`, the guides, the chart, the manifests, the unit and compose.yaml of that commit.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import list_known_variables, load_settings
from anthropic_proxy.gateway.settings.old_names import find_moved_settings
from anthropic_proxy.gateway.settings.sources import Sources
from tests.support.command_line import run_command

NAMES = """\
PREFERRED_PROVIDER OPENAI_API_KEY GEMINI_API_KEY OLLAMA_API_KEY GROQ_API_KEY MOONSHOT_API_KEY XAI_API_KEY
ANTHROPIC_API_KEY AWS_BEARER_TOKEN_BEDROCK ANTHROPIC_FOUNDRY_API_KEY VERTEX_PROJECT VERTEX_PROJECT_ID VERTEX_LOCATION
CLOUD_ML_REGION GOOGLE_APPLICATION_CREDENTIALS USE_VERTEX_AUTH OLLAMA_CONTEXT_LENGTH OLLAMA_KEEP_ALIVE AWS_REGION
AWS_DEFAULT_REGION ANTHROPIC_FOUNDRY_RESOURCE BIG_MODEL SMALL_MODEL MIDDLE_MODEL MODEL_HAIKU MODEL_SONNET MODEL_OPUS
MODEL_FABLE FALLBACK_HAIKU FALLBACK_SONNET FALLBACK_OPUS FALLBACK_FABLE OPENAI_KNOWN_MODELS GEMINI_KNOWN_MODELS
VERTEX_KNOWN_MODELS OLLAMA_KNOWN_MODELS GROQ_KNOWN_MODELS MOONSHOT_KNOWN_MODELS XAI_KNOWN_MODELS
ANTHROPIC_KNOWN_MODELS BEDROCK_KNOWN_MODELS FOUNDRY_KNOWN_MODELS OPENAI_BASE_URL OPENAI_WIRE GEMINI_BASE_URL
GEMINI_WIRE VERTEX_BASE_URL VERTEX_WIRE OLLAMA_API_BASE OLLAMA_BASE_URL OLLAMA_WIRE GROQ_BASE_URL GROQ_WIRE
MOONSHOT_BASE_URL MOONSHOT_WIRE XAI_BASE_URL XAI_WIRE ANTHROPIC_UPSTREAM_URL ANTHROPIC_WIRE BEDROCK_BASE_URL
ANTHROPIC_BEDROCK_BASE_URL BEDROCK_WIRE FOUNDRY_BASE_URL ANTHROPIC_FOUNDRY_BASE_URL FOUNDRY_WIRE
UPSTREAM_CONNECT_TIMEOUT UPSTREAM_FIRST_BYTE_TIMEOUT UPSTREAM_IDLE_TIMEOUT UPSTREAM_TIMEOUT MAX_UPSTREAM_CALLS
MAX_BODY_MEMORY_MB FIDELITY FIDELITY_HAIKU FIDELITY_SONNET FIDELITY_OPUS FIDELITY_FABLE CHECK_WINDOW SERVE_DEMO
AUTO_MODE AUTO_MODE_MODEL AUTO_MODE_TIMEOUT SEARCH_URL FETCH_URLS HOST PORT PROXY_API_KEY VIRTUAL_KEYS LIMIT_CONTACT
KEYS_PER_PERSON ADMIN_API_KEY MONITOR_API_KEY ALLOW_UNAUTHENTICATED ALLOWED_HOSTS TRUSTED_PROXIES TLS_CERT_FILE
TLS_KEY_FILE OIDC_ISSUER OIDC_CLIENT_ID OIDC_CLIENT_SECRET OIDC_SCOPES OIDC_ROLE_CLAIM OIDC_EMAIL_CLAIM OIDC_ADMINS
OIDC_VIEWERS OIDC_TEAM_ADMINS OIDC_MEMBERS OIDC_DOMAINS DASHBOARD_URL DASHBOARD_EDITING SIGN_IN_SECRET SIGN_IN_DAYS
SIGN_IN_TOKEN_MINUTES SIGN_IN_NOTICE STOP_TIMEOUT DRAIN_DELAY LOG_FORMAT LOG_LEVEL PLUGINS OTEL_EXPORTER_OTLP_ENDPOINT
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_TRACES_EXPORTER OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_PROTOCOL
OTEL_SERVICE_NAME OTEL_RESOURCE_ATTRIBUTES OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG OTEL_SDK_DISABLED DATABASE_URL
LEDGER_DAYS LEDGER_MAX_MB LEDGER_CONTENT ADMINS_READ_CONTENT LEDGER_CONTENT_DAYS PRICE_UPDATE_DAYS PRICE_UPDATE_URL
REDIS_URL REDIS_FAILURE REDIS_PREFIX
"""
"""All variables of `.env.example`."""
KEYS = """\
OPENAI_API_KEY=your-openai-key
GEMINI_API_KEY=your-google-key
OLLAMA_API_KEY=your-ollama-key
GROQ_API_KEY=your-groq-key
MOONSHOT_API_KEY=your-moonshot-key
XAI_API_KEY=your-xai-key
ANTHROPIC_API_KEY=your-anthropic-key
AWS_BEARER_TOKEN_BEDROCK=your-bedrock-key
ANTHROPIC_FOUNDRY_API_KEY=your-foundry-key
"""
COMPANY = """\
VIRTUAL_KEYS=true
DASHBOARD_URL=https://proxy.example.org
OIDC_ISSUER=https://login.example.org/realms/company
OIDC_CLIENT_ID=anthropic-proxy
OIDC_CLIENT_SECRET=secret-of-the-client
"""
SIGN_IN_RULES = (
    "OIDC_SCOPES",
    "OIDC_ROLE_CLAIM",
    "OIDC_EMAIL_CLAIM",
    "OIDC_ADMINS",
    "OIDC_VIEWERS",
    "OIDC_TEAM_ADMINS",
    "OIDC_MEMBERS",
    "OIDC_DOMAINS",
)
"""Old names of the rules who may sign in and as what, in the order of the warning."""
EXAMPLES: Mapping[str, tuple[str, Sequence[str]]] = {
    ".env.example": (f"{KEYS}AWS_REGION=us-east-1\nANTHROPIC_FOUNDRY_RESOURCE=your-resource\n", []),
    ".env.example, auto mode": (
        f"{KEYS}AUTO_MODE=check\nAUTO_MODE_MODEL=gpt-4.1-mini\nAUTO_MODE_TIMEOUT=12\n",
        ["AUTO_MODE", "AUTO_MODE_MODEL", "AUTO_MODE_TIMEOUT"],
    ),
    ".env.example, people": (
        f"{KEYS}{COMPANY}SIGN_IN_SECRET=a-random-text-of-32-characters-or-more\nLIMIT_CONTACT=https://go.example.org/limits\n"
        "KEYS_PER_PERSON=0\nADMIN_API_KEY=another-secret\nOIDC_SCOPES=openid email profile\nOIDC_ROLE_CLAIM=groups\n"
        "OIDC_EMAIL_CLAIM=email\nOIDC_ADMINS=platform-team, ann@example.org\nOIDC_VIEWERS=finance\n"
        "OIDC_TEAM_ADMINS=team-leads\nOIDC_MEMBERS=developers\nOIDC_DOMAINS=example.org\nSIGN_IN_DAYS=30\n"
        "SIGN_IN_TOKEN_MINUTES=60\nSIGN_IN_NOTICE=Questions: ask in the channel of the platform team.\n",
        [
            "SIGN_IN_DAYS",
            "SIGN_IN_TOKEN_MINUTES",
            "SIGN_IN_NOTICE",
            "LIMIT_CONTACT",
            "KEYS_PER_PERSON",
            *SIGN_IN_RULES,
        ],
    ),
    ".env.example, prices": ("PRICE_UPDATE_DAYS=0\nPRICE_UPDATE_URL=\n", ["PRICE_UPDATE_DAYS"]),
    "docs/guide/auto-mode.md": (
        "AUTO_MODE=check            # default\nAUTO_MODE_MODEL=openai/gpt-4.1\nAUTO_MODE_TIMEOUT=12\n",
        ["AUTO_MODE", "AUTO_MODE_MODEL", "AUTO_MODE_TIMEOUT"],
    ),
    "docs/guide/company.md": (
        f"{COMPANY}SIGN_IN_SECRET=a-random-text-of-32-characters-or-more\n"
        "SIGN_IN_NOTICE=Questions: ask in the channel of the platform team.\nLIMIT_CONTACT=https://go.example.org/limits\n",
        ["SIGN_IN_NOTICE", "LIMIT_CONTACT"],
    ),
    "docs/guide/sign-in.md": (
        f"{COMPANY}OIDC_ADMINS=platform-team, ann@example.org\nOIDC_VIEWERS=finance\n",
        ["OIDC_ADMINS", "OIDC_VIEWERS"],
    ),
    "docs/guide/sign-in.md, Keycloak": (
        f"{COMPANY}OIDC_ROLE_CLAIM=realm_access.roles\nKEYS_PER_PERSON=5\n",
        ["KEYS_PER_PERSON", "OIDC_ROLE_CLAIM"],
    ),
    "docs/guide/prices.md": ("PRICE_UPDATE_DAYS=7\n", ["PRICE_UPDATE_DAYS"]),
    "docs/guide/scale.md": (
        f"{COMPANY}SIGN_IN_SECRET=a-random-text-of-32-characters-or-more\nSIGN_IN_TOKEN_MINUTES=5\n",
        ["SIGN_IN_TOKEN_MINUTES"],
    ),
    "deploy/helm/anthropic-proxy/values.yaml": ("LOG_FORMAT=json\n", []),
    "deploy/kubernetes/anthropic-proxy.yaml": (
        "ALLOW_UNAUTHENTICATED=false\nDATABASE_URL=off\nDRAIN_DELAY=10\nLOG_FORMAT=json\nSTOP_TIMEOUT=900\n",
        [],
    ),
    "deploy/systemd/anthropic-proxy.service": ("PYTHONUNBUFFERED=1\n", []),
    "compose.yaml": ("PORT=8082\n", []),
}
"""Place → settings as text of `.env`, and the old names among them in the order of the warning."""
GUARDING = {"SIGN_IN_DAYS", "SIGN_IN_TOKEN_MINUTES", *SIGN_IN_RULES}
"""Old names without whose value a rule of access would be looser."""
MOVED = "Settings whose old names only this version still reads: "


def test_each_variable_of_the_example_file_is_known_here_or_to_the_sdk_of_opentelemetry() -> None:
    read_by_sdk = {
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SERVICE_NAME",
        "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG",
    }
    assert {*NAMES.split()} - {*list_known_variables(PROVIDERS)} == read_by_sdk


@pytest.mark.parametrize(("text", "old"), EXAMPLES.values(), ids=[*EXAMPLES])
def test_an_example_is_read_with_a_warning_that_names_the_new_places(
    text: str, old: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(text, "utf-8")
    done = run_command("config", "check", directory=tmp_path)
    shown = f"{done.stdout}{done.stderr}"
    assert done.returncode in (0, 1), shown
    assert "✕" not in shown
    warnings = load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env")).warnings
    moved = [warning.removeprefix(MOVED) for warning in warnings if warning.startswith(MOVED)]
    assert [re.findall(r"(\w+) \(\S*\.env, line \d+\) is now \w+ of \[\w+\]", warning) for warning in moved] == (
        [[*old]] if old else []
    )
    assert [MOVED.strip() in shown, "anthropic-proxy config check --write" in shown] == [bool(old)] * 2


@pytest.mark.parametrize(("text", "old"), EXAMPLES.values(), ids=[*EXAMPLES])
def test_a_later_version_does_not_start_without_a_rule_that_only_the_old_name_states(
    text: str, old: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(text, "utf-8")
    sources = Sources({}, str(tmp_path / ".env"))
    assert find_moved_settings(sources, "0.2.0") == {}
    lines: list[str] = []
    try:
        sources.errors.require_empty()
    except ConfigurationError as error:
        lines = list(error.messages)
    assert [line.partition(" ")[0] for line in lines] == [name for name in old if name in GUARDING]
    for line in lines:
        assert re.fullmatch(
            r"\w+ \(\S*\.env, line \d+\) is no longer read, and a rule of access would be looser without it\. Set \w+ "
            r"of \[sign_in\] in anthropic-proxy\.toml, and remove \w+\.",
            line,
        )
    ignored = [warning.partition(" ")[0] for warning in sources.list_warnings()]
    assert ignored == [name for name in old if name not in GUARDING]
