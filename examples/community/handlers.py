"""Handlers are declared on a router (a value, like APIRouter or procrastinate's Blueprint), not on a live processor:
the web process, the worker, the CLI and the tests each bind it to a store of their own."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from araponga_infra import Backoff, DeliveryContext, EventRouter

from .domain import Notification, NotificationQueued, Post, PostPublished

router = EventRouter(prefix="community.")


# Asking for the session IS asking for "work and acknowledgement in one transaction": no flag, and the type is checked.
@router.subscribe(PostPublished, name="queue_notification")
async def queue_notification(published: PostPublished, session: AsyncSession) -> None:
    post = await session.get_one(Post, published.post_id)
    session.add(Notification(text=f"New in your territory: {post.title}"))


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
