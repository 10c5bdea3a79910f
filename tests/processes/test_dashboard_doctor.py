"""The doctor in the dashboard: expected cost, run, progress, results in all workers, stop, failures, every refusal."""

import html
import json
import re
import signal
from functools import partial
from pathlib import Path

import httpx2 as httpx
import pytest

from anthropic_proxy.console.doctor.stored_runs import FOLDER_NAME, DoctorRun, find_folder
from anthropic_proxy.engine.providers.catalog import LEARNED_FILE_NAME
from anthropic_proxy.gateway.settings.place import find_data_directory
from tests.support.command_line import run_command
from tests.support.dashboard import ledger_settings, wait_for_request
from tests.support.fakes.compatible import new_server
from tests.support.fakes.compatible.groq import GROQ
from tests.support.fakes.gate import held_provider
from tests.support.fakes.server import Running, serving
from tests.support.platform_marks import KILL, needs_proc
from tests.support.process_checks import clients_of, serve, worker_of
from tests.support.secret_canaries import command_lines, find_leaks, new_canary
from tests.support.server_process import running_proxy
from tests.support.waiting import wait_for

KEY = "team-key-of-this-proxy-1"
FORM, PAGE = "/dashboard/providers/doctor", "/dashboard/providers"
NEVER = "The doctor has not run yet."
OUTDATED = (
    "The doctor cannot start: another run has begun since this form was opened. Its results are on the page Providers."
)
COST = "About 12 requests and 3,000 tokens, <$0.001. The providers charge these requests."


def settings_of(server: Running, **others: str) -> dict[str, str]:
    address = {"GROQ_BASE_URL": f"{server.url}/openai/v1", "GROQ_API_KEY": GROQ.key}
    models = {"PREFERRED_PROVIDER": "groq", "BIG_MODEL": "openai/gpt-oss-120b", "SMALL_MODEL": "openai/gpt-oss-120b"}
    return {**address, **models, **others}


@pytest.fixture(autouse=True)
def _price(tmp_path: Path) -> None:
    """Set a price for the model of the tests, because servers on this machine are in no price list."""
    (tmp_path / "anthropic-proxy.toml").write_text(
        '[prices]\n"groq/openai/gpt-oss-120b" = { input = 0.15, output = 0.6 }\n', encoding="utf-8"
    )


def data_of(directory: Path) -> Path:
    return find_data_directory({"HOME": str(directory)}) or directory


def line_of(page: httpx.Response) -> str:
    found = re.search(r'id="doctor-line"[^>]*><span[^>]*>(.*?)</span>', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


def text_of(page: httpx.Response) -> str:
    main = page.text.partition("<main")[2].partition("</main>")[0].partition(">")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split())


def open_form(client: httpx.Client) -> dict[str, str]:
    page = client.get(FORM)
    assert page.status_code == 200, page.text
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))


def start(client: httpx.Client) -> dict[str, str]:
    fields = open_form(client)
    sent = client.post(FORM, data=fields)
    assert (sent.status_code, sent.headers.get("location")) == (303, f"{PAGE}#doctor"), sent.text
    return fields


def wait_for_end(client: httpx.Client) -> httpx.Response:
    return wait_for(lambda: client.get(PAGE), lambda page: "data-running" not in page.text)


