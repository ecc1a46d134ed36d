"""A PostgreSQL server of a test's own, where Debian's package is installed."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """Folder of initdb and pg_ctl, None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A server on a free port of this machine; its URL for SQLAlchemy."""
    bin_, folder = programs(), Path(tempfile.mkdtemp(prefix="omniad_pg_"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    user = "postgres" if run_as else getpass.getuser()
    if run_as:
        shutil.chown(folder, "postgres")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

    def call(*words) -> None:
        subprocess.run([*run_as, *map(str, words)], check=True, stdout=subprocess.DEVNULL, cwd=folder)

    call(bin_ / "initdb", "-D", folder / "data", "-A", "trust", "-U", user)
    call(bin_ / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
    try:
        yield f"postgresql+psycopg://{user}@127.0.0.1:{port}/postgres"
    finally:
        call(bin_ / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
