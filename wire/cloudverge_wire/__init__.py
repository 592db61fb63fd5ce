"""What the three servers share: frames on asyncio, listeners, the token gate, migrations, logs.

Servers only: the mount never imports this room. It knows nothing of accounts, chunks or namespaces; what a
token means and what a frame asks for is decided by the server that passes the callables in.
"""
