"""The lease thread: renews this instance's promise to be alive, and gives the supervisors their local deadline.

The deadline counts from the moment the renewal was *sent*: whatever the network does with the answer, the store saw it
no earlier. It only grows on an acknowledgement. A loop that stands still is not renewed for.
"""

from __future__ import annotations

import secrets
import threading

from slotsched.errors import StoreError
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.inbox import Fenced, Renewed

LOCAL_SHARE = 0.8  # of the lease: the rest is what clocks and scheduling may differ
RENEWALS_PER_LEASE = 6
TIMEOUT_SHARE = 0.3


class LeaseKeeper(threading.Thread):
    """Runs until `stop()`; tells the loop of every acknowledgement and of being fenced."""

    def __init__(self, engine: Engine, nonce: str) -> None:
        super().__init__(name="lease", daemon=True)
        self._engine = engine
        self._instance_id = engine.identity.id
        self._nonces = [nonce]  # the acknowledged one, then those sent since
        self._stopping = threading.Event()

    def run(self) -> None:
        pause = self._engine.settings.lease / RENEWALS_PER_LEASE
        while not self._stopping.wait(pause):
            if not self.run_once():
                return

    def stop(self) -> None:
        self._stopping.set()

    def run_once(self) -> bool:
        """One renewal; False when there is no lease left to renew."""
        engine = self._engine
        lease = engine.settings.lease
        sent = engine.now()
        if sent - engine.last_turn > lease:
            return True  # the loop stands still: let the lease run out
        nonce = secrets.token_hex(8)
        self._nonces.append(nonce)
        try:
            instance = engine.store.instances.renew(
                self._instance_id,
                engine.identity.incarnation,
                self._nonces,
                nonce,
                used=engine.used_slots,
                running=engine.running,
                draining=engine.draining,
                capacity=engine.ledger.capacity,
                free=engine.free,
                timeout=TIMEOUT_SHARE * lease,
            )
        except StoreError as error:
            engine.log.debug("lease not renewed", why=str(error))
            return True
        except Exception:  # a damaged document must not end the thread: then nobody would learn of being fenced
            engine.log.exception("lease not renewed")
            return True
        if instance is None:
            engine.inbox.post(Fenced(self._instance_id))
            return False
        self._nonces = [nonce]
        engine.deadline.extend(sent + LOCAL_SHARE * lease)
        engine.inbox.post(Renewed(instance, sent))
        return True
