"""A shape is the statement with every value gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from araponga_infra.queries.shapes import parameter_shapes, statement_shape


@pytest.mark.parametrize(
    ("sql", "shape"),
    [
        ("SELECT  post.id \nFROM post", "SELECT post.id FROM post"),
        ("SELECT * FROM post WHERE id = 12", "SELECT * FROM post WHERE id = ?"),
        ("SELECT 1.5, .5, 2e10, 0x1F, -3", "SELECT ?, ?, ?, ?, -?"),
        ("SELECT t1.c2, post_3 FROM t1", "SELECT t1.c2, post_3 FROM t1"),
        ("SELECT 'it''s', N'x', E'a\\'b', X'00'", "SELECT ?, ?, ?, ?"),
        ("SELECT $$a 'b' c$$, $q$ $$ $q$", "SELECT ?, ?"),
        ("SELECT 'never closed", "SELECT ?"),
        ('SELECT "1 order" FROM "user" -- ana\n', 'SELECT "1 order" FROM "user"'),
        ("/* trace=00-ab12 */ SELECT id /* x\ny */ FROM t", "SELECT id FROM t"),
        (
            "id = %(id_1)s AND x = %s AND y = ?1 AND z = $2::INTEGER AND w = :w",
            "id = ? AND x = ? AND y = ? AND z = ?::INTEGER AND w = ?",
        ),
        ("x::INTEGER = :x", "x::INTEGER = ?"),
        ("id IN (?, ?, ?)", "id IN (?, ...)"),
        ("id in ($1::INTEGER, $2::INTEGER)", "id in (?, ...)"),
        ("id IN (?)", "id IN (?)"),
        ("(a, b) IN ((?, ?), (?, ?), (?, ?))", "(a, b) IN ((?, ?), ...)"),
        ("INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')", "INSERT INTO t (a, b) VALUES (?, ?), ..."),
        ("coalesce(?, ?)", "coalesce(?, ?)"),
    ],
)
def test_values_give_way_to_their_place(sql: str, shape: str) -> None:
    assert statement_shape(sql) == shape


def test_a_double_quote_is_a_string_where_the_database_may_read_it_as_one() -> None:
    sql = 'SELECT * FROM t WHERE name = "secret"'
    assert "secret" not in statement_shape(sql, dialect="mysql")
    assert "secret" not in statement_shape(sql, dialect="sqlite")
    assert statement_shape('SELECT "order" FROM t', dialect="sqlite", is_by_hand=False) == 'SELECT "order" FROM t'


def test_a_backslash_escapes_in_mysql() -> None:
    assert statement_shape(r"SELECT 'it\'s secret', x # secret", dialect="mariadb") == "SELECT ?, x"


def test_a_shape_has_a_longest_length() -> None:
    assert len(statement_shape("SELECT " + ", ".join(f"column_{n}" for n in range(5_000)))) < 5_000


@given(
    before=st.sampled_from(["SELECT * FROM t WHERE a = ", "SELECT ", "INSERT INTO t VALUES (1, "]),
    value=st.text(min_size=1),
    after=st.sampled_from(["", " AND b = 2", " -- done", ", 'x'"]),
)
def test_no_string_of_any_content_changes_the_shape(before: str, value: str, after: str) -> None:
    literal = "'" + value.replace("'", "''") + "'"
    assert statement_shape(before + literal + after) == statement_shape(before + "'v'" + after)


@given(st.integers(min_value=0) | st.floats(min_value=0, allow_infinity=False))
def test_no_number_changes_the_shape(value: float) -> None:
    assert statement_shape(f"SELECT * FROM t WHERE a = {value} LIMIT {value}") == "SELECT * FROM t WHERE a = ? LIMIT ?"


def test_parameters_are_told_by_type_and_length() -> None:
    assert parameter_shapes((1, "secret", None, [1, 2], b"x"), is_many=False) == (
        ("int", "str", "None", "list[2]", "bytes"), 1,
    )  # fmt: skip
    assert parameter_shapes({"id": 1}, is_many=False) == (("int",), 1)
    assert parameter_shapes([(1, "a"), (2, "b")], is_many=True) == (("int", "str"), 2)
    assert parameter_shapes((), is_many=False) == ((), 1)
    assert parameter_shapes([], is_many=True) == ((), 0)


def test_many_parameters_are_cut_short() -> None:
    types, _ = parameter_shapes(tuple(range(1_000)), is_many=False)
    assert len(types) == 101
    assert types[-1] == "... 1000 in all"
