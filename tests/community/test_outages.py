"""What clients notice of a server's bad day. A whole deployment has them all in `nox -s multi_instance`."""

from __future__ import annotations

from araponga_infra import InfraSettings
from examples.community.app import create_app
from examples.community.settings import CommunitySettings
from tests.integrations.serving import served_asgi
from tests.servers.postgres_cluster import PostgresCluster


def test_a_read_is_answered_though_its_standby_hangs(servers: InfraSettings, postgres_pair: PostgresCluster) -> None:
    with served_asgi(create_app(CommunitySettings(infra=servers, instance="one"))) as client:
        assert client.get("/posts/1").status_code == 200
        postgres_pair.standby.pause()
        assert client.get("/posts/1").status_code == 200
