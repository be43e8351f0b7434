"""The controller's API: HTTP/1.1 and JSON, on a Unix socket and, where configured, TLS on TCP.

`table` lists every route once; what is served (`app`) and what is documented (`openapi`) both come
from it. A request passes, in this order: `listen` (sockets, TLS, time limits), `app` (who it is,
whether the route's role lets it, reading what it gives, turning what is raised into a problem) and
one handler of `services`, `happenings`, `hosts` or `logs`.
"""
