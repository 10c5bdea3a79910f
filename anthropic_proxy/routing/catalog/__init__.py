"""Model capabilities: context windows, limits, features.

`capabilities` defines them, `table` reads `models.toml`, `ollama` queries a server, `catalog` caches all of them.
"""

from anthropic_proxy.routing.catalog.capabilities import ModelCapabilities
from anthropic_proxy.routing.catalog.catalog import Catalog, ModelListing, load_catalog
from anthropic_proxy.routing.catalog.ollama import OllamaListing

__all__ = ["Catalog", "ModelCapabilities", "ModelListing", "OllamaListing", "load_catalog"]
