"""Random SQL: reads and writes over two tables, with comments, odd cases, quoting and nesting."""

from __future__ import annotations

from hypothesis import strategies as st

from araponga_infra.sessions.lexer import Family

SCHEMA = """
CREATE TABLE post (id INTEGER PRIMARY KEY, title TEXT, "update" TEXT, "delete" INTEGER);
CREATE TABLE comment (id INTEGER PRIMARY KEY, post_id INTEGER, body TEXT);
INSERT INTO post VALUES (1, 'first', 'u', 1), (2, 'second', 'v', 2);
INSERT INTO comment VALUES (1, 1, 'nice');
"""
Sql = st.SearchStrategy[str]

_STRINGS = ("'x'", "'DELETE FROM post'", "'; DROP TABLE post; --'", "'it''s'", "'/*'", "'*/'", "''", "'$$'", "'\"'")
_PG_STRINGS = ("$$ ; DELETE FROM post $$", "$a$ ' $$ $a$", "E'\\'; DELETE'", "E'a\\\\'", "U&'\\0061'")
_COMMENTS = ("/* DELETE */", "/* ' */", "/**/", "-- UPDATE post\n", "-- '\n", "/* ; */", '/* " */')
_PG_COMMENTS = ("/* a /* DELETE */ ' */", "/*/**/;*/")


def _cased(word: str) -> Sql:
    return st.sampled_from((word.upper(), word.lower(), word.capitalize(), word.swapcase()))


def _gap(family: Family) -> Sql:
    comments = _COMMENTS + (_PG_COMMENTS if family is Family.POSTGRESQL else ())
    blanks = st.sampled_from((" ", " ", " ", "\n", "\t", "  "))
    return st.one_of(blanks, blanks, blanks, st.sampled_from(comments).map(lambda comment: f" {comment} "))


@st.composite
def _joined(draw: st.DrawFn, family: Family, *parts: str | Sql) -> str:
    """Parts with random gaps; upper-case words in a plain part are keywords and get a random case."""
    words: list[str] = []
    for part in parts:
        if not isinstance(part, str):
            words.append(draw(part))
            continue
        words += [draw(_cased(word)) if word.isupper() and word.isalpha() else word for word in part.split()]
    text = words[0]
    for word in words[1:]:
        text += draw(_gap(family)) + word
    return text


def _column() -> Sql:
    return st.sampled_from(("id", "title", '"update"', '"delete"', "post.id", 'post."update"', "1", "NULL"))


def _literal(family: Family) -> Sql:
    return st.sampled_from(_STRINGS + (_PG_STRINGS if family is Family.POSTGRESQL else ()))


def _expression(family: Family, query: Sql) -> Sql:
    simple = st.one_of(_column(), _literal(family))
    return st.one_of(
        simple,
        _joined(family, "COUNT (", simple, ")"),
        _joined(family, "CASE WHEN id = 1 THEN", simple, "ELSE", "NULL END"),
        _joined(family, "EXISTS (", query, ")"),
        _joined(family, "id IN (", query, ")"),
    )


def _select(family: Family, query: Sql) -> Sql:
    condition = st.one_of(
        _joined(family, "id =", st.sampled_from(("1", "2"))),
        _joined(family, "title =", _literal(family)),
        _joined(family, "id IN (", query, ")"),
    )
    label = st.sampled_from(('"into"', '"insert"', "a", '"; DELETE"'))
    return st.one_of(
        _joined(family, "SELECT", st.one_of(st.just("id"), st.just("1")), "FROM post WHERE", condition),
        _joined(family, "SELECT id AS", label, "FROM post"),
        _joined(family, "SELECT", _literal(family).map(lambda literal: f"length({literal})"), "FROM post"),
        _joined(family, "SELECT ROW_NUMBER() OVER ( ORDER BY id ) FROM post LIMIT 3"),
    )


def _with(family: Family, query: Sql, main: Sql) -> Sql:
    name = st.sampled_from(("gone", '"delete"', "recent"))
    return _joined(family, st.one_of(_cased("with"), st.just("WITH RECURSIVE")), name, "AS (", query, ")", main)