@needs_proc
def test_a_run_shows_cost_then_results_which_all_workers_use(tmp_path: Path) -> None:
    with serving(new_server("groq")) as server, running_proxy(tmp_path, settings_of(server), serve(2)) as proxy:
        client = proxy.client()
        assert line_of(client.get(PAGE)) == NEVER
        form = client.get(FORM)
        assert text_of(form) == (
            "Providers Doctor Sends small test requests to each provider in use, and shows what each model supports. "
            f"Expected cost {COST} Models: groq/openai/gpt-oss-120b "
            "The run takes up to a few minutes and can be stopped. At its end, the proxy uses the observed limits and "
            "features for new requests. Send the requests Cancel"
        )
        assert server.journal.exchanges == []
        fields = start(client)
        page = wait_for_end(client)
        sent = len(server.journal.exchanges)
        assert re.fullmatch(rf"Doctor ran \d+ \w+ ago, {sent} requests, <\$0\.001", line_of(page))
        repeated = client.post(FORM, data=fields)  # a reload of the page sends the form again
        assert (repeated.status_code, text_of(repeated), line_of(client.get(PAGE))[-22:]) == (
            400,
            "Providers Doctor Sends small test requests to each provider in use, and shows what each model supports. "
            f"✕ {OUTDATED} Try again Cancel",
            line_of(page)[-22:],
        )
        for latest in ("nan", "", "x"):
            other = client.post(FORM, data={**fields, "latest": latest})
            assert (other.status_code, text_of(other).partition("✕ ")[2]) == (400, f"{OUTDATED} Try again Cancel")
        assert len(server.journal.exchanges) == sent
        for worker, another in clients_of(proxy).items():
            learned = wait_for(partial(another.get, PAGE), lambda one: "doctor, " in text_of(one))
            assert worker_of(proxy, learned) == worker
    stored = json.loads((find_folder(data_of(tmp_path)) / "last-run.json").read_text("utf-8"))
    assert (stored["requests"], stored["expected_requests"]) == (sent, 12)
    with serving(new_server("groq")) as other_server:
        run_command("doctor", directory=tmp_path, settings=settings_of(other_server))
    sent_by_command = [(one.method, one.path) for one in other_server.journal.exchanges]
    assert [(one.method, one.path) for one in server.journal.exchanges] == sent_by_command


def test_a_rejected_key_is_listed_with_its_remedy_and_is_never_shown(tmp_path: Path) -> None:
    key = new_canary("gsk_")
    with serving(new_server("groq")) as server, running_proxy(tmp_path, settings_of(server, GROQ_API_KEY=key)) as proxy:
        client = proxy.client()
        pages = [client.get(FORM)]
        start(client)
        lines = command_lines(proxy.process.pid)
        pages.append(wait_for_end(client))
    problem = f"groq: rejects the key …{key[-4:]} (environment), 401."
    remedy = "GROQ_API_KEY=&lt;new key&gt;  in the environment"
    assert f'<p class="wrap">{problem}</p><p class="small wrap"><b>What to do:</b> {remedy}</p>' in pages[1].text
    stored = [file.read_text("utf-8") for file in (data_of(tmp_path) / FOLDER_NAME).iterdir() if file.is_file()]
    assert any("GROQ_API_KEY=<new key>" in text for text in stored)
    for text in (lines, *stored, *(page.text for page in pages)):
        assert find_leaks(text, [key]) == []


