"""plan.py: a plan is the same after JSON, its id says so, and it keeps no secret."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbscale.errors import ConfigError, Finding
from dbscale.plan import Command, Conversion, File, Load, LoadColumn, Plan, Sql

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
names = st.text(min_size=1, max_size=10, alphabet="abcé가\"'%:\\ \n")
maybe = st.none() | text
conversions = st.builds(Conversion, to=names, integers=text, texts=text, rounded=st.booleans())
columns = st.builds(LoadColumn, source=names, target=names, conversion=conversions)
steps = st.one_of(
    st.builds(Sql, does=text, sql=text, undo=maybe, group=text, alone=st.booleans(), holds=text),
    st.builds(
        Load,
        does=text,
        table=names,
        schema=names,
        target=names,
        columns=st.lists(columns, max_size=3).map(tuple),
        key=st.lists(names, max_size=2).map(tuple),
        rows=st.integers(0, 2**63),
    ),
    st.builds(Command, does=text, argv=st.lists(text, min_size=1, max_size=3).map(tuple), undo=maybe),
    st.builds(File, does=text, path=names, text=text, undo=maybe),
)
findings = st.builds(
    Finding, code=names, where=text, says=text, level=st.sampled_from(["blocker", "data", "behaviour", "note"])
)
plans = st.builds(
    Plan,
    title=text,
    databases=st.dictionaries(names, names, max_size=2),
    steps=st.lists(steps, max_size=4).map(tuple),
    findings=st.lists(findings, max_size=3).map(tuple),
    basis=st.dictionaries(names, text, max_size=2),
    options=st.dictionaries(names, text, max_size=2),
)


@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.id == plan.id


@given(plans)
def test_the_id_does_not_depend_on_the_order_of_keys(plan: Plan) -> None:
    turned = dataclasses.replace(
        plan,
        basis=dict(reversed(plan.basis.items())),
        options=dict(reversed(plan.options.items())),
        databases=dict(reversed(plan.databases.items())),
    )
    assert turned.id == plan.id


@given(plans, text.filter(bool))
def test_the_id_is_the_contents(plan: Plan, more: str) -> None:
    assert dataclasses.replace(plan, title=plan.title + more).id != plan.id
    step = Sql(does=more, sql="SELECT 1", undo=None)
    assert dataclasses.replace(plan, steps=(*plan.steps, step)).id != plan.id


def test_the_id_is_the_same_for_ever() -> None:
    """Saved plans are known by their id: it may not change from one version to the next without a reason."""
    plan = Plan(title="t", steps=(Sql(does="d", sql="SELECT 1", undo=None),))
    assert plan.id == Plan.from_json(plan.to_json()).id
    assert len(plan.id) == 12
    assert set(plan.id) <= set("0123456789abcdef")


@given(plans)
def test_a_plan_can_always_be_written_as_sql(plan: Plan) -> None:
    assert plan.to_sql().startswith("--")


def test_sql_says_what_cannot_be_taken_back() -> None:
    plan = Plan(
        title="two steps",
        steps=(
            Sql(does="make it", sql="CREATE TABLE t ()", undo="DROP TABLE t"),
            Sql(does="drop it", sql="DROP TABLE u;", undo=None),
            Command(does="copy it", argv=("pg_basebackup", "-D", "x"), undo=None),
        ),
    )
    assert plan.to_sql() == (
        f"-- two steps\n-- plan {plan.id}\n\n-- make it\nCREATE TABLE t ();\n\n-- drop it (irreversible)\n"
        "DROP TABLE u;\n\n-- copy it (irreversible)\n-- run: pg_basebackup -D x\n"
    )


def test_passwords_do_not_get_into_a_plan() -> None:
    plan = Plan(title="t", databases={"target": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in plan.to_json()
    assert plan.databases["target"] == "postgresql://u@h/d"


def test_blockers() -> None:
    note = Finding(code="a", where="t", says="x")
    blocker = Finding(code="b", where="t", says="x", level="blocker")
    assert Plan(title="t", findings=(note, blocker)).blockers == (blocker,)


def _without(key: str) -> str:
    content: dict[str, Any] = json.loads(Plan(title="t").to_json())
    del content[key]
    return json.dumps(content)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        "null",
        '"x"',
        "not JSON",
        _without("dbscale-plan"),
        _without("steps"),
        Plan(title="t").to_json().replace('"dbscale-plan": 1', '"dbscale-plan": 2'),
        Plan(title="t").to_json().replace('"steps": []', '"steps": [{"kind": "Other"}]'),
        Plan(title="t").to_json().replace('"steps": []', '"steps": [{"kind": "Sql", "no": 1}]'),
        Plan(title="t").to_json().replace('"title": "t"', '"title": "t", "unknown": 1'),
    ],
)
def test_what_is_no_plan(document: str) -> None:
    with pytest.raises(ConfigError):
        Plan.from_json(document)
