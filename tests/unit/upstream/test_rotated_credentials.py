"""Rotated credentials of clouds: after a rejection, a cloud gets the request of the official client with the new one.

The stand-ins are HTTP proxies here, so that requests have the real hosts of the clouds.
"""

import json
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx2
import openai
import pytest

from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from anthropic_proxy.gateway.settings.key_references import read_key_again
from tests.support.fakes.azure import API_VERSIONS, HOST, OPENAI_RESOURCE, Azure, ManagedIdentity, new_azure
from tests.support.fakes.clouds import (
    BEDROCK_MODEL,
    FOUNDRY_MODEL,
    LOCATION,
    MANTLE_MODEL,
    PROJECT,
    REGION,
    VERTEX_MODEL,
    WORKSPACE,
    Cloud,
    new_cloud,
)
from tests.support.fakes.google_tokens import TokenServers, new_token_servers, write_service_account
from tests.support.fakes.server import Exchange, Running, serving

Name = Literal["bedrock", "mantle", "gateway", "vertex", "foundry", "azure", "claude_aws", "claude_google"]
"""`gateway`: the Messages API of Bedrock as a provider of the configuration file, so with a key from a file. The last
two: Anthropic's own API at AWS and at Google Cloud."""
Credential = Literal["key", "signature", "token"]
OLD, NEW = "the-old-key-of-the-cloud", "the-new-key-of-the-cloud"
NEWER = "the-newer-key-of-the-cloud"
AWS_KEYS = {
    OLD: ("AKIAFIRSTFIRST000001", "secret-of-the-first"),
    NEW: ("AKIASECONDSECOND0002", "secret-of-the-second"),
    NEWER: ("AKIATHIRDTHIRDTH0003", "secret-of-the-third"),
}
AZURE_VERSION = API_VERSIONS["chat/completions"]
ADDRESSES: dict[Name, str] = {
    "bedrock": f"http://bedrock-runtime.{REGION}.amazonaws.com",
    "mantle": f"http://bedrock-mantle.{REGION}.api.aws/anthropic",
    "gateway": f"http://bedrock-mantle.{REGION}.api.aws/anthropic",
    "vertex": "http://aiplatform.eu.rep.googleapis.com",
    "foundry": "http://mine.services.ai.azure.com/anthropic",
    "azure": f"http://{HOST}/openai/deployments/small?api-version={AZURE_VERSION}",
    "claude_aws": f"http://aws-external-anthropic.{REGION}.api.aws",
    "claude_google": (
        f"http://claude.googleapis.com/v1/projects/{PROJECT}/locations/global/workspaces/{WORKSPACE}/invoke"
    ),
}
MODELS: dict[Name, str] = {
    "bedrock": f"bedrock/{BEDROCK_MODEL}",
    "mantle": f"bedrock/{MANTLE_MODEL}",
    "gateway": f"gateway/{MANTLE_MODEL}",
    "vertex": f"vertex_ai/{VERTEX_MODEL}",
    "foundry": f"foundry/{FOUNDRY_MODEL}",
    "azure": "azure/small",
    "claude_aws": "claude_aws/claude-sonnet-5-5",
    "claude_google": "claude_google/claude-sonnet-5-5",
}
CALL: dict[str, Any] = {"max_tokens": 900, "messages": [{"role": "user", "content": "Say exactly: hello"}]}
AT_AMAZON = ("bedrock", "mantle", "gateway")
"""Clouds that reject a credential with status 403."""
IN_FILE = ("azure", "gateway", "claude_aws", "claude_google")
"""Providers of the configuration file."""
VERSION = "2026-10-21"
"""API version of the official client."""
OF_EACH_REQUEST = {"accept", "accept-encoding", "connection", "content-length", "host", "user-agent"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_aws_credentials: None) -> None:
    monkeypatch.chdir(tmp_path)


