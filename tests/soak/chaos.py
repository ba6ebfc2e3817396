"""Faults: one at a time, drawn at random.

Of every pair one node is spared for a while: frozen and cut off, but not ended, so that it lives long enough to show
whether it leaks. Then it is the other one's turn. The store is spared every other time.
"""

import random
import signal
import time
from collections import Counter

LINKS = ("0", "2Gbit/s", "100Mbit/s", "20Mbit/s")
FAULTS = ("", "", "", "flip=0.001,flip-min=1000", "drop=3000000", "stall=2000000", "delay=0.05,delay-ms=50")


class Chaos:
    def __init__(self, deployment, seed, spare_s):
        self.deployment = deployment
        self.counts = Counter()
        self._random = random.Random(seed)
        self._spare_s = spare_s
        self._begin = time.monotonic()
        self._kinds = [self.kill_prefill, self.kill_decode, self.freeze, self.new_link, self.cut_link, self.sever_link,
                       self.nothing]
        if deployment.store:
            self._kinds += [self.kill_store, self.freeze_store, self.full_disk]
        if deployment.redis:
            self._kinds += [self.kill_redis]

    def once(self):
        """False from a fault: not in this turn."""
        kind = self._random.choice(self._kinds)
        if kind() is not False:
            self.counts[kind.__name__] += 1

    def _turn(self):
        return int((time.monotonic() - self._begin) / self._spare_s) % 2

    def _pause(self, longest):
        time.sleep(self._random.uniform(0.2, longest))

    def _away(self, member, **options):
        member.down()
        self._pause(4)
        member.up(**options)

    def kill_prefill(self):
        self._away(self.deployment.prefill[self._turn()])

    def new_link(self):
        self._away(self.deployment.prefill[self._turn()], link=self._random.choice(LINKS),
                   fault=self._random.choice(FAULTS))

    def kill_decode(self):
        self._away(self.deployment.decode[self._turn()])

    def kill_store(self):
        if self._turn() == 0:
            return False
        self._away(self.deployment.store)
        return True

    def full_disk(self):
        """The store's folder is on a small file system, which then fills up under its writes, or, where none can be
        mounted, has a small quota. Until the store is killed the next time."""
        if self._turn() == 0:
            return False
        if self.deployment.small_disk is None:
            self._away(self.deployment.store, disk="small", disk_bytes="32MB")
            return True
        self._away(self.deployment.store, disk="small", wrap=self.deployment.small_disk)
        self._pause(3)
        self.deployment.fill_small_disk()
        return True

    def kill_redis(self):
        self.deployment.redis.kill()
        self._pause(6)
        self.deployment.redis.start()

    def cut_link(self):
        cable = self._random.choice(list(self.deployment.cables.values()))
        cable.cut()
        self._pause(8)  # past the nodes' patience, or not
        cable.restore()

    def sever_link(self):
        self._random.choice(list(self.deployment.cables.values())).sever()

    def _freeze(self, member):
        member.process.signal(signal.SIGSTOP)
        self._pause(6)
        member.process.signal(signal.SIGCONT)

    def freeze(self):
        self._freeze(self._random.choice(self.deployment.nodes()))

    def freeze_store(self):
        self._freeze(self.deployment.store)

    def nothing(self):
        time.sleep(self._random.uniform(1, 5))
