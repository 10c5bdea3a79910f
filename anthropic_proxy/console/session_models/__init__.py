"""Models that people choose for their running sessions: the stored choices, their preview, and the API for both.

A choice says: requests of this session for this model of the client are planned as if the client had named that one.
So the rules of keys and routes hold as for any request. It is stored under the key that sends the session's requests.
"""