def official_client(name: Name, credential: Credential, value: str, http: httpx2.Client) -> Any:
    """The SDK's own client of the cloud, with the old or new credential."""
    options: dict[str, Any] = {"http_client": http, "max_retries": 0, "base_url": ADDRESSES[name]}
    if name in AT_AMAZON:
        options["aws_region"] = REGION
        if credential == "signature":
            options["aws_access_key"], options["aws_secret_key"] = AWS_KEYS[value]
        else:
            options["api_key"] = value
        return (anthropic.AnthropicBedrock if name == "bedrock" else anthropic.AnthropicBedrockMantle)(**options)
    if name == "claude_aws":
        options |= {"aws_region": REGION, "workspace_id": WORKSPACE}
        if credential == "signature":
            options["aws_access_key"], options["aws_secret_key"] = AWS_KEYS[value]
        else:
            options["api_key"] = value
        return anthropic.AnthropicAWS(**options)
    if name == "claude_google":
        return anthropic.AnthropicGoogleCloud(workspace_id=WORKSPACE, token_provider=lambda: value, **options)
    if name == "vertex":
        options["base_url"] += "/v1"
        return anthropic.AnthropicVertex(region=LOCATION, project_id=PROJECT, access_token=value, **options)
    if name == "foundry":
        own = {"azure_ad_token_provider": lambda: value} if credential == "token" else {"api_key": value}
        return anthropic.AnthropicFoundry(**own, **options)
    own = {"azure_ad_token_provider": lambda: value} if credential == "token" else {"api_key": value}
    del options["base_url"]
    return openai.AzureOpenAI(azure_endpoint=f"http://{HOST}", api_version=AZURE_VERSION, **own, **options)


def compare(ours: Exchange, theirs: Exchange) -> None:
    assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
    assert ours.headers["host"] == theirs.headers["host"]
    signed = theirs.headers["authorization"].startswith("AWS4") if "authorization" in theirs.headers else False
    names = ("x-api-key", "anthropic-version", "anthropic-beta", "content-type", "x-amz-security-token")
    names = (*names, "anthropic-workspace-id")
    if ours.path.startswith("/openai"):  # the client of Foundry sends it too, for earlier versions
        names = (*names, "api-key")
    for header in (*names, *(() if signed else ("authorization",))):
        assert ours.headers.get(header) == theirs.headers.get(header), header
    if signed:  # the stand-in computes each signature again; the official client signs more headers
        scopes = [each.headers["authorization"].partition(",")[0] for each in (ours, theirs)]
        assert scopes[0] == scopes[1]
    assert set(ours.headers) - OF_EACH_REQUEST - {"cdn-loop"} <= set(theirs.headers)  # the fake may be a proxy too


@pytest.mark.filterwarnings("ignore:.*load_credentials_from_file:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "credential"),
    [
        ("bedrock", "key"),
        ("bedrock", "signature"),
        ("mantle", "key"),
        ("mantle", "signature"),
        ("gateway", "key"),
        ("vertex", "token"),
        ("foundry", "key"),
        ("foundry", "token"),
        ("azure", "key"),
        ("azure", "token"),
        ("claude_aws", "key"),
        ("claude_aws", "signature"),
        ("claude_google", "token"),
    ],
)
async def test_after_a_rotation_the_cloud_gets_the_request_of_the_official_client(
    name: Name, credential: Credential, identity: ManagedIdentity, tmp_path: Path
) -> None:
    tokens = TokenServers()
    cloud: Any = Azure({"small": "gpt-4.1"}) if name == "azure" else Cloud("mantle" if name == "gateway" else name)
    source = Source(name, credential, cloud, identity, tmp_path)
    served = new_azure(cloud) if name == "azure" else new_cloud(cloud)
    with serving(served) as running, serving(new_token_servers(tokens)) as google:
        source.rotate(source.old)
        engine = new_engine(source, running, google)
        assert (await ask(engine, name))[0] == 200
        source.rotate(source.new)
        status, text = await ask(engine, name)
        if credential == "key" and name not in IN_FILE:  # in .env: read by a reload
            assert status == 424
            assert source.old not in text
            await engine.close()
            engine = new_engine(source, running, google)
            status, text = await ask(engine, name)
        assert status == 200, text
        await engine.close()
        sent = list(running.journal.exchanges)
        is_forbidden = name in AT_AMAZON or credential == "signature"
        assert [exchange.status for exchange in sent] == [200, 403 if is_forbidden else 401, 200]
        with httpx2.Client(proxy=running.url) as http:
            for value, ours in ((source.old, sent[0]), (source.new, sent[2])):
                source.rotate(value)
                client = official_client(name, credential, value, http)
                if name == "azure":
                    client.chat.completions.create(**ours.body)
                else:
                    model = MODELS[name].partition("/")[2]
                    client.beta.messages.create(model=model, **CALL)
                compare(ours, running.journal.exchanges[-1])
        assert running.journal.violations() == []


