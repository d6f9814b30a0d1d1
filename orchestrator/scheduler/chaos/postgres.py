"""A PostgreSQL server of our own, for drills and tests: a temporary folder, a loopback port, the user `postgres`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from orchestrator.scheduler.chaos.ports import free_ports

_START_SECONDS = 60


class PostgresMissing(Exception):
    """PostgreSQL's server programs are not installed; the text says what was looked for."""


class PostgresServer:
    """Started by the constructor; `stop` removes everything. `database()` makes a fresh, empty database."""

    def __init__(self, folder: Path | None = None, *, durable: bool = True) -> None:
        self._durable = durable
        self._programs = _program_folder()
        self.folder = folder or Path(tempfile.mkdtemp(prefix="frontier-pg-", dir="/tmp"))
        self.port = free_ports(1)[0]
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
            self.folder.chmod(0o700)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=100"
        options += "" if self._durable else " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-t", str(_START_SECONDS), "-o", options, "start")

    def restart(self, *, mode: str = "immediate", pause_seconds: float = 0.0) -> None:
        """Stop in the given mode (`immediate` is a crash), stay away, start again."""
        self.halt(mode)
        time.sleep(pause_seconds)
        self.start()

    def halt(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def stop(self) -> None:
        """End the server, however it stands, and remove its folder."""
        if (self.data / "postmaster.pid").exists():
            subprocess.run(self._command("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop"), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self, template: str = "template1") -> str:
        """The URL of a new database, a copy of `template`."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-T", template, name)
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        # The server inherits its output: a pipe would never close.
        done = subprocess.run(
            self._command(program, *arguments), check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)} ended with {done.returncode}")

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), *arguments]
        return (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
            if self._is_root
            else command
        )

    @property
    def _is_root(self) -> bool:
        return os.geteuid() == 0


def _program_folder() -> Path:
    config = shutil.which("pg_config")
    if config is not None:
        folder = Path(subprocess.run([config, "--bindir"], check=True, capture_output=True, text=True).stdout.strip())
        if (folder / "initdb").is_file():
            return folder
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    raise PostgresMissing("PostgreSQL server programs (initdb, pg_ctl) are not installed")
