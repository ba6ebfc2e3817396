"""A router, a prefill and a decode node in a network lab: real TCP over links that tests shape and cut."""

import json
import sys

from api_client import ApiError
from clusters import NODE_FLAGS
from kvplane_process import MODEL, SOURCE, KvplaneProcess, eventually

sys.path.insert(0, str(SOURCE / "tests"))
import netlab  # noqa: E402

NODES = ("client", "router", "prefill", "decode")


class LabCluster:
    """Use it as a context. Rates are of every link at the start. kv_listen: what the prefill node listens on for KV;
    default: its address in the lab, any port."""

    def __init__(self, name, folder, rate="1Gbit", prefill_flags=(), decode_flags=(), kv_listen=None):
        self.lab = netlab.Lab(name, dict.fromkeys(NODES, rate))
        self._folder = folder
        self._kv_listen = kv_listen
        self._flags = {"prefill": prefill_flags, "decode": decode_flags}
        self._processes = []

    def __enter__(self):
        self.lab.up()
        try:
            urls = {role: self._serve(role) for role in ("prefill", "decode")}
            router = self._start(
                "router", "route", "--host", self.lab.address("router"), "--insecure", "--port", 0,
                "--prefill", urls["prefill"], "--decode", urls["decode"],
            )  # fmt: skip
            self.router_url = f"http://{router.http}"
            eventually(self._both_nodes_seen, "the router has seen both nodes", timeout=20)
        except BaseException:
            self.lab.down()
            raise
        return self

    def __exit__(self, *error):
        try:
            for process in reversed(self._processes):
                if not process.end_expected:
                    code = process.stop()
                    assert code == 0, f"exit code {code}\n{process.log()}"
                assert "Sanitizer" not in process.log(), process.log()
        finally:
            self.lab.down()

    def _both_nodes_seen(self):
        seen = json.loads(self.curl(f"{self.router_url}/ready"))
        return seen.get("prefill_nodes") == 1 and seen.get("decode_nodes") == 1

    def _start(self, node, *arguments):
        process = KvplaneProcess(
            arguments, self._folder / f"{node}.log", wrap=lambda argv: self.lab.argv(node, argv)
        )
        self._processes.append(process)
        return process.await_ready()

    def _serve(self, role):
        address = self.lab.address(role)
        listen = ["--kv-listen", self._kv_listen or f"tcp://{address}:0"] if role == "prefill" else []
        process = self._start(
            role, "serve", "--model", MODEL, "--role", role, "--host", address, "--insecure", *NODE_FLAGS,
            "--store", "none", *listen, *self._flags[role],
        )  # fmt: skip
        return f"http://{process.http}"

    def complete(self, prompt, timeout=60, **fields):
        """One completion asked by the client node; the answer as JSON, ApiError for an error of the API."""
        body = {"model": "demo", "prompt": prompt, "temperature": 0, "return_token_ids": True, **fields}
        done = self.curl("-d", json.dumps(body), f"{self.router_url}/v1/completions", timeout=timeout)
        answer = json.loads(done)
        if "error" in answer:
            raise ApiError(answer["error"].get("code"), answer["error"])
        return answer

    def curl(self, *arguments, timeout=60):
        done = self.lab.run(
            "client",
            ["curl", "-sS", "--noproxy", "*", "--max-time", timeout, "-H", "Content-Type: application/json", *arguments],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"curl: exit {done.returncode}: {done.stderr}"
        return done.stdout

    def metric(self, node, name, label=""):
        """The sum of a metric's samples on a node, of those that carry `label` ('state="used"')."""
        process = next(p for p in self._processes if p.log_path.name == f"{node}.log")
        text = self.curl(f"http://{process.http}/metrics")
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((name + " ", name + "{")) and label in line
        ]
        assert values, f"no metric {name} on {node}"
        return sum(values)
