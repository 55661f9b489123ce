"""Whom the server runs as. PostgreSQL refuses to run as root, and initdb wants its uid to have an account. Three ways:

- plain: as the caller.
- namespace: in a user namespace, where the caller's uid appears as another account's. Files stay the caller's own, so this works
  in a 0700 home, and needs no right but to make the namespace.
- account: where namespaces are refused to root (as in Docker by default), under a uid that nobody else has, with data and a copy
  of the binaries under /var/lib/pgqueue.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import Plan, StartFailure

# No account has this uid (Debian leaves 60000-64999 to local use, systemd's dynamic users begin at 61184): so nobody else's
# process may signal or trace the server, as they could if it ran as `nobody`. initdb looks its account up, the server does not.
SERVER_UID = 60_432
NOBODY_UID = 65_534
CLONE_NEWUSER = 0x10000000
libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Way(NamedTuple):
    """How, where and as whom the server runs. A uid of None means the keeper's own."""

    name: str
    home: Path
    """The directory of `postgres`, and of `sockets` unless that path is too long."""
    pginstall: Path
    client_name: str
    """Whom the server sees at the other end of its socket when the caller connects."""
    initdb_uid: int | None = None
    server_uid: int | None = None


def choose_way(plan: Plan) -> Way:
    """Find a way to run the server, and take it: this may move the keeper into a namespace.

    A cluster keeps the way it was made in: `postgres` is a directory, or for the account way a link to one elsewhere.
    """
    directory, pginstall, uid = Path(plan.directory), Path(plan.pginstall), os.geteuid()
    name, cluster = account_name(uid), Path(plan.directory, "postgres")
    if uid != 0 and name is not None:
        return Way("plain", directory, pginstall, name)
    account = borrowed_account()
    may_use_namespace = "namespace" in plan.root_ways or uid != 0
    if may_use_namespace and not cluster.is_symlink() and namespace_works(account.pw_uid, account.pw_gid):
        enter_namespace(account.pw_uid, account.pw_gid)
        return Way("namespace", directory, pginstall, account.pw_name)
    if uid != 0:
        raise StartFailure(f"uid {uid} has no account and may not make a user namespace: add an account, or set DATABASE_URL.")
    if cluster.exists() and not cluster.is_symlink():
        raise StartFailure(
            f"{cluster} was made by root in a user namespace, and those are refused here: allow them, "
            f"or move {directory} away to begin anew, or set DATABASE_URL."
        )
    return account_way(plan, name or "root", account.pw_uid)


def account_name(uid: int) -> str | None:
    """The account of a uid; None where there is none, as in containers that are started under any uid."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def borrowed_account() -> pwd.struct_passwd:
    """The account to appear as. Never `nobody`: that is how a process in a namespace sees everybody outside, peers included."""
    accounts = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid not in (0, NOBODY_UID)}
    for name in ("postgres", "daemon", "bin", *accounts):
        if name in accounts:
            return accounts[name]
    raise StartFailure("PostgreSQL does not run as root, and /etc/passwd has no other account: add one, or set DATABASE_URL.")


def namespace_works(uid: int, gid: int) -> bool:
    """Try it in a child: a namespace entered halfway (AppArmor refuses the maps, not the call) cannot be left again."""
    child = os.fork()
    if child == 0:
        works = False
        try:
            enter_namespace(uid, gid)
            works = os.geteuid() == uid
        finally:
            os._exit(0 if works else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def enter_namespace(uid: int, gid: int) -> None:
    """Move this process into a user namespace of its own, where it is `uid`. Raises OSError where that is refused."""
    if libc is None:
        raise OSError(errno.ENOSYS, "no user namespaces on this platform")
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are refused")
    Path("/proc/self/setgroups").write_text("deny")  # the kernel wants this before an unprivileged gid_map
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def account_way(plan: Plan, client_name: str, initdb_uid: int) -> Way:
    """Lay out a place of root's own, in which only `postgres` and `sockets` will be the server's."""
    root, link = Path(plan.account_root), Path(plan.directory, "postgres")
    if link.is_symlink():
        home = Path(os.readlink(link)).parent
    else:
        home = root / hashlib.sha256(plan.directory.encode()).hexdigest()[:12]
    for path in (root, home):
        path.mkdir(parents=True, exist_ok=True)
        if (owner := path.stat().st_uid) != 0:
            raise StartFailure(f"{path} belongs to uid {owner}, not to root: move it away, or set DATABASE_URL.")
        path.chmod(0o711)
    if not link.is_symlink():
        link.symlink_to(home / "postgres")
    return Way("account", home, copied_binaries(Path(plan.pginstall), root), client_name, initdb_uid, SERVER_UID)


def copied_binaries(pginstall: Path, root: Path) -> Path:
    """Copy the binaries to where another uid may read them: root's virtualenv is often in a 0700 home. 35 MB, once a version."""
    package = pginstall.parent
    stamp = f"{pginstall} {(pginstall / 'bin' / 'postgres').stat().st_mtime_ns}"
    target = root / f"binaries-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    if not target.exists():
        new = Path(tempfile.mkdtemp(prefix="binaries.new-", dir=root))
        shutil.copytree(pginstall, new / package.name / "pginstall", symlinks=True, ignore=shutil.ignore_patterns("include"))
        if (libraries := package.with_name(package.name + ".libs")).exists():  # auditwheel's: found by a path relative to bin
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(new)], check=True)
        with contextlib.suppress(OSError):  # another keeper was first
            new.rename(target)
        shutil.rmtree(new, ignore_errors=True)
    return target / package.name / "pginstall"


def chown_tree(top: Path, uid: int) -> None:
    """Hand over a fresh cluster. Links are not followed: initdb's account could have put some there."""
    for folder, _, files in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            os.lchown(path, uid, uid)
