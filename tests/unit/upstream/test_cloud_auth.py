"""Credentials of Amazon and Microsoft: found by their libraries, renewed before they end, replaced when rejected."""

import asyncio
import datetime
import json
import logging
import math
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import azure.identity
import pytest
import trustme
from aiohttp import web

from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange import attempt_sender
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.options import EngineOptions
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.upstream.cloud_credentials import (
    FAILURE_SECONDS,
    FOUNDRY_SCOPE,
    MAX_AGE_SECONDS,
    RENEW_BEFORE_EXPIRY_SECONDS,
    AccessToken,
    AwsCredentials,
    EntraCredentials,
    GoogleCredentials,
    TokenCache,
    TokenLoader,
    sign_request,
)
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.errors import AuthenticationFailed, MissingExtra, UpstreamTimeout, UpstreamUnreachable
from anthropic_proxy.gateway.settings import CONFIG_FILE, load_settings
from anthropic_proxy.secrets import Secret
from tests.support.fakes.anthropic.server import KEY as ANTHROPIC_KEY
from tests.support.fakes.anthropic.server import new_anthropic
from tests.support.fakes.azure import HOST, OPENAI_RESOURCE, Azure, ManagedIdentity, new_azure
from tests.support.fakes.clouds import (
    BEDROCK_MODEL,
    FOUNDRY_MODEL,
    LOCATION,
    PROJECT,
    REGION,
    VERTEX_MODEL,
    Cloud,
    new_cloud,
)
from tests.support.fakes.google_tokens import write_service_account
from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.http_server import Server
from tests.support.http_server import serving as http_serving
from tests.support.waiting import WAIT_SECONDS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*load_credentials_from_file:DeprecationWarning"),
    pytest.mark.usefixtures("no_aws_credentials"),
]
FIRST, SECOND = ("AKIAFIRSTFIRST000001", "secret-of-the-first"), ("AKIASECONDSECOND0002", "secret-of-the-second")
TOKEN = "session-token/of+the=second"
CALL: dict[str, Any] = {"max_tokens": 900, "messages": [{"role": "user", "content": "Say exactly: hello"}]}


@pytest.fixture
def cloud() -> Cloud:
    return Cloud("bedrock")


@pytest.fixture
def bedrock(cloud: Cloud) -> Iterator[Running]:
    with serving(new_cloud(cloud)) as running:
        yield running


def accept(cloud: Cloud, keys: tuple[str, str], token: str | None = None) -> None:
    cloud.aws_keys.clear()
    cloud.aws_keys[keys[0]] = keys[1], token


def write_credentials(folder: Path, keys: tuple[str, str]) -> None:
    (folder / "credentials").write_text(f"[default]\naws_access_key_id={keys[0]}\naws_secret_access_key={keys[1]}\n")


def write_process(folder: Path, keys: tuple[str, str], token: str, *, seconds: int = 3600) -> None:
    """A program that prints temporary credentials, and counts how often it ran."""
    ends_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    printed = {
        "Version": 1,
        "AccessKeyId": keys[0],
        "SecretAccessKey": keys[1],
        "SessionToken": token,
        "Expiration": ends_at.isoformat(),
    }
    (folder / "printed.json").write_text(json.dumps(printed))
    program = folder / "program.py"
    program.write_text(
        "import pathlib\nhere = pathlib.Path(__file__).parent\n"
        "with open(here / 'runs', 'a') as runs:\n    runs.write('x')\nprint((here / 'printed.json').read_text())\n"
    )
    (folder / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")


def runs(folder: Path) -> int:
    file = folder / "runs"
    return len(file.read_text()) if file.exists() else 0


def engine_of(running: Running, variables: Mapping[str, str] | None = None) -> Engine:
    given = {"BEDROCK_BASE_URL": running.url, "AWS_REGION": REGION, "PREFERRED_PROVIDER": "anthropic"}
    return build_engine(load_settings(given | (dict(variables) if variables else {}), PROVIDERS, env_file=None))


def engine_with_tables(running: Running, tables: str, variables: Mapping[str, str] | None = None) -> Engine:
    """Return an engine for which the stand-in is an HTTP proxy, so that the addresses of a cloud lead to it.

    The file with the tables is written into the current directory.
    """
    Path(CONFIG_FILE).write_text(tables, encoding="utf-8")
    return build_engine(load_settings({"HTTP_PROXY": running.url, **(variables or {})}, PROVIDERS, env_file=".env"))


async def ask(engine: Engine, model: str = f"bedrock/{BEDROCK_MODEL}", **fields: Any) -> tuple[int, str]:
    reply = await send_request(engine, json.dumps({"model": model, **CALL, **fields}).encode(), {})
    return reply.status, b"".join([piece async for piece in reply.body]).decode()


async def test_requests_are_signed_with_the_keys_of_the_shared_file(
    cloud: Cloud, bedrock: Running, tmp_path: Path
) -> None:
    accept(cloud, FIRST)
    write_credentials(tmp_path, FIRST)
    engine = engine_of(bedrock)
    for stream in (False, True):
        status, text = await ask(engine, stream=stream)
        assert status == 200, text
    status, text = await ask(engine, system="x" * 2_000_000)  # signed in a thread
    assert status == 200, text
    await engine.close()
    assert FIRST[1] not in str([exchange.headers for exchange in bedrock.journal.exchanges])


async def test_a_model_with_special_characters_is_signed_as_it_is_sent(
    cloud: Cloud, bedrock: Running, tmp_path: Path
) -> None:
    accept(cloud, FIRST)
    write_credentials(tmp_path, FIRST)
    engine = engine_of(bedrock)
    for name in ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "arn:aws:bedrock:us-east-1:1:inference-profile/a b;c"):
        status, text = await ask(engine, f"bedrock/{name}")
        assert status == (200 if name.startswith("us") else 404), text  # 403: a wrong signature
    await engine.close()


