"""Replicas: how to make one, what each is doing, whether one may be promoted. Pure, from facts that were read."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg import conninfo

from dbscale.drivers.replication import MUST_MATCH, Place, Sending, Slot, Standby, as_text
from dbscale.errors import Finding
from dbscale.plan import Command, File, Plan, Sql, Step

ROLE = "dbscale_replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A replica, as `replicas show` tells it."""

    name: str
    role: str
    region: str = ""
    state: str = "unreachable"
    """streaming, disconnected, paused, promoted, foreign (of another cluster) or unreachable."""
    timeline: int = 0
    lsn: str = ""
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    """Proven: it holds everything committed up to so long ago. None where nothing proves it."""
    lag_bound: float | None = None
    """Where nothing proves it: it is at most so much, by the time of the last commit it has replayed."""
    slot: str = ""
    retained: int | None = None
    """Bytes of WAL that the primary keeps for it."""
    wal_status: str = ""
    says: str = ""


def assess(
    name: str,
    role: str,
    region: str,
    *,
    primary: Place,
    sampled: float,
    place: Place,
    standby: Standby | None,
    sending: Sending,
    now: float,
) -> Status:
    """What a replica is doing. `primary` was looked at `sampled`, `now` is when the replica had answered (monotonic).

    The primary was asked first: a replica that has replayed its position is behind by no more than the time since.
    That holds on an idle primary, where `now() - pg_last_xact_replay_timestamp()` grows, and for a replica without
    a WAL receiver, for which comparing what it received with what it replayed always says 0.
    """
    slot = _slot(standby, sending.slots)
    behind = max(0, primary.lsn - place.lsn)
    same = place.timeline == primary.timeline
    lag = None
    if same and behind == 0:
        lag = now - sampled
    elif same and primary.flushed and place.lsn >= primary.flushed:
        lag = now - sampled + primary.flush_seconds  # all that a standby can have by now
    return Status(
        name=name,
        role=role,
        region=region,
        state=_state(primary, place, standby),
        timeline=place.timeline,
        lsn=as_text(place.lsn),
        lag_bytes=behind,
        lag_seconds=lag,
        lag_bound=None if lag is not None or standby is None else standby.since_commit,
        slot=slot.name if slot else (standby.slot if standby else ""),
        retained=slot.retained if slot else None,
        wal_status=slot.status if slot else "",
        says=_says(primary, place, standby),
    )


def _state(primary: Place, place: Place, standby: Standby | None) -> str:
    if place.system != primary.system:
        return "foreign"
    if not place.recovery:
        return "promoted"
    if standby is not None and standby.paused:
        return "paused"
    return "streaming" if place.receiving else "disconnected"


def _says(primary: Place, place: Place, standby: Standby | None) -> str:
    if place.system != primary.system:
        return f"another cluster's server (system identifier {place.system}, not {primary.system})"
    if not place.recovery:
        return "accepts writes itself"
    if place.timeline != primary.timeline:
        return f"follows timeline {place.timeline}, the primary is on {primary.timeline}"
    if standby is not None and standby.delay_ms:
        return f"applies {standby.delay_ms / 1000:g} s late on purpose (recovery_min_apply_delay)"
    return ""


def _slot(standby: Standby | None, slots: Sequence[Slot]) -> Slot | None:
    return next((slot for slot in slots if standby and slot.name == standby.slot), None)


