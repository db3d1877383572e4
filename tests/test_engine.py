"""The contract of the engine: what a caller may rely on."""

import threading
import time

import engine_rig as rig
import numpy as np
import pytest
import torch

from ganhub.engine import Engine, Job
from ganhub.errors import BadInput, CheckpointError, EngineError, RegistryError
from ganhub.registry import Registry


@pytest.fixture
def reader():
    return rig.Reader()


@pytest.fixture
def engine(reader):
    with rig.engine(reader) as engine:
        yield engine


def code(error):
    return error.value.code


@pytest.mark.parametrize("checkpoint", ["conv", "style"])
def test_a_picture_is_the_networks_own(engine, checkpoint):
    for seed in range(3):
        picture = engine.run(rig.job(seed, checkpoint))
        assert picture.dtype == np.uint8 and picture.shape == (16, 16, 3)
        assert rig.apart(picture, rig.expected(checkpoint, seed)) <= 1


def test_truncation_and_classes_reach_the_network(engine):
    picture = engine.run(rig.job(5, "style", psi=0.5, cutoff=2))
    assert rig.apart(picture, rig.expected("style", 5, psi=0.5, cutoff=2)) <= 1
    assert rig.apart(picture, rig.expected("style", 5)) > 1
    for label in range(3):
        c = torch.nn.functional.one_hot(torch.tensor([label]), 3).float()
        picture = engine.run(rig.job(5, "classes", label=label))
        assert rig.apart(picture, rig.expected("classes", 5, c=c)) <= 1


def test_map_then_synthesize_is_generate(engine):
    ws = engine.run(rig.job(7, "style", operation="map", psi=0.7))
    assert ws.dtype == np.float32 and ws.shape == (6, 16)
    picture = engine.run(Job("style", "synthesize", {"ws": ws}))
    assert rig.apart(picture, engine.run(rig.job(7, "style", psi=0.7))) <= 1


@pytest.mark.parametrize("noise_mode", ["const", "none", "random"])
def test_batch_equals_single(engine, noise_mode):
    jobs = [rig.job(seed, "style", psi=(0.5, 1.0)[seed % 2], noise_mode=noise_mode) for seed in range(13)]
    batches = rig.Batches(rig.network(engine, "style").synthesis)
    together = [ticket.result() for ticket in engine.submit_all(jobs)]
    assert max(batches.sizes) == 13, "the jobs did not share a batch"
    for job, picture in zip(jobs, together, strict=True):
        assert rig.apart(picture, engine.run(job)) <= 1


def test_random_noise_belongs_to_the_seed(engine):
    one, again = (engine.run(rig.job(3, "style", noise_mode="random")) for _ in range(2))
    other = engine.run(Job("style", "generate", {"z": rig.z(3, "style"), "noise_mode": "random", "seed": 4}))
    assert np.array_equal(one, again)
    assert rig.apart(one, other) > 1


