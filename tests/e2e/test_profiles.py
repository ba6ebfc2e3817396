"""Model profiles between real nodes: fitted, loaded, coded with; missing or foreign ones refused by name."""

import json
import re

import numpy
import pytest

from api_client import ApiError
from kv_arrays import to_bf16
from kvplane_process import MODEL, SOURCE, run
from model_folder import golden

FOREIGN = SOURCE / "fuzz" / "corpus" / "profile" / "full"  # of 2 layers, 2 KV heads, head_dim 2
# Everything that a profile is good for: means, bases over all heads of a layer, steps, and undoing RoPE.
PROFILED = (
    "k: unrope | pca(scope=layer) | ecsq(snr=30) | rans(table=class); "
    "v: pca(scope=layer) | ecsq(snr=30) | rans(table=class)"
)


def fit(target, seed):
    """A quick fit, good enough to code with."""
    done = run(
        *("profile", "fit", "--model", MODEL, "--text", SOURCE / "prompts" / "acts.txt", "--out", target),
        *("--prompts", 6, "--tokens", 256, "--probes", 2, "--threads", 1, "--seed", seed),
    )
    assert done.returncode == 0, done.stderr
    return re.search(r"\b[0-9a-f]{32}\b", done.stderr + done.stdout).group()


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """Two profiles of the demo model: [(path, id)]."""
    folder = tmp_path_factory.mktemp("profiles")
    return [(folder / f"{seed}.kvpp", fit(folder / f"{seed}.kvpp", seed)) for seed in (1, 2)]


def test_nodes_with_the_profile_code_with_it(launch, profiles, prose):
    (first, first_id), (second, second_id) = profiles
    flags = ["--profile", first, "--profile", second]
    cluster = launch.cluster(prefill_flags=[*flags, "--strategy", PROFILED], decode_flags=flags)
    node = cluster.prefill[0].client.get("/v1/kv/endpoint").json()
    assert node["profiles"] == [first_id, second_id]
    done = cluster.client.complete(prose(3000), max_tokens=8)
    transfer = done.kvplane["transfer"]
    assert done.source == "transfer" and transfer["ratio"] > 1.5
    assert transfer["strategy"].startswith("k: unrope | pca(scope=layer,")
    assert cluster.client.complete(golden("The code for amber")["prompt"], max_tokens=8).source == "transfer"
    cluster.assert_idle()


@pytest.mark.parametrize("decode_profile", [None, 1])
def test_a_decode_node_without_it_recomputes_and_names_it(launch, profiles, decode_profile):
    (needed, needed_id) = profiles[0]
    decode_flags = [] if decode_profile is None else ["--profile", profiles[decode_profile][0]]
    cluster = launch.cluster(prefill_flags=["--profile", needed], decode_flags=decode_flags)
    entry = golden("The code for amber")
    done = cluster.client.complete(entry["prompt"], max_tokens=16, kvplane={"strategy": PROFILED})
    assert done.source == "recompute" and needed_id in done.kvplane["recompute_reason"]
    assert done.token_ids == entry["greedy_32"][:16]
    cluster.assert_idle()


def test_a_prefill_node_without_it_refuses_by_rule(launch):
    prefill = launch.node(role="prefill")
    with pytest.raises(ApiError) as refused:
        prefill.prefill_only("anything", kvplane={"strategy": PROFILED})
    assert refused.value.status == 400 and "L4" in str(refused.value)
    started = run("serve", "--model", MODEL, "--role", "prefill", "--strategy", PROFILED, "--port", 0)
    assert started.returncode == 1 and "L4" in started.stderr, started.stderr


def test_a_foreign_profile_is_refused_at_start():
    for role in ("unified", "prefill", "decode"):
        started = run("serve", "--model", MODEL, "--role", role, "--profile", FOREIGN, "--port", 0)
        assert started.returncode == 1 and "another model" in started.stderr, started.stderr
    started = run("serve", "--model", MODEL, "--profile", SOURCE / "README.md", "--port", 0)
    assert started.returncode == 3 and "README.md" in started.stderr, started.stderr


def test_objects_of_the_models_own_kv(tmp_path, profiles):
    """Files: encode with a profile, decode with several, the right one found by its id."""
    source, target, back = tmp_path / "cache.npy", tmp_path / "cache.kvo", tmp_path / "back.npy"
    numpy.save(source, to_bf16(numpy.random.default_rng(5).normal(size=(8, 2, 150, 2, 64))))
    done = run("encode", source, "-o", target, "--strategy", PROFILED, "--profile", profiles[0][0])
    assert done.returncode == 0, done.stderr
    assert json.loads(run("inspect", "--json", target).stdout)["profile"] == profiles[0][1]
    wrong = run("decode", target, "-o", back, "--profile", profiles[1][0])
    assert wrong.returncode == 1 and profiles[0][1] in wrong.stderr
    both = [flag for path, _ in profiles for flag in ("--profile", path)]
    done = run("decode", "--float32", *both, target, "-o", back)
    assert done.returncode == 0, done.stderr
    assert numpy.isfinite(numpy.load(back)).all()


def test_demo_takes_profiles(profiles):
    done = run(
        *("demo", "--count", 2, "--min-tokens", 200, "--max-tokens", 300, "--generate", 4),
        *("--modes", f"off,{PROFILED}", "--profile", profiles[0][0]),
    )
    assert done.returncode == 0, done.stderr
    refused = run("demo", "--modes", PROFILED)
    assert refused.returncode == 2 and "L4" in refused.stderr, refused.stderr
