"""Two servers with one Redis: a picture that one has had described is not paid again at the other."""

from pathlib import Path

import pytest

from tests.support.picture_servers import PictureServer
from tests.support.pictures import paint, show
from tests.support.redis import find_redis, running_redis
from tests.support.server_process import running_proxy

pytestmark = pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")


def test_instances_share_the_descriptions_of_pictures(tmp_path: Path) -> None:
    server, folders = PictureServer(), [tmp_path / "first", tmp_path / "second"]
    with running_redis() as redis, server.serving() as text:
        settings = {"REDIS_URL": redis.url, "BIG_MODEL": "own/text", "PREFERRED_PROVIDER": "own"}
        for folder in folders:
            folder.mkdir()
            (folder / "anthropic-proxy.toml").write_text(text, encoding="utf-8")
        with running_proxy(folders[0], settings) as first, running_proxy(folders[1], settings) as second:
            for proxy in (first, second, first, second):
                messages = [{"role": "user", "content": [show(paint("red"))]}]
                body = {"model": "claude-sonnet-5-5", "max_tokens": 50, "messages": messages}
                assert proxy.client().post("/v1/messages", json=body).status_code == 200
    assert (server.count("eyes"), server.count("text")) == (1, 4)
    assert len({str(body["messages"]) for body in server.bodies["text"]}) == 1