def test_same_seed_same_picture_from_many_threads(engine):
    want = {seed: rig.expected("style", seed) for seed in range(6)}
    wrong, done = [], []

    def visit(number):
        for turn in range(8):
            seed = (number + turn) % 6
            torch.manual_seed(number * 100 + turn)  # the global generator is nobody's
            picture = engine.run(rig.job(seed, "style", visitor=f"v{number}"))
            done.append(seed)
            if rig.apart(picture, want[seed]) > 1:
                wrong.append(seed)

    threads = [threading.Thread(target=visit, args=(n,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert len(done) == 64 and not wrong


def test_the_engine_leaves_the_global_generator_alone(engine):
    engine.describe("style")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    engine.run(rig.job(3, "style", noise_mode="random"))
    assert torch.equal(before, torch.get_rng_state())


def test_deterministic_is_equal_bit_for_bit():
    jobs = [rig.job(seed, "style", operation="map") for seed in range(7)]
    pictures = [rig.job(seed, "style", noise_mode="random") for seed in range(7)]
    with rig.engine(deterministic=True) as engine:
        alone = [engine.run(job) for job in jobs + pictures]
        for order in (range(14), reversed(range(14)), [3, 9, 0, 13, 5]):
            order = list(order)
            tickets = engine.submit_all([(jobs + pictures)[i] for i in order])
            for i, ticket in zip(order, tickets, strict=True):
                assert np.array_equal(ticket.result(), alone[i])


def test_fast_is_another_network_and_is_refused_where_there_is_none(engine):
    with pytest.raises(BadInput, match="precision 'half'"):
        engine.submit(rig.job(precision="half"))
    with pytest.raises(BadInput, match="precision"):
        rig.engine(precision="half")


def test_a_checkpoint_is_loaded_once_however_many_ask(engine, reader):
    reader.slow = 0.1
    results = []
    threads = [threading.Thread(target=lambda s=s: results.append(engine.run(rig.job(s)))) for s in range(8)]
    [t.start() for t in threads]
    [t.join(30) for t in threads]
    assert len(results) == 8 and reader.calls == ["conv"]


def test_loading_one_checkpoint_does_not_hold_up_another(engine, reader):
    engine.run(rig.job(0, "conv"))
    reader.hold = threading.Event()
    slow = engine.submit(rig.job(0, "conv-b"))
    began = time.monotonic()
    for seed in range(5):
        engine.run(rig.job(seed, "conv"))
    assert time.monotonic() - began < 5 and not slow.done()
    assert [s["checkpoint"] for s in engine.status()["loading"]] == ["conv-b"]
    reader.hold.set()
    assert slow.result(20).shape == (16, 16, 3)
    assert not engine.status()["loading"]


def test_a_failed_load_fails_only_its_jobs_and_is_tried_again(engine, reader):
    reader.errors["conv-b"] = CheckpointError("The file of conv-b is damaged; fetch it again.")
    broken = engine.submit_all([rig.job(s, "conv-b") for s in range(3)])
    good = engine.submit(rig.job(1))
    for ticket in broken:
        with pytest.raises(CheckpointError, match="damaged"):
            ticket.result(20)
    assert good.result(20) is not None
    reader.errors["conv-b"] = ZeroDivisionError("a mistake")
    with pytest.raises(CheckpointError, match="'conv-b' could not be loaded"):
        engine.run(rig.job(0, "conv-b"))
    reader.errors.clear()
    assert engine.run(rig.job(0, "conv-b")) is not None
    assert reader.calls.count("conv-b") == 3


def test_a_row_that_promises_another_size_is_refused(reader):
    rows = Registry([rig.row("conv", "dcgan", resolution=32)])
    with (
        Engine(rows, "cpu", fetch=lambda row, progress: None, read=reader) as engine,
        pytest.raises(CheckpointError, match="'conv' says 32x32 pixels .* its file draws 16x16"),
    ):
        engine.describe("conv")


def test_describe_and_status_are_plain_data(engine):
    facts = engine.describe("style")
    assert (facts["z_dim"], facts["w_dim"], facts["c_dim"], facts["num_ws"]) == (16, 16, 0, 6)
    assert facts["img_size"] == (16, 16) and facts["img_channels"] == 3 and facts["z_distribution"] == "normal"
    assert facts["parameters"] > 1000 and facts["bytes"] >= 4 * facts["parameters"]
    status = engine.status()
    assert status["healthy"] and status["device"] == "cpu" and status["waiting"] == 0
    (loaded,) = status["loaded"]
    assert loaded["checkpoint"] == "style" and 0 < loaded["bytes"] == status["used_bytes"] <= status["cache_bytes"]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"z": np.zeros(9)}, r"'z' has shape \[9\]; this checkpoint takes \[8\]"),
        ({"z": np.full(8, np.nan)}, "not finite"),
        ({"z": [0.0] * 8}, "'z' must be an array"),
        ({"z": np.zeros(8), "label": 1}, "has no classes"),
        ({"z": np.zeros(8), "psi": 0.5}, "no mapping network"),
        ({"z": np.zeros(8), "noise_mode": "loud"}, "noise mode 'loud'"),
        ({"z": np.zeros(8), "seed": -1}, "seed must be"),
    ],
)
def test_bad_items_fail_with_their_sentence_and_alone(engine, bad, text):
    tickets = engine.submit_all([rig.job(1), Job("conv", "generate", bad), rig.job(2)])
    with pytest.raises(BadInput, match=text):
        tickets[1].result(20)
    for ticket, seed in ((tickets[0], 1), (tickets[2], 2)):
        assert rig.apart(ticket.result(20), rig.expected("conv", seed)) <= 1


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (None, "draws 3 classes"),
        (3, "no class 3"),
        (-1, "no class -1"),
        (True, "no class True"),
        ("cat", "no class 'cat'"),
    ],
)
def test_classes_are_checked(engine, label, text):
    with pytest.raises(BadInput, match=text):
        engine.run(rig.job(1, "classes", label=label))


