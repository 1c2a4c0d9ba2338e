"""What clients can count on, embedded and on servers alike."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from araponga_infra import InfraSettings
from examples.community.app import create_app
from examples.community.settings import CommunitySettings
from tests.community.conftest import migrate_and_seed
from tests.integrations.serving import served_asgi
from tests.servers.postgres import PostgresDatabase
from tests.servers.postgres_cluster import PostgresCluster
from tests.servers.processes import wait_until

PROBLEM = "application/problem+json"
LARGEST_ID = 2**63 - 1
THINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "/territories": ({"name": "Costa"}, {"name": "Costa Verde"}),
    "/posts": ({"territory_id": 1, "author": "ana", "title": "Bazar"}, {"title": "Bazar adiado", "body": "Chuva"}),
    "/events": (
        {"territory_id": 1, "title": "Bazar", "place": "Praça", "starts_at": "2099-01-02T21:00:00Z"},
        {"title": "Bazar", "place": "Escola", "starts_at": "2099-01-03T21:00:00Z"},
    ),
    "/map-entities": (
        {"territory_id": 1, "name": "Posto", "kind": "clinic", "latitude": -23.4, "longitude": -45},
        {"name": "Posto de saúde", "kind": "clinic", "latitude": -23.4, "longitude": -45.5},
    ),
    "/memberships": ({"territory_id": 1, "member": "dora"}, {"role": "curator"}),
    "/flags": ({"name": "maps", "is_enabled": False}, {"is_enabled": True}),
}
"""What is posted to make one, and what is put to change it."""
LISTS = {"/events": "/territories/1/events", "/map-entities": "/territories/1/map"}


def make(client: httpx.Client, collection: str) -> str:
    """Make one of them; its path."""
    created = client.post(collection, json=THINGS[collection][0])
    assert (created.status_code, created.headers.get("ETag")) == (201, '"1"'), created.text
    return f"{collection}/{created.json()['name' if collection == '/flags' else 'id']}"


def titles(client: httpx.Client, path: str) -> list[str]:
    return [each["title"] for each in client.get(path).json()["items"]]


def test_every_update_is_of_the_version_that_the_client_saw(client: httpx.Client) -> None:
    for collection, (_, change) in THINGS.items():
        path = make(client, collection)
        assert client.get(path).headers["ETag"] == '"1"', "read once, so that caches have it"

        assert client.put(path, json=change).status_code == 428
        assert client.put(path, json=change, headers={"If-Match": "1"}).status_code == 400
        changed = client.put(path, json=change, headers={"If-Match": '"1"'})
        assert (changed.status_code, changed.headers["ETag"]) == (200, '"2"')
        assert changed.json().items() >= change.items()
        late = client.put(path, json=change, headers={"If-Match": '"1"'})
        assert (late.status_code, late.headers["content-type"]) == (412, PROBLEM)

        after = client.get(path)
        assert (after.json(), after.headers["ETag"]) == (changed.json(), '"2"'), (
            "neither a cache nor a standby is behind"
        )


def test_what_is_removed_is_gone_and_only_as_the_client_saw_it(client: httpx.Client) -> None:
    for collection in ("/posts", "/events", "/map-entities", "/memberships"):
        path = make(client, collection)
        assert client.delete(path).status_code == 428
        assert client.delete(path, headers={"If-Match": '"2"'}).status_code == 412
        assert client.delete(path, headers={"If-Match": '"1"'}).status_code == 204
        assert client.get(path).status_code == 404
        assert client.delete(path, headers={"If-Match": '"1"'}).status_code == 404


def test_cached_lists_follow_each_change(client: httpx.Client) -> None:
    for collection, listing in LISTS.items():
        before = client.get(listing).json()
        path = make(client, collection)
        made = client.get(listing).json()
        assert len(made) == len(before) + 1
        client.put(path, json=THINGS[collection][1], headers={"If-Match": '"1"'})
        assert client.get(listing).json() != made
        client.delete(path, headers={"If-Match": '"2"'})
        assert client.get(listing).json() == before


def test_a_territory_that_was_asked_for_too_early_is_there_once_it_is_founded(client: httpx.Client) -> None:
    assert client.get("/territories/3").status_code == 404
    assert make(client, "/territories") == "/territories/3"
    assert client.get("/territories/3").json() == {"id": 3, "name": "Costa"}
    assert client.get("/territories/3/feed").json() == {"items": [], "next": None}


def test_of_two_editors_at_the_same_time_one_wins(client: httpx.Client) -> None:
    def edit(number: int) -> int:
        change = {"title": f"Feira {number}"}
        return client.put("/posts/1", json=change, headers={"If-Match": '"1"'}).status_code

    with ThreadPoolExecutor(8) as editors:
        answers = sorted(editors.map(edit, range(8)))
    assert answers[0] == 200
    assert set(answers[1:]) <= {409, 412}
    assert client.get("/posts/1").headers["ETag"] == '"2"'


def test_no_like_is_lost(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as admirers:
        counted = list(admirers.map(lambda _: client.post("/posts/1/likes").json()["likes"], range(24)))
    assert sorted(counted) == list(range(1, 25))


def test_a_post_reaches_every_inbox_once(client: httpx.Client) -> None:
    make(client, "/posts")

    def inbox(member: str) -> list[str]:
        return [each["text"] for each in client.get(f"/members/{member}/notifications").json()["items"]]

    wait_until(lambda: "New in your territory: Bazar" in inbox("ana"), 30, "the handler to fill the inboxes")
    for member in ("ana", "bento", "celia"):
        assert inbox(member).count("New in your territory: Bazar") == 1
    assert inbox("dora") == []


def test_an_event_is_announced_while_the_flag_is_on(client: httpx.Client) -> None:
    make(client, "/events")
    announced = "Bazar, 2099-01-02 21:00"

    def inbox() -> list[str]:
        return [each["text"] for each in client.get("/members/celia/notifications").json()["items"]]

    wait_until(lambda: announced in inbox(), 30, "the announcement")
    client.put("/flags/announcements", json={"is_enabled": False}, headers={"If-Match": '"1"'})
    make(client, "/events")
    make(client, "/posts")
    wait_until(lambda: "New in your territory: Bazar" in inbox(), 30, "the post that came after")
    assert inbox().count(announced) == 1


def test_the_feed_goes_on_by_key(client: httpx.Client) -> None:
    assert titles(client, "/feed") == ["Mutirão no rio", "Trilha fechada", "Feira de trocas"]
    first = client.get("/feed", params={"limit": 2}).json()
    assert first["next"] == 2
    make(client, "/posts")
    rest = client.get("/feed", params={"limit": 2, "before": first["next"]}).json()
    assert ([each["title"] for each in rest["items"]], rest["next"]) == (["Feira de trocas"], None)
    assert titles(client, "/territories/2/feed") == ["Trilha fechada"]


def test_members_join_once(client: httpx.Client) -> None:
    joining = {"territory_id": 2, "member": "bento"}
    again = client.post("/memberships", json=joining)
    assert (again.status_code, again.json()["code"]) == (409, "already_exists")
    listed = client.get("/territories/1/members", params={"limit": 2}).json()
    assert ([each["member"] for each in listed["items"]], listed["next"]) == (["ana", "bento"], "bento")


def test_the_last_page_says_that_it_is_the_last(client: httpx.Client) -> None:
    """Also when it is full, which only one row more than fits can tell."""
    make(client, "/territories")
    for member in ("dora", "elis", "fabio"):
        client.post("/memberships", json={"territory_id": 3, "member": member}).raise_for_status()
    for title in ("Bazar", "Mutirão", "Feira"):
        client.post("/posts", json={"territory_id": 3, "author": "dora", "title": title}).raise_for_status()
    inbox = "/members/dora/notifications"
    wait_until(lambda: len(client.get(inbox).json()["items"]) == 3, 30, "the handler to fill the inbox")
    for path in ("/territories", "/territories/3/feed", "/territories/3/members", inbox):
        for limit, is_last in ((2, False), (3, True), (4, True)):
            listed = client.get(path, params={"limit": limit}).json()
            assert (len(listed["items"]), listed["next"] is None) == (min(limit, 3), is_last), (path, limit)


def test_a_cache_is_filled_from_the_primary_while_the_standby_lags(
    servers: InfraSettings, postgres_pair: PostgresCluster
) -> None:
    with served_asgi(create_app(CommunitySettings(servers, consume=False))) as client:
        made = {make(client, collection): change for collection, (_, change) in THINGS.items()}
        postgres_pair.wait_for_catch_up()
        postgres_pair.standby.pause_replay()
        changed = {path: client.put(path, json=made[path], headers={"If-Match": "*"}).json() for path in made}
        client.cookies.clear()  # somebody else asks
        for path in ("/territories/3", "/flags/maps"):
            assert client.get(path).json() == changed[path]
        for collection, listing in LISTS.items():
            [path] = [path for path in changed if path.startswith(collection)]
            listed = {each["id"]: each for each in client.get(listing).json()}
            assert listed[changed[path]["id"]].items() <= changed[path].items()
        postgres_pair.standby.resume_replay()


def test_what_the_commit_refuses_is_no_success(postgres_database: PostgresDatabase) -> None:
    infra = InfraSettings(postgres_database.url())
    asyncio.run(migrate_and_seed(infra))
    postgres_database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE unique_violation; END $$"
    )
    postgres_database.execute(
        "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON community_post INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    with served_asgi(create_app(CommunitySettings(infra, consume=False))) as client:
        refused = client.post("/posts", json=THINGS["/posts"][0])
        assert (refused.status_code, refused.headers["content-type"]) == (409, PROBLEM)
        assert "ETag" not in refused.headers
        assert len(titles(client, "/feed")) == 3


def test_no_request_holds_a_connection_while_it_waits_for_another(postgres_database: PostgresDatabase) -> None:
    """With one connection in all and nothing cached yet; many such requests would use up any pool, and wait for each
    other."""
    infra = InfraSettings(postgres_database.url(), database_pool_size=1)
    asyncio.run(migrate_and_seed(infra))
    with served_asgi(create_app(CommunitySettings(infra, consume=False))) as client:
        for collection in THINGS:
            client.get(make(client, collection)).raise_for_status()
        for path in ("/", "/?territory=2", "/territories/2/feed", "/territories/2/members", "/territories/2/map"):
            client.get(path).raise_for_status()
        client.post("/posts/1/likes").raise_for_status()


BAD_POSTS: dict[str, dict[str, Any]] = {
    "no JSON": {"content": b"{"},
    "no text": {"content": b"\xff\xfe"},
    "too deep": {"content": b"[" * 60_000},
    "half a character": {"content": b'{"territory_id": 1, "author": "ana", "title": "\\ud800"}'},
    "NaN": {"content": b'{"territory_id": NaN, "author": "ana", "title": "x"}'},
    "NUL": {"json": {"territory_id": 1, "author": "ana", "title": "a\0b"}},
    "too long": {"json": {"territory_id": 1, "author": "ana", "title": "x" * 201}},
    "a field that is not theirs": {"json": {"territory_id": 1, "author": "ana", "title": "x", "likes": 1_000_000}},
    "a text for a number": {"json": {"territory_id": "1", "author": "ana", "title": "x"}},
    "more than 64 bits": {"json": {"territory_id": 2**63, "author": "ana", "title": "x"}},
    "more than any number": {"content": b'{"territory_id": 1' + b"0" * 5000 + b"}"},
    "no such territory": {"json": {"territory_id": LARGEST_ID, "author": "ana", "title": "x"}},
    "too large": {"json": {"territory_id": 1, "author": "ana", "title": "x", "body": "x" * 70_000}},
    "too large, unannounced": {"content": [b" " * 1000] * 70},
    "nothing": {},
}
BAD_ADDRESSES = (
    "/posts/0", "/posts/9", f"/posts/{LARGEST_ID}", f"/posts/{2**63}", f"/posts/{'9' * 5000}", "/posts/x", "/posts/%00",
    "/feed?before=0", "/feed?limit=51", "/members/a%00b/notifications", "/territories/9/feed", "/nowhere",
    "/flags/none", "/territories/1/members?after=%00", "/?territory=x",
)  # fmt: skip


def test_a_bad_post_is_the_clients_fault_and_leaves_nothing_behind(client: httpx.Client) -> None:
    for what, broken in BAD_POSTS.items():
        answer = client.post("/posts", headers={"Content-Type": "application/json"}, **broken)
        assert 400 <= answer.status_code < 500, what
        assert answer.headers["content-type"] == PROBLEM, what
        assert answer.json()["status"] == answer.status_code, what
        assert (answer.status_code == 413) == what.startswith("too large"), what
    assert len(titles(client, "/feed")) == 3


def test_a_bad_address_is_a_problem_document(client: httpx.Client) -> None:
    for path in BAD_ADDRESSES:
        answer = client.get(path)
        assert answer.status_code in (404, 422), path
        assert answer.headers["content-type"] == PROBLEM, path


def test_a_method_that_is_not_there_says_which_are(client: httpx.Client) -> None:
    answer = client.patch("/posts/1")
    assert (answer.status_code, answer.headers["content-type"]) == (405, PROBLEM)
    assert answer.headers["Allow"] == "DELETE, GET, PUT"


def test_a_moment_is_a_date_and_a_time_with_its_zone(client: httpx.Client) -> None:
    event = THINGS["/events"][0]
    for moment in ("2099-01-02T21:00:00", "2099-01-02", "4070908800", "4070908800.5", "+5000000000", "1e9", "inf"):
        assert client.post("/events", json=event | {"starts_at": moment}).status_code == 422, moment
    zoned = client.post("/events", json=event | {"starts_at": "2099-01-02T18:00:00-03:00"})
    assert zoned.json()["starts_at"] == "2099-01-02T21:00:00Z"


def test_methods_that_clients_make_up_are_one_in_the_metrics(client: httpx.Client) -> None:
    for number in range(3):
        assert client.request(f"GUESS{number}", "/feed").status_code == 405
    metrics = client.get("/metrics").text
    assert "GUESS" not in metrics
    assert 'http_request_method="_OTHER"' in metrics


def test_each_answer_says_which_instance_gave_it(client: httpx.Client) -> None:
    for path in ("/feed", "/nowhere", "/health/ready", "/"):
        assert client.get(path).headers["Araponga-Instance"] == "one"


def test_the_page_shows_a_territory(client: httpx.Client) -> None:
    client.post("/posts", json={"territory_id": 2, "author": "ana", "title": "<script>alert(1)</script>"})
    page = client.get("/", params={"territory": 2})
    assert page.headers["content-type"].startswith("text/html")
    for shown in ("Serra do Mar", "Trilha fechada", "Caminhada", "Mirante", "curl"):
        assert shown in page.text
    assert "<script>" not in page.text


def test_metrics_are_there_for_prometheus(client: httpx.Client) -> None:
    client.get("/territories/1")
    client.get("/territories/1")
    lines = client.get("/metrics").text.splitlines()
    assert any(line.startswith("araponga_cache_hit_total") for line in lines)
    timed = [line for line in lines if line.startswith("http_server_request_duration_seconds_count")]
    assert any('http_route="/territories/{territory_id}"' in line and line.endswith(" 2.0") for line in timed)
