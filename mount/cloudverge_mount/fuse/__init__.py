"""The Linux kernel's FUSE protocol, as values and bytes: requests, replies, notifications and the handshake.

Nothing here reads, writes or waits: bytes come in, values go out, and the other way round. Nothing here knows of the
rest of the mount. Numbers and layouts are the kernel's; all integers are in the machine's own byte order.
"""