def test_unknown_names_are_refused_at_the_door(engine):
    with pytest.raises(BadInput, match="no operation 'sculpt'"):
        engine.submit(Job("conv", "sculpt", {}))
    with pytest.raises(RegistryError, match="did you mean 'conv'"):
        engine.submit(Job("convv", "generate", {}))
    with pytest.raises(BadInput, match="no mapping network"):
        engine.run(rig.job(1, "conv", operation="map"))


def test_a_full_queue_refuses_with_a_sentence():
    with rig.engine(queue=4) as engine:
        pause = rig.Pause(rig.network(engine, "conv"))
        first = engine.submit(rig.job(0))
        assert pause.entered.wait(10)
        waiting = [engine.submit(rig.job(s)) for s in range(4)]
        with pytest.raises(EngineError, match="4 requests are waiting already") as error:
            engine.submit(rig.job(9))
        assert code(error) == "queue_full"
        with pytest.raises(EngineError):
            engine.submit_all([rig.job(9), rig.job(10)])
        assert engine.status()["waiting"] == 4 and engine.status()["refused"] == {"queue_full": 2}
        pause.go()
        assert all(t.result(20) is not None for t in [first, *waiting])


def test_a_visitor_has_a_limit_and_the_owner_has_none():
    with rig.engine(per_visitor=3) as engine:
        pause = rig.Pause(rig.network(engine, "conv"))
        tickets = [engine.submit(rig.job(s, visitor="ann")) for s in range(3)]
        with pytest.raises(EngineError, match="One visitor may have 3 requests") as error:
            engine.submit(rig.job(9, visitor="ann"))
        assert code(error) == "visitor_limit"
        tickets += [engine.submit(rig.job(9, visitor="bob"))] + [engine.submit(rig.job(s)) for s in range(10)]
        pause.go()
        assert all(t.result(20) is not None for t in tickets)
        assert engine.run(rig.job(9, visitor="ann")) is not None


def test_a_newcomer_does_not_wait_behind_a_hog():
    with rig.engine(max_batch=2) as engine:
        rig.network(engine, "style")
        pause = rig.Pause(rig.network(engine, "conv"))
        order = []
        hog = [engine.submit(rig.job(s, visitor="hog")) for s in range(20)]
        assert pause.entered.wait(10)
        newcomers = [engine.submit(rig.job(50, visitor="ann")), engine.submit(rig.job(51, "style", visitor="bob"))]
        for name, tickets in (("hog", hog), ("new", newcomers)):
            for ticket in tickets:
                ended = ticket.on_end
                ticket.on_end = lambda t, name=name, ended=ended: (order.append(name), ended(t))
        pause.go()
        [t.result(20) for t in hog + newcomers]
        last = max(i for i, name in enumerate(order) if name == "new")
        assert last <= 6, f"the newcomers came {last}th: {order}"


def test_deadlines_hold_at_the_door_in_the_queue_and_for_results():
    with rig.engine() as engine:
        with pytest.raises(EngineError) as error:
            engine.submit(rig.job(0, deadline=0))
        assert code(error) == "deadline"
        pause = rig.Pause(rig.network(engine, "conv"))
        batches = rig.Batches(rig.network(engine, "style"))
        running = engine.submit(rig.job(0, deadline=0.3))
        assert pause.entered.wait(10)
        queued = engine.submit(rig.job(0, "style", deadline=0.2))
        for ticket in (running, queued):  # the worker is held, and the answers come all the same
            with pytest.raises(EngineError, match="deadline") as error:
                ticket.result(20)
            assert code(error) == "deadline"
        pause.go()
        engine.run(rig.job(1))
        assert not batches.sizes, "a job whose deadline had passed was run"


def test_a_timeout_of_the_caller_leaves_the_job_alone(engine):
    pause = rig.Pause(rig.network(engine, "conv"))
    ticket = engine.submit(rig.job(0))
    with pytest.raises(TimeoutError):
        ticket.result(0.05)
    pause.go()
    assert ticket.result(20) is not None


