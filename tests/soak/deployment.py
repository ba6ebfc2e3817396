"""A router, two prefill and two decode nodes, a store server and a Redis, as real processes on loopback."""

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import netlab
from clusters import Node
from kvplane_process import MODEL, KvplaneProcess
from redis_server import RedisServer

SMALL_DISK = "24m"  # RocksDB opens in it and the load fills it within seconds


def small_disk_wrap(folder):
    """argv -> argv of a process that sees a file system of SMALL_DISK at `folder`, gone when it ends; None where
    mounts are not allowed."""
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    mount = f'mount -t tmpfs -o size={SMALL_DISK} none "$0"'
    try:
        probe = subprocess.run([*unshare, "sh", "-c", mount, folder], capture_output=True, check=False)
    except OSError:
        return None
    if probe.returncode != 0:
        return None
    return lambda argv: [*unshare, "sh", "-c", f'{mount} && exec setpriv --pdeathsig KILL -- "$@"', folder, *argv]


class Member:
    """One process of the deployment that may be ended and started again at the same address."""

    def __init__(self, name, folder, make_arguments):
        self.name = name
        self.options = {}  # of its present incarnation; empty: none of a fault's
        self.process = None
        self._folder = folder
        self._make_arguments = make_arguments
        self._incarnation = (0, 0, 0.0)

    def up(self, wrap=None, **options):
        number = self._incarnation[0] + 1
        log = self._folder / f"{self.name}-{number}.log"
        self.process = KvplaneProcess(self._make_arguments(**options), log, wrap=wrap).await_ready()
        self.options = {**options, **({"wrap": wrap} if wrap else {})}
        self._incarnation = (number, self.process.pid, time.monotonic())
        return self

    def down(self):
        self.process.kill()

    def incarnation(self):
        """(number, pid, when it was ready)"""
        return self._incarnation

    def crashed(self):
        """It has ended, and it was not us."""
        return not self.process.alive() and not self.process.end_expected


class Deployment:
    def __init__(self, folder, with_store):
        self.folder = folder
        self._ports = {name: (netlab.free_port(), netlab.free_port()) for name in ("p0", "p1", "d0", "d1", "route", "store")}
        self.store = self.redis = self.small_disk = None
        store_flags = ["--store", "none"]
        if with_store:
            store_flags = self._plan_stores()
        self._common = ["--model", str(MODEL), "--threads", "1", "--compute", "f32", "--kv-size", "64MiB",
                        "--transfer-timeout-s", "10", "--stall-timeout-s", "4", "--log-level", "warn", *store_flags]
        self.cables = {name: netlab.Cable(("127.0.0.1", self._ports[name][1])) for name in ("p0", "p1")}
        self.prefill = [Member(name, folder, self._prefill(name)) for name in ("p0", "p1")]
        self.decode = [Member(name, folder, self._decode(name)) for name in ("d0", "d1")]
        urls = lambda names: [f"http://127.0.0.1:{self._ports[name][0]}" for name in names]
        route = ["route", "--port", self._ports["route"][0], "--prefill", *urls(("p0", "p1")), "--decode",
                 *urls(("d0", "d1")), "--request-timeout-s", "45"]
        self.router = Member("route", folder, lambda: route)
        self.reference = Member(
            "reference", folder, lambda: ["serve", "--port", 0, "--model", str(MODEL), "--threads", "1", "--compute",
                                          "f32", "--store", "none"])

    def _plan_stores(self):
        """The flags by which nodes use them, small enough that memory soon holds all it ever will."""
        endpoint = f"tcp://127.0.0.1:{self._ports['store'][0]}"
        tiers = []
        if shutil.which("redis-server"):
            (self.folder / "redis").mkdir()
            self.redis = RedisServer(self.folder / "redis", "--maxmemory", "32mb", "--maxmemory-policy", "allkeys-lru")
            tiers = ["--tier", f"redis://127.0.0.1:{self.redis.port}"]

        def make(disk="store", disk_bytes="2GB"):
            return ["store", "--listen", endpoint, "--dram", "16MiB", "--disk", self.folder / disk, "--disk-bytes",
                    disk_bytes, "--log-level", "warn", *tiers]

        self.store = Member("store", self.folder, make)
        (self.folder / "small").mkdir()
        self.small_disk = small_disk_wrap(self.folder / "small")
        return ["--store", endpoint, "--store-run-tokens", "64", "--store-dram", "16MiB"]

    def fill_small_disk(self):
        """Somebody else's bytes take what is left of the file system that the store's process has mounted."""
        folder = Path(f"/proc/{self.store.process.pid}/root") / str(self.folder / "small").lstrip("/")
        try:
            with (folder / "of-somebody-else").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError as full:
            assert full.errno == errno.ENOSPC, full

    def _prefill(self, name):
        http, kv = self._ports[name]

        def make(link="0", fault=""):
            flags = ["serve", "--role", "prefill", "--port", http, "--kv-listen", f"tcp://127.0.0.1:{kv}",
                     "--kv-advertise", f"127.0.0.1:{self.cables[name].port}"]
            if link != "0":
                flags += ["--link-rate", link]
            if fault:
                flags += ["--kv-fault", fault]
            return [*flags, *self._common]

        return make

    def _decode(self, name):
        return lambda: ["serve", "--role", "decode", "--port", self._ports[name][0], *self._common]

    def nodes(self):
        return [*self.prefill, *self.decode]

    def members(self):
        return [member for member in [self.store, *self.nodes(), self.router] if member]

    def up(self):
        for member in self.members():
            member.up()

    def end_faults(self):
        """Every link is whole and fast, every disk large, every process there. Who has no fault goes on as it is."""
        for cable in self.cables.values():
            cable.restore()
        if self.redis and not self.redis.alive():
            self.redis.start()
        for member in self.members():
            if member.options:
                member.down()
                member.up()

    def stop(self):
        """SIGTERM for all, in the order a deployment is taken down; the names that did not end cleanly."""
        unclean = []
        for cable in self.cables.values():
            cable.restore()
        for member in [self.router, *self.decode, *self.prefill, self.store, self.reference]:
            if member and member.process and member.process.alive():
                try:
                    if member.process.stop(timeout=40) != 0:
                        unclean.append(f"{member.name}: {member.process.log()[-500:]}")
                except AssertionError:
                    unclean.append(member.name)
        if self.redis:
            self.redis.kill()
        return unclean

    def held_blocks(self):
        return {member.name: Node(member.process).blocks_used() for member in self.nodes()}
