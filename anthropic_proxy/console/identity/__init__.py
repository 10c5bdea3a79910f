"""Who somebody is: users of an identity provider, and the requests to it.

The dashboard and the sign-in of Claude Code use this package.
"""
