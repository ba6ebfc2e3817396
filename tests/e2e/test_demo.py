"""`kvplane demo` and `kvplane doctor`, small: what a newcomer runs first."""

import json
import signal
import subprocess

from kvplane_process import SOURCE, command, environment, eventually, leftover_processes, run

DEMO = ("demo", "--count", 4, "--min-tokens", 200, "--max-tokens", 400, "--generate", 16)
DEMO_S = 120


def test_demo_writes_rows_and_leaves_nothing(tmp_path):
    report = tmp_path / "demo.json"
    before = set(leftover_processes())
    logs = tmp_path / "logs"
    logs.mkdir()
    done = run(*DEMO, "--json", report, timeout=DEMO_S, variables={"TMPDIR": str(logs)})
    assert done.returncode == 0, done.stderr
    eventually(lambda: set(leftover_processes()) <= before, "the demo's nodes have ended", timeout=5)
    check_report(json.loads(report.read_text()))
    assert "yes, all of them" in done.stderr, "uncompressed transfer gives the unified process's tokens"
    assert not list(logs.iterdir()), "the nodes' logs are removed"


def test_demo_over_tls(tmp_path):
    """Keys from a token of its own, which is gone when the nodes run."""
    report = tmp_path / "demo.json"
    logs = tmp_path / "logs"
    logs.mkdir()
    done = run(
        *DEMO, "--kv-tls", "--modes", "off", "--json", report, timeout=DEMO_S, variables={"TMPDIR": str(logs)}
    )
    assert done.returncode == 0, done.stderr
    assert "TLS 1.3" in done.stderr
    assert "yes, all of them" in done.stderr
    rows = {(row["case"]["mode"], row["metric"]): row for row in json.loads(report.read_text())["rows"]}
    assert rows["off", "recomputed"]["median"] == 0, "the KV came over TLS"
    assert not list(logs.iterdir())


def test_bench_pd_with_a_token_file(tmp_path):
    token = tmp_path / "token"
    token.write_text("a token of thirty characters!!\n".replace(" ", "-"))
    done = run("bench", "pd", *DEMO[1:], "--modes", "off", "--link-rates", "1Gbit/s",
               "--kv-tls", "--auth-token-file", token, timeout=DEMO_S)
    assert done.returncode == 0, done.stderr
    assert token.exists()


def test_demo_refuses_half_a_protection(tmp_path):
    done = run("demo", "--kv-cert", tmp_path / "none.pem")
    assert done.returncode == 2, done.stderr
    assert "--kv-tls" in done.stderr


def check_report(report):
    assert report["bench"] == "demo"
    assert "demo" in report["command"]
    assert report["machine"].keys() >= {"cpu", "cores", "isa", "compiler", "build"}
    rows = {}
    for row in report["rows"]:
        assert row.keys() >= {"case", "metric", "unit", "n", "median", "min", "max"}, row
        assert row["min"] <= row["median"] <= row["max"], row
        assert row["n"] > 0
        rows[row["case"]["mode"], row["metric"]] = row
    for mode in ("off", "int8", "int4"):
        assert {rows[mode, metric]["unit"] for metric in ("ttft_s", "jct_s")} == {"s"}
        assert rows[mode, "jct_s"]["n"] == 4
        assert rows[mode, "jct_s"]["median"] > rows[mode, "ttft_s"]["median"] > 0
    assert rows["off", "equal_tokens"]["median"] == 1
    assert 0.9 < rows["off", "ratio"]["median"] <= 1
    assert 1.7 < rows["int8", "ratio"]["median"] < 2
    assert 3.0 < rows["int4", "ratio"]["median"] < 4


def test_killed_demo_leaves_nothing_running(tmp_path):
    before = set(leftover_processes())
    with subprocess.Popen(
        command(*DEMO),
        cwd=SOURCE,
        env=environment({"TMPDIR": str(tmp_path)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as demo:
        eventually(
            lambda: len(leftover_processes()) >= len(before) + 5, "demo and four nodes run", timeout=30
        )
        demo.send_signal(signal.SIGKILL)
        demo.wait(10)
    eventually(lambda: set(leftover_processes()) <= before, "the nodes died with the demo", timeout=5)


def test_doctor():
    done = run("doctor", "--model", "models/demo", "--json")
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)
    assert {"check", "verdict", "detail", "advice"} <= findings[0].keys()
    assert {"instruction set", "memory", "model", "tokenizer"} <= {finding["check"] for finding in findings}
    assert all(finding["verdict"] in ("ok", "warn") for finding in findings)
