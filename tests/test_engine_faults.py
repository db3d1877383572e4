"""The engine when something breaks: memory, numbers, networks, the device, the other process."""

import gc
import multiprocessing
import subprocess
import sys
import threading
import time
import weakref

import engine_rig as rig
import numpy as np
import pytest
import torch

from ganhub import models
from ganhub.engine import Engine, elsewhere
from ganhub.engine import device as devices
from ganhub.engine.cache import Cache, Key, Loaded
from ganhub.errors import EngineError
from ganhub.registry import Registry

MARK = 77.0
"""First number of a latent that a broken network trips over."""


def marked(seed):
    job = rig.job(seed)
    job.item["z"][0] = MARK
    return job


@pytest.fixture
def engine():
    with rig.engine() as engine:
        yield engine


def break_when(network, condition, error):
    """The network raises `error(z)` for batches for which `condition(z)` holds."""

    def hook(module, args):
        if condition(args[0]):
            raise error(args[0])

    return network.register_forward_pre_hook(hook)


def out_of_memory(z):
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def has_mark(z):
    return bool((z[:, 0] == MARK).any())


def test_a_bad_item_fails_alone(engine):
    network = rig.network(engine, "conv")
    calls = rig.Batches(network)
    break_when(network, has_mark, lambda z: RuntimeError("the network cannot do this"))
    jobs = [rig.job(s) for s in range(8)]
    jobs[3:3] = [marked(99)]
    tickets = engine.submit_all(jobs)
    with pytest.raises(EngineError, match="'conv' failed on this request .*the network cannot do this") as error:
        tickets[3].result(20)
    assert error.value.code == "failed"
    for seed, ticket in enumerate(tickets[:3] + tickets[4:]):
        assert rig.apart(ticket.result(20), rig.expected("conv", seed)) <= 1
    assert sum(calls.sizes) <= 9 * 5, "bisecting took too many forwards"
    assert engine.status()["healthy"]


def test_numbers_that_are_not_finite_fail_alone(engine):
    def spoil(module, args, output):
        return torch.where((args[0][:, 0] == MARK)[:, None, None, None], torch.nan, output)

    rig.network(engine, "conv").register_forward_hook(spoil)
    tickets = engine.submit_all([rig.job(0), marked(1), rig.job(2)])
    with pytest.raises(EngineError, match="not finite") as error:
        tickets[1].result(20)
    assert error.value.code == "bad_output"
    for seed in (0, 2):
        assert rig.apart(tickets[seed].result(20), rig.expected("conv", seed)) <= 1


def test_latents_that_are_not_finite_are_found_too(engine):
    rig.network(engine, "style").mapping.register_forward_hook(lambda m, args, ws: ws * torch.inf)
    with pytest.raises(EngineError) as error:
        engine.run(rig.job(0, "style", operation="map"))
    assert error.value.code == "bad_output"


