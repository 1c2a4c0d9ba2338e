"""Background events alone: a transaction's outbox, a handler that fails at first, a dead letter and its redrive."""

import logging
from dataclasses import dataclass

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from araponga_infra import BackgroundEventProcessor, DeliveryContext, EventRouter, GiveUp, SqlAlchemyEventStore, event


class Base(DeclarativeBase): ...


class Inbox(Base):
    __tablename__ = "inbox"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@event("territory.flooded", version=1)
@dataclass(frozen=True)
class Flooded:
    territory: str


router = EventRouter(prefix="alerts.")
numbers = {"Vale": "+55 12 3456"}


@router.subscribe(Flooded)  # asks for the session: work and acknowledgement commit as one
def write_inbox(flooded: Flooded, session: Session) -> None:
    session.add(Inbox(text=f"{flooded.territory} is under water"))


@router.subscribe(Flooded)
def call(flooded: Flooded, context: DeliveryContext) -> None:
    if flooded.territory not in numbers:
        raise GiveUp(f"nobody to call in {flooded.territory}")
    if context.attempt == 1:
        raise ConnectionError("line is busy")
    print(f"  called {flooded.territory} at attempt {context.attempt}")


logging.getLogger("araponga_infra.events").setLevel(logging.CRITICAL)  # the failures here are staged
engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
Base.metadata.create_all(engine)
store = SqlAlchemyEventStore(engine)
store.create_schema()

with BackgroundEventProcessor(store, routers=[router], consume=False) as events:  # a worker: consume=True, the default
    with Session(engine) as session:
        events.publish_in(session, Flooded("Vale"))  # not committed: nobody hears of it
    print("1. Rolled back:", events.run_until_idle().completed, "deliveries")
    with Session(engine) as session, session.begin():
        events.publish_in(session, Flooded("Vale"))
    print("2. Committed:")
    print(" ", events.run_until_idle().completed, "deliveries")
    events.publish(Flooded("Serra"))
    print("3. Given up:", [letter.handler for letter in events.run_until_idle(raise_dead=False).dead])
    numbers["Serra"] = "+55 12 7890"
    for letter in events.dead_letters:
        events.dead_letters.redrive(letter.id)
    events.run_until_idle()
with Session(engine) as session:
    print("4. Inbox:", session.scalars(select(Inbox.text).order_by(Inbox.id)).all())
engine.dispose()
