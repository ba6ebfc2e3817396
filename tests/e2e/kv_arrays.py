"""Made-up KV caches as numpy arrays of bf16 patterns, and the codec verbs over their files."""

import numpy

from kvplane_process import run

LAYERS, KV_HEADS, HEAD_DIM = 3, 2, 64


def to_bf16(values):
    """f32 to bf16 bit patterns, round to nearest even."""
    bits = values.astype(numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def to_f32(patterns):
    return (patterns.astype(numpy.uint32) << 16).view(numpy.float32)


def make_cache(tokens, seed=0):
    """[layers, 2, tokens, kv_heads, head_dim] bf16 patterns; channels differ in scale and offset, as of keys."""
    rng = numpy.random.default_rng(seed)
    shape = (LAYERS, 2, tokens, KV_HEADS, HEAD_DIM)
    scale = rng.uniform(0.1, 4.0, (LAYERS, 2, 1, KV_HEADS, HEAD_DIM))
    offset = rng.normal(0.0, 2.0, (LAYERS, 2, 1, KV_HEADS, HEAD_DIM))
    return to_bf16(rng.normal(size=shape) * scale + offset)


def save(folder, cache):
    path = folder / "cache.npy"
    numpy.save(path, cache)
    return path


def encode(source, target, strategy, *flags):
    done = run("encode", source, "--output", target, "--strategy", strategy, *flags)
    assert done.returncode == 0, done.stderr
    return target


def encode_cache(folder, tokens, strategy):
    return encode(save(folder, make_cache(tokens)), folder / "cache.kvo", strategy)


def decode(source, target):
    done = run("decode", source, "--output", target)
    assert done.returncode == 0, done.stderr
    return numpy.load(target)


def round_trip(folder, cache, strategy):
    return decode(encode(save(folder, cache), folder / "cache.kvo", strategy), folder / "back.npy")
