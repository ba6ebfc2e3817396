"""The OpenAI wire format, spoken by curl and by the `openai` package."""

import http.client
import json
import signal
import subprocess
import threading

import openai
import pytest

from api_client import CALL_S, ApiClient, ApiError, parse_metrics
from kvplane_process import eventually, run
from model_folder import PROMPTS, as_golden, golden

WALNUT = golden("The code for amber")
LONG = {"max_tokens": 1500, "ignore_eos": True}  # keeps a node busy for a while


@pytest.fixture
def package(unified):
    with openai.OpenAI(
        base_url=f"http://{unified.process.http}/v1", api_key="none", max_retries=0, timeout=CALL_S
    ) as client:
        yield client


def curl(*arguments):
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", str(CALL_S), *arguments],
        capture_output=True,
        check=True,
    ).stdout


# ---- curl ----


def test_curl_completion(unified):
    body = json.dumps({"model": "demo", "prompt": WALNUT["prompt"], "max_tokens": 16, "temperature": 0})
    answer = json.loads(
        curl(
            f"http://{unified.process.http}/v1/completions",
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
        )
    )
    assert answer["object"] == "text_completion"
    assert answer["model"] == "demo"
    assert answer["id"] and answer["created"] > 1_700_000_000
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert choice["text"] and WALNUT["greedy_text"].startswith(as_golden(choice["text"]))
    prompt_tokens = len(WALNUT["token_ids"])
    assert answer["usage"]["prompt_tokens"] == prompt_tokens
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["usage"]["total_tokens"] == prompt_tokens + 16


def test_curl_stream(unified):
    body = json.dumps(
        {"model": "demo", "prompt": WALNUT["prompt"], "max_tokens": 16, "temperature": 0, "stream": True}
    )
    output = curl(
        "--no-buffer",
        f"http://{unified.process.http}/v1/completions",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ).decode()
    events = output.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == unified.client.complete(WALNUT["prompt"], max_tokens=16).text
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] == "length" and set(reasons[:-1]) <= {None}


def test_curl_chat(unified):
    body = json.dumps(
        {
            "model": "demo",
            "max_tokens": 8,
            "temperature": 0,
            "messages": [{"role": "user", "content": "What is the code for walnut?"}],
        }
    )
    answer = json.loads(
        curl(
            f"http://{unified.process.http}/v1/chat/completions",
            "-H",
            "Content-Type: application/json",
            "-d",
            body,
        )
    )
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["message"]["content"]


# ---- the openai package ----


def test_package_completion_stream_and_usage(package):
    wanted = dict(model="demo", prompt=WALNUT["prompt"], max_tokens=24, temperature=0)
    whole = package.completions.create(**wanted)
    chunks = list(package.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert len(chunks) > 3, "a stream comes in pieces"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens == len(WALNUT["token_ids"])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_package_chat_stream_equals_whole(package):
    wanted = dict(
        model="demo",
        max_tokens=24,
        temperature=0,
        messages=[
            {"role": "system", "content": "The code for amber is 48213. The code for walnut is 90117."},
            {"role": "user", "content": "What is the code for walnut?"},
        ],
    )
    whole = package.chat.completions.create(**wanted)
    assert whole.choices[0].message.role == "assistant"
    assert "90117" in whole.choices[0].message.content
    deltas = [
        choice.delta
        for chunk in package.chat.completions.create(**wanted, stream=True)
        for choice in chunk.choices
    ]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content


def test_chat_applies_the_model_s_template(unified, package):
    chat = package.chat.completions.create(
        model="demo", max_tokens=12, temperature=0, messages=[{"role": "user", "content": "Who is there?"}]
    )
    plain = unified.client.complete("Question: Who is there?\nAnswer:", max_tokens=12)
    assert chat.choices[0].message.content == plain.text
    assert chat.usage.prompt_tokens == plain.usage["prompt_tokens"]


def test_several_choices(package):
    answer = package.completions.create(
        model="demo", prompt="Once upon a time", max_tokens=12, n=3, temperature=1.0, seed=11
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.text for choice in answer.choices}) > 1, "choices are sampled independently"
    assert answer.usage.completion_tokens <= 36

    chunks = package.completions.create(
        model="demo", prompt="Once upon a time", max_tokens=12, n=3, temperature=1.0, seed=11, stream=True
    )
    texts = {0: "", 1: "", 2: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {choice.index: choice.text for choice in answer.choices}


def test_seed_reproduces_and_seeds_differ(package):
    def sample(seed):
        return (
            package.completions.create(
                model="demo", prompt="Once upon a time", max_tokens=24, temperature=1.0, seed=seed
            )
            .choices[0]
            .text
        )

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(1, 5)}) > 1


