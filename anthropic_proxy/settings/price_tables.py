"""Check of the tables `[prices."MODEL"]` of the configuration file: own prices of models."""

import re

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.settings.config_file import ConfigFile
from anthropic_proxy.settings.fields import Secret
from anthropic_proxy.settings.file_format import ConfiguredPrice, PriceTable
from anthropic_proxy.settings.service_tiers import normalize_service_tier
from anthropic_proxy.settings.sources import Sources

_PATH = ("prices",)
_ID_WITH_PREFIX = re.compile(r"[^/\s]+/\S+|\*")


def load_prices(file: ConfigFile, sources: Sources) -> tuple[ConfiguredPrice, ...]:
    """Return the valid tables `[prices."MODEL"]` in the order of the configuration file.

    Each invalid field is added to the errors of `sources`, with value, file and line.
    """
    tables = file.find_value(_PATH)
    found = []
    for name in tables if isinstance(tables, dict) else ():
        with sources.errors.collect():
            found.append(_load_price(file, name, sources))
    if found:
        sources.given["prices"] = Secret(str(tables))
    return tuple(found)


def _load_price(file: ConfigFile, name: str, sources: Sources) -> ConfiguredPrice:
    path = (*_PATH, name)
    table = file.decode_table(path, PriceTable)
    if not _ID_WITH_PREFIX.fullmatch(name):
        raise ConfigurationError(
            f'[prices] has the model "{name}" without a prefix. Use the prefix of the provider and the model id, '
            f"or a pattern, in quotes. It is in {file.describe_origin_in_sentence(path)}. "
            f'Did you mean [prices."openai/{name}"]'
        )
    for place, fields in [(path, table), *(((*path, "earlier"), past) for past in table.earlier)]:
        for tier in fields.tiers:
            if not normalize_service_tier(tier):
                raise ConfigurationError(
                    f'prices."{name}".tiers has the normal service tier "{tier}". Its prices are the fields of the '
                    f"table itself. It is in {file.describe_origin_in_sentence(place)}."
                )
    origin = file.describe_origin(path)
    sources.origins[f'[prices."{name}"]'] = origin
    return ConfiguredPrice(pattern=name, table=table, origin=origin)
