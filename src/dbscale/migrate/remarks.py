"""What there is to say about a column's type: the findings of `types.py`, each with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dbscale.errors import Finding, Level
from dbscale.migrate.affinity import wish
from dbscale.migrate.fit import Asked, Misfit, base, fit
from dbscale.migrate.model import Choice, ColumnProfile, SourceColumn, SourceTable
from dbscale.migrate.orm import Hint
from dbscale.migrate.profile import BROKEN, COLLISIONS, DUPLICATE_KEYS, NUL, UUID_COLLISIONS

FINE = ("iso-naive-fine", "iso-zoned-fine", "real-epoch-s-fine")
_UNREADABLE = {
    "real": "text-in-real",
    "decimal": "text-in-decimal",
    "boolean": "not-boolean",
    "time": "not-a-time",
    "uuid": "not-uuid",
    "json": "not-json",
    "vector": "not-a-vector",
    "text": "blob-in-text",
}
_READINGS = {
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "microseconds since 1970",
    "ns": "nanoseconds since 1970",
    "webkit-us": "microseconds since 1601",
    "apple-s": "seconds since 2001",
    "yyyymmdd": "dates written as numbers",
    "julian": "Julian days, to the millisecond",
    "by-size": "seconds to nanoseconds since 1970, each by its size",
}


@dataclass(frozen=True, slots=True)
class Place:
    """One column, with all that is known of it."""

    table: SourceTable
    column: SourceColumn
    seen: ColumnProfile
    hint: Hint | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.table.name, self.column.name

    def choose(self, type_: str) -> str:
        """The line for dbscale.toml that chooses a type."""
        return f'[migrate.types] "{".".join(self.key)}" = "{type_}"'

    def finding(self, code: str, says: str, try_: str = "", level: Level = "note") -> Finding:
        where = ".".join(self.key)
        return Finding(code=code, where=where, says=says, try_=try_, level=level, original=self.column.declared)

    def count(self, *shapes: str) -> int:
        return sum(self.seen.shapes.get(name, 0) for name in shapes)

    def shown(self, *labels: str) -> str:
        """A few values of these shapes, in brackets; empty where there are none."""
        values = [value for label in labels for value in self.seen.samples.get(label, ())][:3]
        return f" ({'; '.join(values)})" if values else ""


def no_vector(at: Place, choice: Choice) -> list[Finding]:
    """What becomes of a libSQL vector that is none of pgvector's."""
    name = base(choice.type)[0]
    if name == "vector":
        return []
    if name == "real[]":
        says = "the target has no extension vector, or the vector has more dimensions than it takes (16,000)"
        try_ = "CREATE EXTENSION vector in the target, and plan again"
    elif name == "bytea":
        says = "pgvector has no counterpart of this kind that dbscale writes: the bytes are kept as libSQL has them"
        try_ = "for a vector, store it as F32_BLOB in the source: UPDATE … SET c = vector32(vector_extract(c))"
    else:
        says = "pgvector has no vector of 64-bit numbers"
        try_ = "to search by distance, with 32 bits: an index on (column::vector(n))"
    return [at.finding("vector-without-pgvector", f"it becomes {choice.type}: {says}", try_, "behaviour")]


def misfit(at: Place, meant: str, kept: str, what: Misfit) -> Finding:
    """Values that do not fit what was declared, for which the column is kept as another type."""
    kind = wish(at.column.declared).kind
    seen, numbers = at.seen, what.what in ("integer", "real number")
    if what.what == "text" and seen.empty == what.count:
        says = f"{what.count} of {seen.values} values are empty text, which is no {meant}: kept as {kept}"
        try_ = f"to load them as NULL: {at.choose(f'{meant}, empty as null')}"
        return at.finding("empty-text", says, try_, "behaviour")
    if kind == "integer":
        code = "text-in-integer" if what.what == "text" else "real-in-integer"
        code = "integer-beyond-64-bits" if at.count("real-huge") else code
    elif kind in ("timestamp", "date"):
        code = "ambiguous-epoch" if numbers else "not-a-time"
    else:
        code = _UNREADABLE.get(kind, "mixed-storage")
    if what.what == "blob" and kind not in ("text", "vector"):
        code = "mixed-storage"
    shown = f" ({'; '.join(what.samples)})" if what.samples else ""
    says = f"{what.count} of {seen.values} values are {what.what}, no {meant}{shown}: kept as {kept}"
    if code == "integer-beyond-64-bits":
        says += "; SQLite itself has kept 15 to 17 of their digits"
    try_ = "mend the values in the source, or keep the type: it holds them all"
    if code == "ambiguous-epoch":
        try_ = f"if you know how to read them, say so: {at.choose('timestamptz from s')} (or ms, us, julian, apple-s …)"
    classes = sum(1 for count in (seen.integers + seen.reals, seen.texts, seen.blobs) if count)
    loses = base(kept)[0] in ("bytea", "text") and classes > 1  # numbers become digits, texts become bytes
    return at.finding(code, says, try_, "data" if loses else "behaviour")


