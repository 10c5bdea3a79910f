import json

from anthropic_proxy.messages.models import decode_request


def test_a_system_message_may_consist_of_its_output_config() -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "system", "output_config": {"effort": "low"}}]
    decoded = decode_request(json.dumps({"model": "m", "max_tokens": 1, "messages": messages}).encode())
    assert [(message.role, message.content) for message in decoded.messages] == [("user", "Hello"), ("system", "")]
