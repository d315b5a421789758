"""A real Ray cluster of several nodes on this machine, disturbed in the middle."""

import signal
import socket
import warnings

import pyarrow.parquet as pq
import pytest

from sage.render import cluster, run
from sage.render.register import lost_nodes
from sage.render.work import DIED, DamagedError, Rendered, Unit
from sage.render.worker import Worker

from . import test_processes
from .conftest import Quiet, content, descendants

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
strategies = pytest.importorskip("ray.util.scheduling_strategies")

NODE = {"object_store_memory": 100 * 2**20, "num_cpus": 1}
# A node is lost after several failed looks; by default these are three seconds apart. A worker that
# ends while it starts is waited for; by default for a minute.
PATIENCE = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "worker_register_timeout_seconds": 15,
}


def test_a_unit_that_arrives_damaged_is_sent_again(monkeypatch):
    messages = [test_processes.unit(n, ["a fox", "a dog"]).to_bytes() for n in range(3)]
    sent = []

    def once_damaged(recipe, device, number, left):
        sent.append(len(left))
        for message in left:
            cut = message[:-1] if len(sent) == 1 and message is messages[1] else message
            yield Rendered.from_bytes(Worker.answer(Echo(), cut))

    monkeypatch.setattr(cluster, "_pass", once_damaged)
    results = list(cluster.run_on_cluster(None, "cpu", 1, messages))
    assert sorted(r.number for r in results) == [0, 1, 2]
    assert sent == [3, 1]


def test_a_unit_that_is_always_damaged_ends_the_run(monkeypatch):
    message = test_processes.unit(0, ["a fox"]).to_bytes()
    monkeypatch.setattr(cluster, "_pass", lambda *_: iter([Rendered(-1, ())]))
    with pytest.raises(DamagedError, match="1 units of work arrived damaged 3 times"):
        list(cluster.run_on_cluster(None, "cpu", 1, [message]))


class Echo:
    """Stands in for a worker: says which unit it was given."""

    def render(self, unit):
        assert isinstance(unit, Unit)
        return Rendered(unit.number, ())


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="There is no Ray cluster at 'auto'"):
        cluster.connect("auto")


@pytest.fixture
def answering():
    """An address where something listens that is no cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "said", ["explicit", "by the environment", "by the file of a dead cluster"]
)
def test_where_nothing_answers_ray_is_not_asked(monkeypatch, said):
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(ray, "init", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if said == "by the environment":
        monkeypatch.setenv("RAY_ADDRESS", where)
    elif said != "explicit":
        monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: where)
    address = where if said == "explicit" else "auto"
    with pytest.raises(ValueError, match=f"at '{address}': nothing answers at {where} "):
        cluster.connect(address)


@pytest.mark.parametrize("error", [KeyError("gcs"), AssertionError(), OSError("no route")])
def test_whatever_ray_raises_on_the_way_is_a_sentence(monkeypatch, answering, error):
    def fail(**options):
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ValueError, match=f"There is no Ray cluster at '{answering}': "):
        cluster.connect(answering)


def test_a_version_of_ray_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(ray, "__version__", "2.9.3")
    with pytest.raises(ValueError, match=r"Ray is 2\.9\.3, which is too old; `pip install"):
        cluster.connect("local")


def test_an_actor_has_its_cores_on_one_node(monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0}}] * 2
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 1.0}})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert cluster.actors("auto", None, 2) == ("cpu", 2)
    assert cluster.actors("cpu", 9, 1) == ("cpu", 6)
    with pytest.raises(ValueError, match="No node of the cluster has 4 cores"):
        cluster.actors("cpu", None, 4)


@pytest.mark.parametrize(("mode", "hinted"), [(None, True), ("token", False)])
def test_a_cluster_that_may_have_asked_for_a_token_says_how_to_bring_it(
    monkeypatch, answering, mode, hinted
):
    def refuse(**options):
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ValueError, match=f"at '{answering}'") as caught:
        cluster.connect(answering)
    assert ("RAY_AUTH_MODE=token" in str(caught.value)) is hinted


# -- a real cluster, which the last test damages ---------------------------------------------------


@pytest.fixture(scope="module")
def two_nodes():
    """A head without cores, which writes, and two nodes of one core that render."""
    head = NODE | {"num_cpus": 0, "include_dashboard": False, "_system_config": PATIENCE}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        made.workers = [made.add_node(**NODE) for _ in range(2)]
        _unpack_the_code(made)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def _unpack_the_code(nodes):
    """Nodes of one machine unpack it into one folder; at the same time, they disturb each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster.connect(nodes.address)
        for node in nodes.workers:
            here = strategies.NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            first = ray.remote(lambda: None).options(num_cpus=1, scheduling_strategy=here)
            ray.get(first.remote())


@pytest.fixture
def by_value():
    """Actors cannot import the tests."""
    ray.cloudpickle.register_pickle_by_value(test_processes)
    yield
    ray.cloudpickle.unregister_pickle_by_value(test_processes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_prompt_that_ends_its_actors_fails_alone_and_is_tried_again(
    render, rows, two_nodes, by_value, monkeypatch
):
    del rows[4:]
    rows[1]["prompt"] = "a deadly fox"
    alone = {"max_group_size": 1}
    whole = render("whole", sampling=alone)
    with monkeypatch.context() as patch:
        patch.setattr(run, "Recipe", test_processes.Deadly)
        out = render("cluster", sampling=alone, ray=two_nodes.address)
    lines = pq.read_table(out / "manifest.parquet").to_pylist()
    assert [line["error"] for line in lines] == [None, DIED, None, None]
    wanted = pq.read_table(whole / "manifest.parquet").to_pylist()
    assert [n for n in range(4) if lines[n] == wanted[n]] == [0, 2, 3]
    assert content(render("cluster", sampling=alone)) == content(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_lost_actor_and_a_lost_node_change_no_byte(render, rows, two_nodes, tmp_path):
    rows[3]["prompt"] = None
    whole = render("whole", workers=1, unit=2)
    done = []

    def disturb(finished):
        if finished == 2:
            actor = descendants("ray::MapWorker")[0]
            actor.send_signal(signal.SIGKILL)
            done.append("actor")
        if finished == 5:
            two_nodes.remove_node(two_nodes.workers[0], allow_graceful=False)
            done.append("node")

    console = Quiet(disturb)
    out = render("cluster", console=console, unit=2, workers=None, ray=two_nodes.address)
    assert done == ["actor", "node"]
    assert any("Ray cluster of 3 nodes, 2 cores" in line for line in console.said)
    assert content(out) == content(whole)
    taken_away = two_nodes.workers[1]
    two_nodes.remove_node(taken_away)
    assert taken_away.node_id in lost_nodes()
