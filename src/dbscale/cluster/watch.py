"""Looking at each node, in a thread and on a connection of its own: one that hangs holds up no other."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import psycopg

from dbscale.cluster.connections import PID
from dbscale.drivers import replication

if TYPE_CHECKING:
    from dbscale.cluster.groups import Group
    from dbscale.cluster.nodes import Node


class Watch(threading.Thread):
    """Looks at one node every `interval` seconds (spread by a quarter), and at once when `wake` is set."""

    def __init__(self, group: Group, node: Node, interval: float) -> None:
        super().__init__(name=f"dbscale-watch-{node.name}", daemon=True)
        self.group, self.node, self.interval = group, node, interval
        self.wake = threading.Event()
        self._ended = threading.Event()
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def run(self) -> None:
        while not self._ended.is_set():
            self._look()
            pause = self.interval * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
            if self.node.view.state == "probation":
                pause /= 4  # back, and read from after a second good look
            if self.node.error:
                pause = max(pause, self.node.view.retry_at - time.monotonic())
            self.wake.wait(pause)
            self.wake.clear()
        if self._connection is not None:
            self._connection.close()

    def stop(self) -> None:
        """End the thread; does not wait for a look that hangs."""
        self._ended.set()
        self.wake.set()
        self.join(timeout=1)

    def _look(self) -> None:
        try:
            if self._connection is None:
                self._connection = self._connected()
            at = time.monotonic()
            place = replication.look(self._connection)
        except psycopg.Error as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if not self._ended.is_set():
                self.group.lost(self.node, error)
        else:
            self.group.saw(self.node, place, at)

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        connection = psycopg.connect(
            self.node.url,
            autocommit=True,
            prepare_threshold=None,
            application_name=f"{self.group.app} watch",
            connect_timeout=2,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=2,
            tcp_user_timeout=2000,
        )
        row = connection.execute(PID).fetchone()
        self.node.pooled = row is not None and row[0] != connection.info.backend_pid
        return connection