def decided(at: Place, meant: str, kept: str, what: Misfit) -> Finding | None:
    """Instead of `misfit`: where values of another class than `what` is of made the column text or bytes."""
    seen, name = at.seen, base(kept)[0]
    noun = "blob" if name == "bytea" and seen.blobs else "text" if name in ("bytea", "text") and seen.texts else ""
    if not noun or noun == what.what or what.what not in ("integer", "real number", "text"):
        return None
    blobs, texts = (seen.blobs, 0) if noun == "blob" else (0, seen.texts)
    alone = replace(seen, integers=0, reals=0, texts=texts, blobs=blobs)
    if fit(Asked(meant), alone).misfit is None:
        return None
    alike = "a text and a blob of the same bytes" if noun == "blob" else "a number and a text of its digits"
    says = f"it holds {counts(seen)}, more than {meant} takes: kept as {kept} for its {blobs + texts} {noun}s"
    says += f"; {alike} become alike"
    return at.finding("mixed-storage", says, "make them alike in the source for a narrower type", "data")


def widened(at: Place, meant: str, kept: str, what: Misfit | None) -> Finding:
    """The declared type in a wider form: DECIMAL(10,2) as numeric, VARCHAR(3) as text, DATE as timestamp."""
    kind = wish(at.column.declared).kind
    if kind == "decimal":
        count = what.count if what else 0
        shown = f" ({'; '.join(what.samples)})" if what and what.samples else ""
        says = f"{count} of {at.seen.values} values are not exact in {meant}{shown}: kept as {kept}"
        return at.finding("decimal-rounding", says, "round them in the source to have the declared type", "behaviour")
    if kind == "text":
        says = f"the longest text has {at.seen.longest} characters, {at.column.declared} means fewer: kept as {kept}"
        return at.finding("longer-than-declared", says, "shorten them in the source to have the limit", "behaviour")
    if kind == "json":
        if at.count(DUPLICATE_KEYS):
            return repeated_keys(at)
        says = f"{what.count if what else 0} values are {what.what if what else 'JSON'}, which jsonb refuses"
        return at.finding("json-not-jsonb", f"{says}: kept as json", at.choose("jsonb"), "behaviour")
    says = f"the values have a time of day, which a date would lose: {kept}"
    return at.finding("date-with-time", says, level="behaviour")


def repeated_keys(at: Place) -> Finding:
    """JSON in which objects have a key twice, for which the column is json."""
    says = f"{at.count(DUPLICATE_KEYS)} values have a key twice in an object, and jsonb keeps the last one alone"
    return at.finding("json-not-jsonb", f"{says}: kept as json", at.choose("jsonb"), "behaviour")


def mixed(at: Place, choice: Choice) -> list[Finding]:
    """A column without a telling declaration that holds values of several classes."""
    seen = at.seen
    classes = sum(1 for count in (seen.integers + seen.reals, seen.texts, seen.blobs) if count)
    if classes < 2:
        return []
    says = f"it holds {counts(seen)}: kept as {choice.type}"
    return [at.finding("mixed-storage", says, "make them alike in the source for a narrower type", "data")]


def counts(seen: ColumnProfile) -> str:
    """`3 integers, 1 texts`."""
    classes = (("integers", seen.integers), ("reals", seen.reals), ("texts", seen.texts), ("blobs", seen.blobs))
    return ", ".join(f"{count} {name}" for name, count in classes if count)


def about(at: Place, choice: Choice) -> list[Finding]:
    """What a conversion that covers every value changes all the same, and what PostgreSQL will treat differently."""
    return [*_about_times(at, choice), *_about_classes(at, choice), *_about_keys(at, choice)]


def _about_times(at: Place, choice: Choice) -> list[Finding]:
    found: list[Finding] = []
    conversion, seen = choice.conversion, at.seen
    fine = at.count(*FINE)
    if conversion.rounded and fine:
        says = f"{fine} values are finer than a microsecond, and are rounded to it{at.shown(*FINE)}"
        found.append(at.finding("time-rounded", says, f"to keep them: {at.choose('text')}", "data"))
    naive = at.count("iso-naive", "iso-naive-fine", "iso-date")
    other = seen.integers + seen.reals + at.count("iso-zoned", "iso-zoned-fine")
    if choice.type == "timestamptz" and naive and other:
        says = f"{naive} times have no offset, {other} have one or are epochs: those without are taken as UTC"
        found.append(at.finding("naive-as-utc", says, level="behaviour"))
    numbers = (conversion.integers, seen.integers, "integers"), (conversion.reals, seen.reals, "real numbers")
    for reading, count, noun in numbers:
        if count and reading in _READINGS:
            says = f"{count} {noun} are read as {_READINGS[reading]} (all numbers: {seen.least} to {seen.greatest})"
            kept = "bigint" if not seen.texts + seen.reals else "text"
            found.append(at.finding("epoch-as-time", says, f"to keep them: {at.choose(kept)}"))
    return found


