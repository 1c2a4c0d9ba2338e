"""The same with an AsyncEngine, and a log line per request: python examples/queries_async.py"""

import asyncio
import logging
import sys
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from araponga_infra import QueryInspector, QueryLogMiddleware

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message).70s")
engine = create_async_engine("sqlite+aiosqlite://")
inspector = QueryInspector(engine)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Any ASGI application; in FastAPI, app.add_middleware(QueryLogMiddleware, max_queries=2)."""
    async with engine.connect() as connection:
        for number in range(int(scope["query_string"])):
            await connection.execute(text("SELECT name FROM author WHERE id = :id"), {"id": number})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def discard(*_: Any) -> Any: ...


async def main() -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT)"))
        await connection.execute(text("CREATE TABLE post (id INTEGER PRIMARY KEY, author INTEGER REFERENCES author)"))

    watched = QueryLogMiddleware(application, inspector=inspector, max_queries=2)
    for queries in (b"2", b"3"):
        await watched({"type": "http", "method": "GET", "path": "/feed", "query_string": queries}, discard, discard)

    with inspector.capture() as report:  # a plain with, around awaits
        async with engine.connect() as connection:
            await connection.execute(text("SELECT name FROM author WHERE name = 'Ana'"))
    print(report.statements[0].shape)
    print((await inspector.explain(report.statements[0])).text)
    for missing in await inspector.missing_indexes():
        print(missing.sql)
    await engine.dispose()


asyncio.run(main())
