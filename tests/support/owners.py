"""Pairs of clients, and whether both belong to one owner: what is kept for one of them is used for the other."""

import pytest

from anthropic_proxy.plugins import Client

_LAPTOP = Client(name="laptop", key_id="key_1", owner="ann")
_PROXY_WITHOUT_KEYS = Client(credential_forwardable=True, address="192.0.2.7")

PAIRS_OF_CLIENTS = [
    pytest.param(_LAPTOP, Client(name="ci", key_id="key_2", owner="ann"), True, id="two keys of a person"),
    pytest.param(_LAPTOP, Client(name="ci", key_id="key_2", owner="bob"), False, id="keys of two people"),
    pytest.param(
        _LAPTOP,
        Client(name="ci", key_id="key_2", owner="ann", has_foreign_texts=True),
        False,
        id="a key that others use too",
    ),
    pytest.param(
        _PROXY_WITHOUT_KEYS,
        Client(credential_forwardable=True, address="192.0.2.8"),
        False,
        id="two addresses without keys",
    ),
]
