"""Optimisation in slots: many fits are one batch, and none of them notices."""

import time

import engine_rig as rig
import numpy as np
import pytest
import torch

from ganhub.engine import Fit
from ganhub.engine.slots import rate
from ganhub.errors import BadInput, EngineError


def finish(tickets):
    return [ticket.result(60) for ticket in tickets]


@pytest.mark.parametrize("checkpoint", ["style", "conv", "classes"])
def test_fits_that_start_at_different_times_end_as_when_run_alone(checkpoint):
    label = 1 if checkpoint == "classes" else None
    c = None if label is None else torch.eye(3)[[label]]
    kwargs = {} if c is None else {"c": c}
    fits = []
    for n in range(5):
        target = rig.expected(checkpoint, 20 + n, **kwargs)
        item = {"target": target, "label": label}
        fits.append(Fit(checkpoint, "fit", item, steps=15 + 4 * n, lr=0.02 + 0.01 * n, seed=n, visitor=f"v{n}"))
    with rig.engine(slots=1) as engine:
        alone = [engine.optimise(fit).result(60) for fit in fits]
    with rig.engine(slots=4) as engine:
        rig.network(engine, checkpoint)
        tickets = []
        for fit in fits:
            tickets.append(engine.optimise(fit))
            for event in tickets[-1].progress():  # the next one joins some steps later
                if event.step == 3:
                    break
        together = finish(tickets)
    for one, other in zip(alone, together, strict=True):
        assert one["steps"] == other["steps"]
        assert np.abs(one["latent"] - other["latent"]).max() < 1e-4
        assert abs(one["loss"] - other["loss"]) < 1e-4


def test_fits_share_their_steps():
    with rig.engine(slots=4) as engine:
        network = rig.network(engine, "conv")
        calls = rig.Batches(network)
        pause = rig.Pause(network)
        tickets = [engine.optimise(rig.fit(rig.expected("conv", s), steps=40, seed=s)) for s in range(4)]
        pause.go()
        finish(tickets)
        assert sum(calls.sizes) == 160 and len(calls.sizes) <= 41 + 40
        assert max(calls.sizes) == 4


def test_a_fit_finds_the_picture():
    target = rig.expected("conv", 20)
    with rig.engine() as engine:
        ticket = engine.optimise(rig.fit(target, steps=120, lr=0.1))
        events = list(ticket.progress())
        result = ticket.result()
    assert [event.step for event in events] == list(range(1, 121))
    assert result["loss"] < 0.2 * events[0].loss
    assert result["loss"] == events[-1].loss and result["steps"] == 120


def test_previews_come_when_asked_for():
    with rig.engine() as engine:
        ticket = engine.optimise(rig.fit(rig.expected("style", 1), "style", steps=10, preview=4))
        events = list(ticket.progress())
    assert [event.step for event in events if event.latent is not None] == [4, 8]
    assert events[3].latent.shape == (16,)


def test_forward_work_waits_for_one_step_at_most():
    with rig.engine() as engine:
        network = rig.network(engine, "conv")
        order = []
        network.register_forward_pre_hook(lambda m, args: order.append("step" if args[0].requires_grad else "picture"))
        fit = engine.optimise(rig.fit(rig.expected("conv", 1), steps=100_000))
        next(fit.progress())
        late = []
        for seed in range(20):
            order.clear()
            ticket = engine.submit(rig.job(seed))
            order.append("asked")
            ticket.result()
            since = order[order.index("asked") :]
            late += [since.index("picture")] if "picture" in since else []
        # One step may begin between the question and the answer; "asked" itself counts as one.
        assert late and max(late) <= 2, late
        assert not fit.done()
        fit.cancel()


def test_a_cancelled_fit_frees_its_slot_at_the_next_step():
    with rig.engine(slots=1) as engine:
        network = rig.network(engine, "conv")
        first = engine.optimise(rig.fit(rig.expected("conv", 1), steps=100_000))
        second = engine.optimise(rig.fit(rig.expected("conv", 2), steps=5))
        next(first.progress())
        assert engine.status()["slots"] == {"used": 1, "per_kind": 1} and engine.status()["waiting"] == 1
        pause = rig.Pause(network)
        assert pause.entered.wait(10)
        first.cancel()
        calls = rig.Batches(network)
        pause.go()
        assert second.result(30)["steps"] == 5
        assert len(calls.sizes) <= 5 + 1, "the cancelled fit went on"
        with pytest.raises(EngineError) as error:
            first.result()
        assert error.value.code == "cancelled"