def test_a_rejected_probe_concerns_no_client(tmp_path: Path) -> None:
    with serving(new_server("groq")) as server:
        settings = settings_of(server, GROQ_API_KEY="gsk_rejected", LOG_LEVEL="info")
        with running_proxy(tmp_path, ledger_settings(tmp_path, **settings)) as proxy:
            client = proxy.client()
            start(client)
            page = wait_for_end(client)
            sent = len(server.journal.exchanges)
            message = {"model": "claude-sonnet-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
            reply = client.post("/v1/messages", json=message)
            wait_for_request(client, reply.headers["request-id"])
            stored = [one["id"] for one in client.get("/api/requests").json()["requests"]]
    assert "key in cooldown" not in text_of(page)
    assert len(server.journal.exchanges) == sent + 1  # the key is not skipped
    assert stored == [reply.headers["request-id"]]
    assert proxy.log.count("POST /v1/messages 424") == 1


@pytest.mark.slow
@needs_proc
def test_a_run_is_shown_by_every_worker_and_is_started_once(tmp_path: Path) -> None:
    with held_provider() as (server, gate), running_proxy(tmp_path, settings_of(server), serve(2)) as proxy:
        client = proxy.client()
        fields = start(client)
        wait_for(lambda: gate.held)
        shown = wait_for(lambda: line_of(client.get(PAGE)), lambda line: "about" in line)
        assert re.fullmatch(r"The doctor is running: \d of about 12 requests\.", shown)
        for worker, other in clients_of(proxy).items():
            page = other.get(PAGE)
            form = other.get(FORM)
            refused = other.post(FORM, data={**fields, "token": "x"})
            assert (refused.status_code, worker_of(proxy, refused)) == (403, worker)
            assert "data-running" in page.text
            assert "<progress max=" in page.text
            assert text_of(form) == (
                "Providers Doctor Sends small test requests to each provider in use, and shows what each model "
                "supports. Stop the doctor The doctor is running. Requests that it has sent are charged. The results "
                "of the previous complete run stay. Stop Continue"
            )
        assert client.post(FORM, data=fields).status_code == 303
        assert gate.held == 1
        gate.opened.set()
        assert "Doctor ran" in line_of(wait_for_end(client))


@pytest.mark.slow
def test_a_user_stops_a_run_and_the_results_before_stay(tmp_path: Path) -> None:
    with held_provider() as (server, gate), running_proxy(tmp_path, settings_of(server), serve(2)) as proxy:
        client = proxy.client()
        gate.opened.set()
        start(client)
        before = wait_for_end(client)
        gate.opened.clear()
        gate.held = 0
        start(client)
        wait_for(lambda: gate.held)
        with proxy.client() as other:
            fields = open_form(other)
            assert fields["action"] == "stop"
            assert other.post(FORM, data=fields).status_code == 303
        page = wait_for_end(client)
        wait_for(lambda: gate.cancelled)
    failure = (
        r"The run that started \d+ \w+ ago ended after 1 request, before it was complete\. "
        r"A user stopped it on this page\."
    )
    assert re.search(failure, text_of(page)), text_of(page)
    assert line_of(page)[-22:] == line_of(before)[-22:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "sent", "reason"),
    [(signal.SIGTERM, " after 1 request", "The proxy was stopped."), (KILL, "", "The proxy has ended.")],
    ids=["stopped", "killed"],
)
def test_the_run_ends_with_the_proxy_and_the_next_one_explains_it(
    tmp_path: Path, number: int, sent: str, reason: str
) -> None:
    with held_provider() as (server, gate):
        settings = settings_of(server, STOP_TIMEOUT="1")
        with running_proxy(tmp_path, settings) as proxy:
            start(proxy.client())
            wait_for(lambda: gate.held)
            proxy.stop(number)
            wait_for(lambda: gate.cancelled)
        with running_proxy(tmp_path, settings) as proxy:
            page = proxy.client().get(PAGE)
            assert open_form(proxy.client())["action"] == "start"
    assert line_of(page) == NEVER
    failure = rf"The run that started \d+ \w+ ago ended{sent}, before it was complete\. {re.escape(reason)}"
    assert re.search(failure, text_of(page)), text_of(page)


@pytest.mark.slow
def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with serving(new_server("groq")) as server, running_proxy(tmp_path, settings_of(server)) as proxy:
        client = proxy.client()
        fields = open_form(client)
        folder = find_folder(data_of(tmp_path))
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text("a file")
        page = client.post(FORM, data=fields)
    assert (page.status_code, text_of(page)) == (
        400,
        "Providers Doctor Sends small test requests to each provider in use, and shows what each model supports. "
        f"✕ The doctor cannot start: file exists ({folder}). Try again Cancel",
    )
    assert server.journal.exchanges == []


