"""People and their rights, as the command line has them: profiles, signing in, sharing, explaining.

Everything here talks HTTP to auth and, for paths and what was done to them, to the metaserver. Nothing here needs FUSE.
"""