def test_a_late_fit_leaves():
    with rig.engine() as engine:
        rig.network(engine, "conv")
        ticket = engine.optimise(rig.fit(rig.expected("conv", 1), steps=1_000_000, deadline=0.5))
        with pytest.raises(EngineError) as error:
            ticket.result(20)
        assert error.value.code == "deadline"
        until = time.monotonic() + 10
        while engine.status()["slots"]["used"]:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_waiting_fits_get_their_slots_in_turn():
    with rig.engine(slots=2) as engine:
        pause = rig.Pause(rig.network(engine, "conv"))
        order = []
        hog = [engine.optimise(rig.fit(rig.expected("conv", s), steps=4, visitor="hog")) for s in range(8)]
        assert pause.entered.wait(10)
        newcomer = engine.optimise(rig.fit(rig.expected("conv", 9), steps=4, visitor="ann"))
        for name, ticket in [("hog", t) for t in hog] + [("ann", newcomer)]:
            ended = ticket.on_end
            ticket.on_end = lambda t, name=name, ended=ended: (order.append(name), ended(t))
        pause.go()
        finish([*hog, newcomer])
        assert order.index("ann") <= 4, order


@pytest.mark.parametrize("fault", ["raises", "nan", "memory"])
def test_a_fit_that_breaks_spares_its_neighbours(fault):
    fits = [rig.fit(rig.expected("conv", 30 + n), steps=20, seed=n) for n in range(4)]
    with rig.engine(slots=4) as engine:
        alone = [engine.optimise(fit).result(30) for fit in fits]
        network = rig.network(engine, "conv")
        dark = np.zeros((16, 16, 3), np.uint8)
        bad = rig.fit(dark, steps=20, seed=5)
        start = torch.from_numpy(np.random.RandomState(5).randn(8).astype(np.float32))

        def hook(module, args, output):
            mine = (args[0] == start).all(1)
            if fault == "memory" and len(args[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            if fault == "raises" and bool(mine.any()):
                raise RuntimeError("broken")
            if fault == "nan":
                return torch.where(mine[:, None, None, None], torch.nan, output)

        pause = rig.Pause(network)
        tickets = [engine.optimise(fit) for fit in [*fits[:2], bad, *fits[2:]]]
        network.register_forward_hook(hook)
        pause.go()
        others = [tickets[i] for i in (0, 1, 3, 4)]
        together = finish(others)
        if fault == "memory":
            assert tickets[2].result(30)["steps"] == 20
        else:
            with pytest.raises(EngineError) as error:
                tickets[2].result(30)
            assert error.value.code == ("failed" if fault == "raises" else "bad_output")
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one["latent"] - other["latent"]).max() < 1e-4


def test_deterministic_fits_are_equal_bit_for_bit():
    fits = [rig.fit(rig.expected("style", 30 + n), "style", steps=15, seed=n) for n in range(3)]
    with rig.engine(slots=3, deterministic=True) as engine:
        alone = [engine.optimise(fit).result(30)["latent"] for fit in fits]
        together = [result["latent"] for result in finish([engine.optimise(fit) for fit in reversed(fits)])]
    for one, other in zip(alone, reversed(together), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("checkpoint", "item", "text"),
    [
        ("conv", {"target": np.zeros((8, 8, 3), np.uint8)}, r"shape \[16, 16, 3\]"),
        ("conv", {"target": np.zeros((16, 16, 3))}, "uint8"),
        ("conv", {"target": np.zeros((16, 16, 3), np.uint8), "space": "w"}, "fit in the space z"),
        ("conv", {"target": np.zeros((16, 16, 3), np.uint8), "space": "q"}, "no space 'q'"),
        ("classes", {"target": np.zeros((16, 16, 3), np.uint8)}, "draws 3 classes"),
    ],
)
def test_bad_fits_are_refused_with_a_sentence(checkpoint, item, text):
    with rig.engine() as engine, pytest.raises(BadInput, match=text):
        engine.optimise(Fit(checkpoint, "fit", item)).result(20)


def test_unknown_objectives_and_empty_fits_are_refused_at_the_door():
    with rig.engine() as engine:
        with pytest.raises(BadInput, match="no objective 'dream'"):
            engine.optimise(Fit("conv", "dream", {}))
        with pytest.raises(BadInput, match="at least one step"):
            engine.optimise(Fit("conv", "fit", {}, steps=0))
        with pytest.raises(BadInput, match="learning rate above 0"):
            engine.optimise(Fit("conv", "fit", {}, lr=float("nan")))


def test_the_learning_rate_goes_up_and_down():
    fit = Fit("conv", "fit", {}, steps=100, lr=0.1)
    rates = [rate(fit, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.02) and max(rates) == rates[50] == pytest.approx(0.1)
    assert rates[-1] < 0.001 and all(a >= b for a, b in zip(rates[70:], rates[71:], strict=False))
