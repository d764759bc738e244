"""A real PostgreSQL for the tests: Debian's server programs on a temporary directory, gone when the tests end.

    with PostgresServer.start() as server, server.database() as url:
        engine = sqlalchemy.create_engine(url)

The server runs as `postgres` when the tests run as root (initdb refuses root), otherwise as the user of the tests.
fsync and synchronous_commit stay on: they are part of what is tested. Text sorts by a language's rules where the server
can do that, so that a query which needs byte order and does not ask for it shows itself.
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg2
from psycopg2 import sql

from tests.needs import not_run
from tests.ports import free_port

_START_TRIES_MAX = 5  # another process may take the port between choosing and using it
_START_S = 30.0
_STOP_S = 20.0
_SETUP_S = 60.0


class PortTaken(Exception):
    """The chosen port went to somebody else."""


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the server runs as; None: as ourselves."""

    name: str | None

    @classmethod
    def choose(cls) -> Self:
        if os.geteuid() != 0:
            return cls(None)
        for name in ("postgres", "nobody"):
            try:
                pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name)
        not_run("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")

    def own(self, path: Path) -> None:
        if self.name is not None:
            entry = pwd.getpwnam(self.name)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The command as that user, ending with us: a server must not outlive a killed test run."""
        prefix = ["setpriv", "--pdeathsig", "QUIT"]
        if self.name is not None:
            entry = pwd.getpwnam(self.name)
            prefix += ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
        return [*prefix, "--", *(str(part) for part in argv)]


def server_programs() -> Path:
    """Folder of the newest installed server's programs; ends the test where there is none.

    Debian and Ubuntu keep them off the PATH, one folder per major version.
    """
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if folders:
        return max(folders, key=_major_version)
    found = shutil.which("initdb")
    if found is None:
        not_run("PostgreSQL's server programs are not installed (Debian package postgresql)")
    return Path(found).parent


def _major_version(folder: Path) -> int:
    digits = re.match(r"\d+", folder.parent.name)
    return int(digits.group()) if digits else 0


class PostgresServer:
    """One running server with an administrator `speedy`, reached over 127.0.0.1 with a password."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, port: int, password: str) -> None:
        self.directory = directory
        self.port = port
        self._process = process
        self._password = password

    @classmethod
    def start(cls) -> Self:
        """A new empty server; ends the test through `not_run` where none is installed."""
        programs = server_programs()
        account = _Account.choose()
        directory = Path(tempfile.mkdtemp(prefix="speedy-pg-"))
        try:
            account.own(directory)
            password = secrets.token_hex(16)
            _create(programs, account, directory, password)
            for _ in range(_START_TRIES_MAX - 1):
                try:
                    return cls._run(programs, account, directory, password)
                except PortTaken:
                    continue
            return cls._run(programs, account, directory, password)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    @classmethod
    def _run(cls, programs: Path, account: _Account, directory: Path, password: str) -> Self:
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(directory),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "fsync": "on",
            "synchronous_commit": "on",
            "log_min_messages": "warning",
        }
        argv: list[str | Path] = [programs / "postgres", "-D", directory / "data"]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        with (directory / "log").open("ab") as log:
            process = subprocess.Popen(
                account.command(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory
            )
        server = cls(process, directory, port, password)
        try:
            server._wait_ready()
        except BaseException:
            server._stop()
            raise
        return server

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            if self._process.poll() is not None:
                log = (self.directory / "log").read_text(errors="replace")
                if "Address already in use" in log:
                    (self.directory / "log").unlink()
                    raise PortTaken(str(self.port))
                raise RuntimeError(f"PostgreSQL ended with {self._process.returncode}:\n{log[-4000:]}")
            try:
                self._connect().close()
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _connect(self) -> "psycopg2.extensions.connection":
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user="speedy",
            password=self._password,
            dbname="postgres",
            connect_timeout=5,
        )
        connection.autocommit = True
        return connection

    def url(self, database: str) -> str:
        """SQLAlchemy's address of a database; the driver is named, for its default differs between versions."""
        return f"postgresql+psycopg2://speedy:{self._password}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database's address; the database goes away at the end, with whoever is still connected."""
        name = f"speedy_{secrets.token_hex(6)}"
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url(name)
        finally:
            self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composed) -> None:
        connection = self._connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown, which drops its connections
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)  # at once, its children too
            self._process.wait(_STOP_S)

    def close(self) -> None:
        """Stops the server and removes its directory."""
        self._stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _create(programs: Path, account: _Account, directory: Path, password: str) -> None:
    """initdb with a password for everybody: other users of the machine reach the port too."""
    secret = directory / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    account.own(secret)
    argv: list[str | Path] = [programs / "initdb", "-D", directory / "data", "-U", "speedy", "-E", "UTF8", "--no-sync"]
    argv += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={secret}"]
    if _major_version(programs) >= 15:
        argv += ["--locale-provider=icu", "--icu-locale=en-US"]
    done = subprocess.run(account.command(argv), capture_output=True, cwd=directory, timeout=_SETUP_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed:\n{_tail(done.stdout)}\n{_tail(done.stderr)}")


def _tail(output: bytes) -> str:
    return output.decode(errors="replace")[-4000:]
