"""Start-up names the successor of a retired model, also of one that another vendor's server has retired."""

from datetime import date

from tests.support.startup_summary import say

DEEPSEEK = {"OPENAI_API_KEY": "sk-0123456789ab4f2a", "OPENAI_BASE_URL": "https://api.deepseek.com"}
MOONSHOT = {"MOONSHOT_API_KEY": "sk-0123456789ab4f2a"}


def lines_of(**settings: str) -> list[str]:
    return [line.strip() for line in say(**settings) if "retired" in line]


def test_a_model_that_a_server_in_openai_s_place_has_retired() -> None:
    told = "! DeepSeek retired deepseek-chat on 24 July 2026. Its successor:  BIG_MODEL=openai/deepseek-flash"
    assert lines_of(**DEEPSEEK, BIG_MODEL="deepseek-chat", SMALL_MODEL="deepseek-flash") == [told]
    elsewhere = {**DEEPSEEK, "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}
    assert lines_of(**elsewhere, BIG_MODEL="deepseek-chat", SMALL_MODEL="gpt-4") == []


def test_the_end_of_the_k2_series_is_announced_from_its_day_on() -> None:
    kimi = {**MOONSHOT, "BIG_MODEL": "kimi-k2.6", "SMALL_MODEL": "kimi-k3"}
    assert lines_of(**kimi) == []
    told = "  ! Moonshot retired kimi-k2.6 on 31 December 2026. Its successor:  BIG_MODEL=moonshot/kimi-k3"
    assert told in say(date(2027, 1, 1), **kimi)
