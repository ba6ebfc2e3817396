"""Groups of nodes: a router with its prefill and decode nodes, or a single node."""

from contextlib import ExitStack
from dataclasses import dataclass

from api_client import ApiClient
from kvplane_process import MODEL, KvplaneProcess, eventually

# One compute thread per node: several nodes share two cores. f32 because a measured choice ("auto") may
# differ from node to node on a busy machine, and equality of tokens holds for one compute type.
NODE_FLAGS = ["--port", 0, "--threads", 1, "--compute", "f32", "--log-level", "debug"]


class Node:
    """A running node with a client for its address."""

    def __init__(self, process):
        self.process = process
        self.client = ApiClient(process.http)

    def blocks_used(self):
        return self.client.metric("kvplane_cache_blocks", state="used")

    def requests(self, state):
        return self.client.metric("kvplane_requests", state=state)

    def ended(self, event):
        return self.client.metric("kvplane_engine_requests_total", event=event)

    def assert_holds_kv(self):
        """Some block is in use (the node's figures follow its steps by a moment)."""
        eventually(lambda: self.blocks_used() > 0, "a block in use")

    def assert_idle(self, timeout=10.0):
        """Every block has come back."""
        eventually(lambda: self.blocks_used() == 0, f"no block in use\n{self.process.log()}", timeout)

    def prefill_only(self, prompt, **fields):
        """What a vLLM-style proxy asks of the prefill node; returns the parameters for the decode node."""
        done = self.client.complete(
            prompt,
            max_tokens=1,
            kv_transfer_params={
                "do_remote_decode": True,
                "do_remote_prefill": False,
                "remote_engine_id": None,
                "remote_block_ids": None,
                "remote_host": None,
                "remote_port": None,
            },
            **fields,
        )
        assert done.kv_transfer_params["do_remote_prefill"] is True
        assert done.kv_transfer_params["do_remote_decode"] is False
        return done.kv_transfer_params


@dataclass
class Cluster:
    router: Node
    prefill: list
    decode: list

    @property
    def client(self):
        return self.router.client

    def nodes(self):
        return [*self.prefill, *self.decode]

    def nodes_up(self):
        """(prefill nodes, decode nodes) as the router sees them; None while it has no decode node."""
        reply = self.client.get("/ready")
        if reply.status != 200:
            return None
        return reply.json()["prefill_nodes"], reply.json()["decode_nodes"]

    def assert_idle(self):
        for node in self.nodes():
            if node.process.alive():
                node.assert_idle()


class Launcher:
    """Starts processes and ends them all, in reverse order, when its `with` block ends."""

    def __init__(self, log_folder):
        self._log_folder = log_folder
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def start(self, name, *arguments):
        """Starts without waiting; the process must end cleanly unless the test has ended it before."""
        self._count += 1
        process = KvplaneProcess(arguments, self._log_folder / f"{self._count}-{name}.log")
        self._stack.callback(_end, process)
        return process

    def serve(self, *flags, role="unified", model=MODEL):
        if "--store" not in flags:  # a prompt that was seen before is computed all the same
            flags = ("--store", "none", *flags)
        return self.start(role, "serve", "--model", model, "--role", role, *NODE_FLAGS, *flags)

    def node(self, *flags, **options):
        return Node(self.serve(*flags, **options).await_ready())

    def cluster(
        self, prefill_flags=(), decode_flags=(), prefills=1, decodes=1, router_flags=(), decode_model=MODEL
    ):
        prefill = [self.serve(*prefill_flags, role="prefill") for _ in range(prefills)]
        decode = [self.serve(*decode_flags, role="decode", model=decode_model) for _ in range(decodes)]
        urls = {
            flag: [f"http://{process.await_ready().http}" for process in processes]
            for flag, processes in (("--prefill", prefill), ("--decode", decode))
        }
        router = self.start(
            "route",
            "route",
            "--port",
            0,
            "--prefill",
            *urls["--prefill"],
            "--decode",
            *urls["--decode"],
            *router_flags,
        )
        router.await_ready()
        cluster = Cluster(
            Node(router), [Node(process) for process in prefill], [Node(process) for process in decode]
        )
        eventually(lambda: cluster.nodes_up() == (prefills, decodes), "the router has seen all nodes")
        return cluster


def _end(process):
    if not process.end_expected:  # a node that is gone by itself shows here with what it died of
        code = process.stop()
        assert code == 0, f"exit code {code}\n{process.log()}"
    assert "Sanitizer" not in process.log() and "runtime error:" not in process.log(), process.log()
