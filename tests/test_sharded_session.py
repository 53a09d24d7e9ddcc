"""SQLAlchemy over shards: a session a key, and one over all shards that refuses what the map cannot answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, ForeignKey, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, selectinload

from dbscale.cluster.cluster import Cluster
from dbscale.errors import ConfigError, Unroutable
from dbscale.shards.fence import StaleMap
from test_keyed import Place


class Base(DeclarativeBase):
    pass


class Crop(Base):
    __tablename__ = "crops"
    code: Mapped[str] = mapped_column(primary_key=True)


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class Farm(Base):
    __tablename__ = "farms"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str | None]
    crop: Mapped[str | None] = mapped_column(ForeignKey("crops.code"))
    grows: Mapped[Crop | None] = relationship()
    predictions: Mapped[list[Prediction]] = relationship(back_populates="farm")


class Prediction(Base):
    """Its primary key leaves out the shard key, as far as the application knows: two shards may have the same id."""

    __tablename__ = "predictions"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    farm_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("farms.id"))
    y: Mapped[int | None]
    farm: Mapped[Farm] = relationship(back_populates="predictions")


@pytest.fixture
def place(tmp_path: Path, new_database: Callable[..., str]) -> Place:
    found = Place(tmp_path, {name: new_database() for name in ("home", "one", "two")})
    found("home", "INSERT INTO crops VALUES ('r'), ('w')")
    found.shards("apply", "farms")
    return found


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    with place.open("sqlalchemy") as found:
        yield found


@pytest.fixture
def filled(place: Place) -> Place:
    """Farms on each range, and predictions whose ids are the same on both shards."""
    for database, keys in (("one", (5, 250)), ("two", (150, 160))):
        for key in keys:
            place(database, f"INSERT INTO farms VALUES ({key}, 'n{key}', 'r')")
            place(database, f"INSERT INTO predictions (farm_id, y) VALUES ({key}, {key})")
    return place


def test_objects_go_where_their_key_belongs(place: Place, cluster: Cluster) -> None:
    for keys in ((5, 250, 7), (150, 151)):
        with cluster.sharded_session() as session:
            session.add_all(
                [Farm(id=key, name=f"n{key}", predictions=[Prediction(y=1), Prediction(y=2)]) for key in keys]
            )
            session.commit()
    assert place("one", "SELECT id FROM farms ORDER BY 1") == [(5,), (7,), (250,)]
    assert place("two", "SELECT id FROM farms ORDER BY 1") == [(150,), (151,)]
    assert place("two", "SELECT farm_id, y FROM predictions ORDER BY 1, 2") == [(150, 1), (150, 2), (151, 1), (151, 2)]
    with cluster.sharded_session() as session:
        session.add(User(id=1))
        session.add(Crop(code="x"))
        session.commit()
    assert place("home", "SELECT id FROM users") == [(1,)]
    assert place("home", "SELECT count(*) FROM crops") == [(3,)]


def test_reads_go_where_the_key_says_and_to_all_where_none_does(filled: Place, cluster: Cluster) -> None:
    with cluster.sharded_session() as session:
        assert session.get(Farm, 150).name == "n150"  # type: ignore[union-attr]
        assert session.scalars(select(Farm.id).where(Farm.id.in_([5, 160]))).all() == [5, 160]
        assert sorted(farm.id for farm in session.scalars(select(Farm))) == [5, 150, 160, 250]
        assert session.scalar(select(func.count()).select_from(Prediction).where(Prediction.farm_id == 5)) == 1
        assert session.scalars(select(Crop.code).order_by(Crop.code)).all() == ["r", "w"]
        assert session.execute(text("SELECT name FROM farms WHERE id = :id"), {"id": 250}).all() == [("n250",)]
        joined = select(Farm, Prediction).join(Prediction, Prediction.farm_id == Farm.id).where(Farm.id == 160)
        assert [(farm.id, prediction.y) for farm, prediction in session.execute(joined)] == [(160, 160)]


def test_the_same_primary_key_on_two_shards_is_two_objects(filled: Place, cluster: Cluster) -> None:
    with cluster.sharded_session() as session:
        found = session.scalars(select(Prediction)).all()
        assert sorted((each.id, each.farm_id) for each in found) == [(1, 5), (1, 150), (2, 160), (2, 250)]
        one, other = (next(each for each in found if each.farm_id == key) for key in (5, 150))
        other.y = 77
        session.commit()
        assert (one.y, other.y) == (5, 77)
    assert filled("one", "SELECT y FROM predictions ORDER BY id") == [(5,), (250,)]
    assert filled("two", "SELECT y FROM predictions ORDER BY id") == [(77,), (160,)]


@pytest.mark.parametrize("load", [None, joinedload, selectinload])
def test_what_belongs_to_an_object_is_read_where_it_is(load: Any, filled: Place, cluster: Cluster) -> None:
    statement = select(Farm) if load is None else select(Farm).options(load(Farm.predictions), load(Farm.grows))
    with cluster.sharded_session() as session:
        found = {farm.id: farm for farm in session.scalars(statement).unique()}
        assert {id_: [each.y for each in farm.predictions] for id_, farm in found.items()} == {
            5: [5], 150: [150], 160: [160], 250: [250],
        }  # fmt: skip
        assert {farm.grows.code for farm in found.values() if farm.grows} == {"r"}
        assert found[150].predictions[0].farm is found[150]
        session.expire_all()
        assert found[250].name == "n250"


EAGER = select(Farm).where(Farm.id == 5).options(joinedload(Farm.grows))
REFUSED: list[tuple[Callable[[Session], Any], str]] = [
    (lambda s: s.scalar(select(func.count()).select_from(Farm)), "an aggregate gives one result a shard"),
    (lambda s: s.scalars(select(Farm).order_by(Farm.id)).all(), "ordered within each shard only"),
    (lambda s: s.scalars(select(Farm).limit(2)).all(), "count one shard's rows"),
    (lambda s: s.scalars(select(Farm.name).distinct()).all(), "DISTINCT sees one shard's rows"),
    (lambda s: s.execute(select(Farm, Prediction).join(Prediction, Prediction.id == Farm.id)).all(), "not tied"),
    (lambda s: s.execute(select(Farm, User).join(User, User.id == Farm.id)).all(), "users is on home"),
    (lambda s: s.execute(update(Farm).values(name="x")), "writes to 2 shards"),
    (lambda s: s.execute(update(Farm).where(Farm.id == 5).values(id=150)), "changes the key"),
    (lambda s: s.execute(insert(Farm.__table__), [{"id": 5}, {"id": 150}]), "belong to s1, s2"),
    (lambda s: s.execute(insert(Farm), [{"id": 5}, {"id": 6}]), "no rows in bulk over shards"),
    (lambda s: s.get(Farm, 999), "outside every range"),
    (lambda s: s.get(Prediction, 1), "leaves out farm_id"),
    (lambda s: s.add(Prediction(y=1)), "has no farm_id"),
    (lambda s: s.add_all([Farm(id=7), Farm(id=170)]), "one transaction cannot change rows on s1, s2"),
    (lambda s: s.add_all([Farm(id=7), User(id=1)]), "one transaction cannot change rows on home, s1"),
    (lambda s: setattr(s.get(Farm, 5), "id", 150), "the row would stay on s1"),
    (lambda s: setattr(s.scalars(EAGER).one().grows, "code", "z"), "is a copy"),
    (lambda s: s.delete(s.scalars(EAGER).one().grows), "is a copy"),
    (lambda s: setattr(s.get(Prediction, 1, identity_token="s2"), "farm_id", 5), "the row would stay on s2"),
    (lambda s: s.connection(), "no connection of its own"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=lambda number: REFUSED[number][1])
def test_what_the_map_cannot_answer_is_refused(number: int, filled: Place, cluster: Cluster) -> None:
    work, says = REFUSED[number]
    before = [filled(name, "SELECT * FROM farms ORDER BY 1") for name in ("one", "two")]
    with cluster.sharded_session() as session, pytest.raises(Unroutable, match=says):  # noqa: PT012 - at once or at commit
        work(session)
        session.commit()
    assert [filled(name, "SELECT * FROM farms ORDER BY 1") for name in ("one", "two")] == before
    assert filled("home", "SELECT count(*) FROM users") == [(0,)]


def test_two_flushes_of_one_transaction_cannot_change_two_shards(filled: Place, cluster: Cluster) -> None:
    with cluster.sharded_session() as session:
        session.get(Farm, 5).name = "changed"  # type: ignore[union-attr]
        session.flush()
        with pytest.raises(Unroutable, match="one transaction cannot change rows on s1, s2"):
            session.execute(update(Farm).where(Farm.id == 150).values(name="changed"))
        session.commit()
        session.get(Farm, 150).name = "changed too"  # type: ignore[union-attr]
        farm = session.get(Farm, 160)
        farm.predictions.append(Prediction(y=3))  # type: ignore[union-attr]
        session.commit()
        session.delete(session.scalars(select(Prediction).where(Prediction.farm_id == 250)).one())
        session.execute(insert(Farm.__table__), [{"id": 8}, {"id": 9}])
        session.execute(insert(Farm).values(id=11))
        session.get(Farm, 9).id = 10  # type: ignore[union-attr]  # stays in its range
        session.commit()
    assert filled("one", "SELECT id, name FROM farms ORDER BY 1") == [
        (5, "changed"), (8, None), (10, None), (11, None), (250, "n250"),
    ]  # fmt: skip
    assert filled("two", "SELECT name FROM farms ORDER BY id") == [("changed too",), ("n160",)]
    assert filled("one", "SELECT farm_id FROM predictions") == [(5,)]


def test_each_range_that_is_written_to_is_held(filled: Place, cluster: Cluster) -> None:
    """Both ranges of one server: a flush over them holds both, and an old epoch of either stops it."""
    with cluster.sharded_session() as session:
        session.get(Farm, 5).name = "x"  # type: ignore[union-attr]
        session.commit()
        filled("one", "UPDATE dbscale.owned_ranges SET state = 'fenced' WHERE range_id = 'f2'")
        session.get(Farm, 5).name = "y"  # type: ignore[union-attr]
        session.commit()
        session.get(Farm, 5).name = "z"  # type: ignore[union-attr]
        session.get(Farm, 250).name = "z"  # type: ignore[union-attr]
        with pytest.raises(StaleMap):
            session.commit()
    assert filled("one", "SELECT name FROM farms ORDER BY id") == [("y",), ("n250",)]


def test_a_session_of_one_key(filled: Place, cluster: Cluster) -> None:
    with cluster.session("farms", 5, write=True) as session:
        farm = session.get(Farm, 5)
        assert farm is not None
        farm.predictions += [Prediction(y=7), Prediction(y=8)]
        session.commit()
        assert session.scalar(select(func.count()).select_from(Prediction).where(Prediction.farm_id == 5)) == 3
        for other in (Farm(id=150), Farm(id=251), User(id=1)):
            session.add(other)
            with pytest.raises(Unroutable):
                session.flush()
            session.rollback()
        filled("one", "UPDATE dbscale.owned_ranges SET epoch = 9 WHERE range_id = 'f0'")
        session.add(Farm(id=6))
        with pytest.raises(StaleMap):
            session.commit()
    assert filled("one", "SELECT id FROM farms ORDER BY 1") == [(5,), (250,)]
    # The guard is the session's: the pool's connections serve others.
    with cluster.write("farms", 250) as connection:
        connection.execute(text("DELETE FROM predictions WHERE farm_id = 250"))


def test_by_asyncio(filled: Place) -> None:
    async def work() -> None:
        async with filled.open("sqlalchemy") as cluster:
            async with cluster.async_sharded_session() as session:
                assert sorted((await session.scalars(select(Farm.id))).all()) == [5, 150, 160, 250]
                session.add(Farm(id=170, predictions=[Prediction(y=1), Prediction(y=2)]))
                await session.commit()
                with pytest.raises(Unroutable):
                    await session.scalar(select(func.count()).select_from(Farm))
            async with cluster.async_session("farms", 5, write=True) as session:
                session.add(Farm(id=6))
                await session.commit()
                session.add(Farm(id=171))
                with pytest.raises(Unroutable):
                    await session.commit()

    asyncio.run(work())
    assert filled("two", "SELECT id FROM farms ORDER BY 1") == [(150,), (160,), (170,)]
    assert filled("one", "SELECT id FROM farms ORDER BY 1") == [(5,), (6,), (250,)]


def test_without_shards_there_is_no_sharded_session(database: str) -> None:
    import dbscale
    from dbscale.config import Config, Database

    with dbscale.open(Config(databases={"a": Database(name="a", url=database)})) as cluster, pytest.raises(ConfigError):
        cluster.sharded_session()
