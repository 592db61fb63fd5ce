"""The one-machine cluster: PostgreSQL, auth, a metaserver and N chunkservers as real child processes.

This room starts processes, it never imports what they run: what a person gets from ``cv up`` is what runs on
many machines, only nearer together. Reading order: folder, settings, plan (what shall run), child and upkeep
(one process, and when to start it again), supervisor (the loop), launcher and verbs (the ``cv`` side).
"""
