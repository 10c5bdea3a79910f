"""Price lists in the format of the project `genai-prices`, with as many models as the installed package has."""

import json
from collections.abc import Mapping
from typing import Any


def build_price_list(dated_on: str, **openai_prices: Any) -> bytes:
    """Return the JSON of a price list with the date `dated_on`, in which `gpt-4.1` of OpenAI has `openai_prices`."""
    return json.dumps(list_providers(dated_on, openai_prices)).encode()


def list_providers(dated_on: str, openai_prices: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the providers of a price list, OpenAI first."""
    from genai_prices.data_snapshot import get_snapshot  # collecting the tests needs none of it

    packaged = get_snapshot().providers
    count = sum(len(provider.models) for provider in packaged) // len(packaged) + 1
    others = [
        {
            "id": f"vendor-{number}",
            "name": f"Vendor {number}",
            "api_pattern": rf"https://vendor-{number}\.example",
            "models": [_model(f"model-{index}", {"input_mtok": 1, "output_mtok": 2}) for index in range(count)],
        }
        for number in range(1, len(packaged))
    ]
    model = {**_model("gpt-4.1", openai_prices), "price_comments": f"checked on {dated_on}"}
    return [{"id": "openai", "name": "OpenAI", "api_pattern": r"https://api\.openai\.com", "models": [model]}, *others]


def _model(name: str, prices: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": name, "match": {"equals": name}, "prices": {"output_mtok": 8, **prices}}
