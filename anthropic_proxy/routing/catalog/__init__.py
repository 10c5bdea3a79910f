"""Model catalog: capabilities of backend models, which are context windows, output limits and features.

`table` defines the fields and reads `models.toml`, `ollama` queries an Ollama server, `catalog` caches the results.
`learned` reads and writes the facts that the command `doctor` has observed in its tests of providers.
"""

from anthropic_proxy.routing.catalog.catalog import Catalog, ModelListing, load_catalog
from anthropic_proxy.routing.catalog.learned import (
    LearnedModel,
    LearnedModels,
    load_learned_models,
    store_learned_models,
)
from anthropic_proxy.routing.catalog.ollama import OllamaListing
from anthropic_proxy.routing.catalog.table import ModelCapabilities

__all__ = [
    "Catalog",
    "LearnedModel",
    "LearnedModels",
    "ModelCapabilities",
    "ModelListing",
    "OllamaListing",
    "load_catalog",
    "load_learned_models",
    "store_learned_models",
]
