"""cloudverge-metaserver: read the settings, serve until told to stop."""

import sys

from cloudverge_metaserver.app import started
from cloudverge_metaserver.settings import MetaSettings
from cloudverge_wire.arguments import parse
from cloudverge_wire.process import run


def main() -> None:
    """The installed command."""
    sys.exit(run("metaserver", parse(MetaSettings), started))


if __name__ == "__main__":
    main()
