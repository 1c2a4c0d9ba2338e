"""The HTTP API, a module per kind of thing."""

from fastapi import APIRouter

from . import agenda, feed, flags, inbox, maps, memberships, posts, territories

ROUTERS: tuple[APIRouter, ...] = (
    territories.router,
    feed.router,
    posts.router,
    agenda.router,
    maps.router,
    memberships.router,
    inbox.router,
    flags.router,
)
