"""The router over real nodes: prompts follow their beginnings, and nodes that leave cost no request."""

import signal

from kvplane_process import eventually

COMPLETIONS = "kvplane_http_requests_total"


def served(nodes):
    """Completions that each node has answered."""
    return [node.client.metric(COMPLETIONS, route="/v1/completions", status="200") for node in nodes]


def test_a_conversation_stays_with_the_prefill_node_that_has_it(launch, prose):
    cluster = launch.cluster(prefills=3)
    turns = [prose(2500 + 300 * turn, start=500) for turn in range(4)]  # each begins with the one before
    done = cluster.client.complete(turns[0], max_tokens=4)
    assert done.source == "transfer"
    eventually(lambda: sum(served(cluster.prefill)) == 1, "the first turn is counted")
    home = served(cluster.prefill).index(1)
    for turn in turns[1:]:
        assert cluster.client.complete(turn, max_tokens=4).source == "transfer"
    eventually(lambda: sum(served(cluster.prefill)) == len(turns), "all turns are counted")
    assert served(cluster.prefill)[home] == len(turns)
    known = cluster.client.metric("kvplane_router_prompt_bytes_total", prefix="known")
    assert known >= 3 * 2048

    # Others go round while nobody is busy.
    for start in (9000, 12000, 15000):
        eventually(lambda: cluster.client.metric("kvplane_router_node_requests") == 0, "nobody is busy")
        cluster.client.complete(prose(2500, start=start), max_tokens=4)
    eventually(lambda: sum(served(cluster.prefill)) == len(turns) + 3, "the others are counted")
    assert all(count >= 1 for count in served(cluster.prefill))


def test_a_node_that_drains_gets_nothing_new_and_costs_no_request(launch, prose):
    cluster = launch.cluster(prefills=2, decodes=2)
    prompt = prose(2500, start=500)
    expected = cluster.client.complete(prompt, max_tokens=8).token_ids
    for leaving, role in ((cluster.prefill[0], "prefill"), (cluster.decode[0], "decode")):
        leaving.process.signal(signal.SIGTERM)
        for _ in range(4):
            done = cluster.client.complete(prompt, max_tokens=8)
            assert done.token_ids == expected, role
            assert done.source == "transfer", role
        assert leaving.process.wait() == 0
    eventually(lambda: cluster.nodes_up() == (1, 1), "the router sees who is left")


def test_a_prefill_node_that_dies_is_replaced_by_another(launch, prose):
    cluster = launch.cluster(prefills=2)
    prompt = prose(2500, start=500)
    expected = cluster.client.complete(prompt, max_tokens=8).token_ids
    eventually(lambda: sum(served(cluster.prefill)) == 1, "the first request is counted")
    home = cluster.prefill[served(cluster.prefill).index(1)]
    home.process.kill()
    for _ in range(3):  # the first of them may still be sent to the dead node
        done = cluster.client.complete(prompt, max_tokens=8)
        assert done.token_ids == expected
        assert done.source == "transfer", "the other prefill node has taken over"
