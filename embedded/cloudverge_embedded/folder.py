"""Where everything of one embedded cluster lies: a folder that is moved, backed up and deleted as one.

Secrets stand in ``secrets`` (0700, files 0600). As root the top folder can be passed through (0711) but not
listed, because PostgreSQL refuses to run as root and its unprivileged user must reach ``postgres`` below it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from cloudverge_protocol.errors import Code, Denied, NoRoom

DATA_DIR_VARIABLE = "CLOUDVERGE_DATA_DIR"
ROOT_FOLDER = Path("/var/lib/cloudverge")
CA_NAME = "ca.pem"


def default_root() -> Path:
    """The cluster folder of somebody who names none."""
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return ROOT_FOLDER if os.geteuid() == 0 else platformdirs.user_data_path("cloudverge")


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths below one cluster folder; ``root`` is absolute."""

    root: Path

    @property
    def cluster_file(self) -> Path:
        """The endpoints, for clients: rewritten whenever a child gets a new pid."""
        return self.root / "cluster.json"

    @property
    def settings_file(self) -> Path:
        """What was asked for; written by ``cv up`` only."""
        return self.root / "settings.json"

    @property
    def up_lock(self) -> Path:
        """Held while a ``cv up`` or ``cv down`` works on this cluster."""
        return self.root / "up.lock"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor as long as it lives; contains its pid."""
        return self.root / "supervisor.lock"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def join_token(self) -> Path:
        return self.secrets / "join-token"

    @property
    def admin_invitation(self) -> Path:
        """A secret that makes one user the first administrator."""
        return self.secrets / "admin-invitation"

    @property
    def ca_certificate(self) -> Path:
        """The cluster's certificate authority; no secret."""
        return self.root / CA_NAME

    @property
    def ca_key(self) -> Path:
        return self.secrets / "ca.key"

    def certificate(self, name: str) -> Path:
        """The certificate of one server."""
        return self.secrets / f"{name}.pem"

    def certificate_key(self, name: str) -> Path:
        return self.secrets / f"{name}.key"

    @property
    def passwords(self) -> Path:
        return self.secrets / "postgres-passwords.json"

    def dsn_file(self, role: str) -> Path:
        """The file holding the DSN of ``owner``, ``auth`` or ``meta``."""
        return self.secrets / f"{role}-dsn"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def log_file(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @property
    def run(self) -> Path:
        """Ready files, pids and the two notes between ``cv up`` and the supervisor."""
        return self.root / "run"

    def ready_file(self, name: str) -> Path:
        return self.run / f"{name}.ready"

    @property
    def children_file(self) -> Path:
        """Pids and start times of the children, for whoever finds the supervisor killed."""
        return self.run / "children.json"

    @property
    def request_file(self) -> Path:
        return self.run / "request.json"

    @property
    def answer_file(self) -> Path:
        return self.run / "answer.json"

    @property
    def postgres(self) -> Path:
        """Owned by the user PostgreSQL runs as."""
        return self.root / "postgres"

    @property
    def postgres_data(self) -> Path:
        return self.postgres / "data"

    def home_of(self, name: str) -> Path:
        """The data folder of an auth, metaserver or chunkserver child."""
        return self.root / name

    def make(self) -> None:
        """Create what every cluster has, with the right modes; nothing existing is emptied."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o711 if os.geteuid() == 0 else 0o700)
            for path in (self.secrets, self.logs, self.run):
                path.mkdir(mode=0o700, exist_ok=True)
                path.chmod(0o700)
        except PermissionError as error:
            raise Denied(Code.FORBIDDEN, f"the cluster folder {self.root} is not yours: {error}") from error
        except OSError as error:
            raise NoRoom(Code.NO_SPACE, f"cannot make the cluster folder {self.root}: {error}") from error