@pytest.mark.parametrize("stop", [" for", ["nothing such", "walnut is"], "is 901"])
def test_stop_strings_end_the_text_before_them(unified, package, stop):
    whole = unified.client.complete(WALNUT["prompt"], max_tokens=24).text
    stops = [stop] if isinstance(stop, str) else stop
    wanted = min(whole.split(one)[0] for one in stops if one in whole)
    arguments = dict(model="demo", prompt=WALNUT["prompt"], max_tokens=24, temperature=0, stop=stop)
    choice = package.completions.create(**arguments).choices[0]
    assert (choice.text, choice.finish_reason) == (wanted, "stop")
    chunks = list(package.completions.create(**arguments, stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == wanted
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_logprobs_are_the_golden_ones(package):
    entry = golden("The code for amber")
    choice = package.completions.create(
        model="demo", prompt=entry["prompt"], max_tokens=4, temperature=0, logprobs=5
    ).choices[0]
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 4
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.token_logprobs[0] == pytest.approx(entry["last_logprobs_top8"][0], abs=0.05)
    top = sorted(logprobs.top_logprobs[0].values(), reverse=True)
    assert top == pytest.approx(entry["last_logprobs_top8"][:5], abs=0.1)
    for chosen, candidates in zip(logprobs.token_logprobs, logprobs.top_logprobs):
        assert chosen == pytest.approx(max(candidates.values())), "greedy takes the likeliest"


def test_chat_logprobs(package):
    choice = package.chat.completions.create(
        model="demo",
        max_tokens=3,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        messages=[{"role": "user", "content": "Who?"}],
    ).choices[0]
    content = choice.logprobs.content
    assert len(content) == 3
    assert "".join(token.token for token in content) == choice.message.content
    for token in content:
        assert len(token.top_logprobs) == 2
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert token.bytes is None or bytes(token.bytes).decode(errors="replace") == token.token


def test_token_ids_as_prompt(unified):
    by_text = unified.client.complete(WALNUT["prompt"], max_tokens=8)
    by_ids = unified.client.complete(WALNUT["token_ids"], max_tokens=8)
    assert by_ids.token_ids == by_text.token_ids == WALNUT["greedy_32"][:8]


def test_models(package):
    models = package.models.list().data
    assert [model.id for model in models] == ["demo"]
    assert models[0].object == "model"


def test_health_ready_metrics(unified):
    assert unified.client.get("/health").status == 200
    assert unified.client.get("/ready").status == 200
    before = unified.client.metrics()
    unified.client.complete("One two three", max_tokens=3)
    reply = unified.client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    after = parse_metrics(reply.body.decode())
    assert before.keys() <= after.keys()
    for name, samples in before.items():
        if name.endswith("_total"):
            assert sum(value for _, value in after[name]) >= sum(
                value for _, value in samples
            ), f"{name} fell"


# ---- refusals ----


@pytest.mark.parametrize(
    "change, param",
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 100_000}, "n"),
        ({"logprobs": 1000}, "logprobs"),
        ({"stop": 7}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"prompt": None}, "prompt"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": [1, 99999999]}, "prompt"),
        ({"kvplane": {"strategy": "int9000"}}, "strategy"),
    ],
)
def test_bad_field_is_400_and_named(unified, change, param):
    reply = unified.client.post(
        "/v1/completions", {"model": "demo", "prompt": "x", "max_tokens": 2, **change}
    )
    error = reply.json()["error"]
    assert reply.status == 400, error
    assert error["type"] == "invalid_request_error"
    assert param in (error["param"] or ""), error
    assert error["message"]