def _query(family: Family) -> Sql:
    base = _joined(family, "SELECT id FROM post")
    return st.recursive(
        base,
        lambda inner: st.one_of(
            _select(family, inner),
            _joined(family, inner, "UNION ALL SELECT id FROM comment"),
            _with(family, inner, _joined(family, "SELECT id FROM post")),
        ).filter(lambda sql: len(sql) < 2000),
        max_leaves=4,
    )


def _single(sql: str) -> str:
    """`WITH` may not follow `UNION` etc. bare; a whole query in FROM may hold anything."""
    return f"SELECT * FROM (\n{sql}\n) AS whole"


def reads(family: Family) -> Sql:
    """Statements that only read."""
    query = _joined(family, "SELECT id FROM post WHERE id IN (", _flat(family), ")")
    whole = st.one_of(_flat(family), query, _with(family, _flat(family), _flat(family)), _flat(family).map(_single))
    explained = _joined(family, "EXPLAIN", whole)
    return st.one_of(whole, whole, explained, whole.map(lambda sql: f"{sql}\n;"))


def _flat(family: Family) -> Sql:
    return st.one_of(_select(family, _joined(family, "SELECT id FROM post")), _joined(family, "SELECT id FROM comment"))


def _change(family: Family) -> Sql:
    literal = _literal(family)
    changes = [
        _joined(family, "DELETE FROM comment"),
        _joined(family, "UPDATE post SET title =", literal),
        _joined(family, "INSERT INTO comment VALUES ( 9, 1,", literal, ")"),
        _joined(family, "DROP TABLE comment"),
        _joined(family, "CREATE TABLE other AS SELECT 1 AS a"),
        _joined(family, "ALTER TABLE post ADD COLUMN extra INT"),
    ]
    if family is Family.POSTGRESQL:
        changes += [
            _joined(family, "TRUNCATE comment"),
            _joined(family, "SELECT * INTO other FROM post"),
            _joined(family, "SELECT * FROM post FOR", st.sampled_from(("UPDATE", "share", "NO KEY UPDATE"))),
            _joined(family, "SELECT PG_NOTIFY ( 'a' ,", literal, ")"),
            _joined(family, "SELECT", _cased("pg_advisory_lock"), "( 1 )"),
            _joined(family, "EXPLAIN ANALYZE DELETE FROM comment"),
            _with(family, _joined(family, "DELETE FROM comment RETURNING id"), _flat(family)),
            _joined(family, "COPY ( DELETE FROM comment RETURNING id ) TO STDOUT"),
            _joined(family, "SET TRANSACTION READ WRITE"),
        ]
    else:
        changes += [
            _joined(family, "REPLACE INTO post VALUES ( 1,", literal, ", '', 1 )"),
            _joined(family, "PRAGMA user_version = 7"),
            _joined(family, "VACUUM"),
        ]
    return st.one_of(changes)


def writes(family: Family) -> Sql:
    """Statements, or several, of which one at least is no read."""
    change = _change(family)
    cte = _with(family, _flat(family), _joined(family, "DELETE FROM comment"))
    behind = st.tuples(_flat(family), change).map(lambda pair: f"{pair[0]}\n;{pair[1]}")
    hidden = change.map(lambda sql: f"/* SELECT */ -- SELECT 1\n{sql}")
    return st.one_of(change, cte, behind, hidden)


_PIECES = (
    "SELECT", "DELETE FROM comment", "INSERT INTO comment VALUES (9,1,'x')", "WITH a AS (", ")", "(", ";", "'", '"',
    "`", "[", "]", "--", "\n", "/*", "*/", "1", "FROM post", "id", "UPDATE post SET title='x'", "AS", "EXPLAIN",
    "PRAGMA user_version=7", "VALUES (1)", "UNION", ",", "PRAGMA user_version(7)", "DROP TABLE comment", "RETURNING id",
    "$$", "E'", "ANALYZE",
)  # fmt: skip


def scrambled(_family: Family) -> Sql:
    """Pieces of SQL in any order: mostly nonsense, now and then a way around."""
    return st.lists(st.sampled_from(_PIECES), min_size=1, max_size=12).map(" ".join)
