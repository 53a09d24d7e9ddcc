"""What went wrong or was noticed, where, and what to do about it.

    DbscaleError
    ├── ConfigError      dbscale.toml, a shard map or the command line is wrong
    ├── SourceError      the source cannot be read, or holds what PostgreSQL cannot
    ├── StalePlan        the databases are no longer those the plan was made for
    ├── Unreachable      a database did not answer, or did not let us in
    ├── Missing          a privilege, an extension or a setting that dbscale needs
    ├── TargetInUse      the target is not empty, or another run is at work on it
    ├── Unfinished       a step failed; the same command goes on from there
    └── Unroutable       a statement does not say which shard it belongs to

Each class names its section in docs/errors.md. The exit codes are the command line's (cli/__init__.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Level = Literal["blocker", "data", "behaviour", "note"]
"""How much a finding matters: it stops the plan, changes values, changes behaviour, or is good to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was noticed. `code` has a section of that name in docs/errors.md; no place has a secret in it."""

    code: str
    where: str
    says: str
    try_: str = ""
    level: Level = "note"
    original: str = ""
    """The SQL it speaks of, as the source has it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", redact(self.where))
        object.__setattr__(self, "try_", redact(self.try_))


class DbscaleError(Exception):
    """Base of every expected error: what is, where, what to do, and where to read on."""

    section = "error"

    def __init__(self, says: str, *, where: str = "", try_: str = "", see: str = "") -> None:
        self.says = redact(says)
        super().__init__(self.says)
        self.where = redact(where)
        self.try_ = redact(try_)
        self.see = see or f"docs/errors.md#{self.section}"

    def __str__(self) -> str:
        return self.says

    @property
    def anchor(self) -> str:
        """The section of docs/errors.md that speaks of it."""
        return self.see.rpartition("#")[2]


class ConfigError(DbscaleError):
    """dbscale.toml, a shard map or the command line is wrong."""

    section = "config-error"


class SourceError(DbscaleError):
    """The source cannot be read, or holds what PostgreSQL cannot hold."""

    section = "source-error"


class StalePlan(DbscaleError):
    """The databases are no longer those that the plan was made for."""

    section = "stale-plan"


class Unreachable(DbscaleError):
    """A database did not answer, or did not let us in."""

    section = "unreachable"


class Missing(DbscaleError):
    """A privilege, an extension or a setting that dbscale needs is not there."""

    section = "missing"


class TargetInUse(DbscaleError):
    """The target is not empty, or another run is at work on it."""

    section = "target-in-use"


class Unfinished(DbscaleError):
    """A step failed; nothing after it was tried, and the same command goes on from there."""

    section = "unfinished"


class Unroutable(DbscaleError):
    """A statement does not say which shard it belongs to."""

    section = "unroutable"


# What stands between `user:` and the host. People write passwords as they are, with slashes, blanks, `@` and `?` in
# them, so it goes on to the last `@` of the line that belongs to no option and no other URL. Digits before a slash are
# a port. Where that is in doubt more is taken out rather than less.
_PORT = r"(?!\d{1,5}(?:[/?,\s]|$))"
_OPTIONS = r"\?(?-i:[a-z]\w*)="
_NEXT = r"\s\W{0,3}(?:postgres|libsql|http|ws|sqlite|file)[\w+]*://"
_MIDDLE = (
    rf"(?!\s)(?:{_PORT}(?:(?!{_OPTIONS}|{_NEXT})[^\n])*|{_PORT}(?:(?!{_NEXT})[^\n])*|(?!\d{{1,5}}\?\w+=)[^\s/]*)(?=@)"
)
_URL_PASSWORD = re.compile(rf"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*:){_MIDDLE}", re.IGNORECASE)
# A URL with a slip in its scheme: `postgres//user:secret@host`, `postgres:/user:secret@host`.
_TYPO_PASSWORD = re.compile(
    rf"(?P<head>(?<![\w/:.+-])[a-z][\w+.-]*(?:[;,]?//+|:/|:///+|(?<=postgres)/|(?<=postgresql)/)[^\s:/@]*:){_MIDDLE}",
    re.IGNORECASE,
)
# What is left of a URL in a message, or is no URL yet: `user:secret@host` without a scheme, or with a broken one.
_BARE_PASSWORD = re.compile(r"(?P<head>(?<![\w/:])[\w.%+-]+:/{0,1}(?:[\w.%+-]+:)?)(?!/)[^\s/][^\s]*(?=@[\w.\[-])")
# `password=x` of a connection string, quoted or up to the next blank that no backslash precedes; or of a URL's options.
_SECRET_PARAMETER = re.compile(
    r"(?P<head>\b(?P<option>(?<=[?&]))?(?:\w*password|\w*passwd|pwd|auth_?token|token)\s*=\s*)"
    r"(?!['\"]?env:\w+['\"]?(?:[\s,}]|$))"
    r"(?(option)[^\s&]+|(?:\\?'(?:[^'\\\n]|\\+.)*'?|\"[^\"\n]*\"?|(?!['\"])(?:\\+.|\S)+))",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` without the passwords and tokens of the URLs and connection strings in it."""
    for pattern in (_URL_PASSWORD, _TYPO_PASSWORD, _BARE_PASSWORD, _SECRET_PARAMETER):
        text = pattern.sub(r"\g<head>***", text)
    return text


def without_secrets(text: str) -> str:
    """A URL or connection string with its passwords and tokens left out, so that it still is one.

    libpq then looks for the password in PGPASSWORD and ~/.pgpass.
    """
    text = _URL_PASSWORD.sub(lambda match: match["head"].removesuffix(":"), text)
    if re.match(r"\s*\w+\s*=", text):
        return re.sub(rf"{_SECRET_PARAMETER.pattern}\s*", "", text, flags=re.IGNORECASE).strip()
    address, mark, query = text.partition("?")
    kept = [part for part in query.split("&") if not _SECRET_PARAMETER.match(part)]
    return address + ("?" + "&".join(kept) if mark and kept else "")