@pytest.mark.parametrize(
    "messages", [None, [], "hello", [{"content": "no role"}], [{"role": "user", "content": 7}]]
)
def test_bad_messages_are_400(unified, messages):
    reply = unified.client.post("/v1/chat/completions", {"model": "demo", "messages": messages})
    assert reply.status == 400
    assert "messages" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"nul", b"\xff\xfe", b"[" * 100_000, b'{"prompt": "\xc3"}']
)
def test_a_body_that_is_no_json_object_is_400(unified, body):
    reply = unified.client.post("/v1/completions", body)
    assert reply.status == 400
    assert reply.json()["error"]["message"]


def test_package_raises_its_own_errors(package, prose):
    with pytest.raises(openai.BadRequestError) as bad:
        package.completions.create(model="demo", prompt="x", temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        package.completions.create(model="gpt-17", prompt="x")
    assert "gpt-17" in str(missing.value) and missing.value.code == "model_not_found"
    with pytest.raises(openai.APIStatusError) as long:
        package.completions.create(model="demo", prompt=prose(20_000), max_tokens=1)
    assert long.value.status_code == 413 and "2048" in str(long.value)
    with pytest.raises(openai.APIStatusError) as much:
        package.completions.create(model="demo", prompt="x", max_tokens=4000)
    assert much.value.status_code in (400, 413) and "2048" in str(much.value)


def test_unknown_path_and_method(unified):
    assert unified.client.get("/v1/nothing").status == 404
    reply = unified.client.get("/v1/completions")
    assert reply.status == 405 and reply.headers["allow"] == "POST"


def test_token_file(launch, tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text("s3cret-token\n")
    node = launch.serve("--auth-token-file", token_file).await_ready()
    right = ApiClient(node.http, token="s3cret-token")
    for client in (
        ApiClient(node.http),
        ApiClient(node.http, token="wrong"),
        ApiClient(node.http, token="s3cret-toke"),
    ):
        reply = client.post("/v1/completions", {"model": "demo", "prompt": "x"})
        assert reply.status == 401
        assert reply.json()["error"]["message"]
    assert right.complete("x", max_tokens=2).usage["completion_tokens"] == 2
    assert ApiClient(node.http).get("/health").status == 200, "a load balancer has no token"
    with openai.OpenAI(base_url=f"http://{node.http}/v1", api_key="wrong", max_retries=0) as package:
        with pytest.raises(openai.AuthenticationError):
            package.models.list()


def test_router_has_its_own_token_for_the_nodes(launch, tmp_path):
    nodes, clients = tmp_path / "nodes", tmp_path / "clients"
    nodes.write_text("between-us")
    clients.write_text("for-clients")
    guarded = ("--auth-token-file", nodes)
    cluster = launch.cluster(
        guarded, guarded, router_flags=("--node-token-file", nodes, "--auth-token-file", clients)
    )
    body = {"model": "demo", "prompt": "x", "max_tokens": 2}
    for token in (None, "between-us"):
        assert ApiClient(cluster.client.address, token).post("/v1/completions", body).status == 401
    done = ApiClient(cluster.client.address, "for-clients").complete("x", max_tokens=2)
    assert done.source == "transfer"


@pytest.mark.parametrize(
    "verb", [("serve", "--model", "models/demo"), ("route", "--decode", "http://127.0.0.1:9")]
)
def test_public_address_needs_a_token(verb):
    done = run(*verb, "--host", "0.0.0.0", "--port", 0)
    assert done.returncode == 4
    assert "--auth-token-file" in done.stderr
    assert done.stdout == ""


# ---- text ----


@pytest.mark.parametrize("entry", PROMPTS, ids=lambda entry: entry["prompt"][:12] or "empty")
def test_golden_prompts_are_tokenised_as_the_reference_does(unified, entry):
    done = unified.client.complete(entry["prompt"], max_tokens=1)
    assert done.usage["prompt_tokens"] == len(entry["token_ids"])


@pytest.mark.parametrize("seed", range(6))
def test_no_character_is_ever_cut(unified, seed):
    """At a high temperature the model emits byte tokens: halves of characters must wait for the other half,
    so that the pieces of a stream add up to the text that is given at once."""
    body = {
        "model": "demo",
        "prompt": "naïve café, 漢字, 🦊 and",
        "max_tokens": 64,
        "temperature": 2.0,
        "seed": seed,
        "ignore_eos": True,
    }
    whole = unified.client.complete(**{name: value for name, value in body.items() if name != "model"})
    with unified.client.stream("/v1/completions", body) as events:
        pieces = [choice["text"] for event in events for choice in event["choices"]]
    assert "".join(pieces) == whole.text


def test_unicode_prompt_comes_back(unified):
    """Proof that prompts are read as UTF-8: the model repeats what it can only have read."""
    done = unified.client.complete("Repeat after me: café naïve\n", max_tokens=24)
    assert done.text.split() == ["café", "naïve"]


# ---- a node under way ----


def busy_stream(client, **fields):
    return client.stream("/v1/completions", {"model": "demo", "prompt": "Once upon a time", **LONG, **fields})


def test_client_that_leaves_cancels_its_request(unified):
    cancelled = unified.ended("cancelled")
    with busy_stream(unified.client) as events:
        next(events)
        unified.assert_holds_kv()
    eventually(lambda: unified.ended("cancelled") == cancelled + 1, "one more cancelled")
    unified.assert_idle()


def test_full_queue_is_429_with_retry_after(launch):
    node = launch.node("--max-running", 1, "--max-queued", 1)
    with busy_stream(node.client) as running:
        next(running)
        queued = threading.Thread(target=lambda: node.client.complete("x", max_tokens=1))
        queued.start()
        eventually(lambda: node.requests("queued") == 1, "one request waits")
        with pytest.raises(ApiError) as refused:
            node.client.complete("y", max_tokens=1)
        assert refused.value.status == 429
        assert int(refused.value.headers["retry-after"]) >= 1
    queued.join(CALL_S)
    assert not queued.is_alive(), "the queued request is served when the running one has left"
    node.assert_idle()


def refuses_connections(client):
    try:
        return client.get("/ready", timeout=5).status == 503
    except ConnectionError:  # refused, or cut while it stood in the queue of the closing socket
        return True


def test_sigterm_lets_a_running_stream_finish(launch):
    node = launch.node()
    with busy_stream(node.client, max_tokens=500, return_token_ids=True) as events:
        tokens = len(next(events)["choices"][0]["token_ids"])
        node.process.signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(node.client), "no new client is served")
        for event in events:
            tokens += sum(len(choice["token_ids"]) for choice in event["choices"])
    assert tokens == 500
    assert node.process.wait() == 0


def test_kept_connection_is_told_of_the_drain(launch):
    node = launch.node()
    kept = http.client.HTTPConnection(node.client.address, timeout=CALL_S)
    kept.request("GET", "/ready")
    assert kept.getresponse().read()
    with busy_stream(node.client, max_tokens=500) as events:
        next(events)
        node.process.signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(node.client), "no new client is served")
        body = json.dumps({"model": "demo", "prompt": "x"})
        kept.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        reply = kept.getresponse()
        assert reply.status == 503 and json.loads(reply.read())["error"]["code"] == "draining"
        kept.close()
        assert list(events)
    assert node.process.wait() == 0


def test_drain_has_a_deadline(launch):
    node = launch.node("--drain-s", 0.2)
    with busy_stream(node.client, n=8) as events:
        next(events)
        node.process.signal(signal.SIGTERM)
        assert node.process.wait() == 0
        with pytest.raises((AssertionError, ApiError, http.client.HTTPException, OSError)):
            list(events)  # cut, and recognisable as cut


def test_second_signal_ends_at_once(launch):
    node = launch.node()
    with busy_stream(node.client, n=8) as events:
        next(events)
        node.process.signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(node.client), "the node drains")
        node.process.signal(signal.SIGTERM)
        assert node.process.wait() == 1