def notices(statuses: Sequence[Status], sending: Sending, standbys: dict[str, Standby]) -> list[Finding]:
    """What is wrong, or will be, with a primary's replicas and slots."""
    found: list[Finding] = []
    for status in statuses:
        where = status.name
        if status.state in ("disconnected", "foreign", "promoted", "unreachable"):
            says = f"{status.state}: {status.says}" if status.says else f"it is {status.state}"
            remedy = "read its log; primary_conninfo, pg_hba.conf and the slot are the usual causes"
            found.append(Finding(code="replica-not-streaming", where=where, says=says, try_=remedy, level="behaviour"))
        other = standbys.get(status.name)
        for name in MUST_MATCH if other else ():
            mine, theirs = int(sending.settings.get(name, 0)), int(other.settings.get(name, 0)) if other else 0
            if theirs < mine:
                says = f"{name} is {theirs}, below the primary's {mine}: it will not start again"
                found.append(
                    Finding(code="replica-setting", where=where, says=says, try_=f"{name} = {mine}", level="behaviour")
                )
        if other and other.version // 10000 != sending.version // 10000:
            says = f"version {other.version // 10000}, the primary has {sending.version // 10000}"
            found.append(Finding(code="replica-setting", where=where, says=says, level="behaviour"))
    used = {status.slot for status in statuses}
    unlimited = sending.settings.get("max_slot_wal_keep_size", "-1") == "-1"
    for slot in sending.slots:
        if not slot.active or slot.status in ("unreserved", "lost"):
            says = f"slot {slot.name} is {'inactive' if not slot.active else slot.status}, {slot.retained} bytes of WAL"
            remedy = f"start its replica, or SELECT pg_drop_replication_slot('{slot.name}')"
            grave = "behaviour" if unlimited or slot.name in used else "note"
            found.append(Finding(code="slot-inactive", where=slot.name, says=says, try_=remedy, level=grave))  # type: ignore[arg-type]
    if unlimited and sending.slots:
        says = "max_slot_wal_keep_size is -1: the slot of a replica that is gone fills the primary's disk"
        found.append(Finding(code="slot-unlimited", where="primary", says=says, try_="max_slot_wal_keep_size = '10GB'"))
    return found


# Making one.


def plan_embedded(database: str, server: str, existing: Sequence[str]) -> Plan:
    """A replica of an embedded server: the next number that is free."""
    count = 1
    while f"{server}_replica_{count}" in existing:
        count += 1
    name = f"{server}_replica_{count}"
    program = (sys.executable, "-m", "dbscale.cli", "local")
    undo = shlex.join((*program, "down", name, "--remove", "--yes"))
    step = Command(
        does=f"Make {name}: a slot on {server}, pg_basebackup, standby settings; and start it",
        argv=(*program, "up", server, "--replicas", str(count)),
        undo=undo,
    )
    return Plan(title=f"A replica of {database}", databases={"target": database}, steps=(step,))


def plan_server(
    database: str, url: str, *, name: str, directory: str, sending: Sending, role_exists: bool, binaries: str = ""
) -> Plan:
    """A replica of any PostgreSQL server: SQL for the primary, programs and a file for the replica's machine.

    `dbscale apply` of this plan on that machine makes it; `directory` is its data directory there.
    """
    slot = name.replace("-", "_")
    steps = (
        *_on_primary(slot, sending, role_exists=role_exists),
        *_on_machine(url, name=name, slot=slot, directory=directory, sending=sending, binaries=binaries),
    )
    return Plan(
        title=f"A replica of {database}: {name}",
        databases={"target": database},
        steps=steps,
        findings=tuple(_obstacles(sending, slot)),
    )


DEBIAN = "/etc/postgresql/"
# Where the primary keeps its settings beside its data they came along; else (Debian) the replica begins with its own.
SETTINGS_HERE = (
    "touch pg_ident.conf postgresql.conf"
    " && { [ -e pg_hba.conf ] || printf '%s\\n' 'local all all peer' 'host all all 127.0.0.1/32 scram-sha-256'"
    " 'host all all ::1/128 scram-sha-256' > pg_hba.conf; }"
    " && echo \"include_if_exists = 'dbscale.conf'\" >> postgresql.conf"
)


