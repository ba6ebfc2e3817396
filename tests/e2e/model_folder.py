"""Copies of the demo model with one thing changed."""

import json
import shutil
import struct
from pathlib import Path

from kvplane_process import MODEL

PROMPTS = json.loads((MODEL / "golden.json").read_text())["prompts"]  # of the reference


def golden(start):
    """The one entry whose prompt begins with `start`."""
    (entry,) = (entry for entry in PROMPTS if entry["prompt"].startswith(start))
    return entry


def as_golden(text):
    """The reference decodes the generated tokens by themselves, which drops a blank at their beginning."""
    return text.removeprefix(" ")


def copy_model(folder):
    folder = Path(folder)
    folder.mkdir(parents=True)
    for name in (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ):
        shutil.copyfile(MODEL / name, folder / name)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def read_weights(folder):
    """(header as a dict, all tensor bytes) of model.safetensors: u64 header length, JSON, data."""
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])


def write_weights(folder, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def change_one_weight(folder, token_id):
    """Flips the lowest mantissa bit of one value of one token's embedding: another model, the same answers
    as long as that token plays no part."""
    header, data = read_weights(folder)
    entry = header["model.embed_tokens.weight"]
    row_bytes = entry["shape"][1] * 2
    data[entry["data_offsets"][0] + token_id * row_bytes] ^= 1
    write_weights(folder, header, data)
