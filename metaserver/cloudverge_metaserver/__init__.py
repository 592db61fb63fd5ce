"""The balancer: namespace, extents, chunks, leases and oplog of all spaces, kept in PostgreSQL alone.

A process may be killed at any instant and another started beside it: nothing is remembered here that is not
in the database, but caches that may be thrown away.
"""
