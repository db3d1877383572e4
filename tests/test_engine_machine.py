"""Random sequences of everything that can happen to the engine, against what must always hold."""

import time
from collections import Counter
from functools import cache

import engine_rig as rig
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ganhub.engine import Job, Ticket
from ganhub.engine.waiting import WaitingRoom
from ganhub.errors import EngineError

QUEUE, PER_VISITOR, LARGEST = 6, 4, 4
VISITORS = st.sampled_from(["ann", "bob", "eve", ""])
CHECKPOINTS = st.sampled_from(["conv", "conv-b", "conv-c"])
POISON, NAN = 77.0, 78.0

picture_of = cache(rig.expected)


class EngineMachine(RuleBasedStateMachine):
    """Turns of the worker are rules like all others: nothing here runs by itself but the loading threads."""

    def __init__(self):
        super().__init__()
        self.tickets: list[tuple[Ticket, str, int, str]] = []
        self.ends: Counter[Ticket] = Counter()
        self.cancelled: set[Ticket] = set()
        self.ran: Counter[float] = Counter()
        self.seed, self.fits_in_memory = 100, 1000
        # Room for two networks of the three.
        self.engine = rig.engine(
            queue=QUEUE, per_visitor=PER_VISITOR, max_batch=LARGEST, slots=2, cache_bytes=room_for_two()
        )
        self.engine._worker.start = lambda: None
        publish = self.engine._cache.publish

        def hooked(entry):
            if not getattr(entry, "hooked", False):
                entry.hooked = True
                entry.network.register_forward_pre_hook(self.before)
                entry.network.register_forward_hook(self.after)
            return publish(entry)

        self.engine._cache.publish = hooked

    def before(self, module, args):
        z = args[0]
        if len(z) > self.fits_in_memory:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if bool((z[:, 0] == POISON).any()):
            raise RuntimeError("poison")

    def after(self, module, args, output):
        z = args[0]
        if not z.requires_grad:
            self.ran.update(z[:, 1].tolist())
        return torch.where((z[:, 0] == NAN)[:, None, None, None], torch.nan, output)

    @rule(
        checkpoint=CHECKPOINTS, visitor=VISITORS, kind=st.sampled_from(["good"] * 4 + ["poison", "nan", "late", "odd"])
    )
    def submit(self, checkpoint, visitor, kind):
        self.seed += 1
        job = rig.job(self.seed, checkpoint, visitor, deadline=1e-9 if kind == "late" else None)
        if kind in ("poison", "nan"):
            job.item["z"][0] = POISON if kind == "poison" else NAN
        if kind == "odd":
            job.item["psi"] = 0.5
        self._enter(lambda: self.engine.submit(job), visitor, self.engine._room, checkpoint, kind)

    @rule(checkpoint=CHECKPOINTS, visitor=VISITORS, steps=st.integers(1, 6))
    def optimise(self, checkpoint, visitor, steps):
        self.seed += 1
        fit = rig.fit(picture_of(checkpoint, 1), checkpoint, steps=steps, seed=self.seed, visitor=visitor)
        self._enter(lambda: self.engine.optimise(fit), visitor, self.engine._fits, checkpoint, "fit")

    def _enter(self, submit, visitor, room, checkpoint, kind):
        waiting, mine = len(room), self.alive()[visitor]
        try:
            ticket = submit()
        except EngineError as error:
            assert error.code == ("visitor_limit" if visitor and mine >= PER_VISITOR else "queue_full")
            assert error.code == "visitor_limit" or waiting >= QUEUE
            return
        assert waiting < QUEUE and (not visitor or mine < PER_VISITOR)
        ended = ticket.on_end
        ticket.on_end = lambda t: (self.ends.update([t]), ended(t))
        self.tickets.append((ticket, checkpoint, self.seed, kind))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def cancel(self, data):
        ticket = data.draw(st.sampled_from(self.tickets))[0]
        if ticket.cancel():
            self.cancelled.add(ticket)

    @rule()
    def turn(self):
        until = time.monotonic() + 0.05
        while self.engine._loader.under_way and not self.engine._loader.ready and time.monotonic() < until:
            time.sleep(0.001)
        self.engine._worker.turn()

    @rule(size=st.sampled_from([1, 2, 3, 1000]))
    def memory(self, size):
        self.fits_in_memory = size

    @rule(checkpoint=CHECKPOINTS)
    def unload(self, checkpoint):
        try:
            self.engine.unload(checkpoint, timeout=0)
        except EngineError as error:
            assert error.code == "in_use" and any(g.key.checkpoint == checkpoint for g in self.engine._worker.groups)

    def alive(self):
        return Counter(t.job.visitor for t, *_ in self.tickets if not t.done())

    @invariant()
    def limits_hold(self):
        engine = self.engine
        assert engine._cache.used <= engine._cache.budget
        assert len(engine._room) <= QUEUE and len(engine._fits) <= QUEUE
        assert +engine._visitors == self.alive()
        for group in engine._worker.groups.values():
            assert len(group.rows) <= 2
            assert engine._cache.get(group.entry.key) is group.entry and group.entry.pins == 1
        assert all(not ticket.done() for ticket in engine._room)

    @invariant()
    def nothing_ends_twice_or_runs_twice(self):
        assert all(count == 1 for count in self.ends.values())
        for ticket, checkpoint, seed, kind in self.tickets:
            assert ticket.done() == (ticket in self.ends)
            if kind in ("good", "nan"):
                assert self.ran[float(torch.tensor(rig.z(seed, checkpoint)[1], dtype=torch.float32))] <= 1

    def teardown(self):
        until = time.monotonic() + 30
        while not self.engine._worker.idle():
            assert time.monotonic() < until, "the engine never comes to rest"
            self.turn()
        for ticket, checkpoint, seed, kind in self.tickets:
            assert ticket.done()
            outcome = ticket.outcome()
            code = getattr(outcome, "code", "fine")
            if ticket in self.cancelled:
                assert code == "cancelled"
            elif kind == "good":
                assert code == "fine" and rig.apart(outcome, picture_of(checkpoint, seed)) <= 1
            elif kind == "fit":
                assert code == "fine" and outcome["steps"] == ticket.job.steps
            else:
                wanted = {"poison": "failed", "nan": "bad_output", "late": "deadline", "odd": "bad_input"}
                assert code == wanted[kind]
        assert not +self.engine._visitors
        self.engine.close()


