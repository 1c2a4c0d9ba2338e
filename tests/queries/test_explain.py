"""Plans, the scans in them, and the indexes that would spare them."""

from __future__ import annotations

import pytest
from sqlalchemy import (
    Dialect,
    Engine,
    String,
    TypeDecorator,
    bindparam,
    column,
    create_engine,
    delete,
    insert,
    or_,
    select,
    table,
    text,
    type_coerce,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session, aliased, joinedload

from araponga_infra import InvalidArgumentError
from araponga_infra.queries import IndexAdvice, Plan, QueryInspector, Statement
from araponga_infra.queries.plans import Scan, index_columns, is_covered, postgresql_scans, sqlite_scans
from araponga_infra.queries.shapes import numbered_placeholders

from .models import Author, Comment

LARGE = 2_000


@pytest.fixture
def large(any_engine: Engine) -> Engine:
    """As many more comments and authors as make a table large."""
    with any_engine.begin() as connection:
        authors = [{"id": n, "name": f"Author {n}", "biography": ""} for n in range(100, 100 + LARGE)]
        connection.execute(insert(Author), authors)
        connection.execute(insert(Comment), [{"post_id": n % 4 + 1, "text": f"Comment {n}"} for n in range(LARGE)])
    with any_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return any_engine


def inspector_of(engine: Engine) -> QueryInspector[Engine]:
    return QueryInspector(engine, large_table_rows=1_000)


def advised(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    return [(advice.table, advice.columns) for advice in plan.advice]


BY_NAME = select(Author.id).where(Author.name == "Author 150")


def test_a_scan_of_a_large_table_is_pointed_out_and_the_index_helps(large: Engine) -> None:
    inspector = inspector_of(large)
    before = inspector.explain(BY_NAME)
    (scan,) = before.scans
    assert (scan.table, scan.columns, scan.rows >= 1_000) == ("author", ("name",), True)
    (advice,) = before.advice
    assert advice.sql == "CREATE INDEX ix_author_name ON author (name)"
    with large.begin() as connection:
        connection.execute(text(advice.sql))
    after = inspector.explain(BY_NAME)
    assert (after.scans, after.advice) == ((), ())
    assert "ix_author_name" in after.text


def test_a_small_table_may_be_read_from_end_to_end(any_engine: Engine) -> None:
    plan = QueryInspector(any_engine).explain(BY_NAME)
    assert (plan.scans, plan.advice) == ((), ())
    assert plan.text


class _OfItsColumn(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        raise AssertionError(f"{value!r} is no value of this column")


@pytest.mark.parametrize("columns", [1, 4])
def test_types_of_the_statement_are_not_applied_to_its_plan(large: Engine, columns: int) -> None:
    names = [type_coerce(Author.name, _OfItsColumn).label(f"name_{n}") for n in range(columns)]
    assert advised(inspector_of(large).explain(select(*names).where(Author.name == "Author 150")))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id FROM author WHERE name = 'Author 150'",
        text("SELECT id FROM author WHERE name = 'Author 150'"),
        select(Author).where(Author.name == "Author 150").options(joinedload(Author.posts)),
        select(aliased(Author, name="a").id).where(column("name") == "Author 150"),
        update(Author).where(Author.name == "Author 150").values(biography="x"),
        delete(Author).where(Author.name == "Author 150"),
        select(table("author", column("id"), column("name"))).where(column("name") == "Author 150"),
    ],
    ids=["str", "text", "orm", "alias", "update", "delete", "core"],
)
def test_statements_of_every_form(large: Engine, statement: object) -> None:
    inspector = inspector_of(large)
    assert advised(inspector.explain(statement)) == [("author", ("name",))]  # type: ignore[arg-type]
    with large.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM author WHERE biography = 'x'")) == 0


def test_parameters_by_name(large: Engine) -> None:
    inspector = inspector_of(large)
    by_text = inspector.explain("SELECT id FROM author WHERE name = :name", {"name": "Author 150"})
    by_construct = inspector.explain(select(Author.id).where(Author.name == bindparam("name")), {"name": "Author 150"})
    assert advised(by_text) == advised(by_construct) == [("author", ("name",))]


@pytest.mark.parametrize("any_engine", ["sqlite", "psycopg", "psycopg2"], indirect=True)
def test_a_statement_of_a_report_is_planned_without_its_values(large: Engine) -> None:
    inspector = inspector_of(large)
    with inspector.capture() as report, Session(large) as session:
        session.execute(BY_NAME)
        session.execute(select(Author.id).where(Author.name.like("100%"), Author.id.in_([1, 2])))
        session.execute(text("SELECT id FROM author WHERE name = 'Author 150' AND biography <> '%'"))
        session.execute(
            select(Author.id).where(Author.name == bindparam("a"), Author.biography != bindparam("a")), {"a": "x"}
        )
    plans = [inspector.explain(statement) for statement in report.statements]
    assert [advised(plan) for plan in plans] == [
        [("author", ("name",))], [], [("author", ("name",))], [("author", ("name",))],
    ]  # fmt: skip
    assert "Author 150" not in plans[0].text
    assert inspector.explain(report.statements[0]) == plans[0]


def test_an_engine_without_transactions(large: Engine) -> None:
    """A generic plan needs a transaction for its setting, whatever the engine does otherwise."""
    autocommit = large.execution_options(isolation_level="AUTOCOMMIT")
    inspector = inspector_of(autocommit)
    with inspector.capture() as report, autocommit.connect() as connection:
        connection.execute(BY_NAME)
    assert advised(inspector.explain(report.statements[0])) == [("author", ("name",))]
    with autocommit.connect() as connection:
        if large.dialect.name == "postgresql":
            raw = connection.connection.dbapi_connection
            assert raw is not None
            assert raw.autocommit
            assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


def test_a_plan_is_recorded_by_no_capture(large: Engine) -> None:
    inspector = inspector_of(large)
    with inspector.capture() as report:
        inspector.explain(BY_NAME)
        inspector.missing_indexes()
    assert report.statements == ()


def test_most_of_a_table_is_not_worth_an_index(large: Engine) -> None:
    if large.dialect.name == "postgresql":
        plan = inspector_of(large).explain(select(Comment).where(Comment.post_id == 1))
        assert len(plan.scans) == 1
        assert plan.advice == ()


def test_an_index_that_is_there_is_not_advised(large: Engine) -> None:
    with large.begin() as connection:
        connection.execute(text("CREATE INDEX ix_name ON author (name)"))
    assert inspector_of(large).explain(BY_NAME).advice == ()


def test_under_an_or_no_index_is_advised(large: Engine) -> None:
    plan = inspector_of(large).explain(select(Author.id).where(or_(Author.name == "x", Author.biography == "y")))
    assert len(plan.scans) == 1
    assert plan.advice == ()


def test_an_expression_is_not_taken_for_a_column(large: Engine) -> None:
    plan = inspector_of(large).explain("SELECT id FROM author WHERE lower(name) = 'x'")
    assert plan.advice == ()


def test_foreign_keys_without_an_index(any_engine: Engine) -> None:
    inspector = QueryInspector(any_engine)
    missing = inspector.missing_indexes()
    assert [(each.table, each.columns) for each in missing] == [
        ("comment", ("post_id",)), ("post", ("author_id",)), ("post", ("parent_id",)),
    ]  # fmt: skip
    assert missing[0].sql == "CREATE INDEX ix_comment_post_id ON comment (post_id)"
    with any_engine.begin() as connection:
        for advice in missing:
            connection.execute(text(advice.sql))
    assert inspector.missing_indexes() == ()


def test_an_index_on_some_rows_does_not_cover_a_foreign_key(any_engine: Engine) -> None:
    with any_engine.begin() as connection:
        connection.execute(text("CREATE INDEX ix_some ON comment (post_id) WHERE post_id > 3"))
        connection.execute(text("CREATE UNIQUE INDEX ix_pair ON post (author_id, id)"))
    assert [each.table for each in QueryInspector(any_engine).missing_indexes()] == ["comment", "post"]


def test_names_are_quoted(any_engine: Engine) -> None:
    with any_engine.begin() as connection:
        connection.execute(text('CREATE TABLE "group" ("order" INTEGER REFERENCES author (id))'))
    (advice,) = (each for each in QueryInspector(any_engine).missing_indexes() if each.table == "group")
    assert advice.sql == 'CREATE INDEX ix_group_order ON "group" ("order")'


def test_what_has_no_plan(engine: Engine) -> None:
    inspector = QueryInspector(engine)
    with inspector.capture() as report, engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version")
    with pytest.raises(InvalidArgumentError, match="no plan"):
        inspector.explain(report.statements[0])
    with pytest.raises(InvalidArgumentError, match="statement is a int"):
        inspector.explain(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="large_table_rows=0"):
        QueryInspector(engine, large_table_rows=0)


def test_a_plan_does_not_show_its_text_by_itself(engine: Engine) -> None:
    assert "SCAN" not in repr(QueryInspector(engine).explain(BY_NAME))


@pytest.mark.anyio
async def test_awaited_with_an_async_engine(async_engine: AsyncEngine) -> None:
    inspector = QueryInspector(async_engine, large_table_rows=2)
    with inspector.capture() as report:
        async with async_engine.connect() as connection:
            await connection.execute(BY_NAME)
    statement: Statement = report.statements[0]
    for plan in (await inspector.explain(BY_NAME), await inspector.explain(statement)):
        assert [scan.table for scan in plan.scans] == ["author"]
    missing: tuple[IndexAdvice, ...] = await inspector.missing_indexes()
    assert len(missing) == 3


class TestDecisions:
    def test_equalities_come_before_one_range(self) -> None:
        condition = (
            "((p.at > $1) AND (p.id < 4) AND ((p.title)::text = 'x'::text)"
            ' AND (p."order" = p.id) AND (p.n = ANY ($2)))'
        )
        plan = {
            "Node Type": "Seq Scan",
            "Relation Name": "post",
            "Schema": "public",
            "Alias": "p",
            "Plan Rows": 1,
            "Filter": condition,
        }
        parent = {"Node Type": "Sort", "Plans": [plan]}
        assert list(postgresql_scans(parent)) == [Scan("post", "public", ("title", "n", "at"), 1)]

    def test_lines_of_sqlite_old_and_new(self) -> None:
        shape = "SELECT * FROM post AS p JOIN comment c ON c.post_id = p.id WHERE ? = p.author_id AND p.at >= ?"
        for line in ("SCAN p", "SCAN TABLE post AS p"):
            assert list(sqlite_scans([line], shape)) == [Scan("post", None, ("author_id", "at"))]
        line = "SEARCH c USING AUTOMATIC COVERING INDEX (post_id=?)"
        assert list(sqlite_scans([line], shape)) == [Scan("comment", None, ("post_id",))]
        assert list(sqlite_scans(["SCAN p USING COVERING INDEX x", "SEARCH p USING INDEX y (a=?)"], shape)) == []

    def test_an_index_is_advised_only_where_it_helps(self) -> None:
        scan = Scan("post", None, ("title", "at"), rows_kept=10)
        known = ["id", "title", "at"]
        assert index_columns(scan, rows=1_000, known=known, indexes=[["id"]]) == ("title", "at")
        assert index_columns(scan, rows=1_000, known=["id", "title"], indexes=[]) == ("title",)
        assert index_columns(scan, rows=20, known=known, indexes=[]) == ()
        assert index_columns(scan, rows=1_000, known=known, indexes=[["at"]]) == ()

    def test_an_index_covers_a_key_that_it_begins_with(self) -> None:
        assert is_covered(["a", "b"], [["b", "a", "c"]])
        assert not is_covered(["a"], [["b", "a"], []])


def test_placeholders_of_every_style() -> None:
    assert numbered_placeholders("a = ? AND b = '?' AND c = ?", style="qmark", prefix="?") == (
        "a = ?1 AND b = '?' AND c = ?2",
        2,
    )
    assert numbered_placeholders("a ? 'k' AND b = %(x)s % %(x)s", style="pyformat", prefix="$") == (
        "a ? 'k' AND b = $1 % $1",
        1,
    )
    assert numbered_placeholders("$2::INTEGER + $1", style="numeric_dollar", prefix="$") == ("$1::INTEGER + $2", 2)
    assert numbered_placeholders("x::int = :x", style="named", prefix="$") == ("x::int = $1", 1)


def test_another_database_is_refused() -> None:
    engine = create_engine("sqlite://")
    engine.dialect.name = "mariadb"
    with pytest.raises(InvalidArgumentError, match="PostgreSQL and SQLite"):
        QueryInspector(engine).explain("SELECT 1")
    engine.dispose()
