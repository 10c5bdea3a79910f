"""The generated tables of the installation page: commands to install the proxy, and its extras."""

from anthropic_proxy.errors import PACKAGE
from tests.site.pages import DOCS
from tests.site.readme import replace_section

PUBLISHED = False
"""True after the first release to a package index. Before, a package of this name in an index could belong to another
project."""
PAGE = DOCS / "guide/install.md"
EXTRAS = {
    "dashboard": "the [dashboard](dashboard.md)",
    "documents": "[PDFs](api-on-every-model.md#pdf-documents) for models that accept none",
    "prices": "prices of models, and costs of requests",
    "facts": "`anthropic-proxy models update`: [newer facts about models](prices.md#newer-facts-about-models)",
    "tui": "the full-screen view `anthropic-proxy logs --live`",
    "vertex": "Vertex AI: Google Cloud credentials",
    "bedrock": "Amazon Bedrock: AWS credentials",
    "azure": "Azure: tokens of Entra ID",
    "litellm": "providers of LiteLLM",
    "fetch": "`FETCH_URLS`: web pages as text",
    "import": "`anthropic-proxy import` of a YAML file",
    "postgres": "PostgreSQL for the [usage ledger](ledger.md) and [virtual keys](team.md)",
    "redis": "limits of [several instances](several-instances.md) in Redis or Valkey",
    "oidc": "[sign-in](company.md) to the dashboard with an identity provider",
    "otel": "[traces](observability.md#traces) with OpenTelemetry",
}
"""Extra → purpose."""


def list_start_commands(*, is_published: bool = PUBLISHED) -> tuple[tuple[str, str], ...]:
    """Return the shell commands that install or start the proxy: pairs of a command and a description of its effect."""
    if is_published:
        return (
            (f"uvx {PACKAGE}", "serves on `http://127.0.0.1:8082` without an installation; options follow"),
            (f"uv tool install {PACKAGE}", f"installs the command `{PACKAGE}`"),
            (f"pipx install {PACKAGE}", "the same with pipx"),
            (f"pip install {PACKAGE}", "the same in the present environment"),
        )
    return (
        (
            'uv tool install ".[dashboard,prices]"',
            f"installs the command `{PACKAGE}`. Keep the clone for [updates](#updates)",
        ),
        ('pipx install ".[dashboard,prices]"', "the same with pipx"),
        ('python3 -m pip install ".[dashboard,prices]"', "the same, in the active virtual environment"),
    )


def written_page() -> str:
    """Return the page with the present commands."""
    starts = ["| command | result |", "| --- | --- |"]
    starts += [f"| `{command}` | {result} |" for command, result in list_start_commands()]
    extras = ["| extra | for |", "| --- | --- |", *(f"| `{name}` | {use} |" for name, use in EXTRAS.items())]
    text = replace_section(PAGE.read_text("utf-8"), "installation", "\n".join(starts))
    return replace_section(text, "extras", "\n".join(extras))
