"""A handler that answers 200, 428, 412 and 409, over plain WSGI: python examples/concurrency.py"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from araponga_infra import (
    ConcurrencyConflictError,
    ConcurrencyHelper,
    InvalidArgumentError,
    PreconditionFailedError,
    PreconditionRequiredError,
    RowVersion,
    etag,
    expect_version,
    parse_if_match,
)

STATUS_OF: dict[type[Exception], str] = {
    PreconditionRequiredError: "428 Precondition Required",
    InvalidArgumentError: "400 Bad Request",
    PreconditionFailedError: "412 Precondition Failed",
    ConcurrencyConflictError: "409 Conflict",
}


class Base(DeclarativeBase): ...


class Post(RowVersion, Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    likes: Mapped[int] = mapped_column(default=0)


class PostApi:
    """GET /1 shows a post with its ETag; PUT /1 changes its title if the client has seen the present version."""

    def __init__(self, engine: Engine) -> None:
        self._helper = ConcurrencyHelper(sessionmaker(engine))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        post_id = int(environ["PATH_INFO"].strip("/"))
        try:
            post = self._put(post_id, environ) if environ["REQUEST_METHOD"] == "PUT" else self._get(post_id)
        except tuple(STATUS_OF) as error:
            status = next(status for kind, status in STATUS_OF.items() if isinstance(error, kind))
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [str(error).encode()]
        start_response("200 OK", [("Content-Type", "application/json"), ("ETag", etag(post))])
        return [json.dumps({"title": post.title, "likes": post.likes}, ensure_ascii=False).encode()]

    def _get(self, post_id: int) -> Post:
        return self._helper.execute(lambda session: session.get_one(Post, post_id))

    def _put(self, post_id: int, environ: dict[str, Any]) -> Post:
        if_match = parse_if_match(environ.get("HTTP_IF_MATCH"))
        title = json.load(environ["wsgi.input"])["title"]

        def edit(session: Session) -> Post:
            post = session.get_one(Post, post_id)
            expect_version(post, if_match)
            post.title = title
            return post

        return self._helper.execute(edit)


def request(app: PostApi, method: str, *, title: str = "", if_match: str | None = None) -> dict[str, str]:
    """One request, as a server would hand it on; prints the answer and gives its headers."""
    answer: dict[str, str] = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        answer.update(headers, status=status)

    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": "/1",
        "wsgi.input": BytesIO(json.dumps({"title": title}).encode()),
    }
    if if_match is not None:
        environ["HTTP_IF_MATCH"] = if_match
    body = b"".join(app(environ, start_response)).decode()
    asked = f"{method} /1" + (f" If-Match: {if_match}" if if_match else "")
    print(f"{asked}\n  {answer['status']}: {body}")
    return answer


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'blog.db'}")
        Base.metadata.create_all(engine)
        with sessionmaker(engine).begin() as session:
            session.add(Post(id=1, title="Feira"))
        app = PostApi(engine)

        seen = request(app, "GET")["ETag"]
        request(app, "PUT", title="Bazar")
        request(app, "PUT", title="Bazar", if_match="seven")
        request(app, "PUT", title="Bazar", if_match=seen)
        request(app, "PUT", title="Mutirão", if_match=seen)
        engine.dispose()


if __name__ == "__main__":
    main()
