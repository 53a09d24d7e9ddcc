"""All there is in a schema of PostgreSQL, as text: two schemas with equal dumps hold the same."""

from __future__ import annotations

import psycopg

CATALOG = """
SELECT 'column ' || format('%%I.%%I %%s %%s %%s %%s%%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
       CASE WHEN a.attnotnull THEN 'not null' END, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated)
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT format('constraint %%s.%%s %%s %%s', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
  FROM pg_constraint WHERE connamespace = %(schema)s::regnamespace AND contype <> 'n'
UNION ALL
SELECT format('index %%s %%s', pg_get_indexdef(indexrelid), indisvalid)
  FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE c.relnamespace = %(schema)s::regnamespace
UNION ALL
SELECT format('view %%s %%s', oid::regclass, pg_get_viewdef(oid))
  FROM pg_class WHERE relnamespace = %(schema)s::regnamespace AND relkind = 'v'
UNION ALL
SELECT format('trigger %%s %%s', pg_get_triggerdef(oid), tgenabled)
  FROM pg_trigger WHERE NOT tgisinternal
   AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = %(schema)s::regnamespace)
ORDER BY 1
"""


def dump(url: str, schema: str = "public") -> str:
    """Definitions, the next values of sequences, and the count and a hash of the rows of each table."""
    with psycopg.connect(url) as connection:
        lines = [row[0] for row in connection.execute(CATALOG, {"schema": schema})]
        relations = connection.execute(
            "SELECT quote_ident(relname), relkind FROM pg_class WHERE relnamespace = %s::regnamespace"
            " AND relkind IN ('r', 'p', 'S') ORDER BY relname",
            [schema],
        ).fetchall()
        for name, kind in relations:
            place = f'"{schema}".{name}'
            if kind == "S":
                found = connection.execute(f"SELECT last_value, is_called FROM {place}").fetchone()
            else:
                found = connection.execute(
                    f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")) FROM {place} t"
                ).fetchone()
            lines.append(f"{name} {found}")
    return "\n".join(lines)
