"""For people: what was used, what it cost, and who may use it (ledger, virtual keys, dashboard)."""
