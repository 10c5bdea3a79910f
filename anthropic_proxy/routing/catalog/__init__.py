"""Model capabilities: context windows, limits, features.

`table` defines them and reads `models.toml`, `ollama` queries a server, `catalog` caches all of them.
"""

from anthropic_proxy.routing.catalog.catalog import Catalog, ModelListing, load_catalog
from anthropic_proxy.routing.catalog.ollama import OllamaListing
from anthropic_proxy.routing.catalog.table import ModelCapabilities

__all__ = ["Catalog", "ModelCapabilities", "ModelListing", "OllamaListing", "load_catalog"]
