"""Which line asks too often, and which index is missing: python examples/queries.py"""

from sqlalchemy import ForeignKey, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from araponga_infra import QueryInspector


class Base(DeclarativeBase): ...


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Post(Base):
    __tablename__ = "post"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship()


def feed(session: Session) -> list[str]:
    posts = session.scalars(select(Post).limit(4))
    return [f"{post.title} by {post.author.name}" for post in posts]


def better_feed(session: Session) -> list[str]:
    posts = session.scalars(select(Post).options(selectinload(Post.author)).limit(4))
    return [f"{post.title} by {post.author.name}" for post in posts]


engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(insert(Author), [{"name": f"Author {n}"} for n in range(10)])
    connection.execute(insert(Post), [{"title": f"Post {n}", "author_id": n % 10 + 1} for n in range(20_000)])

inspector = QueryInspector(engine)
for read in (feed, better_feed):
    with inspector.capture() as report, Session(engine) as session:
        read(session)
    print(f"{read.__name__}: {len(report)} queries")
    for found in report.n_plus_one:
        print(f"  N+1, {found.times} times: {found.shape}")
        print(f"  in {found.place.function if found.place else '?'}; {found.advice}")

plan = inspector.explain(select(Post).where(Post.title == "Feira"))
print(f"reading posts by title: {plan.text}")
for advice in (*plan.advice, *inspector.missing_indexes()):
    print(f"  {advice.sql};  -- {advice.reason}")
