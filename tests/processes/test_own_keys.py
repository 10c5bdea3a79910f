"""Workers, and a server after a restart, write the same marks and placeholders as before."""

import json
import re
from pathlib import Path

import httpx2 as httpx
import pytest
from aiohttp import web

from tests.support.fakes.server import RequestLog, new_application, serving
from tests.support.process_checks import MESSAGES, clients_of, serve
from tests.support.server_process import SERVE, running_proxy

REPLY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}]}
PATTERNS = '[[inspectors]]\nname = "numbers"\ntype = "patterns"\n[inspectors.patterns]\nnumber = "N-[0-9]{6}"\n'
SOURCE = {"type": "text", "media_type": "text/plain", "data": "The number is N-123456. It is secret."}
BODY = {
    "model": "openai/gpt-4.1",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": [{"type": "document", "source": SOURCE, "citations": {"enabled": True}}]}],
}
SECRETS = re.compile(r"<[a-z]{6} 3>|REDACTED_[A-Z]+_[0-9a-f]{16}")


@pytest.mark.parametrize(("database", "survives"), [("sqlite:///{}/ledger.sqlite3", True), ("off", False)])
def test_marks_and_placeholders_are_those_of_all_workers_and_of_the_last_start(
    database: str, survives: bool, tmp_path: Path
) -> None:
    sent = list[str]()

    async def answer(_: web.Request, raw: bytes, __: RequestLog) -> web.Response:
        sent.append(json.dumps(json.loads(raw)["messages"]))
        return web.json_response(REPLY)

    (tmp_path / "anthropic-proxy.toml").write_text(PATTERNS)
    found = list[set[str]]()
    with serving(new_application(answer, RequestLog())) as upstream:
        settings = {
            "OPENAI_API_KEY": "sk-fresh-0123456789abcdef",
            "OPENAI_BASE_URL": f"{upstream.url}/v1",
            "OPENAI_WIRE": "chat",
            "DATABASE_URL": database.format(tmp_path),
        }
        for command in (SERVE, serve(2)):
            with running_proxy(tmp_path, settings, command) as proxy:
                clients: list[httpx.Client] = [*clients_of(proxy).values()] if command != SERVE else [proxy.client()]
                for client in clients:
                    assert client.post(MESSAGES, json=BODY).status_code == 200
            found.append({word for text in sent for word in SECRETS.findall(text)})
            sent.clear()
    assert [len(words) for words in found] == [2, 2]
    assert (found[0] == found[1]) == survives
