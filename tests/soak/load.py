"""Clients: each asks one prompt after the other and judges every answer."""

import random
import threading
import time
from collections import Counter

from api_client import ApiClient, ApiError

ANSWER_S = 60  # an answer or an error; longer is a hang
TOKENS = 12


def ask(client, text, tokens):
    """What is wrong with the answer, or None; and where its KV came from. ApiError for an error of the API."""
    done = client.complete(
        text, timeout=ANSWER_S, max_tokens=TOKENS, ignore_eos=True, kvplane={"strategy": "lossless"}
    )
    wrong = None if done.token_ids == tokens else f"{done.token_ids} for {tokens}, source {done.source}"
    return wrong, done.source


class Load(threading.Thread):
    def __init__(self, address, prompts, seed, stop):
        super().__init__(daemon=True)
        self.client = ApiClient(address)
        self.prompts = prompts  # [(text, tokens)]
        self.counts = Counter()
        self.problems = []
        self.slowest_s = 0.0
        self.last_s = time.monotonic()  # when it last had an answer or an error
        self._random = random.Random(seed)
        self._stopping = stop

    def run(self):
        while not self._stopping.is_set():
            begin = time.monotonic()
            self._ask(*self._random.choice(self.prompts))
            self.last_s = time.monotonic()
            self.slowest_s = max(self.slowest_s, self.last_s - begin)

    def _ask(self, text, tokens):
        try:
            wrong, source = ask(self.client, text, tokens)
            self.counts["answers"] += 1
            self.counts[f"source {source}"] += 1
            if wrong:
                self.problems.append(wrong)
        except ApiError as error:
            self.counts[f"error {error.status}"] += 1
            time.sleep(0.1)
        except Exception as error:  # noqa: BLE001 - the router is never away: whatever else comes is its fault or ours
            late = f"no answer within {ANSWER_S} s: " if isinstance(error, TimeoutError) else ""
            self.counts[f"failed {type(error).__name__}"] += 1
            self.problems.append(f"{late}{type(error).__name__}: {error}")
            time.sleep(0.1)