@cache
def room_for_two() -> int:
    sizes = []
    for name in ("conv", "conv-b", "conv-c"):
        with rig.engine(max_batch=LARGEST) as engine:
            engine.describe(name)
            sizes.append(engine.status()["used_bytes"])
    return int(max(sizes) * 2.5)


def machine(examples, steps):
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_random_sequences():
    machine(10, 25)


@pytest.mark.slow
def test_many_random_sequences():
    machine(300, 50)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["x", "y"])), min_size=1, max_size=40),
    st.integers(1, 5),
)
@settings(max_examples=200, deadline=None)
def test_nobody_waits_for_more_than_the_others_turns(arrivals, size):
    room = WaitingRoom(100)
    for visitor, work in arrivals:
        room.admit([Ticket(Job("c", work, {}, visitor), group=work)])
    waited, taken, visitors = Counter(), [], len({visitor for visitor, _ in arrivals})
    while len(room):
        before = {t.job.visitor for t in room}
        batch = room.take(lambda t: True, lambda t: size, lambda t: t.group)
        assert 1 <= len(batch) <= size and len({t.group for t in batch}) == 1
        taken += batch
        served = {t.job.visitor for t in batch}
        for visitor in before:
            waited[visitor] = 0 if visitor in served else waited[visitor] + 1
            assert waited[visitor] < visitors, "a visitor was passed over for a second turn of another"
        shares = Counter(t.job.visitor for t in batch)
        left = Counter(t.job.visitor for t in room if t.group == batch[0].group)
        for visitor, count in left.items():
            assert shares[visitor] + 1 >= max(shares.values()) or not count, "a batch was not shared evenly"
    assert sorted(t.number for t in taken) == sorted(set(t.number for t in taken)) and len(taken) == len(arrivals)
    for visitor in "abcd":
        for work in ("x", "y"):
            own = [t.number for t in taken if t.job.visitor == visitor and t.group == work]
            assert own == sorted(own), "a visitor's own requests changed their order"
