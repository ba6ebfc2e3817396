"""The deployment of docs/deploy.md on one machine: everything encrypted, one token among nodes, another for clients."""

import json
import re
import secrets
import ssl

import pytest

from api_client import ApiClient
from authority import Authority
from clusters import NODE_FLAGS
from kvplane_process import MODEL, SOURCE, eventually, run

PAGE = (SOURCE / "docs" / "deploy.md").read_text()


def toml_of(role):
    """The configuration that the page gives to the node of that role, as {flag: TOML value}."""
    block = re.search(rf'^    model = [^\n]*\n    role = "{role}"\n(?:    [^\n]*\n)*', PAGE, re.MULTILINE)
    assert block, f"the page has no configuration of a {role} node"
    return dict(re.findall(r"^    (\S+) = (.*)$", block[0], re.MULTILINE))


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


class Deployment:
    """The page's four processes, on ports of loopback."""

    def __init__(self, launch, authority, folder):
        self.launch = launch
        self.certificate, self.key = authority.sign("machine", "IP:127.0.0.1")
        self.authority = authority
        self.trust = ssl.create_default_context(cafile=authority.certificate)
        self.folder = folder
        self.tokens = {}
        for name in ("nodes", "clients"):
            self.tokens[name] = secrets.token_hex(32)
            (folder / f"{name}.token").write_text(self.tokens[name] + "\n")
        self.kv_flags = ("--kv-tls", "--auth-token-file", folder / "nodes.token")
        self.store = launch.start(
            "store", "store", "--listen", "tcp://127.0.0.1:0", "--dram", "64MiB", "--disk", folder / "disk",
            "--metrics", "127.0.0.1:0", *self.kv_flags,
        ).await_ready()  # fmt: skip
        self.prefill, self.decode = (self._serve(role) for role in ("prefill", "decode"))
        self.router = launch.start(
            "route", "route", "--port", 0, "--tls-cert", self.certificate, "--tls-key", self.key,
            "--auth-token-file", folder / "clients.token", "--node-token-file", folder / "nodes.token",
            "--node-ca", authority.certificate,
            "--prefill", f"https://{self.prefill.http}", "--decode", f"https://{self.decode.http}",
        ).await_ready()  # fmt: skip

    def client(self, process, token):
        return ApiClient(process.http, token=self.tokens.get(token), tls=self.trust)

    def _serve(self, role, *flags):
        """With the page's own configuration, but for addresses and files."""
        here = {
            "model": f'"{MODEL}"',
            "host": '"127.0.0.1"',
            "port": "0",
            "kv-listen": '"tcp://127.0.0.1:0"',
            "tls-cert": f'"{self.certificate}"',
            "tls-key": f'"{self.key}"',
            "auth-token-file": f'"{self.folder / "nodes.token"}"',
            "store": f'["{self.store.ready["store"]}"]',
        }
        config = {name: here.get(name, value) for name, value in toml_of(role).items()}
        path = self.folder / f"{role}.toml"
        path.write_text("".join(f"{name} = {value}\n" for name, value in config.items()))
        computing = NODE_FLAGS[NODE_FLAGS.index("--threads") :]
        return self.launch.start(role, "serve", "--config", path, *computing, *flags).await_ready()


@pytest.fixture
def deployment(launch, authority, tmp_path):
    return Deployment(launch, authority, tmp_path)


def test_the_deployment_of_the_page(deployment, unified, prose):
    prompt = prose(1500, start=9000)
    client = deployment.client(deployment.router, "clients")
    eventually(lambda: client.get("/ready").status == 200, "the router has seen its nodes")
    eventually(lambda: client.get("/ready").json()["prefill_nodes"] == 1, "and the prefill node")
    expected = unified.client.complete(prompt, max_tokens=12).token_ids
    done = client.complete(prompt, max_tokens=12)
    assert (done.source, done.token_ids) == ("transfer", expected), done.kvplane

    def stored():
        reply = run("store", "stats", "--store", deployment.store.ready["store"], *deployment.kv_flags)
        assert reply.returncode == 0, reply.stderr
        return json.loads(reply.stdout)["store"]["entries"]

    eventually(lambda: stored() > 0, "the prompt's KV in the store")
    # A prefill node without memory of its own takes it from there. The first look-up may end before its connection is up.
    fresh = deployment.client(deployment._serve("prefill", "--store-dram", 0), "nodes")
    body = {"model": "demo", "prompt": prompt, "max_tokens": 12, "temperature": 0, "return_token_ids": True}

    def found():
        answer = fresh.post("/v1/completions", body).json()
        assert answer["choices"][0]["token_ids"] == expected
        return answer["kvplane"]["prefix"]["found_tokens"] >= 256

    eventually(found, "the fresh node finds it", timeout=30)


def test_each_token_opens_its_own_doors(deployment):
    nodes = (deployment.prefill, deployment.decode)
    for process in (*nodes, deployment.router):
        right = "clients" if process is deployment.router else "nodes"
        wrong = "nodes" if process is deployment.router else "clients"
        assert deployment.client(process, right).get("/metrics").status == 200
        assert deployment.client(process, wrong).get("/metrics").status == 401
        assert deployment.client(process, None).get("/v1/models").status == 401
    metrics = deployment.store.ready["metrics"]
    assert ApiClient(metrics, token=deployment.tokens["nodes"]).get("/metrics").status == 200
    assert ApiClient(metrics, token=deployment.tokens["clients"]).get("/metrics").status == 401


def test_clients_do_not_say_where_kv_comes_from(deployment):
    client = deployment.client(deployment.router, "clients")
    eventually(lambda: client.get("/ready").status == 200, "the router has seen its nodes")
    params = {"do_remote_prefill": True, "transfer_id": "t", "remote_host": "127.0.0.1", "remote_port": 1}
    reply = client.post("/v1/completions", {"prompt": "x", "max_tokens": 2, "kv_transfer_params": params})
    assert reply.status == 400 and reply.json()["error"]["param"] == "kv_transfer_params"


def test_every_flag_of_the_page_exists():
    known = {
        verb: set(re.findall(r"--[a-z][a-z-]*", run(*verb.split(), "--help").stdout))
        for verb in ("serve", "route", "store", "store stats", "profile fit", "bench quality")
    }
    commands = re.sub(r"\\\n", " ", PAGE)
    checked = 0
    for verb, flags in re.findall(r"^    \S+/kvplane ((?:serve|route|store stats|store|profile fit|bench quality)) (.*)$",
                                  commands, re.MULTILINE):  # fmt: skip
        used = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", " " + flags))
        assert used and used <= known[verb], used - known[verb]
        checked += 1
    assert checked == 9, "commands of the page"
    for role in ("prefill", "decode"):
        assert {f"--{name}" for name in toml_of(role)} <= known["serve"]
    table = re.search(r"## Flags of size and speed\n(.*?)\n## ", PAGE, re.DOTALL)[1]
    named = set(re.findall(r"--[a-z][a-z-]*(?![*a-z-])", table)) - {"--help"}
    assert named <= known["serve"] | known["route"], named - known["serve"] - known["route"]
