"""Exchange: the processing of one client request, from its body to the last byte of the reply.

`pipeline` has the steps. No module of this package names a provider.
"""