@pytest.mark.slow
def test_facts_that_cannot_be_stored_are_logged(tmp_path: Path) -> None:
    file = data_of(tmp_path) / LEARNED_FILE_NAME
    with serving(new_server("groq")) as server, running_proxy(tmp_path, settings_of(server)) as proxy:
        (file / "a file").mkdir(parents=True)
        start(proxy.client())
        page = wait_for_end(proxy.client())
        message = f"! Doctor: The facts cannot be stored in {file.parent}: it is a folder."
        wait_for(lambda: message in proxy.log)
    assert "Doctor ran" in line_of(page)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "No provider is chosen, so the demo replies."),
        ({"PREFERRED_PROVIDER": "demo"}, "The demo replies, because PREFERRED_PROVIDER is demo."),
    ],
)
def test_if_the_demo_replies_the_form_says_why(tmp_path: Path, settings: dict[str, str], reason: str) -> None:
    with running_proxy(tmp_path, settings) as proxy:
        page = proxy.client().get(FORM)
    assert text_of(page).partition("! ")[2] == (
        f"{reason} It has no model to examine. Choose a provider and store its key: anthropic-proxy init Copy"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DASHBOARD_EDITING": "false"}, "DASHBOARD_EDITING is false, so the dashboard does not run the doctor."),
        (
            {"ALLOW_UNAUTHENTICATED": "true"},
            "The doctor can be run in a browser on this machine, or after a sign-in with a key of PROXY_API_KEY.",
        ),
    ],
)
def test_a_browser_without_permission_reads_the_reason(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    with serving(new_server("groq")) as server, running_proxy(tmp_path, settings_of(server, **settings)) as proxy:
        client = proxy.client()
        shown = client.get(PAGE)
        answers = [client.get(FORM), client.post(FORM, data={"action": "start", "latest": "0.0"})]
    assert message in text_of(shown)
    assert FORM not in shown.text
    assert [(answer.status_code, message in answer.text) for answer in answers] == [(403, True)] * 2
    assert server.journal.exchanges == []


def test_only_a_form_of_this_session_and_site_starts_a_run(tmp_path: Path) -> None:
    with (
        serving(new_server("groq")) as server,
        running_proxy(tmp_path, settings_of(server, PROXY_API_KEY=KEY)) as proxy,
    ):
        client = proxy.client()
        refused = client.post(FORM, data={"action": "start", "latest": "0.0"})
        away = client.get(FORM)
        client.post("/dashboard/sign-in", data={"key": KEY, "next": ""})
        fields = open_form(client)
        foreign = {"origin": "https://attacker.example"}
        answers = [
            client.post(FORM, data={**fields, "token": "x"}),
            client.post(FORM, data={"action": "start", "latest": "0.0"}),
            client.post(FORM, data=fields, headers=foreign),
            *(client.post(FORM, data=fields, headers={"sec-fetch-site": site}) for site in ("cross-site", "same-site")),
        ]
        linked = [client.get(FORM, headers={"sec-fetch-site": site}) for site in ("cross-site", "same-site")]
        page = client.get(PAGE)
    assert (refused.status_code, away.headers["location"]) == (403, "/dashboard/sign-in?next=/dashboard/providers")
    assert [answer.status_code for answer in answers] == [403] * 5
    assert [(page.status_code, page.headers["location"]) for page in linked] == [(303, PAGE)] * 2
    assert (line_of(page), server.journal.exchanges) == (NEVER, [])


def test_a_run_in_a_terminal_is_shown_until_the_settings_change(tmp_path: Path) -> None:
    changed = "Settings of providers or models have changed since this run. Run the doctor again for current results."
    with serving(new_server("groq")) as server:
        settings = settings_of(server)
        run_command("doctor", directory=tmp_path, settings=settings)
        sent = len(server.journal.exchanges)
        with running_proxy(tmp_path, settings) as proxy:
            page = proxy.client().get(PAGE)
        with running_proxy(tmp_path, {**settings, "SMALL_MODEL": "openai/gpt-oss-20b"}) as proxy:
            other = proxy.client().get(PAGE)
    assert re.fullmatch(rf"Doctor ran \d+ \w+ ago, {sent} requests, <\$0\.001", line_of(page))
    assert (changed in text_of(page), changed in text_of(other)) == (False, True)


def test_the_stored_run_of_another_version_is_ignored(tmp_path: Path) -> None:
    folder = find_folder(data_of(tmp_path))
    folder.mkdir(parents=True)
    for name, content in (("last-run.json", '{"version":99,"started_at":1}'), ("current-run.json", "no JSON")):
        (folder / name).write_text(content)
    with running_proxy(tmp_path, {}) as proxy:
        page = proxy.client().get(PAGE)
    assert (page.status_code, line_of(page)) == (200, NEVER)
    assert DoctorRun(started_at=1.0).version == 1


def test_the_doctor_examines_the_proxy_of_its_dashboard_and_not_the_one_on_another_port(tmp_path: Path) -> None:
    other, own = tmp_path / "other", tmp_path / "own"
    for folder in (other, own):
        folder.mkdir()
    user = {"HOME": str(tmp_path), "ANTHROPIC_PROXY_CONFIG": ""}
    with serving(new_server("groq")) as server, running_proxy(other, settings_of(server, **user)) as on_port:
        models = {"BIG_MODEL": "openai/gpt-oss-20b", "SMALL_MODEL": "openai/gpt-oss-20b"}
        settings = settings_of(server, **user, **models, PORT=on_port.url.rpartition(":")[2])
        with running_proxy(own, settings) as proxy:  # its port is that of the option --port
            client = proxy.client()
            assert "Models: groq/openai/gpt-oss-20b " in text_of(client.get(FORM))
            start(client)
            wait_for_end(client)
    asked = {exchange.body["model"] for exchange in server.journal.exchanges if exchange.body}
    assert asked == {"openai/gpt-oss-20b"}
