"""Machines with different copies of one job file, for `job show` and `schedule show`."""

from __future__ import annotations

from slotsched.cli.session import Session

DIGITS = 12  # of a content hash, as shown


def copies(session: Session, job: str, here: str | None = None) -> str:
    """Which of the instances that are up hold which content of a job's file; empty where they all hold the same.

    here: the content hash of the copy in this machine's own folder.
    """
    catalogs = session.client.store.catalogs
    names = {instance.id: instance.name for instance in session.client.store.instances.live()}
    known = catalogs.copies().get(job, {})
    held = {digest: living for digest, ids in known.items() if (living := ids & set(names))}
    if not held or (len(held) == 1 and here in (None, *held)):
        return ""
    newest = catalogs.newest(job)
    lines = ["not the same everywhere; the newest counts"]
    for digest in sorted(set(held) | ({here} if here is not None else set())):
        mark = "newest" if newest is not None and digest == newest.hash else "older" if digest in held else "new"
        holders = sorted(names[one] for one in held.get(digest, ()))
        lines.append(f"{digest[:DIGITS]}  {mark:<6}  {', '.join(['this folder'] * (digest == here) + holders)}")
    return "\n".join(lines)