def _on_primary(slot: str, sending: Sending, *, role_exists: bool) -> Iterator[Step]:
    """The role and the slot, where they are not there yet."""
    if not role_exists:
        yield Sql(
            does=f"A role that may replicate and nothing else; give it a password with \\password {ROLE}",
            sql=f"CREATE ROLE {ROLE} LOGIN REPLICATION",
            undo=f"DROP ROLE {ROLE}",
        )
    if slot not in {known.name for known in sending.slots}:
        yield Sql(
            does="A slot: the primary keeps the WAL that the replica still needs",
            sql=f"SELECT pg_create_physical_replication_slot('{slot}', true)",
            undo=f"SELECT pg_drop_replication_slot('{slot}')",
            alone=True,
            holds=f"SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')",
        )


def _on_machine(url: str, *, name: str, slot: str, directory: str, sending: Sending, binaries: str) -> Iterator[Step]:
    """The copy, its settings and the start, on the replica's machine."""
    parts = conninfo.conninfo_to_dict(url)
    kept = {key: str(parts[key]) for key in ("host", "hostaddr", "port", "sslmode", "sslrootcert") if parts.get(key)}
    source = conninfo.make_conninfo("", user=ROLE, application_name=name, **kept)
    if not binaries and DEBIAN in sending.settings.get("config_file", ""):
        binaries = f"/usr/lib/postgresql/{sending.version // 10000}/bin"  # pg_ctl is on nobody's PATH there
    prefix = f"{binaries}/" if binaries else ""
    # -R writes primary_conninfo and standby.signal; the password comes from ~/.pgpass of the account that runs it.
    backup = (f"{prefix}pg_basebackup", "-d", source, "-D", directory, "-R", "-X", "stream", "-S", slot, "-c", "fast")
    yield Command(does="Copy the primary's data", argv=(*backup, "-w"), undo=f"rm -rf {shlex.quote(directory)}")
    yield File(
        does="Settings that must not be lower than the primary's",
        path=f"{directory}/dbscale.conf",
        text="".join(f"{key} = {sending.settings[key]}\n" for key in MUST_MATCH if key in sending.settings)
        + "hot_standby = on\n",
    )
    included = f"cd {shlex.quote(directory)} && {SETTINGS_HERE}"
    yield Command(does="Let the server read them", argv=("sh", "-c", included), undo="true")
    yield Command(
        does="Start it",
        argv=(f"{prefix}pg_ctl", "start", "-D", directory, "-w", "-l", f"{directory}/log"),
        undo=shlex.join((f"{prefix}pg_ctl", "stop", "-D", directory, "-m", "fast")),
    )


def _obstacles(sending: Sending, slot: str) -> list[Finding]:
    """What keeps a primary from feeding one more replica, and what should be known."""
    found = []
    known = sending.settings
    if known.get("wal_level") == "minimal":
        says = "wal_level is minimal: nothing can follow this server"
        remedy = "wal_level = replica, and restart the primary"
        found.append(Finding(code="replica-obstacle", where="primary", says=says, try_=remedy, level="blocker"))
    if sending.free_senders < 2:
        says = f"max_wal_senders is {known.get('max_wal_senders')}, and a base backup needs two that are free"
        remedy = f"max_wal_senders = {int(known.get('max_wal_senders', 0)) + 4}, and restart the primary"
        found.append(Finding(code="replica-obstacle", where="primary", says=says, try_=remedy, level="blocker"))
    if slot not in {s.name for s in sending.slots} and len(sending.slots) >= int(
        known.get("max_replication_slots", "0")
    ):
        says = f"all {known.get('max_replication_slots')} replication slots are taken"
        remedy = "drop an unused slot, or raise max_replication_slots and restart the primary"
        found.append(Finding(code="replica-obstacle", where="primary", says=says, try_=remedy, level="blocker"))
    if known.get("max_slot_wal_keep_size", "-1") == "-1":
        says = "max_slot_wal_keep_size is -1: should the replica go away, its slot fills the primary's disk"
        found.append(Finding(code="slot-unlimited", where="primary", says=says, try_="max_slot_wal_keep_size = '10GB'"))
    if known.get("wal_log_hints") != "on" and known.get("data_checksums") != "on":
        says = "neither wal_log_hints nor checksums are on: after a promotion pg_rewind cannot bring this server back"
        found.append(Finding(code="rewind-impossible", where="primary", says=says, try_="wal_log_hints = on"))
    line = f"host replication {ROLE} REPLICA_ADDRESS/32 scram-sha-256"
    says = f"pg_hba.conf of the primary must let {ROLE} in for replication"
    found.append(Finding(code="replica-hba", where="pg_hba.conf", says=says, try_=line))
    if DEBIAN in known.get("config_file", ""):
        says = (
            "the primary's settings are not with its data: the replica begins with defaults, and lets in this machine"
        )
        remedy = "postgresql.conf and pg_hba.conf in its data directory: the port, listen_addresses, who may log in"
        found.append(Finding(code="replica-own-settings", where=known["config_file"], says=says, try_=remedy))
    return found


