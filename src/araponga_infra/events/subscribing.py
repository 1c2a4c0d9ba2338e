"""Which subscriptions a store keeps when a processor introduces its handlers, renames included."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from araponga_infra.events.values import Subscription

__all__ = ["SubscriptionPlan", "plan_subscriptions"]


@dataclass(frozen=True)
class SubscriptionPlan:
    """What to change in the store, and which stored names stand for which of the processor's handlers."""

    keep: tuple[Subscription, ...]
    remove: tuple[str, ...]
    names: dict[str, str]


def plan_subscriptions(stored: Iterable[Subscription], wanted: Iterable[Subscription]) -> SubscriptionPlan:
    """Compare what the store knows with the handlers of a processor that starts, or looks again.

    A rename must neither lose nor double an event while old and new instances run side by side, in whatever order they
    start and also when the deploy is rolled back. So the former name's subscription gives way to the new one's; an old
    instance that starts later does not bring it back, but takes deliveries under the new name, too.
    """
    known = {each.handler: each for each in stored}
    keep: list[Subscription] = []
    remove: list[str] = []
    names: dict[str, str] = {}
    for subscription in wanted:
        names[subscription.handler] = subscription.handler
        names.update(dict.fromkeys(subscription.aliases, subscription.handler))
        successor = _successor(known.values(), subscription)
        if successor is not None:
            names[successor.handler] = subscription.handler
            names.update(dict.fromkeys(successor.aliases, subscription.handler))
            continue
        keep.append(subscription)
        remove.extend(alias for alias in subscription.aliases if alias in known)
    return SubscriptionPlan(tuple(keep), tuple(remove), names)


def _successor(known: Iterable[Subscription], subscription: Subscription) -> Subscription | None:
    for other in known:
        is_rename = subscription.handler in other.aliases and other.handler not in subscription.aliases
        if is_rename and other.event_name == subscription.event_name:
            return other
    return None
