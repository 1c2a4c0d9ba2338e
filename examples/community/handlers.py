"""Handlers are declared on a router (a value, like APIRouter or procrastinate's Blueprint), not on a live processor:
the web process, the worker, the CLI and the tests each bind it to a store of their own."""

from datetime import timedelta

from sqlalchemy import insert, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import Backoff, DeliveryContext, EventRouter

from .domain import (
    CommunityPost,
    EventAnnounced,
    Notification,
    NotificationQueued,
    PostPublished,
    TerritoryEvent,
    TerritoryMembership,
)

router = EventRouter(prefix="community.")


# Asking for the session IS asking for "work and acknowledgement in one transaction": no flag, and the type is checked.
# So the inboxes have each notification exactly once, whatever dies in between.
@router.subscribe(PostPublished, name="queue_notification")
async def queue_notification(published: PostPublished, session: AsyncSession) -> None:
    if post := await session.get(CommunityPost, published.post_id):  # None: it has been deleted since
        await fill_inboxes(session, post.territory_id, f"New in your territory: {post.title}")


@router.subscribe(EventAnnounced)
async def announce_event(announced: EventAnnounced, session: AsyncSession, context: DeliveryContext) -> None:
    if event := await session.get(TerritoryEvent, announced.event_id):
        queued = await fill_inboxes(session, event.territory_id, f"{event.title}, {event.starts_at:%Y-%m-%d %H:%M}")
        for notification_id in queued:
            context.publish_in(session, NotificationQueued(notification_id))


# Not transactional: the mail server is outside. Backoff and timeout are this handler's own.
@router.subscribe(
    NotificationQueued, max_attempts=8, backoff=Backoff(initial=1, maximum=300), timeout=timedelta(seconds=10)
)
async def send_mail(queued: NotificationQueued, context: DeliveryContext) -> None:
    await smtp_send(queued.notification_id, idempotency_key=str(context.event_id))


# A sync handler next to the async ones: runs in a thread.
@router.subscribe(PostPublished)
def index_for_search(published: PostPublished) -> None: ...


async def smtp_send(notification_id: int, *, idempotency_key: str) -> None: ...


async def fill_inboxes(session: AsyncSession, territory_id: int, text: str) -> list[int]:
    """One statement, however many members there are."""
    members = select(TerritoryMembership.member, literal(text)).where(TerritoryMembership.territory_id == territory_id)
    filled = insert(Notification).from_select(["member", "text"], members).returning(Notification.id)
    return list(await session.scalars(filled))
