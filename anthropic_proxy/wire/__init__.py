"""Foreign languages: one module for each provider protocol. A wire knows our structs and deltas, nothing more."""
