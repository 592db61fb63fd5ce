"""The mount: the FUSE client. One process, one trio loop, one space, one active session.

Reading order: binding (what the kernel asks) -> vfs (what it means) -> localset, journal, shipper (names) and
content, uploader, reader (bytes) -> connection, metaclient (the wires). Imports the protocol and no other room.
"""