# Promotion.


def plan_promotion(
    candidate: str,
    *,
    place: Place,
    standby: Standby | None,
    primary: Place | None,
    others: dict[str, Place],
    stops: bool = False,
) -> Plan:
    """Make a replica the primary, or the reasons why it must not be one.

    `primary` is what the primary answered, None where it is gone; `others` are the other replicas that answer. `stops`:
    a primary that runs is shut down first, which sends all it has to the replicas that stream.
    """
    found = []
    if not place.recovery or standby is None:
        return Plan(title=f"Promote {candidate}: it is a primary already", databases={"target": candidate})
    alive = primary is not None and not primary.recovery
    if alive and stops and not place.receiving:
        says = "it does not stream: a primary that is shut down sends it nothing, and what it lacks would be lost"
        remedy = "read its log; primary_conninfo, pg_hba.conf and the slot are the usual causes"
        found.append(Finding(code="replica-behind", where=candidate, says=says, try_=remedy, level="blocker"))
    if alive and not stops:
        says = "the primary still accepts writes: there would be two, and what is written to it would be lost"
        remedy = "stop it first (pg_ctl stop -m fast), which also sends the replicas all it has"
        found.append(Finding(code="primary-alive", where=candidate, says=says, try_=remedy, level="blocker"))
    further = [n for n, p in others.items() if p.recovery and (p.timeline, p.lsn) > (place.timeline, place.lsn)]
    if further and not (alive and stops):
        gap = max(others[n].lsn for n in further) - place.lsn
        says = f"{', '.join(further)} has replayed more ({gap} bytes): those commits would be lost"
        remedy = f"promote {further[0]}, or wait until this one has caught up"
        found.append(Finding(code="replica-behind", where=candidate, says=says, try_=remedy, level="blocker"))
    if standby.paused:
        says = "its replay is paused: a promotion would wait for it to be resumed"
        remedy = "SELECT pg_wal_replay_resume()"
        found.append(Finding(code="replica-paused", where=candidate, says=says, try_=remedy, level="blocker"))
    if standby.delay_ms:
        says = (
            f"it applies {standby.delay_ms / 1000:g} s late on purpose; promotion applies at once what it has received"
        )
        found.append(Finding(code="replica-paused", where=candidate, says=says))
    if others:
        says = f"{', '.join(others)} must follow it afterwards: primary_conninfo, and a slot for each on it"
        found.append(Finding(code="replicas-follow", where=candidate, says=says, try_="dbscale replicas show"))
    step = Sql(
        does=f"Promote {candidate}; it goes on with a new timeline",
        sql="SELECT pg_promote(true, 60)",
        undo=None,
        alone=True,
        holds="SELECT NOT pg_is_in_recovery()",
        blocks="writes",
    )
    return Plan(title=f"Promote {candidate}", databases={"target": candidate}, steps=(step,), findings=tuple(found))