async def test_a_second_rotation_of_a_file_soon_after_the_first_one(identity: ManagedIdentity, tmp_path: Path) -> None:
    cloud = Cloud("bedrock")
    source = Source("bedrock", "signature", cloud, identity, tmp_path)
    with serving(new_cloud(cloud)) as running:
        source.rotate(OLD)
        engine = new_engine(source, running, running)
        assert (await ask(engine, "bedrock"))[0] == 200
        for value in (NEW, NEWER):
            source.rotate(value)
            assert [(await ask(engine, "bedrock"))[0] for _ in range(2)] == [200, 200]
        cloud.aws_keys = {}
        assert [(await ask(engine, "bedrock"))[0] for _ in range(2)] == [424, 424]
        await engine.close()
        statuses = [exchange.status for exchange in running.journal.exchanges]
        assert statuses == [200, *[403, 200, 200] * 2, 403, 403, 403]


class Source:
    """The old and the new credential, the place where the proxy finds it, and the cloud that accepts one of them."""

    def __init__(self, name: Name, credential: Credential, cloud: Any, identity: ManagedIdentity, folder: Path) -> None:
        self.name, self.credential, self._cloud, self.folder = name, credential, cloud, folder
        self.key = ""
        self.old, self.new = OLD, NEW
        if credential == "token":
            beginning = "ya29.fake-token" if name in ("vertex", "claude_google") else "eyJ0.token"
            self.old, self.new = f"{beginning}-1", f"{beginning}-2"  # the tokens that the stand-ins issue, in order
            identity.resource = OPENAI_RESOURCE if name == "azure" else identity.resource

    def rotate(self, value: str) -> None:
        """From now on the cloud accepts only this credential, and the proxy can find it."""
        if self.credential == "signature":
            access, secret = AWS_KEYS[value]
            text = f"[default]\naws_access_key_id={access}\naws_secret_access_key={secret}\n"
            (self.folder / "credentials").write_text(text)
            self._cloud.aws_keys = {access: (secret, None)}
        elif self.name == "azure" and self.credential == "token":
            self._cloud.tokens = {value}
        else:
            self._cloud.keys = {value}
        if self.credential == "key":
            self.key = value
            (self.folder / "key").write_text(value)


def new_engine(source: Source, running: Running, google: Running) -> Engine:
    name, folder = source.name, source.folder
    variables = {"HTTP_PROXY": running.url, "AWS_REGION": REGION, "PREFERRED_PROVIDER": "anthropic"}
    if name in IN_FILE:
        lines = [f"[providers.{name}]", f'base_url = "{ADDRESSES[name]}"']
        lines += ['models = { small = { model_of = "gpt-4.1" } }'] if name == "azure" else ['wire = "messages"']
        lines += [f'headers = {{ anthropic-workspace-id = "{WORKSPACE}" }}'] if name == "claude_aws" else []
        lines += [f'api_key = {{ file = "{folder / "key"}" }}'] if source.credential == "key" else []
        Path(CONFIG_FILE).write_text("\n".join(lines), encoding="utf-8")
    if name in ("vertex", "claude_google"):
        variables["NO_PROXY"] = "127.0.0.1"
        variables["GOOGLE_APPLICATION_CREDENTIALS"] = str(write_service_account(folder, google.url))
    if name == "vertex":
        variables |= {"VERTEX_PROJECT": PROJECT, "VERTEX_LOCATION": LOCATION, "VERTEX_BASE_URL": ADDRESSES[name]}
    elif name == "foundry":
        variables |= {"FOUNDRY_BASE_URL": ADDRESSES[name], "ANTHROPIC_FOUNDRY_API_KEY": source.key}
    elif name not in IN_FILE:
        variables |= {"BEDROCK_BASE_URL": ADDRESSES[name], "AWS_BEARER_TOKEN_BEDROCK": source.key}
    given = {variable: value for variable, value in variables.items() if value}
    options = load_settings(given, PROVIDERS, env_file=".env", resolves_keys=True)
    return build_engine(options, read_key=read_key_again)


async def ask(engine: Engine, name: Name) -> tuple[int, str]:
    body = json.dumps({"model": MODELS[name], **CALL}).encode()
    reply = await send_request(engine, body, {"anthropic-version": VERSION, "content-type": "application/json"})
    return reply.status, b"".join([piece async for piece in reply.body]).decode()
