"""The application: `uvicorn --factory examples.community.app:create_app`, or `python -m examples.community`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST

from araponga_infra import CompositeObserver, CountingObserver, LoggingObserver, QueryLogMiddleware
from araponga_infra.integrations.fastapi import install

from . import api, pages
from .api.problems import EVERYWHERE, answer_problems
from .handlers import router as event_handlers
from .metrics import Metrics
from .middleware import AnsweringInstance, BodyLimit
from .ops import OpsPage, RollCall
from .schema import migrate
from .seeding import seed
from .settings import CommunitySettings


def create_app(settings: CommunitySettings | None = None) -> FastAPI:
    settings = settings or CommunitySettings.from_env()
    metrics, counters = Metrics(), CountingObserver()
    roll_call = RollCall(settings.instance, counters)
    observer = CompositeObserver(counters, LoggingObserver(), metrics.observer, roll_call.findings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if settings.infra.is_embedded:  # nobody else could have made or filled it; servers are migrated before
            await migrate(araponga.infra.engine)
            await seed(araponga.infra)
        async with roll_call.answered(araponga.infra) if settings.ops_token else nullcontext():
            yield
        metrics.close()

    app = FastAPI(title="Araponga", version="1", lifespan=lifespan, responses=EVERYWHERE)
    araponga = install(
        app,
        settings=settings.infra,
        routers=[event_handlers],
        consume=settings.consume,
        observer=observer,
    )
    answer_problems(app)
    for router in (*api.ROUTERS, pages.router):
        app.include_router(router)
    if settings.ops_token:
        app.include_router(OpsPage(settings.ops_token).router)
        app.add_middleware(QueryLogMiddleware, observer=observer)

    @app.get("/metrics", include_in_schema=False)
    async def read_metrics() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(AnsweringInstance, instance=settings.instance, metrics=metrics)
    app.state.settings, app.state.roll_call, app.state.araponga = settings, roll_call, araponga
    return app
