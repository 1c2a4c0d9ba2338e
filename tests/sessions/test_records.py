"""What an observer hears of a replica that goes and comes back, by its stable name."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from araponga_infra import CountingObserver, ReplicaSet
from tests.servers import wait_until
from tests.servers.fixtures import ReplicatedDatabase, StartTcpProxy


def test_a_replica_that_goes_and_comes_back(replicated_database: ReplicatedDatabase, tcp_proxy: StartTcpProxy) -> None:
    counters = CountingObserver()
    proxy = tcp_proxy(replicated_database.standby.server.port)
    replica = replicated_database.standby.url(port=proxy.port)

    def heard(name: str) -> int:
        with suppress(OperationalError), replicas.read() as session:
            session.execute(text("SELECT 1"))
        return counters.snapshot()[name]

    with ReplicaSet(replicated_database.primary.url(), [replica], check_interval=0.2, observer=counters) as replicas:
        assert heard("replica.out") == 0
        wait_until(lambda: replicas.status()[0].is_available, 20, "the replica's first check")
        assert heard("replica.back") == 0, "it has not been away"
        proxy.cut()
        wait_until(lambda: heard("replica.out") > 0, 20, "the replica to be taken out")
        wait_until(lambda: heard("replica.fallback") > 0, 20, "a read on the primary")
        proxy.restore()
        wait_until(lambda: heard("replica.back") == 1, 20, "the replica to come back")
