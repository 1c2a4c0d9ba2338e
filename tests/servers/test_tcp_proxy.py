"""The proxy breaks what goes through it, exactly when it is told to, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
import redis
import redis.asyncio

from . import PostgresDatabase, RedisServer, TcpProxy, wait_until


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        connection: socket.socket = self.request
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def echo_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def proxy(echo_port: int) -> Iterator[TcpProxy]:
    with TcpProxy(echo_port) as proxy:
        yield proxy


def _connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def _receive(client: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (data := client.recv(count)):
        received += data
    return received


def _echo(client: socket.socket, data: bytes = b"ping") -> bytes:
    client.sendall(data)
    return _receive(client, len(data))


def test_bytes_and_ends_of_streams_go_both_ways(proxy: TcpProxy) -> None:
    with _connect(proxy) as client:
        assert _echo(client) == b"ping"
        assert proxy.connections == 1
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""

    wait_until(lambda: proxy.connections == 0, 5, "the connection to end")


def test_megabytes_go_through_unchanged(proxy: TcpProxy) -> None:
    sent = bytes(range(256)) * 4096 * 8
    with _connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=[sent])
        sender.start()
        received = _receive(client, len(sent))
        sender.join()

    # Compared by length and once, for a report of eight megabytes helps nobody.
    assert len(received) == len(sent)
    assert (received == sent) is True


def test_cut_resets_connections_and_refuses_new_ones_until_restored(proxy: TcpProxy) -> None:
    with _connect(proxy) as client:
        _echo(client)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionRefusedError):
            _connect(proxy)
        assert proxy.connections == 0

    proxy.restore()
    with _connect(proxy) as client:
        assert _echo(client) == b"ping"


def test_reset_connections_still_accepts_new_ones(proxy: TcpProxy) -> None:
    with _connect(proxy) as client, _connect(proxy) as other:
        _echo(client)
        _echo(other)
        proxy.reset_connections()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        with pytest.raises(ConnectionResetError):
            other.recv(1)

    with _connect(proxy) as client:
        assert _echo(client) == b"ping"


def test_a_black_hole_keeps_connections_open_and_swallows_their_bytes(proxy: TcpProxy) -> None:
    with _connect(proxy) as old:
        _echo(old)
        proxy.black_hole()
        with _connect(proxy) as new:
            for client in (old, new):
                client.settimeout(0.1)
                client.sendall(b"lost")
                with pytest.raises(TimeoutError):
                    client.recv(1)
            assert proxy.connections == 2


def test_after_a_black_hole_only_connections_that_lost_bytes_are_reset(proxy: TcpProxy) -> None:
    with _connect(proxy) as losing, _connect(proxy) as quiet:
        _echo(losing)
        _echo(quiet)
        proxy.black_hole()
        losing.settimeout(0.1)
        with pytest.raises(TimeoutError):
            _echo(losing)
        proxy.restore()

        with pytest.raises(ConnectionResetError):
            losing.recv(1)
        assert _echo(quiet) == b"ping"


def test_connections_that_lost_bytes_can_stay_silent_for_ever(proxy: TcpProxy) -> None:
    with _connect(proxy) as losing:
        _echo(losing)
        proxy.black_hole()
        losing.sendall(b"lost")
        wait_until(lambda: any(each.has_lost_bytes for each in proxy._open.values()), 5, "the bytes to be lost")
        proxy.restore(silently=True)

        losing.settimeout(0.1)
        losing.sendall(b"lost as well")
        with pytest.raises(TimeoutError):
            losing.recv(1)
        with _connect(proxy) as new:
            assert _echo(new) == b"ping"


def test_a_stall_keeps_bytes_and_connections_until_restored(proxy: TcpProxy) -> None:
    with _connect(proxy) as old:
        _echo(old)
        proxy.stall()
        with _connect(proxy) as new:
            for client in (old, new):
                client.settimeout(0.1)
                client.sendall(b"late")
                with pytest.raises(TimeoutError):
                    client.recv(1)
            proxy.restore()
            for client in (old, new):
                client.settimeout(5)
                assert _receive(client, 4) == b"late"


def test_a_black_hole_hides_from_the_server_that_a_client_went_away(
    proxy: TcpProxy, postgres_database: PostgresDatabase
) -> None:
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gone'"
    with TcpProxy(postgres_database.server.port) as to_postgres:
        client = psycopg.connect(postgres_database.url(port=to_postgres.port), application_name="gone")
        to_postgres.black_hole()
        client.close()
        assert postgres_database.execute(sessions) == [(1,)]

        to_postgres.restore()
        wait_until(lambda: postgres_database.execute(sessions) == [(0,)], 5, "the server to see the reset")


def test_black_hole_after_cut_accepts_again(proxy: TcpProxy) -> None:
    proxy.cut()
    proxy.black_hole()
    with _connect(proxy) as client:
        assert client.getpeername() == ("127.0.0.1", proxy.port)


@pytest.mark.parametrize(("to_server", "to_client"), [(0.2, 0.0), (0.0, 0.2), (0.1, 0.1)])
def test_bytes_are_delayed_per_direction(proxy: TcpProxy, to_server: float, to_client: float) -> None:
    proxy.delay(to_server=to_server, to_client=to_client)
    with _connect(proxy) as client:
        started = time.monotonic()
        _echo(client)
        assert time.monotonic() - started >= 0.2


def test_a_delay_in_one_direction_leaves_the_other_alone(proxy: TcpProxy, redis_server: RedisServer) -> None:
    with TcpProxy(redis_server.port) as to_redis, _connect(to_redis) as client:
        to_redis.delay(to_client=3600)
        client.sendall(b"SET k v\r\n")
        wait_until(lambda: bool(redis_server.execute("GET", "k") == "v"), 5, "the command to arrive")


@pytest.mark.parametrize("end", [TcpProxy.delay, TcpProxy.restore])
def test_a_delay_can_be_ended(proxy: TcpProxy, end: Callable[[TcpProxy], None]) -> None:
    proxy.delay(to_server=3600, to_client=3600)
    end(proxy)
    with _connect(proxy) as client:
        assert _echo(client) == b"ping"


def test_the_delay_is_latency_and_not_a_rate(proxy: TcpProxy) -> None:
    proxy.delay(to_server=0.2)
    with _connect(proxy) as client:
        started = time.monotonic()
        for _ in range(20):
            client.sendall(b"x")
            time.sleep(0.005)  # so that they are twenty chunks
        _receive(client, 20)

    assert time.monotonic() - started < 20 * 0.2 / 2


def _insert_and_commit(database: PostgresDatabase, port: int) -> None:
    with psycopg.connect(database.url(port=port)) as connection:
        connection.execute("INSERT INTO place VALUES (1)")


@pytest.mark.parametrize(("when", "rows"), [("before_forward", []), ("after_forward", [(1,)])])
def test_a_connection_is_lost_while_commit_is_in_flight(
    postgres_database: PostgresDatabase, when: Literal["before_forward", "after_forward"], rows: list[tuple[int]]
) -> None:
    postgres_database.execute("CREATE TABLE place (id int)")
    with TcpProxy(postgres_database.server.port) as proxy:
        cut = proxy.cut_when(lambda data: b"COMMIT" in data, when)
        with psycopg.connect(postgres_database.url(port=proxy.port), autocommit=True) as bystander:
            with pytest.raises(psycopg.OperationalError):
                _insert_and_commit(postgres_database, proxy.port)
            assert cut.wait(5)

            assert bystander.execute("SELECT id FROM place").fetchall() == rows
            _insert_and_commit(postgres_database, proxy.port)
            assert len(postgres_database.execute("SELECT id FROM place")) == len(rows) + 1


def test_a_cut_waits_for_its_moment_and_happens_as_often_as_asked(proxy: TcpProxy) -> None:
    cut = proxy.cut_when(lambda data: data == b"now", times=2)
    for _ in range(2):
        with _connect(proxy) as client:
            assert _echo(client) == b"ping"
            with pytest.raises(ConnectionResetError):
                _echo(client, b"now")
        assert cut.happened

    with _connect(proxy) as client:
        assert _echo(client, b"now") == b"now"


def test_restore_forgets_cuts_that_did_not_happen(proxy: TcpProxy) -> None:
    cut = proxy.cut_when(lambda data: True)
    proxy.restore()
    with _connect(proxy) as client:
        assert _echo(client) == b"ping"
    assert not cut.happened


def test_a_predicate_that_fails_ends_the_connection_and_is_raised_when_the_proxy_closes(echo_port: int) -> None:
    def failing(data: bytes) -> bool:
        raise LookupError("the test's own mistake")

    proxy = TcpProxy(echo_port)
    proxy.cut_when(failing)
    with _connect(proxy) as client, pytest.raises(ConnectionResetError):
        _echo(client)
    with pytest.raises(ExceptionGroup) as raised:
        proxy.close()
    assert raised.group_contains(LookupError)


def test_a_client_of_a_dead_server_is_reset(proxy: TcpProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    # Already while it connects, or at its first bytes.
    with TcpProxy(port) as to_nowhere, pytest.raises(ConnectionError), _connect(to_nowhere) as client:
        _echo(client)


def test_closing_twice_is_harmless_and_frees_the_port(echo_port: int) -> None:
    proxy = TcpProxy(echo_port)
    proxy.close()
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        _connect(proxy)


@pytest.mark.anyio
async def test_asyncio_clients_in_numbers(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with TcpProxy(port) as proxy:
        client = redis.asyncio.Redis(port=proxy.port, max_connections=50)
        counts = await asyncio.gather(*(client.incr("k") for _ in range(50)))
        assert sorted(counts) == list(range(1, 51))
        await client.aclose()


@pytest.mark.anyio
async def test_an_asyncio_client_loses_its_connection_at_commit(postgres_database: PostgresDatabase) -> None:
    postgres_database.execute("CREATE TABLE place (id int)")
    with TcpProxy(postgres_database.server.port) as proxy:
        proxy.cut_when(lambda data: b"COMMIT" in data)
        connection = await asyncpg.connect(postgres_database.url(port=proxy.port))
        with pytest.raises((ConnectionError, asyncpg.PostgresConnectionError)):
            async with connection.transaction():
                await connection.execute("INSERT INTO place VALUES (1)")

    assert postgres_database.execute("SELECT id FROM place") == [(1,)]
