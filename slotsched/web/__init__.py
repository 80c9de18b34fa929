"""The web face: pages for people and `/api/v1` for programs, over the same client as the command line.

Who gets in is decided in `access` (tokens, sessions), what a browser may be made to do in `guard` (hosts, origins,
headers); pages and API wire and do not decide. Every answer is made on the server: pages work without JavaScript.
"""
