"""encode, inspect, verify, decode over .npy files, judged by numpy."""

import json

import numpy
import pytest

from kv_arrays import HEAD_DIM, KV_HEADS, LAYERS, decode, encode, make_cache, round_trip, save, to_bf16, to_f32
from kvplane_process import SOURCE, run
from model_folder import as_golden, golden

TILE = 64  # tokens

# bf16 has 8 significant bits. A group's scale is rounded up to bf16, a decoded value to the nearest.
BF16_STEP = 2.0**-7
BF16_HALF_STEP = 2.0**-8


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
def test_off_is_bit_exact(tmp_path, tokens):
    cache = make_cache(tokens, seed=tokens)
    back = round_trip(tmp_path, cache, "off")
    assert back.dtype.itemsize == 2 and back.shape == cache.shape
    assert numpy.array_equal(back.view(numpy.uint16), cache)


def test_off_keeps_every_bit_pattern(tmp_path):
    """All 65,536 of them: subnormals, infinities, every NaN, minus zero."""
    cache = numpy.arange(1 << 16, dtype=numpy.uint16).reshape(1, 2, -1, KV_HEADS, HEAD_DIM)
    assert numpy.array_equal(round_trip(tmp_path, cache, "off").view(numpy.uint16), cache)


def group_bounds(values, bits):
    """The largest error `affine` may make at each place: half a step of its group, and the roundings. Keys
    are grouped by channel over a tile's tokens, values by token over a head's channels (KIVI)."""
    bound = numpy.empty_like(values)
    for side, axis in ((0, 1), (1, 3)):  # [layers, tokens, kv_heads, head_dim]
        for first in range(0, values.shape[2], TILE):
            group = values[:, side, first : first + TILE]
            low, high = group.min(axis=axis, keepdims=True), group.max(axis=axis, keepdims=True)
            step = (high - low) / (2**bits - 1)
            magnitude = numpy.maximum(abs(low), abs(high))
            bound[:, side, first : first + TILE] = step / 2 * (1 + BF16_STEP) + BF16_HALF_STEP * magnitude
    return bound


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("tokens", [64, 200])
def test_affine_error_is_within_its_groups_steps(tmp_path, bits, tokens):
    cache = make_cache(tokens, seed=bits)
    values = to_f32(cache)
    back = to_f32(round_trip(tmp_path, cache, f"int{bits}").view(numpy.uint16))
    error = abs(back - values)
    bound = group_bounds(values, bits)
    assert (
        error <= bound
    ).all(), f"{(error > bound).sum()} of {error.size} values beyond, worst {(error / bound).max()}"
    # The bound means something: with fewer bits the error comes near it.
    assert error.max() > 0
    if bits == 2:
        assert (error / bound).max() > 0.5


def test_lossy_strategies_keep_what_is_not_finite(tmp_path):
    cache = make_cache(130)
    cache[1, 0, 70, 1, 5] = 0x7FC0  # NaN
    cache[2, 1, 3, 0, 0] = 0x7F80  # infinity
    back = round_trip(tmp_path, cache, "int4").view(numpy.uint16)
    assert back[1, 0, 70, 1, 5] == 0x7FC0
    assert back[2, 1, 3, 0, 0] == 0x7F80
    assert numpy.isfinite(to_f32(back)).sum() == cache.size - 2


def test_sizes_fall_with_the_bits(tmp_path):
    source = save(tmp_path, make_cache(512))
    raw = LAYERS * 2 * 512 * KV_HEADS * HEAD_DIM * 2
    ratio = {
        name: raw / encode(source, tmp_path / f"{name}.kvo", name).stat().st_size
        for name in ("off", "int8", "int4", "int2")
    }
    assert 0.98 < ratio["off"] < 1
    assert 1.7 < ratio["int8"] < 2
    assert 3.0 < ratio["int4"] < 4
    assert 5.0 < ratio["int2"] < 8


def test_same_input_same_bytes(tmp_path):
    source = save(tmp_path, make_cache(100))
    first, second = (encode(source, tmp_path / name, "int4").read_bytes() for name in ("a.kvo", "b.kvo"))
    assert first == second


def test_strategies_may_be_written_out(tmp_path):
    source = save(tmp_path, make_cache(100))
    written = "k: affine(bits=4,group=64,axis=channel) | pack; v: affine(bits=4,group=64,axis=token) | pack"
    named = encode(source, tmp_path / "named.kvo", "int4").read_bytes()
    assert encode(source, tmp_path / "written.kvo", written).read_bytes() == named


def test_inspect_json_and_verify(tmp_path):
    encoded = encode(save(tmp_path, make_cache(100)), tmp_path / "cache.kvo", "int4")
    done = run("inspect", "--json", encoded)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["layers"], facts["kv_heads"], facts["head_dim"], facts["tokens"]) == (
        LAYERS,
        KV_HEADS,
        HEAD_DIM,
        100,
    )
    assert facts["lossy"] is True
    assert "bits=4" in facts["strategy"]
    done = run("verify", encoded)
    assert done.returncode == 0, done.stderr
    human = run("inspect", encoded)
    assert human.returncode == 0 and "bits=4" in human.stdout + human.stderr


def test_inspect_tells_qualities_apart(tmp_path):
    source = save(tmp_path, make_cache(70))
    strategy = "ecsq(snr=21,scale=tile) | rans(class)"
    for flags, quality in (((), [0, 0]), (("--quality", "64"), [64, 64]), (("--quality", "64,192"), [64, 192])):
        encoded = encode(source, tmp_path / "cache.kvo", strategy, *flags)
        facts = json.loads(run("inspect", "--json", encoded).stdout)
        assert (facts["quality"], facts["format"]) == (quality, "1.0")


