"""A community service in one file: embedded SQLite and memory, nothing to start.

    pip install araponga_infra && python quickstart.py

With ARAPONGA_DATABASE_URL, ARAPONGA_DATABASE_READONLY_URL and ARAPONGA_REDIS_URL set, the same file runs on PostgreSQL,
its standby and Redis.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from araponga_infra import (
    DeliveryContext,
    EventRouter,
    Infrastructure,
    PreconditionFailedError,
    ReadOnlyViolationError,
    RowVersion,
    etag,
    event,
    expect_version,
    parse_if_match,
)


class Base(DeclarativeBase): ...


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]


class TerritoryRow(Base):
    __tablename__ = "territory"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@dataclass(frozen=True)
class Territory:
    """What is cached: a value, not an ORM row."""

    id: int
    name: str


@event("community.post_published", version=1)
@dataclass(frozen=True)
class PostPublished:
    post_id: int


@event("community.badge_awarded", version=1)
@dataclass(frozen=True)
class BadgeAwarded:
    badge: str


router = EventRouter()
printer_is_fixed = False


@router.subscribe(PostPublished)  # the handler's name in the store: "notify_followers"
def notify_followers(published: PostPublished, context: DeliveryContext) -> None:
    if context.attempt < 3:
        raise ConnectionError("mail server is out to lunch")
    print(f"  post {published.post_id}: followers notified at attempt {context.attempt}")


@router.subscribe(BadgeAwarded, max_attempts=2)
def print_badge(awarded: BadgeAwarded) -> None:
    if not printer_is_fixed:
        raise OSError("printer on fire")
    print(f"  badge {awarded.badge!r} printed")


def edit(session: Session, post_id: int, *, title: str | None = None, body: str | None = None) -> Post:
    post = session.get_one(Post, post_id)
    post.title, post.body = title or post.title, body or post.body
    return post


logging.getLogger("araponga_infra.events").setLevel(logging.CRITICAL)  # the failures of section 4 are staged

# embedded=True: with no database named, a SQLite file, gone at the end. consume=False: section 4 runs the handlers.
with Infrastructure.from_env(routers=[router], embedded=True, consume=False) as infra:
    Base.metadata.create_all(infra.engine)
    with infra.write() as session:  # begin ... COMMIT, as sessionmaker.begin()
        session.add_all([post := Post(title="Feira", body="Sábado"), vale := TerritoryRow(name="Vale do Itamambuca")])

    print("1. Two editors, one post: a conflict")
    opened_at = etag(post)

    def slow_editor(session: Session) -> Post:
        edited = edit(session, post.id, title="Feira de trocas")
        if edited.row_version == 1:  # only in the first attempt: another editor is faster
            with infra.write() as other:  # (not execute(): that would be nesting, and is refused)
                edit(other, post.id, body="Domingo")
        return edited

    edited = infra.concurrency.execute(slow_editor)  # conflict, fresh session, second attempt
    print(f"  {edited.title} / {edited.body}, version {edited.row_version}: neither edit is lost")

    def edit_what_i_saw(session: Session) -> Post:
        seen = session.get_one(Post, post.id)
        expect_version(seen, parse_if_match(opened_at))
        seen.title = "Bazar"
        return seen

    try:
        infra.concurrency.execute(edit_what_i_saw)
    except PreconditionFailedError as error:  # a browser tab from before: 412, not retried
        print(f"  refused: {error}")

    print("2. Territories through the cache")

    def load() -> Territory:
        print("  (asking the database)")
        with infra.read(fresh=True) as session:  # a loader must not cache what a lagging replica still shows
            row = session.get_one(TerritoryRow, vale.id)
            return Territory(row.id, row.name)

    territories = infra.cache.region("territory", Territory, ttl=timedelta(minutes=10))
    for _ in range(2):
        print(f"  {territories.get_or_set(vale.id, load)}")

    print("3. A read-only report")
    with infra.read(after=infra.replicas.write_token()) as session:  # a replica that has seen the writes above
        report = session.scalars(select(Post)).all()
        print(f"  {len(report)} post(s)")
        try:
            report[0].title = "oops"
            session.commit()
        except ReadOnlyViolationError as error:
            print(f"  refused: {error}")

    print("4. Events")
    with infra.write() as session:
        session.add(announced := Post(title="Mutirão", body="Trilha"))
        session.flush()
        infra.events.publish_in(session, PostPublished(announced.id))  # with this COMMIT, or not at all
    infra.events.publish(BadgeAwarded("guardian"))
    outcome = infra.events.run_until_idle(raise_dead=False)  # a service would not call this: it just lives on
    print(f"  {outcome.completed} completed, {outcome.retried} retries, {len(outcome.dead)} dead")

    for dead in infra.events.dead_letters:
        print(f"  dead: {dead.handler} of {dead.event_name} after {dead.attempts} attempts: {dead.reason}")
        printer_is_fixed = True
        infra.events.dead_letters.redrive(dead.id)
    infra.events.run_until_idle()
