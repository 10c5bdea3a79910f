"""Provider protocols, one package each. A wire depends on our structs and deltas only."""
