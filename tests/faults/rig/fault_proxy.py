"""A wire to Postgres that can be cut: between a run and the server's socket, at a chosen byte of the conversation."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

BEFORE, AFTER = "before", "after"
"""Where a wire is cut: before the server sees what is sent next, or after it has done it, before it can say so."""
CHUNK = 65_536


class CuttableWire:
    """Listens on a socket of its own, and passes on what it hears, until it is armed: then it cuts one connection."""

    def __init__(self, folder: Path, database_url: str) -> None:
        url = sa.make_url(database_url)
        server = url.query.get("host", url.host)
        assert isinstance(server, str)
        port = url.port or int(str(url.query.get("port", 5432)))
        folder.mkdir(mode=0o700)
        self._server = f"{server}/.s.PGSQL.{port}"
        self.database_url = (
            url.set(host=None, port=None)
            .update_query_dict({"host": str(folder), "port": str(port)})
            .render_as_string(hide_password=False)
        )
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / f".s.PGSQL.{port}"))
        self._listener.listen()
        self._armed: str | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, where: str) -> None:
        """Cut the next connection on which the client says something."""
        self._armed = where

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with contextlib.closing(client), contextlib.closing(server), contextlib.suppress(OSError):
            server.connect(self._server)
            with selectors.DefaultSelector() as ready:
                ready.register(client, selectors.EVENT_READ, server)
                ready.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in ready.select():
                        heard = key.fileobj.recv(CHUNK)  # type: ignore[union-attr]
                        if not heard:
                            return
                        where = self._armed if key.fileobj is client else None
                        if where is None:
                            key.data.sendall(heard)
                            continue
                        self._armed = None
                        self.cuts += 1
                        if where == AFTER:
                            server.sendall(heard)
                            server.recv(CHUNK)  # The server has done it; nobody will hear.
                        return


@contextlib.contextmanager
def cuttable(folder: Path, database_url: str) -> Iterator[CuttableWire]:
    """A wire to a Postgres that listens on a unix socket."""
    wire = CuttableWire(folder, database_url)
    try:
        yield wire
    finally:
        wire.close()
