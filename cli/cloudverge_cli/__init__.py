"""The command line ``cv``: one program whose verbs come from the installed rooms.

This room knows no other room. A verb is an entry point of the group ``cloudverge.verbs``, a plain function
with typer annotations; only the chosen verb's module is ever imported, so that a storage host has its verbs
without FUSE and ``cv --help`` answers at once.
"""