def test_a_lossless_object_says_so(tmp_path):
    encoded = encode(save(tmp_path, make_cache(10)), tmp_path / "cache.kvo", "off")
    assert json.loads(run("inspect", "--json", encoded).stdout)["lossy"] is False


PROFILE = SOURCE / "fuzz" / "corpus" / "profile" / "full"  # of 2 layers, 2 KV heads, head_dim 2
PROFILED = "heads(ratio=50) | levels(m=256,low=16) | pack"


def small_cache(tokens):
    return to_bf16(numpy.random.default_rng(3).normal(size=(2, 2, tokens, 2, 2)))


def test_a_profile_is_needed_named_and_found(tmp_path):
    source, target, back = save(tmp_path, small_cache(300)), tmp_path / "cache.kvo", tmp_path / "back.npy"
    refused = run("encode", source, "--output", target, "--strategy", PROFILED)
    assert refused.returncode == 1 and "L4" in refused.stderr, refused.stderr
    done = run("encode", source, "--output", target, "--strategy", PROFILED, "--profile", PROFILE)
    assert done.returncode == 0, done.stderr
    profile = json.loads(run("inspect", "--json", target).stdout)["profile"]
    assert len(profile) == 32 and profile != 32 * "0"
    # The checksums can be judged without the profile, the values cannot be had.
    for code, says, *verb in ((5, "checksums ok, not decoded", "verify"), (1, "is not loaded", "decode", "--output", back)):
        missing = run(*verb, target)
        told = missing.stdout + missing.stderr
        assert missing.returncode == code and profile in told and says in told, told
        found = run(*verb, "--profile", PROFILE.with_name("tiny"), "--profile", PROFILE, target)
        assert found.returncode == 0, found.stderr
    error = abs(to_f32(numpy.load(back).view(numpy.uint16)) - to_f32(small_cache(300)))
    assert 0 < error.max() < 1


def test_a_profile_of_another_model_or_no_profile_is_refused(tmp_path):
    source, target = save(tmp_path, make_cache(10)), tmp_path / "cache.kvo"
    done = run("encode", source, "--output", target, "--strategy", PROFILED, "--profile", PROFILE)
    assert done.returncode == 1 and "another model" in done.stderr, done.stderr
    done = run("encode", source, "--output", target, "--profile", source)
    assert done.returncode == 3 and "cache.npy" in done.stderr, done.stderr
    done = run("encode", source, "--output", target, "--profile", tmp_path / "nowhere")
    assert done.returncode == 4 and "nowhere" in done.stderr, done.stderr


def test_generate_prints_the_golden_text():
    entry = golden("The code for amber")
    done = run("generate", "--threads", 1, "--compute", "f32", "--max-tokens", 32, "--json", entry["prompt"])
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["token_ids"] == entry["greedy_32"]
    assert as_golden(answer["text"]) == entry["greedy_text"]
    plain = run(
        "generate", "--threads", 1, "--compute", "f32", "--max-tokens", 32, "-", stdin=entry["prompt"]
    )
    assert plain.stdout == answer["text"] + "\n"


def test_a_missing_file_is_named(tmp_path):
    done = run("decode", tmp_path / "nowhere.kvo", "--output", tmp_path / "out.npy")
    assert done.returncode == 4 and "nowhere.kvo" in done.stderr
    done = run("encode", tmp_path / "nowhere.npy", "--output", tmp_path / "out.kvo")
    assert done.returncode == 4 and "nowhere.npy" in done.stderr


@pytest.mark.parametrize("shape", [(2, 2, 10, 2), (2, 3, 10, 2, 64), (0, 2, 10, 2, 64), (2, 2, 10, 0, 64)])
def test_arrays_of_another_shape_are_refused(tmp_path, shape):
    source = save(tmp_path, numpy.zeros(shape, numpy.uint16))
    done = run("encode", source, "--output", tmp_path / "out.kvo", "--strategy", "off")
    assert done.returncode in (2, 3) and "cache.npy" in done.stderr
    assert not (tmp_path / "out.kvo").exists()


@pytest.mark.parametrize("dtype", [numpy.float64, numpy.int32, ">u2"])
def test_arrays_of_another_type_are_refused(tmp_path, dtype):
    source = save(tmp_path, numpy.zeros((2, 2, 10, 2, 64), dtype))
    done = run("encode", source, "--output", tmp_path / "out.kvo", "--strategy", "off")
    assert done.returncode in (2, 3) and "cache.npy" in done.stderr


def test_the_strategy_space_is_listed_and_every_line_is_a_strategy(tmp_path):
    own = run("profile", "enumerate", "--grid", "kvserve")
    assert own.returncode == 0 and len(own.stdout.splitlines()) == 2592, own.stderr
    every = run("profile", "enumerate").stdout.splitlines()
    assert len(every) == len(set(every)) >= 8000
    assert set(own.stdout.splitlines()) <= set(every)
    rows = [json.loads(line) for line in run("profile", "enumerate", "--format", "json").stdout.splitlines()]
    assert [row["strategy"] for row in rows] == every
    free = run("profile", "enumerate", "--no-profile", "--no-dominated").stdout.splitlines()
    assert free == [row["strategy"] for row in rows if not row["needs_profile"] and not row["dominated"]]
    source = save(tmp_path, make_cache(70))
    for line in free[:: len(free) // 12]:
        facts = json.loads(run("inspect", "--json", encode(source, tmp_path / "cache.kvo", line)).stdout)
        assert facts["strategy"] == line
    typo = run("profile", "enumerate", "--grid", "kvserv")
    assert typo.returncode == 2 and "'kvserve'" in typo.stderr