@pytest.mark.parametrize(
    "error",
    [
        out_of_memory,
        lambda z: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_is_remembered(engine, error):
    network = rig.network(engine, "conv")
    calls = rig.Batches(network)
    break_when(network, lambda z: len(z) > 3, error)
    tickets = engine.submit_all([rig.job(s) for s in range(12)])
    for seed, ticket in enumerate(tickets):
        assert rig.apart(ticket.result(20), rig.expected("conv", seed)) <= 1
    assert calls.sizes[0] == 12
    calls.sizes.clear()
    [t.result(20) for t in engine.submit_all([rig.job(s) for s in range(12)])]
    assert max(calls.sizes) <= 3, "the engine did not learn what fits"


def test_out_of_memory_for_one_evicts_the_others_then_says_so(engine):
    rig.network(engine, "conv-b")
    network = rig.network(engine, "conv")
    others = lambda z: len(engine.status()["loaded"]) > 1  # noqa: E731
    handle = break_when(network, others, out_of_memory)
    assert rig.apart(engine.run(rig.job(3)), rig.expected("conv", 3)) <= 1
    assert [e["checkpoint"] for e in engine.status()["loaded"]] == ["conv"]
    handle.remove()
    handle = break_when(network, lambda z: True, out_of_memory)
    with pytest.raises(EngineError, match="'conv' does not fit the device's memory") as error:
        engine.run(rig.job(3))
    assert error.value.code == "out_of_memory"
    handle.remove()
    assert engine.run(rig.job(3)) is not None


def test_a_failed_batch_holds_no_memory(engine):
    network, kept = rig.network(engine, "conv"), []

    def hook(module, args):
        if len(args[0]) > 1:
            kept.append(weakref.ref(args[0]))
            raise out_of_memory(None)
        gc.collect()
        assert all(ref() is None for ref in kept), "the batch that failed is still in memory when it is tried again"

    network.register_forward_pre_hook(hook)
    assert all(t.result(20) is not None for t in engine.submit_all([rig.job(s) for s in range(4)]))
    assert kept


def test_an_exception_at_run_n_ends_nothing_but_its_own(engine):
    network, count = rig.network(engine, "conv"), []
    break_when(network, lambda z: count.append(1) or len(count) == 20, lambda z: ValueError("once"))
    ended = [0, 0]
    for seed in range(40):
        try:
            assert rig.apart(engine.run(rig.job(seed)), rig.expected("conv", seed)) <= 1
            ended[0] += 1
        except EngineError as error:
            assert error.code == "failed"
            ended[1] += 1
    assert ended == [39, 1]


def test_a_lost_device_ends_everything_with_the_same_sentence():
    told = []
    engine = rig.engine(on_device_lost=told.append)
    rig.network(engine, "style")
    network = rig.network(engine, "conv")
    pause = rig.Pause(network)
    break_when(network, has_mark, lambda z: torch.AcceleratorError("CUDA error: device-side assert triggered"))
    fit = engine.optimise(rig.fit(rig.expected("conv-b", 1), "conv-b", steps=10_000))
    next(fit.progress())
    tickets = engine.submit_all([rig.job(s) for s in range(3)] + [marked(9), rig.job(1, "style"), rig.job(1, "conv-c")])
    assert pause.entered.wait(10)
    pause.go()
    for ticket in [*tickets, fit]:
        with pytest.raises(EngineError, match="device is lost .*device-side assert.* restart the application") as error:
            ticket.result(20)
        assert error.value.code == "device_lost"
    status = engine.status()
    assert not status["healthy"] and "restart" in status["reason"] and len(told) == 1
    with pytest.raises(EngineError) as error:
        engine.submit(rig.job(0))
    assert error.value.code == "device_lost"
    engine.close(timeout=5)


def test_a_mistake_in_the_engine_itself_leaves_nobody_waiting(engine, monkeypatch):
    rig.network(engine, "conv")
    monkeypatch.setattr(engine._worker.room, "take", lambda *args: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with pytest.raises(EngineError, match="the engine failed, ZeroDivisionError"):
        engine.run(rig.job(0))
    assert not engine.status()["healthy"]


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (out_of_memory(None), True, False),
        (MemoryError(), True, False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True, False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("CUDA error: device-side assert triggered"), False, True),
        (RuntimeError("expected scalar type Double but found Float"), False, False),
        (ValueError("out of memory"), False, False),
    ],
)
def test_failures_are_told_apart(error, memory, lost):
    assert (devices.is_out_of_memory(error), devices.is_lost(error)) == (memory, lost)


# The cache ------------------------------------------------------------------------------------------------------------


def entry(name, size):
    return Loaded(Key(name, "exact"), torch.nn.Linear(1, 1), {}, size, largest=0)


def test_the_cache_evicts_what_is_least_used_and_never_what_is_in_use():
    cache = Cache(100)
    a, b, c = entry("a", 40), entry("b", 40), entry("c", 40)
    assert cache.publish(a) and cache.publish(b)
    [a.use() for _ in range(3)]
    b.use()
    assert cache.publish(c)
    assert {e.key.checkpoint for e in cache} == {"a", "c"} and cache.used == 80
    a.pins = c.pins = 1
    assert not cache.publish(b) and cache.used == 80, "a pinned network was evicted"
    c.pins = 0
    assert cache.publish(b)
    assert {e.key.checkpoint for e in cache} == {"a", "b"}


def test_old_uses_fade(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("ganhub.engine.cache.time.monotonic", lambda: now[0])
    cache = Cache(100)
    old, new = entry("old", 50), entry("new", 50)
    old.touched = new.touched = now[0]
    [old.use() for _ in range(10)]
    now[0] += 3600 * 2
    new.use()
    cache.publish(old), cache.publish(new)
    assert cache.publish(entry("next", 50))
    assert {e.key.checkpoint for e in cache} == {"new", "next"}


def test_networks_make_room_for_each_other_under_the_budget():
    with rig.engine() as engine:
        sizes = [engine.describe(name) and engine.status()["used_bytes"] for name in ("conv", "conv-b")]
    with rig.engine(cache_bytes=int(sizes[0] * 2.5)) as engine:
        for turn in range(9):
            name = ("conv", "conv-b", "conv-c")[turn % 3]
            assert rig.apart(engine.run(rig.job(turn, name)), rig.expected(name, turn)) <= 1
            status = engine.status()
            assert status["used_bytes"] <= status["cache_bytes"] and len(status["loaded"]) <= 2
        assert engine.status()["evicted"] >= 5


def test_a_network_beyond_the_budget_is_refused_with_a_sentence():
    with rig.engine(cache_bytes=5000) as engine:
        with pytest.raises(EngineError, match="needs .* GB, more than the .* GB") as error:
            engine.describe("style")
        assert error.value.code == "out_of_memory"
        assert engine.status()["used_bytes"] == 0


def test_a_network_in_use_is_never_evicted_and_the_next_one_waits():
    with rig.engine() as engine:
        engine.describe("conv")
        size = engine.status()["used_bytes"]
    with rig.engine(cache_bytes=int(size * 1.5)) as engine:
        fit = engine.optimise(rig.fit(rig.expected("conv", 1), "conv", steps=10_000))
        events = fit.progress()
        next(events)
        waiting = engine.submit(rig.job(1, "conv-b"))
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        with pytest.raises(EngineError) as error:
            engine.unload("conv", timeout=0.1)
        assert error.value.code == "in_use"
        assert [e["checkpoint"] for e in engine.status()["loaded"]] == ["conv"]
        fit.cancel()
        assert rig.apart(waiting.result(20), rig.expected("conv-b", 1)) <= 1


def test_unload_frees_and_the_next_job_loads_again():
    reader = rig.Reader()
    with rig.engine(reader) as engine:
        engine.run(rig.job(0))
        assert engine.unload("conv") > 0 and not engine.status()["loaded"]
        assert engine.run(rig.job(0)) is not None
        assert reader.calls == ["conv", "conv"]


def test_unloading_the_moment_it_is_there_holds_up_no_later_load():
    with rig.engine() as engine:
        loader, finish = engine._loader, engine._loader.finish

        def unload_and_want_again(key, error=None):
            loader.finish = finish
            with engine._lock:  # all of it before the loading thread can look up
                finish(key, error)
                engine._cache.unload(key.checkpoint)
                loader.want(key)

        loader.finish = unload_and_want_again
        assert rig.apart(engine.submit(rig.job(1)).result(20), rig.expected("conv", 1)) <= 1
        assert engine.submit(rig.job(1, "conv-b")).result(20) is not None


def test_a_load_that_nobody_waits_for_gives_up_its_room():
    with rig.engine() as engine:
        engine.describe("conv")
        size = engine.status()["used_bytes"]
    with rig.engine(cache_bytes=int(size * 1.5)) as engine:
        fit = engine.optimise(rig.fit(rig.expected("conv", 1), "conv", steps=100_000))
        next(fit.progress())
        waiting = engine.submit(rig.job(1, "conv-b"))
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        waiting.cancel()
        until = time.monotonic() + 10
        while engine.status()["loading"]:
            assert time.monotonic() < until, "the load goes on though nobody waits for it"
            time.sleep(0.02)
        fit.cancel()
        assert engine.run(rig.job(1, "conv-b")) is not None


def test_the_first_picture_out_of_memory_evicts_and_tries_again(monkeypatch):
    prepare = models.prepare

    def cramped(family, network, precision):
        network = prepare(family, network, precision)
        if family == "stylegan2":
            crowded = lambda z: engine._cache.get(Key("conv", "exact")) is not None  # noqa: E731
            break_when(network.synthesis, crowded, out_of_memory)
        return network

    monkeypatch.setattr(models, "prepare", cramped)
    with rig.engine() as engine:
        engine.describe("conv")
        assert rig.apart(engine.run(rig.job(1, "style")), rig.expected("style", 1)) <= 1
        assert [e["checkpoint"] for e in engine.status()["loaded"]] == ["style"]


def test_a_process_without_a_device_can_leave(monkeypatch):
    def no_more(z):
        return torch.AcceleratorError("CUDA error: unspecified launch failure")

    left = []
    monkeypatch.setattr("ganhub.engine.worker.os._exit", left.append)
    for wish in ("0", "1"):
        monkeypatch.setenv("GANHUB_EXIT_WHEN_LOST", wish)
        with rig.engine() as engine:
            break_when(rig.network(engine, "conv"), lambda z: True, no_more)
            with pytest.raises(EngineError, match="unspecified launch failure"):
                engine.run(rig.job(0))
            engine.close()
        assert left == ([75] if wish == "1" else [])


# Another process ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.fixture
def stored(tmp_path):
    """A registry of one real file, which the other process can read as well."""
    file = tmp_path / "conv.pt"
    torch.save(rig.dcgan_network(4).state_dict(), file)
    return Registry([rig.row("conv", "dcgan", source={"path": str(file)})])


@pytest.mark.slow
def test_work_elsewhere_gives_the_same(pool, stored):
    def run_on_device(function, *args):
        return pool.apply(elsewhere.call, (function, *args))

    target = rig.expected("conv", 9)
    with Engine(stored, "cpu") as here, Engine(stored, run_on_device=run_on_device) as there:
        assert there.describe("conv") == here.describe("conv")
        tickets = there.submit_all([rig.job(s) for s in range(6)])
        for seed, ticket in enumerate(tickets):
            assert rig.apart(ticket.result(60), here.run(rig.job(seed))) <= 1
        bad = there.submit(rig.job(0, label=3))
        with pytest.raises(Exception, match="no classes"):
            bad.result(60)
        one = there.optimise(rig.fit(target, steps=5))
        other = here.optimise(rig.fit(target, steps=5))
        assert len(list(one.progress())) == 5
        assert np.abs(one.result(60)["latent"] - other.result(60)["latent"]).max() < 1e-4


@pytest.mark.slow
def test_a_refusal_of_the_other_process_is_told_and_survived(stored):
    answer = []

    def run_on_device(function, *args):
        if not answer:
            raise RuntimeError("You have exceeded your GPU quota")
        return function(*args)

    with Engine(stored, run_on_device=run_on_device) as engine:
        for work in (
            lambda: engine.run(rig.job(0)),
            lambda: engine.optimise(rig.fit(rig.expected("conv", 1))).result(20),
        ):
            with pytest.raises(EngineError, match="exceeded your GPU quota") as error:
                work()
            assert error.value.code == "device_lost"
        answer.append(True)
        assert engine.run(rig.job(0)).shape == (16, 16, 3) and engine.status()["healthy"]


# The device -----------------------------------------------------------------------------------------------------------


def test_the_device_is_chosen_and_refused_by_name(monkeypatch):
    monkeypatch.setenv("GANHUB_DEVICE", "cpu")
    assert devices.choose().type == "cpu"
    with pytest.raises(Exception, match="GANHUB_DEVICE .* 'tpu'"):
        devices.choose("tpu")
    for name in ("cuda:99", "cpu:1"):
        with pytest.raises(Exception, match=f"'{name}' is not there"):
            devices.choose(name)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's C library")
def test_the_allocator_is_tuned_where_the_c_library_allows():
    script = """
import sys, ganhub.engine, torch, resource
took = len(sys.argv) > 1 and ganhub.engine.tune_allocator()
torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8): torch.ones(16 << 20)
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(*args):
        command = [sys.executable, "-c", script, *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    took, tuned = faults("tune")
    if took == "False":
        pytest.skip("not glibc")
    # A busy machine takes idle pages back by itself: the best of three tells what the allocator does.
    best = min(int(tuned), *(int(faults("tune")[1]) for _ in range(2)))
    assert best < 0.5 * int(faults()[1]), "blocks are handed back to the kernel and faulted in again"


def test_waiting_costs_no_time(engine):
    engine.run(rig.job(0))
    time.sleep(0.2)
    before = time.thread_time(), time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before[1] < 0.2, "an idle engine is busy"