async def test_the_signature_is_that_of_the_official_client(
    cloud: Cloud, bedrock: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(cloud, SECOND, TOKEN)
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
    client = anthropic.AnthropicBedrock(
        aws_access_key=SECOND[0],
        aws_secret_key=SECOND[1],
        aws_session_token=TOKEN,
        aws_region=REGION,
        base_url=bedrock.url,
        max_retries=0,
    )
    client.messages.create(model=BEDROCK_MODEL, **CALL)
    write_process(tmp_path, SECOND, TOKEN)
    engine = engine_of(bedrock)
    status, text = await ask(engine)
    await engine.close()
    assert status == 200, text
    theirs, ours = bedrock.journal.exchanges
    assert ours.headers["x-amz-security-token"] == theirs.headers["x-amz-security-token"]
    scopes = [each.headers["authorization"].partition(",")[0].partition("=")[2] for each in (theirs, ours)]
    assert scopes[0] == scopes[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_that_quotes_the_signed_request_has_no_secret(tmp_path: Path, stream: bool) -> None:
    async def answer(server: Server, writer: asyncio.StreamWriter) -> None:
        head = server.heads[-1]
        assert TOKEN in head
        text = f"InvalidSignatureException: The Canonical String should have been '{head}', with {SECOND[1]}"
        body = json.dumps({"message": text, "url": f"/?X-Amz-Security-Token={quote(TOKEN, safe='')}"})
        writer.write(f"HTTP/1.1 403 Forbidden\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())

    write_process(tmp_path, SECOND, TOKEN)
    async with http_serving(answer) as (_, port):
        given = {
            "BEDROCK_BASE_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": REGION,
            "PREFERRED_PROVIDER": "anthropic",
        }
        engine = build_engine(load_settings(given, PROVIDERS, env_file=None))
        status, text = await ask(engine, stream=stream)
        await engine.close()
    assert status == 424
    assert "The Canonical String should have been" in text
    pieces = [secret[at : at + 12] for secret in (TOKEN, SECOND[1]) for at in range(len(secret) - 11)]
    assert [piece for piece in pieces if piece in text] == []


async def test_keys_in_the_env_file_are_used(cloud: Cloud, bedrock: Running, tmp_path: Path) -> None:
    accept(cloud, SECOND, TOKEN)
    env_file = tmp_path / ".env"
    env_file.write_text(
        f"AWS_REGION={REGION}\nBEDROCK_BASE_URL={bedrock.url}\nAWS_ACCESS_KEY_ID={SECOND[0]}\n"
        f"AWS_SECRET_ACCESS_KEY={SECOND[1]}\nAWS_SESSION_TOKEN={TOKEN}\n"
    )
    engine = build_engine(load_settings({"PREFERRED_PROVIDER": "anthropic"}, PROVIDERS, env_file=str(env_file)))
    status, text = await ask(engine)
    await engine.close()
    assert status == 200, text


@pytest.mark.parametrize("key", ["", "a-key-of-bedrock"])
@pytest.mark.parametrize(
    ("profile", "config", "credentials", "region"),
    [
        ("", "[default]\nregion = eu-west-1\n", "", "eu-west-1"),
        ("work", "[default]\nregion = eu-west-1\n[profile work]\nregion=ap-south-1\n", "", "ap-south-1"),
        ("work", "[profile work]\nregion = eu-west-1\n", "[work]\nregion = ap-south-1\n", "ap-south-1"),
        ("my work", "[profile 'my work']\nregion = eu-west-1\ns3 =\n  region = us-west-2\n", "", "eu-west-1"),
    ],
)
async def test_the_region_of_the_profile_is_used(
    key: str, profile: str, config: str, credentials: str, region: str, cloud: Cloud, bedrock: Running, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(config)
    (tmp_path / "credentials").write_text(f"{credentials}[keys]\nsource = none\n")
    accept(cloud, FIRST)
    cloud.region, cloud.keys = region, {key}
    variables = {"AWS_CONFIG_FILE": f"{tmp_path}/config", "AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/credentials"}
    variables |= {"HTTP_PROXY": bedrock.url, "BEDROCK_BASE_URL": f"http://bedrock-runtime.{region}.amazonaws.com"}
    env_file = tmp_path / ".env"
    env_file.write_text(
        f"AWS_ACCESS_KEY_ID={FIRST[0]}\nAWS_SECRET_ACCESS_KEY={FIRST[1]}\nAWS_BEARER_TOKEN_BEDROCK={key}\n"
    )
    given = {"PREFERRED_PROVIDER": "anthropic", "AWS_PROFILE": profile, **variables}
    settings = load_settings(given, PROVIDERS, env_file=str(env_file))
    name = profile or "default"
    assert (settings.aws_region, settings.origins["AWS_REGION"]) == (region, f"AWS profile {name}")
    engine = build_engine(settings)
    status, text = await ask(engine)
    await engine.close()
    assert status == 200, text
    elsewhere = load_settings(given | {"AWS_DEFAULT_REGION": "us-east-2"}, PROVIDERS, env_file=str(env_file))
    assert elsewhere.aws_region == "us-east-2"


@pytest.mark.parametrize("place", ["env file", "environment"])
@pytest.mark.parametrize("folder", ["{tmp_path}/own", "own"])
async def test_the_files_of_aws_may_be_named_relative_to_the_env_file(
    folder: str, place: str, cloud: Cloud, bedrock: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CONFIG_FILE")
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    accept(cloud, FIRST)
    (tmp_path / "own").mkdir()
    write_credentials(tmp_path / "own", FIRST)
    (tmp_path / "own" / "config").write_text(f"[default]\nregion = {REGION}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    env_file = tmp_path / ".env"
    folder = folder.format(tmp_path=tmp_path)
    variables = {"AWS_CONFIG_FILE": f"{folder}/config", "AWS_SHARED_CREDENTIALS_FILE": f"{folder}/credentials"}
    given = {"PREFERRED_PROVIDER": "anthropic", "BEDROCK_BASE_URL": bedrock.url}
    if place == "environment":
        given |= variables
        for name, path in variables.items():
            monkeypatch.setenv(name, path)
        env_file.touch()
    else:
        env_file.write_text("".join(f"{name}={path}\n" for name, path in variables.items()))
    settings = load_settings(given, PROVIDERS, env_file=str(env_file))
    assert settings.aws_region == REGION
    engine = build_engine(settings)
    status, text = await ask(engine)
    await engine.close()
    assert status == 200, text


@pytest.mark.parametrize(
    "config", ["", "[default]\n", "[default", "[default]\nregion = a/b\n", "[default]\nregion=x\n[default]\n", "\xff"]
)
def test_a_profile_without_a_region_that_can_be_used_is_no_error(config: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(config, encoding="latin-1")
    given = {"AWS_CONFIG_FILE": f"{tmp_path}/config", "AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/none"}
    assert load_settings(given, PROVIDERS, env_file=str(tmp_path / ".env")).aws_region is None


async def test_many_requests_read_temporary_credentials_once(cloud: Cloud, bedrock: Running, tmp_path: Path) -> None:
    accept(cloud, SECOND, TOKEN)
    write_process(tmp_path, SECOND, TOKEN)
    engine = engine_of(bedrock)
    found = await asyncio.gather(*(ask(engine) for _ in range(20)))
    await engine.close()
    assert {status for status, _ in found} == {200}
    assert runs(tmp_path) == 1


async def test_temporary_credentials_are_renewed_before_they_end_and_nobody_waits(tmp_path: Path) -> None:
    passed = 0.0
    write_process(tmp_path, FIRST, TOKEN, seconds=800)  # botocore renews credentials with less than 900 seconds left
    tokens = TokenCache(AwsCredentials(REGION, {}), clock=lambda: time.time() + passed)
    first, _ = await tokens.acquire_token()
    assert first.value == FIRST[1]
    write_process(tmp_path, SECOND, TOKEN)
    passed = MAX_AGE_SECONDS - RENEW_BEFORE_EXPIRY_SECONDS + 5
    assert (await tokens.acquire_token())[0] is first
    async with asyncio.timeout(WAIT_SECONDS):
        while (await tokens.acquire_token())[0] is first:  # noqa: ASYNC110  # another thread makes it false
            await asyncio.sleep(0.01)
    assert (await tokens.acquire_token())[0].value == SECOND[1]


async def test_credentials_that_end_soon_are_not_used_for_ten_minutes(tmp_path: Path) -> None:
    write_process(tmp_path, FIRST, TOKEN, seconds=120)
    token = await asyncio.to_thread(AwsCredentials(REGION, {}).request_token)
    left = token.expires_at - datetime.datetime.now(datetime.UTC).timestamp()
    assert 60 < left <= 120


@pytest.mark.parametrize("kind", ["profile", "program"])
async def test_credentials_that_were_replaced_after_a_failed_renewal_are_read(kind: str, tmp_path: Path) -> None:
    """A profile with a program prints temporary credentials; without one, the file has lasting keys."""
    passed = 0.0
    write_process(tmp_path, FIRST, TOKEN, seconds=30)
    tokens = TokenCache(AwsCredentials(REGION, {}), clock=lambda: time.time() + passed)
    await tokens.acquire_token()
    passed = MAX_AGE_SECONDS
    (tmp_path / "printed.json").write_text("log in again")
    for _ in range(2):
        with pytest.raises(AuthenticationFailed):
            await tokens.acquire_token()
    if kind == "profile":
        (tmp_path / "config").unlink()
        write_credentials(tmp_path, SECOND)
    else:
        write_process(tmp_path, SECOND, TOKEN)
    passed += FAILURE_SECONDS
    assert (await tokens.acquire_token())[0].value == SECOND[1]


async def test_another_profile_is_read_at_once_when_the_loaded_one_cannot_be_renewed(tmp_path: Path) -> None:
    passed = 0.0
    write_process(tmp_path, FIRST, TOKEN, seconds=30)
    tokens = TokenCache(AwsCredentials(REGION, {}), clock=lambda: time.time() + passed)
    await tokens.acquire_token()
    passed = MAX_AGE_SECONDS
    (tmp_path / "program.py").unlink()
    (tmp_path / "config").unlink()
    write_credentials(tmp_path, SECOND)
    assert (await tokens.acquire_token())[0].value == SECOND[1]


class Gate(TokenLoader):
    """A log-in that gives an answer only while `opened` is set."""

    origin, library, rejection_statuses = "the log-in", "library", (401,)

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.calls = 0

    def request_token(self) -> AccessToken:
        self.calls += 1
        assert self.opened.wait(WAIT_SECONDS)
        return AccessToken(Credential("authorization", f"Bearer {self.calls}", self.origin), None, math.inf)

    def discard_loaded(self) -> bool:
        return False


async def test_a_log_in_that_is_slow_goes_on_for_later_requests() -> None:
    gate = Gate()
    tokens = TokenCache(gate)
    patient = asyncio.create_task(tokens.acquire_token())
    for seconds in (0.01, 0.0):  # the second from the same begin
        with pytest.raises(UpstreamTimeout) as raised:
            await tokens.acquire_token(max_seconds=seconds)
        assert raised.value.message == "no access token yet, so the next target is called (the log-in)"
    gate.opened.set()
    assert (await patient)[0].value == "Bearer 1"
    assert (await tokens.acquire_token(max_seconds=0.0))[0].value == "Bearer 1"
    assert gate.calls == 1


async def test_after_a_log_in_without_an_answer_only_requests_without_another_target_wait() -> None:
    gate = Gate()
    tokens = TokenCache(gate, seconds=0.01)
    with pytest.raises(UpstreamTimeout, match="did not answer within 0"):
        await tokens.acquire_token(max_seconds=WAIT_SECONDS)
    with pytest.raises(UpstreamTimeout, match="so the next target is called"):
        await tokens.acquire_token(max_seconds=WAIT_SECONDS)  # although the second log-in ends as soon
    gate.opened.set()
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                credential, _ = await tokens.acquire_token()
                break
            except UpstreamTimeout:
                pass
    assert (await tokens.acquire_token(max_seconds=WAIT_SECONDS))[0] is credential


async def test_a_slow_log_in_leaves_the_request_to_the_next_target(
    cloud: Cloud, bedrock: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_sender, "MAX_TOKEN_SECONDS", 0.01)
    accept(cloud, FIRST, TOKEN)
    write_process(tmp_path, FIRST, TOKEN)
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, time\nwhile not (pathlib.Path(__file__).parent / 'released').exists():\n    time.sleep(0.01)\n"
        + program.read_text()
    )
    with serving(new_anthropic()) as other:
        engine = engine_of(
            bedrock,
            {
                "MODEL_OPUS": f"bedrock/{BEDROCK_MODEL}",
                "FALLBACK_OPUS": "anthropic/claude-opus-5-5",
                "ANTHROPIC_UPSTREAM_URL": other.url,
                "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
            },
        )
        replies = [await ask(engine, "claude-opus-5-5")]
        sent = [len(running.journal.exchanges) for running in (bedrock, other)]
        (tmp_path / "released").touch()
        replies.append(await ask(engine))  # waits for the same log-in
        replies.append(await ask(engine, "claude-opus-5-5"))
        await engine.close()
        sent += [len(running.journal.exchanges) for running in (bedrock, other)]
    assert [status for status, _ in replies] == [200, 200, 200]
    assert (sent, runs(tmp_path)) == ([0, 1, 2, 1], 1)


async def test_without_credentials_the_error_names_the_variables(bedrock: Running) -> None:
    engine = engine_of(bedrock)
    status, text = await ask(engine)
    await engine.close()
    assert status == 424
    assert json.loads(text)["error"]["message"] == (
        "bedrock has no credentials of AWS: none were found. "
        "Set AWS_PROFILE, or log in with: aws sso login, or set AWS_BEARER_TOKEN_BEDROCK"
    )
    assert bedrock.journal.exchanges == []


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (None, "Could not connect to the endpoint URL"),
        ("<html><p>Blocked by the web filter</html>", "Unable to parse response"),
    ],
)
async def test_a_token_server_of_aws_that_cannot_be_used_is_no_rejected_credential(
    page: str | None, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def answer(*_: Any) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    base = f"[profile base]\naws_access_key_id={FIRST[0]}\naws_secret_access_key={FIRST[1]}\n"
    (tmp_path / "config").write_text(f"{base}[default]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=base\n")
    with serving(new_application(answer, RequestLog())) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", running.url if page else "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(UpstreamUnreachable) as raised:
            await TokenCache(AwsCredentials(REGION, {})).acquire_token()
    assert raised.value.message.startswith(f"no access token: {problem}")


async def test_a_profile_that_does_not_exist_is_named() -> None:
    loader = AwsCredentials(REGION, {"AWS_PROFILE": Secret("nowhere")})
    with pytest.raises(AuthenticationFailed, match="nowhere"):
        await TokenCache(loader).acquire_token()


def test_every_region_that_amazon_knows_is_accepted() -> None:
    from botocore.session import Session

    session = Session()
    regions = [
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("ec2", partition)
    ]
    assert len(regions) > 30
    assert [load_settings({"AWS_REGION": region}, PROVIDERS).aws_region for region in regions] == regions


def test_a_region_of_a_profile_that_is_none_is_not_used(tmp_path: Path) -> None:
    config = tmp_path / "config"
    for region, found in [("eu-west-1", "eu-west-1"), ("global", None), ("us-east-1.evil.example.org", None)]:
        config.write_text(f"[default]\nregion = {region}\n")
        settings = load_settings({"AWS_CONFIG_FILE": str(config)}, PROVIDERS, env_file=str(tmp_path / ".env"))
        assert settings.aws_region == found


def test_the_service_of_a_signature_follows_the_address() -> None:
    from botocore.credentials import ReadOnlyCredentials

    keys = ReadOnlyCredentials(*FIRST, None)
    found = {}
    addresses = (
        "bedrock-runtime.ap-southeast-2.amazonaws.com/anthropic/v1/messages?beta=true",
        "bedrock-mantle.us-east-1.api.aws/anthropic/v1/messages?beta=true",
        "vpce-0abc.bedrock-mantle.us-gov-west-1.vpce.amazonaws.com/anthropic/v1/messages?beta=true",
        "eu-proxy-1.bedrock.example/model/us.anthropic.claude-opus-5-5/invoke",
        "eu-proxy-1.bedrock.example/team/anthropic/v1/messages?beta=true",
    )
    for address in addresses:
        url = f"https://{address}"
        headers = sign_request(
            keys, REGION, method="POST", url=url, headers={"content-type": "x", "a": "b"}, body=b"{}"
        )
        scope, signed, _ = headers["authorization"].split(", ")
        found[address] = tuple(scope.split("/")[2:4])
        assert signed == "SignedHeaders=content-type;host;x-amz-date"
    assert list(found.values()) == [
        ("ap-southeast-2", "bedrock"),
        ("us-east-1", "bedrock-mantle"),
        ("us-gov-west-1", "bedrock-mantle"),
        (REGION, "bedrock"),
        (REGION, "bedrock-mantle"),
    ]


async def test_a_table_with_the_address_of_another_region_is_signed_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cloud = Cloud("mantle", region="eu-west-1")
    accept(cloud, FIRST)
    write_credentials(tmp_path, FIRST)
    monkeypatch.chdir(tmp_path)
    table = (
        '[providers.bed-eu]\nbase_url = "http://bedrock-mantle.eu-west-1.api.aws:80/anthropic/v1"\nwire = "messages"\n'
    )
    variables: dict[str, str]
    with serving(new_cloud(cloud)) as running:
        for variables in ({}, {"AWS_REGION": REGION}):
            engine = engine_with_tables(running, table, variables)
            status, text = await ask(engine, f"bed-eu/{BEDROCK_MODEL}", speed="fast")
            assert status == 200, text
            await engine.close()
        assert running.journal.violations() == []
    assert [exchange.headers["host"] for exchange in running.journal.exchanges] == [
        "bedrock-mantle.eu-west-1.api.aws"
    ] * 2


PATH = f"/v1/projects/{PROJECT}/locations/{LOCATION}/publishers/anthropic"
VERTEX_TABLES = f"""
[providers.europe]
base_url = "http://aiplatform.{LOCATION}.rep.googleapis.com:80"
wire = "messages"
api_key = {{ env = "TOKEN" }}

[providers.east]
base_url = "http://aiplatform.us-east5.rep.googleapis.com:80"
wire = "messages"
api_key = {{ env = "TOKEN" }}

[providers.whole-path]
base_url = "http://europe-west1-aiplatform.googleapis.com:80{PATH}"
wire = "messages"
api_key = {{ env = "TOKEN" }}
"""


async def test_a_table_with_the_address_of_another_location_is_vertex_ai(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cloud = Cloud("vertex")
    cloud.keys = {"ya29.token-0123456789"}
    monkeypatch.chdir(tmp_path)
    with serving(new_cloud(cloud)) as running:
        variables = {"VERTEX_PROJECT": PROJECT, "VERTEX_LOCATION": "global", "TOKEN": "ya29.token-0123456789"}
        engine = engine_with_tables(running, VERTEX_TABLES, variables)
        for provider in ("europe", "east", "whole-path"):
            status, text = await ask(engine, f"{provider}/{VERTEX_MODEL}", speed="fast")
            assert status == 200, text
        await engine.close()
        assert running.journal.violations() == []
    assert [(exchange.headers["host"], exchange.path) for exchange in running.journal.exchanges] == [
        (f"aiplatform.{LOCATION}.rep.googleapis.com", f"{PATH}/models/{VERTEX_MODEL}:rawPredict"),
        (
            "aiplatform.us-east5.rep.googleapis.com",
            f"{PATH.replace(LOCATION, 'us-east5')}/models/{VERTEX_MODEL}:rawPredict",
        ),
        ("europe-west1-aiplatform.googleapis.com", f"{PATH}/models/{VERTEX_MODEL}:rawPredict"),
    ]


# Microsoft Entra ID


async def test_foundry_gets_tokens_of_entra_and_a_rejected_one_is_replaced(identity: ManagedIdentity) -> None:
    cloud = Cloud("foundry")
    with serving(new_cloud(cloud)) as running:
        cloud.keys = {"eyJ0.token-1"}
        engine = engine_of(running, {"FOUNDRY_BASE_URL": f"{running.url}/anthropic"})
        found = await asyncio.gather(*(ask(engine, f"foundry/{FOUNDRY_MODEL}") for _ in range(10)))
        assert {status for status, _ in found} == {200}, found
        assert len(identity.issued) == 1
        cloud.keys = {"eyJ0.token-2"}
        assert (await ask(engine, f"foundry/{FOUNDRY_MODEL}"))[0] == 200
        await engine.close()
        sent = [exchange.headers for exchange in running.journal.exchanges]
    assert sent[0]["authorization"] == "Bearer eyJ0.token-1"
    assert sent[-1]["authorization"] == "Bearer eyJ0.token-2"
    assert "x-api-key" not in sent[0]
    assert len(identity.issued) == 2


async def test_a_table_with_the_address_of_another_resource_is_foundry(
    identity: ManagedIdentity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cloud = Cloud("foundry")
    cloud.keys = {"eyJ0.token-1", "key-of-the-resource"}
    monkeypatch.chdir(tmp_path)
    address = 'base_url = "http://second.services.ai.azure.com/anthropic"\nwire = "messages"\n'
    tables = f"[providers.entra]\n{address.replace('/anthropic', '')}"
    tables += f"[providers.keyed]\n{address}api_key = {{ env = 'SECOND_KEY' }}\n"
    with serving(new_cloud(cloud)) as running:
        engine = engine_with_tables(running, tables, {"SECOND_KEY": "key-of-the-resource"})
        for provider in ("entra", "keyed"):
            status, text = await ask(engine, f"{provider}/{FOUNDRY_MODEL}", speed="fast")
            assert status == 200, text
        await engine.close()
        sent = [exchange.headers for exchange in running.journal.exchanges]
        assert running.journal.violations() == []
    assert [(headers.get("authorization"), headers.get("x-api-key")) for headers in sent] == [
        ("Bearer eyJ0.token-1", None),
        (None, "key-of-the-resource"),
    ]


async def test_a_failed_log_in_writes_nothing_beside_the_log(
    identity: ManagedIdentity, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "another")
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # those of pytest
    with pytest.raises(AuthenticationFailed):
        await Transports(EngineOptions()).tokens["azure"].acquire_token()
    assert capfd.readouterr() == ("", "")


AZURE = f"""
[providers.azure]
base_url = "http://{HOST}/openai/v1"
models = {{ large = {{ model_of = "gpt-5.5" }} }}
"""


SOVEREIGN = [
    ("mine.openai.azure.us", "https://cognitiveservices.azure.us", "login.microsoftonline.us"),
    ("mine.cognitiveservices.azure.us", "https://cognitiveservices.azure.us", "login.microsoftonline.us"),
    ("mine.openai.azure.cn", "https://cognitiveservices.azure.cn", "login.chinacloudapi.cn"),
]


@pytest.mark.parametrize(("host", "resource", "authority"), SOVEREIGN)
async def test_azure_openai_of_a_government_or_of_china_gets_tokens_of_its_cloud(
    identity: ManagedIdentity,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: str,
    resource: str,
    authority: str,
) -> None:
    identity.resource = resource
    asked = []

    def log_in(**options: Any) -> Any:
        asked.append(options["authority"])
        return found(**options)

    found = azure.identity.DefaultAzureCredential
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", log_in)
    with serving(new_azure(Azure({"large": "gpt-5.5"}, tokens={"eyJ0.token-1"}, host=host))) as running:
        monkeypatch.chdir(tmp_path)
        engine = engine_with_tables(running, AZURE.replace(HOST, host))
        status, message = await ask(engine, "azure/large")
        await engine.close()
        assert running.journal.violations() == []
    assert (status, len(identity.issued), asked) == (200, 1, [authority]), message


async def test_azure_openai_gets_tokens_of_its_own_scope_and_a_rejected_one_is_replaced(
    identity: ManagedIdentity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    identity.resource = OPENAI_RESOURCE
    azure = Azure({"large": "gpt-5.5"}, tokens={"eyJ0.token-1"})
    with serving(new_azure(azure)) as running:
        monkeypatch.chdir(tmp_path)
        engine = engine_with_tables(running, AZURE)
        found = await asyncio.gather(*(ask(engine, "azure/large") for _ in range(10)))
        assert {status for status, _ in found} == {200}, found
        assert len(identity.issued) == 1
        azure.tokens = {"eyJ0.token-2"}
        assert (await ask(engine, "azure/large"))[0] == 200
        await engine.close()
        sent = [exchange.headers for exchange in running.journal.exchanges]
        assert running.journal.violations() == []
    assert sent[0]["authorization"] == "Bearer eyJ0.token-1"
    assert sent[-1]["authorization"] == "Bearer eyJ0.token-2"
    assert not any("api-key" in headers for headers in sent)
    assert len(identity.issued) == 2


async def test_a_token_of_azure_openai_that_ends_soon_is_replaced_before(
    identity: ManagedIdentity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    identity.resource, identity.seconds = OPENAI_RESOURCE, 10  # below the margin of the proxy
    azure = Azure({"large": "gpt-5.5"}, tokens={"eyJ0.token-1", "eyJ0.token-2"})
    with serving(new_azure(azure)) as running:
        monkeypatch.chdir(tmp_path)
        engine = engine_with_tables(running, AZURE)
        assert [(await ask(engine, "azure/large"))[0] for _ in range(2)] == [200, 200]
        await engine.close()
        sent = [exchange.headers["authorization"] for exchange in running.journal.exchanges]
    assert sent == ["Bearer eyJ0.token-1", "Bearer eyJ0.token-2"]


async def test_a_log_in_after_a_failed_renewal_is_used(
    identity: ManagedIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity.seconds, passed = 10, 0.0
    tokens = TokenCache(EntraCredentials({}, FOUNDRY_SCOPE), clock=lambda: time.time() + passed)
    await tokens.acquire_token()
    monkeypatch.setenv("IDENTITY_HEADER", "another")
    for _ in range(2):
        with pytest.raises(AuthenticationFailed):
            await tokens.acquire_token()
    monkeypatch.setenv("IDENTITY_HEADER", "the-header")
    passed = FAILURE_SECONDS
    assert (await tokens.acquire_token())[0].value == "Bearer eyJ0.token-2"


async def test_a_failed_log_in_answers_all_requests_of_the_next_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name, raising=False)
    calls, passed = list[float](), 0.0

    class Refusing(EntraCredentials):
        def request_token(self) -> AccessToken:
            calls.append(passed)
            raise AuthenticationFailed(
                f"has no access token: attempt {len(calls)}.", remedy="Log in with: az login", code="cloud-credentials"
            )

    tokens = TokenCache(Refusing({}, FOUNDRY_SCOPE), clock=lambda: passed)
    options = load_settings({"ANTHROPIC_FOUNDRY_RESOURCE": "mine"}, PROVIDERS, env_file=str(tmp_path / ".env"))
    engine = build_engine(options, credentials=Credentials(options, {"azure": tokens}))
    found = []
    for seconds in (0.0, 0.0, FAILURE_SECONDS - 1, FAILURE_SECONDS):
        passed = seconds
        status, text = await ask(engine, f"foundry/{FOUNDRY_MODEL}")
        found.append((status, json.loads(text)["error"]["message"]))
    await engine.close()
    remedy = "Log in with: az login, or set ANTHROPIC_FOUNDRY_API_KEY"
    first, second = (f"foundry has no access token: attempt {number}. {remedy}" for number in (1, 2))
    assert found == [(424, first)] * 3 + [(424, second)]
    assert calls == [0.0, FAILURE_SECONDS]


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_change_of_the_clock_changes_no_pause_of_log_ins(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[AccessToken | AuthenticationFailed] = []
    passed, real = 0.0, time.time

    class Scripted(EntraCredentials):
        def request_token(self) -> AccessToken:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

    def make_token(name: str) -> AccessToken:
        return AccessToken(Credential("authorization", name, "Microsoft Entra ID"), None, time.time() + 3600)

    tokens = TokenCache(Scripted({}, FOUNDRY_SCOPE), clock=lambda: passed)
    results += [AuthenticationFailed("has no access token.", code="cloud-credentials")]
    for _ in range(2):
        with pytest.raises(AuthenticationFailed):
            await tokens.acquire_token()
        monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    passed += FAILURE_SECONDS
    results += [make_token("first"), make_token("second")]
    assert (await tokens.acquire_token())[0].value == "first"
    monkeypatch.setattr(time, "time", real)  # the token has the rest of its hour, whatever the clock shows
    assert (await tokens.acquire_token())[0].value == "first"
    passed += 3600
    assert (await tokens.acquire_token())[0].value == "second"
    assert results == []


@pytest.mark.parametrize(
    ("table", "model", "setting"),
    [
        ("", "foundry", "ANTHROPIC_FOUNDRY_API_KEY"),
        ('base_url = "http://second.services.ai.azure.com/anthropic"\nwire = "messages"', "mine", "{api_key}"),
        ('base_url = "http://second.openai.azure.com/openai/v1"', "mine", "{api_key}"),
    ],
    ids=["foundry", "table of foundry", "azure openai"],
)
async def test_without_a_log_in_the_error_names_the_key_of_the_provider(
    table: str,
    model: str,
    setting: str,
    identity: ManagedIdentity,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("IDENTITY_HEADER", "another")
    monkeypatch.chdir(tmp_path)
    with serving(new_cloud(Cloud("foundry"))) as running:
        tables = f"[providers.mine]\n{table}\n" if table else ""
        engine = engine_with_tables(running, tables, {"ANTHROPIC_FOUNDRY_RESOURCE": "first"})
        status, text = await ask(engine, f"{model}/{FOUNDRY_MODEL}")
        await engine.close()
    message = json.loads(text)["error"]["message"]
    key = setting.format(api_key="api_key of [providers.mine]")
    assert (status, message.partition(":")[0]) == (424, f"{model} has no access token")
    assert message.endswith(f"Log in with: az login, or set {key}")


FAILING_SERVERS = {
    "managed identity": ("foundry", "127.0.0.1 answered with status {status}.", "Microsoft Entra ID"),
    "metadata server of Google": (
        "vertex",
        "127.0.0.1 answered with status {status}.",
        "Application Default Credentials",
    ),
    "security token service of AWS": (
        "bedrock",
        "An error occurred (Busy) when calling the AssumeRole operation (reached max retries: 2): try again",
        "the credentials of AWS",
    ),
    "container of AWS": (
        "bedrock",
        "Error when retrieving credentials from container-role: Error retrieving metadata: "
        "Received non 200 response {status} from container metadata: {page}",
        "the credentials of AWS",
    ),
}


@pytest.mark.parametrize("status", [500, 429])
@pytest.mark.parametrize("server", FAILING_SERVERS)
async def test_a_failure_of_the_token_server_is_temporary(
    server: str, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Clients may retry, and the next request asks the server again."""
    provider, problem, origin = FAILING_SERVERS[server]
    page = "<x><Error><Code>Busy</Code><Message>try again</Message></Error></x>" if provider == "bedrock" else "{}"
    asked = list[str]()

    async def answer(request: web.Request, *_: Any) -> web.Response:
        asked.append(request.path)
        found = 200 if (provider, request.path) == ("vertex", "/") else status  # by which google-auth finds it
        return web.Response(status=found, text=page, headers={"metadata-flavor": "Google"})

    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # pauses between the attempts of the libraries
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with serving(new_application(answer, RequestLog())) as running:
        if server == "container of AWS":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{running.url}/creds")
        elif provider == "bedrock":
            base = f"[profile base]\naws_access_key_id={FIRST[0]}\naws_secret_access_key={FIRST[1]}\n"
            (tmp_path / "config").write_text(f"{base}[default]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=base\n")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", running.url)
        variables = ManagedIdentity.variables(running.url)
        monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", running.url[7:])
        variables["GCE_METADATA_IP"] = running.url[7:]
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        loader = {
            "foundry": lambda: EntraCredentials({}, FOUNDRY_SCOPE),
            "vertex": lambda: GoogleCredentials(None, needs_project=False, connect_timeout=5),
            "bedrock": lambda: AwsCredentials(REGION, {}),
        }[provider]()
        tokens = TokenCache(loader)
        calls = list[int]()
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable) as caught:
                await tokens.acquire_token()
            calls.append(len(asked))
    error = caught.value
    assert error.message == f"no access token: {problem.format(status=status, page=page)} ({origin})"
    assert (error.retryable, error.should_retry) == (True, None)
    assert calls[1] > calls[0] > 0


class Machine:
    """The metadata server of a machine at AWS. `status` 200: it gives credentials that end soon."""

    def __init__(self) -> None:
        self.status = 200

    async def answer(self, request: web.Request, *_: Any) -> web.Response:
        if request.method == "PUT":
            return web.Response(status=self.status, text="a-token")
        if request.path.endswith("/"):
            return web.Response(status=self.status, text="the-role")
        ends_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
        found = {"AccessKeyId": FIRST[0], "SecretAccessKey": FIRST[1], "Token": TOKEN}
        return web.json_response({**found, "Expiration": f"{ends_at:%Y-%m-%dT%H:%M:%S}+00:00"}, status=self.status)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    stand_in = Machine()
    with serving(new_application(stand_in.answer, RequestLog())) as running:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", running.url)
        yield stand_in


async def test_a_machine_of_aws_that_cannot_renew_credentials_is_asked_again(machine: Machine, tmp_path: Path) -> None:
    passed = 0.0
    tokens = TokenCache(AwsCredentials(REGION, {}), clock=lambda: time.time() + passed)
    assert (await tokens.acquire_token())[0].value == FIRST[1]
    passed, machine.status = MAX_AGE_SECONDS, 503
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable) as caught:
            await tokens.acquire_token()
        assert caught.value.message == (
            "no access token: Error when retrieving credentials from iam-role: Credential refresh failed, response did "
            "not contain: access_key, secret_key, token, expiry_time (the credentials of AWS)"
        )
    write_credentials(tmp_path, SECOND)
    assert (await tokens.acquire_token())[0].value == SECOND[1]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            "role_arn = arn:aws:iam::1:role/x\ncredential_source = Ec2InstanceMetadata",
            "Error when retrieving credentials from Ec2InstanceMetadata: No credentials found in credential_source "
            "referenced in profile default",
        ),
        (
            "ec2_metadata_v1_disabled = true",
            "Error retrieving metadata: Unable to retrieve token for use in IMDSv2 call and IMDSv1 has been disabled",
        ),
    ],
)
async def test_a_machine_of_aws_that_the_profile_names_is_asked_again(
    config: str, problem: str, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{config}\n")
    machine.status = 503
    with pytest.raises(UpstreamUnreachable) as caught:
        await TokenCache(AwsCredentials(REGION, {})).acquire_token()
    assert caught.value.message == f"no access token: {problem} (the credentials of AWS)"


@pytest.mark.parametrize(
    ("status", "page", "problem"),
    [
        (
            200,
            "<html>",
            "Error when retrieving credentials from container-role: Error retrieving metadata: Unable to parse JSON "
            "returned from container metadata services",
        ),
        (
            403,
            "no",
            "Error when retrieving credentials from container-role: Error retrieving metadata: Received non 200 "
            "response 403 from container metadata: no",
        ),
        (200, "{}", "an answer of their server has an unexpected form"),
        (200, "[]", "an answer of their server has an unexpected form"),
        (
            200,
            '{"AccessKeyId": "a", "SecretAccessKey": 5, "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}',
            "an answer of their server has an unexpected form",
        ),
    ],
)
async def test_answers_of_a_container_of_aws_without_credentials(
    status: int, page: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: Any) -> web.Response:
        return web.Response(status=status, text=page)

    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with serving(new_application(answer, RequestLog())) as running:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{running.url}/creds")
        with pytest.raises((UpstreamUnreachable, AuthenticationFailed)) as caught:
            await TokenCache(AwsCredentials(REGION, {})).acquire_token()
    error = caught.value
    assert isinstance(error, UpstreamUnreachable) == (status == 200)
    remedy = "Set AWS_PROFILE, or log in with: aws sso login"
    assert error.message in (
        f"no access token: {problem} (the credentials of AWS)",
        f"has no credentials of AWS: {problem}. {remedy}",
    )


@pytest.mark.parametrize(
    ("status", "page", "failed"),
    [
        (200, "<html>Log in</html>", "bedrock no connection, bedrock no connection"),
        (403, "<a><Error><Code>AccessDenied</Code></Error></a>", "bedrock no credentials"),
    ],
)
async def test_a_failed_log_in_is_a_failed_attempt_before_the_next_target(
    status: int, page: str, failed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """STS answers with the page of a network, or refuses the log-in."""

    async def answer(*_: Any) -> web.Response:
        return web.Response(status=status, text=page)

    async def reply(*_: Any) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]})

    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x")
    (tmp_path / "token").write_text("eyJhbGciOiJub25lIn0.e30.")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.chdir(tmp_path)
    with serving(new_application(answer, RequestLog())) as sts, serving(new_application(reply, RequestLog())) as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        routes = f"""
        [providers.b]
        base_url = "{other.url}/v1"
        [[routes]]
        name = "r"
        targets = ["bedrock/{BEDROCK_MODEL}", "b/m"]
        """
        engine = engine_with_tables(sts, routes, {"AWS_REGION": REGION, "NO_PROXY": "127.0.0.1"})
        sent = await send_request(engine, json.dumps({"model": "r", **CALL}).encode(), {})
        text = b"".join([piece async for piece in sent.body])
        await engine.close()
    assert (sent.status, sent.headers["x-proxy-failed-attempts"]) == (200, failed), text


async def test_a_program_that_prints_credentials_which_have_ended_is_a_failed_log_in(tmp_path: Path) -> None:
    write_process(tmp_path, FIRST, TOKEN, seconds=-60)
    with pytest.raises(AuthenticationFailed) as caught:
        await TokenCache(AwsCredentials(REGION, {})).acquire_token()
    assert caught.value.message == (
        "has no credentials of AWS: Credentials were refreshed, but the refreshed credentials are still expired. "
        "Set AWS_PROFILE, or log in with: aws sso login"
    )


async def test_the_metadata_server_of_azure_that_has_given_tokens_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, such an answer may come from a network proxy outside of Azure."""
    passed, status = 0.0, 200

    async def answer(*_: Any) -> web.Response:
        if status != 200:
            return web.Response(status=status, text="<html>Service Unavailable</html>", content_type="text/html")
        ends_on = int(time.time() + passed) + 60
        token = {"access_token": "eyJ0.token", "expires_on": str(ends_on), "expires_in": "60", "token_type": "Bearer"}
        return web.json_response({**token, "resource": "x"})

    monkeypatch.setattr("time.sleep", lambda _: None)  # pauses between the attempts of the library
    with serving(new_application(answer, RequestLog())) as running:
        for name, value in (("http_proxy", running.url), ("no_proxy", ""), ("HTTP_PROXY", running.url)):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        tokens = TokenCache(EntraCredentials({}, FOUNDRY_SCOPE), clock=lambda: time.time() + passed)
        status = 503
        with pytest.raises(AuthenticationFailed):
            await tokens.acquire_token()
        status, passed = 200, FAILURE_SECONDS
        await tokens.acquire_token()
        status, passed = 503, 3600.0
        with pytest.raises(UpstreamUnreachable) as caught:
            await tokens.acquire_token()
    assert caught.value.message == ("no access token: 169.254.169.254 answered with status 503. (Microsoft Entra ID)")


async def test_a_metadata_server_of_google_that_does_not_tell_the_project_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = 503

    async def answer(request: web.Request, *_: Any) -> web.Response:
        flavor = {"metadata-flavor": "Google"}
        if request.path.endswith("/project/project-id"):
            return web.Response(status=status, text=PROJECT, headers=flavor)
        token = {"email": "a@b.example", "access_token": "ya29.token", "expires_in": 3600}
        return web.json_response(token, headers=flavor)

    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # pauses between the attempts of the library
    with serving(new_application(answer, RequestLog())) as running:
        monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", running.url[7:])
        monkeypatch.setenv("GCE_METADATA_IP", running.url[7:])
        tokens = TokenCache(GoogleCredentials(None, needs_project=True, connect_timeout=5))
        with pytest.raises(UpstreamUnreachable) as caught:
            await tokens.acquire_token()
        status = 200
        _, project = await tokens.acquire_token()
    assert caught.value.message == (
        "no access token: 127.0.0.1 answered with status 503. (Application Default Credentials)"
    )
    assert project == PROJECT


@pytest.mark.parametrize("code", ["Throttling", "ThrottlingException", "RequestLimitExceeded", "IDPCommunicationError"])
async def test_aws_throttles_with_status_400(code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def answer(*_: Any) -> web.Response:
        page = f"<x><Error><Code>{code}</Code><Message>Rate exceeded</Message></Error></x>"
        return web.Response(status=400, text=page)

    monkeypatch.setattr("time.sleep", lambda _: None)  # pauses between the attempts of botocore
    base = f"[profile base]\naws_access_key_id={FIRST[0]}\naws_secret_access_key={FIRST[1]}\n"
    (tmp_path / "config").write_text(f"{base}[default]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=base\n")
    with serving(new_application(answer, RequestLog())) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", running.url)
        with pytest.raises(UpstreamUnreachable) as caught:
            await TokenCache(AwsCredentials(REGION, {})).acquire_token()
    assert (caught.value.retryable, caught.value.should_retry) == (True, None)


@pytest.mark.skipif(sys.platform == "win32", reason="platform: a shell script stands for the program az")
async def test_of_many_ways_to_log_in_the_error_names_the_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """azure-identity lists nine ways, most of which are not set up on a machine."""
    program = tmp_path / "az"
    program.write_text("#!/bin/sh\necho 'ERROR: AADSTS70043: The refresh token has expired.' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    with pytest.raises(AuthenticationFailed) as caught:
        await TokenCache(EntraCredentials({}, FOUNDRY_SCOPE)).acquire_token()
    assert caught.value.message == (
        "has no access token: AzureCliCredential: ERROR: AADSTS70043: The refresh token has expired. "
        "Log in with: az login"
    )


async def test_a_tenant_that_cannot_be_one_is_named() -> None:
    given = {"AZURE_TENANT_ID": "my tenant", "AZURE_CLIENT_ID": "app", "AZURE_CLIENT_SECRET": "secret"}
    variables = {name: Secret(text) for name, text in given.items()}
    with pytest.raises(AuthenticationFailed) as caught:
        await TokenCache(EntraCredentials(variables, FOUNDRY_SCOPE)).acquire_token()
    assert caught.value.message == (
        "has no access token: Invalid tenant ID provided. You can locate your tenant ID by following the instructions "
        "here: https://learn.microsoft.com/partner-center/find-ids-and-domain-names. Log in with: az login"
    )


ENTRA = EntraCredentials({}, FOUNDRY_SCOPE)


@pytest.mark.parametrize(
    ("module", "loader", "message"),
    [
        ("botocore", AwsCredentials(REGION, {}), "A signature for AWS needs botocore"),
        (
            "azure.identity",
            ENTRA,
            "Microsoft Entra ID needs azure-identity",
        ),
    ],
)
async def test_without_the_extra_the_error_names_the_install_command(
    module: str, loader: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: Any = None
    for name in [module, *(name for name in sys.modules if name.startswith(f"{module}."))]:
        monkeypatch.setitem(sys.modules, name, hidden)
    with pytest.raises(MissingExtra) as caught:
        await TokenCache(loader).acquire_token()
    extra = "bedrock" if module == "botocore" else "azure"
    assert caught.value.message == (f"{message}, which is not installed. Install it:  anthropic-proxy add {extra}")


ROLE = """<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAFAKEFAKEFAKE0001</AccessKeyId>
<SecretAccessKey>the-token</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>"""


@pytest.mark.parametrize("kind", ["google", "aws", "azure"])
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "of the library"])
async def test_a_token_server_may_have_a_certificate_of_the_company(
    kind: str, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def answer(_: Server, writer: asyncio.StreamWriter) -> None:
        token = {"access_token": "the-token", "expires_in": 3600, "expires_on": "4000000000"}
        body = (ROLE if kind == "aws" else json.dumps(token)).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )

    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    own = "AWS_CA_BUNDLE" if kind == "aws" else "REQUESTS_CA_BUNDLE"
    monkeypatch.setenv(own if variable == "of the library" else variable, str(tmp_path / "ca.pem"))
    async with http_serving(answer, tls=tls) as (_, port):
        url = f"https://127.0.0.1:{port}"
        loader: Any
        if kind == "google":
            loader = GoogleCredentials(
                str(write_service_account(tmp_path, url)), needs_project=False, connect_timeout=5
            )
        elif kind == "aws":
            base = f"[profile base]\naws_access_key_id={FIRST[0]}\naws_secret_access_key={FIRST[1]}\n"
            (tmp_path / "config").write_text(f"{base}[default]\nrole_arn=arn:aws:iam::1:role/x\nsource_profile=base\n")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
            loader = AwsCredentials(REGION, {})
        else:
            for name, value in ManagedIdentity.variables(url).items():
                monkeypatch.setenv(name, value)
            loader = EntraCredentials({}, FOUNDRY_SCOPE)
        credential, _ = await TokenCache(loader).acquire_token()
    assert credential.value.removeprefix("Bearer ") == "the-token"


def test_nothing_of_them_is_loaded_before_a_request_needs_it() -> None:
    code = "import sys, anthropic_proxy.app; print([m for m in sys.modules if m.startswith(('azure', 'boto', 'msal'))])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"