def test_cancelled_in_the_queue_is_never_run(engine):
    pause = rig.Pause(rig.network(engine, "conv"))
    first = engine.submit(rig.job(0))
    assert pause.entered.wait(10)
    batches = rig.Batches(rig.held_network(engine, "conv"))
    tickets = [engine.submit(rig.job(s)) for s in range(5)]
    assert all(t.cancel() for t in tickets[1:]) and not tickets[1].cancel()
    assert engine.status()["waiting"] == 1
    pause.go()
    assert first.result(20) is not None and tickets[0].result(20) is not None
    assert sum(batches.sizes) <= 2
    with pytest.raises(EngineError) as error:
        tickets[1].result()
    assert code(error) == "cancelled"


def test_cancelled_in_flight_answers_at_once_and_spares_its_neighbours(engine):
    pause = rig.Pause(rig.network(engine, "conv"))
    tickets = engine.submit_all([rig.job(s) for s in range(4)])
    assert pause.entered.wait(10)
    assert tickets[1].cancel()
    with pytest.raises(EngineError):
        tickets[1].result(0)
    pause.go()
    for seed in (0, 2, 3):
        assert rig.apart(tickets[seed].result(20), rig.expected("conv", seed)) <= 1
    assert engine.run(rig.job(1)) is not None


def test_stream_keeps_the_order_and_cancels_what_is_left(engine):
    pictures = list(engine.stream((rig.job(s) for s in range(40)), ahead=7))
    assert len(pictures) == 40
    assert all(rig.apart(p, rig.expected("conv", s)) <= 1 for s, p in enumerate(pictures))
    stream = engine.stream((rig.job(s) for s in range(1000)), ahead=5)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 10
    while engine.status()["waiting"] or engine.status()["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_close_finishes_what_waits_and_refuses_what_comes():
    engine = rig.engine()
    pause = rig.Pause(rig.network(engine, "conv"))
    tickets = engine.submit_all([rig.job(s) for s in range(30)])
    threading.Timer(0.2, pause.go).start()
    engine.close()
    assert all(t.done() and t.result().shape == (16, 16, 3) for t in tickets)
    with pytest.raises(EngineError) as error:
        engine.submit(rig.job(0))
    assert code(error) == "closed" and not engine.status()["healthy"]
    engine.close()


def test_close_without_draining_ends_everything():
    engine = rig.engine()
    pause = rig.Pause(rig.network(engine, "conv"))
    tickets = [*engine.submit_all([rig.job(s) for s in range(30)]), engine.submit(rig.job(0, "conv-b"))]
    threading.Timer(0.2, pause.go).start()
    engine.close(drain=False)
    for ticket in tickets:
        with pytest.raises(EngineError) as error:
            ticket.result(0)
        assert code(error) == "closed"


def test_every_ticket_ends_once():
    with rig.engine() as engine:
        ends = []
        tickets = engine.submit_all([rig.job(s) for s in range(20)])
        for ticket in tickets:
            ended = ticket.on_end
            ticket.on_end = lambda t, ended=ended: (ends.append(t), ended(t))
        threads = [threading.Thread(target=t.cancel) for t in tickets for _ in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        [t.outcome() for t in tickets]
    assert len(ends) == len(set(ends)) == 20


def test_a_lone_job_does_not_wait_to_be_gathered():
    with rig.engine(gather=5.0) as engine:
        engine.run(rig.job(0))
        began = time.monotonic()
        engine.run(rig.job(1))
        assert time.monotonic() - began < 2.5


def test_visitors_who_shared_a_batch_are_awaited_for_a_moment():
    with rig.engine(gather=2.0) as engine:
        batches = rig.Batches(rig.network(engine, "conv"))
        gate = threading.Barrier(4)

        def visit(number):
            gate.wait(10)
            for turn in range(5):
                engine.run(rig.job(turn, visitor=f"v{number}"))

        for again in range(1, 6):  # who meets whom is up to the system's scheduler
            threads = [threading.Thread(target=visit, args=(n,)) for n in range(4)]
            [t.start() for t in threads]
            [t.join(60) for t in threads]
            assert sum(batches.sizes) == again * 20
            if max(batches.sizes) >= 3:
                return
        pytest.fail(f"nobody was awaited: {batches.sizes}")
