"""A plain client of the API: no retries, no pooling, every byte visible, every call with a deadline."""

import http.client
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field

CALL_S = 60

_SAMPLE = re.compile(
    r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[^}]*)\})?"
    r" (?P<value>[-+0-9.eE]+|[+-]Inf|NaN)(?: \d+)?$"
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"')


@dataclass
class Reply:
    status: int
    headers: dict  # names in lower case
    body: bytes

    def json(self):
        return json.loads(self.body)


class ApiError(Exception):
    """An answer other than 200, or an error event in a stream."""

    def __init__(self, status, error, headers=None):
        super().__init__(f"{status}: {error}")
        self.status = status
        self.error = error
        self.headers = headers or {}


@dataclass
class Completion:
    text: str
    token_ids: list
    finish_reason: str
    usage: dict
    kvplane: dict  # the extension object
    kv_transfer_params: dict = None
    raw: dict = field(default_factory=dict)

    @property
    def source(self):
        return self.kvplane["source"]


def parse_metrics(text):
    """Prometheus text to {name: [(labels, value)]}. Fails on a line that is no comment and no sample."""
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("# HELP ") or line.startswith("# TYPE "):
            continue
        match = _SAMPLE.match(line)
        assert match, f"not a metric sample: {line!r}"
        labels = dict(_LABEL.findall(match["labels"] or ""))
        samples.setdefault(match["name"], []).append((labels, float(match["value"])))
    return samples


def sse_events(response):
    """The data of each server-sent event, without the prefix; the framing must be exact."""
    event = b""
    for line in response:
        if line == b"\n":
            assert event.startswith(b"data: ") and event.endswith(b"\n"), event
            yield event[len(b"data: ") : -1]
            event = b""
        else:
            assert not event, f"an event of two lines: {event + line!r}"
            event = line
    assert not event, f"stream ends inside an event: {event!r}"


class ApiClient:
    def __init__(self, address, token=None, tls=None):
        self.address = address  # "HOST:PORT"
        self.token = token
        self.tls = tls  # an ssl.SSLContext: HTTPS

    @contextmanager
    def open(self, method, path, body=None, timeout=CALL_S):
        """The response with its body unread; leaving closes the connection, whatever is still to come."""
        headers = {"Connection": "close"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.tls:
            connection = http.client.HTTPSConnection(self.address, timeout=timeout, context=self.tls)
        else:
            connection = http.client.HTTPConnection(self.address, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:  # it owns the socket from here on
                yield response
        finally:
            connection.close()

    def call(self, method, path, body=None, timeout=CALL_S):
        with self.open(method, path, body, timeout) as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, headers, response.read())

    def get(self, path, timeout=CALL_S):
        return self.call("GET", path, None, timeout)

    def post(self, path, body, timeout=CALL_S):
        return self.call("POST", path, body, timeout)

    def complete(self, prompt, *, timeout=CALL_S, **fields):
        """One completion, not streamed, greedy unless told otherwise, with token ids."""
        body = {"model": "demo", "prompt": prompt, "temperature": 0, "return_token_ids": True, **fields}
        reply = self.post("/v1/completions", body, timeout)
        if reply.status != 200:
            raise ApiError(reply.status, reply.json()["error"], reply.headers)
        answer = reply.json()
        choice = answer["choices"][0]
        return Completion(
            choice["text"],
            choice["token_ids"],
            choice["finish_reason"],
            answer["usage"],
            answer["kvplane"],
            answer.get("kv_transfer_params"),
            answer,
        )

    @contextmanager
    def stream(self, path, body, timeout=CALL_S):
        """Iterator over the events of a stream as JSON; ends at [DONE], raises ApiError on an error event."""
        with self.open("POST", path, {**body, "stream": True}, timeout) as response:
            if response.status != 200:
                raise ApiError(response.status, json.loads(response.read())["error"])
            assert response.getheader("Content-Type").startswith("text/event-stream")
            yield _json_events(response)

    def metrics(self):
        reply = self.get("/metrics")
        assert reply.status == 200
        return parse_metrics(reply.body.decode())

    def metric(self, name, **labels):
        """The sum of the samples of `name` that carry these labels; the metric must exist."""
        samples = self.metrics().get(name)
        assert samples is not None, f"no metric {name}"
        return sum(value for found, value in samples if labels.items() <= found.items())


def _json_events(response):
    for data in sse_events(response):
        if data == b"[DONE]":
            assert not response.read(), "bytes after [DONE]"
            return
        event = json.loads(data.decode())  # strict: an event holds whole characters
        if "error" in event:
            raise ApiError(response.status, event["error"])
        yield event
    raise AssertionError("the stream ended without [DONE]")
