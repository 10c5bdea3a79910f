"""Provider protocols ("wires"), one package each: prepared request → upstream bytes, upstream bytes → deltas.

The other modules are shared by several wires. A wire imports the structs and deltas of `messages/`, but no routing,
transport or server code.
"""