def _about_classes(at: Place, choice: Choice) -> list[Finding]:
    seen, name = at.seen, base(choice.type)[0]
    kind = wish(at.column.declared).kind
    if kind == "blob" and name == "bytea" and seen.values > seen.blobs:
        says = f"it holds {counts(seen)}: all become bytes, as SQLite prints them"
        return [at.finding("text-in-blob", says, "if all are text: " + at.choose("text"), "behaviour")]
    if kind == "text" and name in ("text", "varchar") and seen.blobs:
        says = f"{seen.blobs} of {seen.values} values are stored as blobs; all are UTF-8, and become text"
        return [at.finding("blob-in-text", says, "to keep them: " + at.choose("bytea"), "behaviour")]
    if kind == "text" and name in ("text", "varchar") and seen.integers + seen.reals:
        says = (
            f"{seen.integers + seen.reals} of {seen.values} values are stored as numbers, since SQLite reads "
            f"{at.column.declared} as NUMERIC: zeros in front were lost on the way in"
        )
        return [at.finding("number-in-text", says)]
    return []


def _about_keys(at: Place, choice: Choice) -> list[Finding]:
    """Keys that are different in SQLite and equal after conversion."""
    name = base(choice.type)[0]
    measure = UUID_COLLISIONS if name == "uuid" else COLLISIONS
    alike = at.count(measure) if name in ("uuid", "text", "varchar", "bytea") else 0
    if not alike:
        return []
    says = f"{alike} values that differ in SQLite are equal as {choice.type}, and this column is a key"
    try_ = "make them differ in the source, or choose another type"
    return [at.finding("keys-collide", says, try_, "blocker")]


def suggestions(at: Place, choice: Choice) -> list[Finding]:
    """What the column could be, where every value would fit and only the user can know."""
    if not at.seen.values:
        return []
    hinted = [(at.hint.type, at.hint.reading, at.hint.evidence)] if at.hint and not at.hint.sure else []
    if choice.type == "bytea" and at.seen.values == at.seen.blobs:
        own = "all blobs are of that form"
        hinted = [("numeric", "", own), *hinted, ("jsonb", "", own)]
    for type_, reading, why in hinted:
        if base(type_)[0] == base(choice.type)[0] or (type_ == "boolean" and at.seen.values < 2):
            continue
        own_fit = fit(Asked(type_, reading, chosen=True), at.seen)
        if own_fit.misfit or own_fit.conversion.integers == "by-size":
            continue
        numbers = own_fit.conversion.integers if at.seen.integers else own_fit.conversion.reals
        line = f"{type_} from {numbers}" if numbers in _READINGS else type_
        says = f"all {at.seen.values} values could be {type_}: {why}"
        return [at.finding("type-suggested", says, at.choose(line))]
    return []


def unfit_override(at: Place, asked: Asked, what: Misfit, *, quarantine: bool) -> Finding:
    """Values that do not become the type that the user chose."""
    shown = f" ({'; '.join(what.samples)})" if what.samples else ""
    says = f"{what.count} of {at.seen.values} values are {what.what} that is no {asked.type}{shown}"
    try_ = (
        "they go to the quarantine table" if quarantine else "mend them in the source, or add --on-bad-row quarantine"
    )
    return at.finding("type-does-not-fit", says, try_, "data" if quarantine else "blocker")


def invalid_text(at: Place, policy: str) -> list[Finding]:
    """Text with a NUL character or in no encoding, and what becomes of it."""
    try_ = {
        "stop": "choose what becomes of it: --on-invalid-text replace, bytea or quarantine",
        "replace": "U+FFFD takes its place",
        "bytea": "the column becomes bytea",
        "quarantine": "the rows go to the quarantine table",
    }[policy]
    level: Level = "blocker" if policy == "stop" else "data"
    found = []
    if at.seen.nul:
        says = f"{at.seen.nul} texts have a NUL character, which PostgreSQL's text cannot hold{at.shown(NUL)}"
        found.append(at.finding("nul-in-text", says, try_, level))
    if at.seen.broken:
        says = f"{at.seen.broken} texts have bytes that are no characters{at.shown(BROKEN)}"
        found.append(at.finding("broken-utf8", says, try_, level))
    return found
