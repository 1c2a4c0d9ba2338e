"""The clients: bounded in number, rate and time, each with its own cookies, each knowing what it was told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.community.middleware import INSTANCE_HEADER
from tests.multi_instance.ledger import Answer, Edit, Ledger, Outcome

__all__ = ["Load", "Places", "Reply", "send"]

TIMEOUT_SECONDS = 10.0
TOKEN_COOKIE = "araponga_write_token"


@dataclass(frozen=True)
class Places:
    """The rows that all clients meet at, made before the load begins."""

    territories: tuple[int, ...]
    members: tuple[str, ...]
    events: tuple[int, ...]
    flags: tuple[str, ...]
    popular: tuple[int, ...]


@dataclass(frozen=True)
class Reply:
    """An answer with what the client goes on with."""

    answer: Answer
    body: Any = None
    version: int = 0
    has_token: bool = False


async def send(http: httpx.AsyncClient, kind: str, path: str, **options: Any) -> Reply:
    """One request; whatever comes of it is a reply."""
    method, started = kind.split()[0], time.monotonic()
    try:
        response = await http.request(method, path, **options)
    except httpx.TransportError:
        return Reply(Answer(kind, started, time.monotonic() - started, None))
    body = json.loads(response.content) if "json" in response.headers.get("Content-Type", "") else None
    code = str(body["code"]) if response.is_error and isinstance(body, dict) else ""
    instance = response.headers.get(INSTANCE_HEADER, "")
    answer = Answer(kind, started, time.monotonic() - started, response.status_code, instance, code)
    version = int(response.headers.get("ETag", '"0"').strip('"'))
    return Reply(answer, body, version, TOKEN_COOKIE in response.cookies)


@dataclass
class Load:
    """What all clients share.

    Attributes:
        answers: every request that was made, in the order of the answers.
        may_edit: closed while somebody compares what is cached with the database.
    """

    address: str
    places: Places
    ledger: Ledger = field(default_factory=Ledger)
    answers: list[Answer] = field(default_factory=list)
    may_edit: Gate = field(default_factory=lambda: Gate())

    @asynccontextmanager
    async def clients(self, count: int, *, per_second_each: float, name: str = "client") -> AsyncIterator[None]:
        """So many clients, at work until the end of the block."""
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(self._client(f"{name}-{number}", 1 / per_second_each, ending))
            try:
                yield
            finally:
                ending.set()

    async def _client(self, name: str, interval: float, ending: asyncio.Event) -> None:
        # Nothing is encrypted here, and to load the certificates for each client would hold up all others.
        async with httpx.AsyncClient(base_url=self.address, timeout=TIMEOUT_SECONDS, verify=False) as http:
            client = Client(name, http, self)
            while not ending.is_set():
                next_turn = time.monotonic() + interval
                await client.act()
                await asyncio.sleep(next_turn - time.monotonic())


class Client:
    """Does one thing after the other. What it has written, it expects to read, whoever answers."""

    def __init__(self, name: str, http: httpx.AsyncClient, load: Load) -> None:
        self._name = name
        self._http = http
        self._load = load
        self._places = load.places
        self._ledger = load.ledger
        self._rng = random.Random(name)
        self._published = 0
        acts: dict[Callable[[], Awaitable[None]], int] = {
            self._read: 60, self._publish: 10, self._like: 10, self._edit_event: 4, self._rename: 3, self._toggle: 3,
        }  # fmt: skip
        self._acts = list(acts)
        self._weights = list(acts.values())

    async def act(self) -> None:
        [chosen] = self._rng.choices(self._acts, self._weights)
        await chosen()

    async def _read(self) -> None:
        territory = self._any(self._places.territories)
        kind, path = self._any([
            ("GET /feed", "/feed"),
            ("GET /territories/N", f"/territories/{territory}"),
            ("GET /territories/N/feed", f"/territories/{territory}/feed"),
            ("GET /territories/N/events", f"/territories/{territory}/events"),
            ("GET /flags/N", f"/flags/{self._any(self._places.flags)}"),
            ("GET /members/N/notifications", f"/members/{self._any(self._places.members)}/notifications"),
        ])  # fmt: skip
        await self._send(kind, path)

    async def _publish(self) -> None:
        self._published += 1
        title, territory = f"{self._name}, post {self._published}", self._any(self._places.territories)
        post = {"territory_id": territory, "author": self._name, "title": title}
        published = await self._send("POST /posts", "/posts", json=post)
        self._ledger.posts[title] = published.answer.outcome
        if self._is_acknowledged(published):
            id = published.body["id"]
            read = await self._follow(published, "GET /posts/N", f"/posts/{id}")
            self._expect(read, read.answer.status == 200, f"post {id} is {read.answer.status} to its author")
            feed = f"/territories/{territory}/feed"
            read = await self._follow(published, "GET /territories/N/feed", feed, params={"limit": 50})
            there = {item["id"] for item in read.body["items"]} if read.body and "items" in read.body else set()
            self._expect(read, id in there, f"post {id} is not in its author's feed")

    async def _like(self) -> None:
        post = self._any(self._places.popular)
        liked = await self._send("POST /posts/N/likes", f"/posts/{post}/likes")
        self._ledger.likes[post][liked.answer.outcome] += 1
        if self._is_acknowledged(liked):
            likes = liked.body["likes"]
            read = await self._follow(liked, "GET /posts/N", f"/posts/{post}")
            seen = read.body.get("likes", 0) if read.body else 0
            self._expect(read, seen >= likes, f"post {post} had {likes} likes, and has {seen}")

    async def _edit_event(self) -> None:
        path = f"/events/{self._any(self._places.events)}"
        title = f"{self._name}, {self._rng.getrandbits(32):08x}"
        change = {"title": title, "place": "Foz do rio", "starts_at": "2190-01-31T18:00:00Z"}
        edited = await self._edit("/events/N", path, lambda _event: (title, change))
        if edited is not None and self._is_acknowledged(edited):
            read = await self._follow(edited, "GET /events/N", path)
            seen = f"{path} was at version {edited.version}, and is at {read.version}"
            self._expect(read, read.version >= edited.version, seen)

    async def _rename(self) -> None:
        path = f"/territories/{self._any(self._places.territories)}"
        name = f"{self._name}, {self._rng.getrandbits(32):08x}"
        await self._edit("/territories/N", path, lambda _territory: (name, {"name": name}))

    async def _toggle(self) -> None:
        path = f"/flags/{self._any(self._places.flags)}"

        def other(flag: Any) -> tuple[bool, dict[str, Any]]:
            is_enabled = not flag["is_enabled"]
            return is_enabled, {"is_enabled": is_enabled}

        await self._edit("/flags/N", path, other)

    async def _edit(
        self, route: str, path: str, change_of: Callable[[Any], tuple[object, dict[str, Any]]]
    ) -> Reply | None:
        """Read, change, and say which version was seen."""
        async with self._load.may_edit:
            read = await self._send(f"GET {route}", path)
            if read.answer.status != 200:
                return None
            seen, (value, change) = read.version, change_of(read.body)
            edited = await self._send(f"PUT {route}", path, json=change, headers={"If-Match": f'"{seen}"'})
            outcome = edited.answer.outcome
            made = edited.version if outcome is Outcome.ACKNOWLEDGED else None
            self._ledger.edits[path].append(Edit(seen, value, outcome, made))
            return edited

    async def _send(self, kind: str, path: str, **options: Any) -> Reply:
        reply = await send(self._http, kind, path, **options)
        self._load.answers.append(reply.answer)
        return reply

    async def _follow(self, written: Reply, kind: str, path: str, **options: Any) -> Reply:
        read = await self._send(kind, path, **options)
        if not read.answer.has_failed:
            self._ledger.followed[written.answer.instance, read.answer.instance] += 1
        return read

    def _is_acknowledged(self, written: Reply) -> bool:
        """Acknowledged, and with the token that reads after it need."""
        is_acknowledged = written.answer.outcome is Outcome.ACKNOWLEDGED
        if is_acknowledged and not written.has_token:
            self._ledger.without_token += 1
        return is_acknowledged and written.has_token

    def _expect(self, read: Reply, is_seen: bool, otherwise: str) -> None:
        if not read.answer.has_failed and not is_seen:
            self._ledger.stale.append(f"{otherwise} (on {read.answer.instance}, at {read.answer.started:.1f})")

    def _any(self, choices: Sequence[Any]) -> Any:
        return self._rng.choice(choices)


class Gate:
    """Lets many through, unless it is closed, which waits for those inside."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._is_closed = False

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_closed)
            self._inside += 1

    async def __aexit__(self, *_exception: object) -> None:
        async with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        async with self._changed:
            self._is_closed = True
            await self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            async with self._changed:
                self._is_closed = False
                self._changed.notify_all()
