"""What this user of the machine is called in a cluster when he says nothing else."""

import getpass
import os
import re


def user_name() -> str:
    """This user's name, as auth may take it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"user{os.geteuid()}"
    return re.sub(r"[^a-z0-9._-]", "-", name.lower())[:64].strip("-._") or f"user{os.geteuid()}"
