"""What client and servers must agree on: ids, errors, frames, messages, checksums, the rules of operations.

Pure by contract: no I/O, no clock, no event loop, no randomness. Time and bytes are passed in, values come
out. Everything here may be imported by every room; this room imports no other.
"""
