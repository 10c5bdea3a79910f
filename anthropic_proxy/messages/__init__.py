"""The Messages API as structs, deltas and events. Independent of providers."""
