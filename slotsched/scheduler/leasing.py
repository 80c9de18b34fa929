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
# Of the pause between renewals, while no server is known: the driver tries to connect twice a second as long as
# somebody waits for it, and a store that is away for long is to be asked less than once a second.
SEARCH_SHARE = 0.2
LONGEST_TURN_SECONDS = 30.0  # or the lease, where that is shorter; a loop that takes longer is taken to hang


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
        if sent - engine.last_turn > min(LONGEST_TURN_SECONDS, lease):
            return True  # let the lease run out, so that others take what this instance can no longer look after
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
                hindrance=engine.fitness.hindrance,
                keeps_for=engine.keeps_for,
                timeout=self._patience(),
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

    def _patience(self) -> float:
        """Seconds for one renewal: enough for a slow store, little for one that is not there."""
        lease = self._engine.settings.lease
        if self._engine.store.knows_primary:
            return TIMEOUT_SHARE * lease
        return SEARCH_SHARE * lease / RENEWALS_PER_LEASE
