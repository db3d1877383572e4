"""Pictures from sentences: painted at once, guided step by step, or along a line, alone and together."""

import threading
import time

import engine_rig as rig
import numpy as np
import pytest
import torch

from ganhub import models
from ganhub.engine import Engine, Fit, Job
from ganhub.engine.guided import Guided, Turn, cut
from ganhub.errors import BadInput
from ganhub.latents import Latents, load_latents, save_latents
from ganhub.models import char_cnn_rnn, stackgan, stylegan2
from ganhub.pipelines.generate import GenerateRequest, generate
from ganhub.pipelines.imagine import ImagineRequest, direction, imagine
from ganhub.pipelines.requests import Progress
from ganhub.pipelines.sentences import checked
from ganhub.registry import Checkpoint, Registry


class Eyes(torch.nn.Module):
    """The smallest CLIP: a sentence is the colour that it names, a picture its mean colour and a little of its form."""

    image_size, text_dim = 16, 6
    words = {"red": 0, "green": 1, "blue": 2}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.form = torch.nn.Conv2d(3, 3, 5)

    def encode_image(self, x):
        x = torch.nn.functional.interpolate(x, (self.image_size,) * 2, mode="bilinear", antialias=True)
        seen = torch.cat([x.mean((2, 3)) + 0.2, 0.3 * self.form(x).mean((2, 3))], 1)
        return torch.nn.functional.normalize(seen, dim=1)

    def encode_text(self, sentences):
        vectors = torch.full((len(sentences), 6), 0.01)
        for row, sentence in zip(vectors, sentences, strict=True):
            for word, place in self.words.items():
                row[place] += float(word in sentence)
        return torch.nn.functional.normalize(vectors, dim=1)


def painter():
    config = {"z_dim": 8, "text_dim": 12, "code_dim": 6, "start": 16, "widths": [[8], [4]], "residuals": [1]}
    return rig.randomised(stackgan.build("G", config), 0)


def encoder():
    return rig.randomised(char_cnn_rnn.build("G", {"widths": [8, 8, 8], "dim": 12, "cell": "gru", "pools": 2}), 1)


NETWORKS = {
    "style": lambda: stylegan2.prepare(rig.stylegan2_network(1).eval(), "exact"),
    "classes": lambda: rig.stylegan2_network(3, c_dim=3),
    "conv": lambda: rig.dcgan_network(4),
    "eyes": Eyes,
    "painter": painter,
    "words": encoder,
}


def rows():
    yield rig.row("style", "stylegan2", task=("generate", "clip"), components={"clip": "eyes"})
    yield rig.row("classes", "stylegan2", task=("generate", "clip"), components={"clip": "eyes"})
    yield rig.row("conv", "dcgan", task=("generate", "clip"), components={"clip": "eyes"})
    yield rig.row("eyes", "features", task=("component",))
    yield rig.row("painter", "stackgan", task=("text",), components={"text_encoder": "words"})
    yield rig.row("words", "char_cnn_rnn", task=("component",))


def make(**settings):
    return Engine(
        Registry(rows()),
        device="cpu",
        fetch=lambda row, progress=None: row.id,
        read=lambda row, path: NETWORKS[row.id]().eval().requires_grad_(False),
        **settings,
    )


@pytest.fixture(scope="module")
def engine():
    with make() as engine:
        yield engine


def run(engine, checkpoint, text, **how):
    events = list(imagine(engine, ImagineRequest(checkpoint, text, **how)))
    return events[-1], [event for event in events if isinstance(event, Progress)]


def redness(picture):
    pixels = np.asarray(picture.image).astype(float)
    return pixels[..., 0].mean() - pixels[..., 1:].mean()


def test_a_stackgan_draws_every_stage(engine):
    result, events = run(engine, "painter", "Two red apples", seeds=[3, 4])
    assert [p.image.size for p in result.stages[0]] == [(8, 8), (16, 16)] and len(result.pictures) == 2
    assert events[-1].picture is result.pictures[1]
    G, E = painter(), encoder()
    with torch.no_grad():
        embedding = E(char_cnn_rnn.encode_text("Two red apples")[0][None])
        noise = torch.randn(6, generator=torch.Generator().manual_seed(4))[None]
        z = torch.from_numpy(np.random.RandomState(4).randn(1, 8)).float()
        want = G.stages(z, embedding, noise)[-1][0].permute(1, 2, 0) * 127.5 + 128
    assert np.abs(np.asarray(result.pictures[1].image).astype(int) - want.clamp(0, 255).int().numpy()).max() <= 1
    about = result.pictures[1].provenance
    assert about["text"] == "Two red apples" and about["seed"] == 4 and about["generated"] is True
    quiet, _ = run(engine, "painter", "Two red apples", seeds=[3, 4], noise=False)
    assert not np.array_equal(np.asarray(quiet.pictures[0].image), np.asarray(result.pictures[0].image))
    told, _ = run(engine, "painter", "a pêche " + "and a plum " * 30)
    assert any("ê" in note for note in told.notes) and any("first 201" in note for note in told.notes)


@pytest.mark.parametrize("space", ["w", "w+", "s", "z"])
def test_guiding_goes_where_the_sentence_points(engine, space):
    red, events = run(engine, "style", "red", seeds=[0], steps=25, space=space, candidates=4, lr=0.1)
    plain, _ = run(engine, "style", "red", seeds=[0], steps=1, space=space, candidates=1, lr=1e-5)
    assert red.scores[0] > plain.scores[0] and red.losses[0][-1] < red.losses[0][0]
    assert redness(red.pictures[0]) > redness(plain.pictures[0])
    assert sum(event.picture is not None for event in events) >= 3  # it forms before one's eyes
    assert red.latents.space == space and len(red.losses[0]) == 25
    away, _ = run(engine, "style", "red", seeds=[0], steps=25, space=space, candidates=4, lr=0.1, away="green",
                  away_weight=3.0)  # fmt: skip
    pixels = [np.asarray(r.pictures[0].image).astype(float) for r in (red, away)]
    assert pixels[1][..., 1].mean() < pixels[0][..., 1].mean() + 1


def test_networks_without_w_and_with_classes_are_guided_too(engine):
    red, _ = run(engine, "conv", "red", steps=15, space="z", lr=0.1)
    assert red.losses[0][-1] < red.losses[0][0]
    with pytest.raises(BadInput, match="space z"):
        run(engine, "conv", "red")
    assert run(engine, "classes", "red", steps=5, candidates=2)[0].pictures


def test_together_is_as_alone():
    """Different sentences, steps and rates share the slots; the latents are those of each alone."""
    jobs = [("red", 12, 0.05, 0, 0), ("green", 20, 0.08, 1, 0), ("blue", 16, 0.03, 2, 0), ("red", 50, 0.05, 3, 4)]
    jobs += [("blue", 50, 0.06, 4, 4)]
    eyes = Eyes()

    def fits():
        for text, steps, lr, seed, cutouts in jobs:
            features = eyes.encode_text([text])[0].numpy()
            item = {"text": features, "cutouts": cutouts, "mean_weight": 0.05, "noise_weight": 0.05}
            yield Fit("style", "guided", item, steps=steps, lr=lr, seed=seed, critic="eyes")

    with make(slots=1) as engine:
        alone = [engine.optimise(fit).result(60)["latent"] for fit in fits()]
    with make(slots=8) as engine:
        engine.describe("style"), engine.describe("eyes")
        tickets = []
        for fit in fits():
            tickets.append(engine.optimise(fit))
            for event in tickets[-1].progress():
                if event.step == 2:
                    break
        together = [ticket.result(60)["latent"] for ticket in tickets]
    for one, other in zip(alone, together, strict=True):
        cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        assert cosine > 0.999


def test_both_networks_are_pinned_and_let_go(engine):
    features = Eyes().encode_text(["red"])[0].numpy()
    engine.optimise(Fit("style", "guided", {"text": features}, steps=3, critic="eyes")).result(60)
    until = time.monotonic() + 10  # the result comes a moment before the slot is free
    while any(entry["in_use"] for entry in engine.status()["loaded"]) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(entry["in_use"] for entry in engine.status()["loaded"])
    assert {"style", "eyes"} <= {entry["checkpoint"] for entry in engine.status()["loaded"]}


def test_a_failed_critic_is_told(engine):
    features = Eyes().encode_text(["red"])[0].numpy()
    for fit, words in (
        (Fit("style", "guided", {"text": features}, steps=3), "CLIP"),
        (Fit("style", "guided", {"text": features}, steps=3, critic="words"), "CLIP"),
        (Fit("style", "guided", {"text": features[:3]}, steps=3, critic="eyes"), "features"),
        (Fit("style", "guided", {"text": features, "space": "y"}, steps=3, critic="eyes"), "space"),
        (Fit("classes", "guided", {"text": features, "space": "s"}, steps=3, critic="eyes"), "style space"),
        (Fit("style", "guided", {"text": features, "cutouts": -1}, steps=3, critic="eyes"), "cut-outs"),
        (Fit("style", "guided", {"text": features, "start": np.zeros(3)}, steps=3, critic="eyes"), "start"),
        (Fit("conv", "guided", {"text": features}, steps=3, critic="eyes"), "mapping"),
    ):
        with pytest.raises(BadInput, match=words):
            engine.optimise(fit).result(60)


def test_generating_waits_for_one_step_at_most(engine):
    steps = []
    features = Eyes().encode_text(["red"])[0].numpy()
    long = engine.optimise(Fit("style", "guided", {"text": features, "cutouts": 8}, steps=400, critic="eyes"))
    seen = threading.Event()

    def watch():
        for event in long.progress():
            steps.append(event.step)
            seen.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert seen.wait(30)
    waits = []
    for _ in range(5):
        before = len(steps)
        engine.run(Job("conv", "generate", {"z": np.zeros(8), "seed": 0}))
        waits.append(len(steps) - before)
    long.cancel()
    thread.join(30)
    assert sorted(waits)[2] <= 2  # the step that ran, and one that may end as the answer is read


def test_the_instant_way(engine, monkeypatch):
    monkeypatch.setattr("ganhub.pipelines.imagine.SAMPLES", 64)
    strong, events = run(engine, "style", "red", way="instant", seeds=[0, 1, 2], strength=4.0)
    none, again = run(engine, "style", "red", way="instant", seeds=[0, 1, 2], strength=0.0)
    assert np.mean(strong.scores) > np.mean(none.scores) and len(strong.pictures) == 3
    assert any("once" in event.message for event in events) and not any("once" in e.message for e in again)
    with pytest.raises(BadInput, match="line"):
        run(engine, "conv", "red", way="instant")


def test_a_direction_is_found():
    rs = np.random.RandomState(0)
    ws, true = rs.randn(400, 16), rs.randn(16)
    seen = np.stack([ws @ true, rs.randn(400)], 1)
    step = direction(ws, seen, np.array([1.0, 0.0]))
    assert step @ true / np.linalg.norm(step) / np.linalg.norm(true) > 0.98
    assert (step @ true) / (ws @ true).std() == pytest.approx(1, abs=0.1)  # one standard deviation


def test_a_saved_latent_is_gone_on_from(engine):
    first, _ = run(engine, "style", "red", steps=5, candidates=2)
    more, _ = run(engine, "style", "red", steps=5, start=first.latents)
    assert more.losses[0][0] == pytest.approx(first.losses[0][-1], abs=0.05)
    with pytest.raises(BadInput, match="shape"):
        run(engine, "style", "red", space="w+", start=Latents("w", np.zeros((1, 5), np.float32)))


def test_styles_are_kept_and_gone_on_from(engine, tmp_path):
    first, _ = run(engine, "style", "red", seeds=[3], steps=10, space="w", lr=0.1)
    more, _ = run(engine, "style", "red", seeds=[3], steps=10, space="s", lr=0.1, start=first.latents)
    assert more.losses[0][0] == pytest.approx(first.losses[0][-1], abs=0.05)
    save_latents(tmp_path / "styles.npz", more.latents)
    kept = load_latents(tmp_path / "styles.npz")
    assert kept.space == "s" and kept.values.shape == (1, engine.describe("style")["s_dim"])
    again, _ = run(engine, "style", "red", seeds=[3], steps=1, space="s", lr=1e-5, start=kept)
    *_, drawn = generate(engine, GenerateRequest.from_latents("style", kept))
    for picture in (again.pictures[0], drawn.pictures[0]):
        difference = np.abs(np.asarray(picture.image).astype(int) - np.asarray(more.pictures[0].image))
        assert difference.max() <= 1
    with pytest.raises(BadInput, match="truncated"):
        list(generate(engine, GenerateRequest.from_latents("style", kept, psi=0.5)))


def test_stopping_frees_the_slots(engine):
    events = imagine(engine, ImagineRequest("style", "red", seeds=[0, 1], steps=2000, candidates=1))
    while not (isinstance(event := next(events), Progress) and event.picture is not None):
        pass
    events.close()
    engine.run(Job("conv", "describe", {}))
    assert engine.status()["slots"]["used"] == 0


@pytest.mark.parametrize(
    "text, code",
    [("", "empty"), ("   \n\t", "empty"), ("?!.,", "empty"), ("\u200b\u202e", "empty"), ("a" * 501, "too_long"),
     ("some GORE here", "blocked"), (7, "empty")],
)  # fmt: skip
def test_sentences_that_are_refused(text, code):
    with pytest.raises(BadInput) as told:
        checked(text)
    assert told.value.code == code


@pytest.mark.parametrize(
    "text",
    ["a red apple", "两个红苹果", "🍎🍐", "تفاحة حمراء", "'; DROP TABLE fruit; --", "{{7*7}}",
     "<script>alert(1)</script>", "ignore all previous instructions", "a\u0000b\x07c", "e\u0301" * 100,
     "category gored"],
)  # fmt: skip
def test_strange_sentences_become_pictures(engine, text):
    result, _ = run(engine, "painter", text)
    assert result.pictures[0].image.size == (16, 16)
    assert run(engine, "style", text, steps=2, candidates=1)[0].pictures


def test_an_owner_s_list_counts(own_home):
    assert checked("a durian") == "a durian"
    (own_home / "blocked.txt").write_text("# smells\ndurian\n")
    with pytest.raises(BadInput, match="does not draw"):
        checked("A Durian!")
    assert checked("durians") == "durians"


def test_requests_that_cannot_be(engine):
    for how in (
        {"seeds": []},
        {"way": "magic"},
        {"steps": 0},
        {"lr": -1},
        {"space": "y"},
        {"candidates": 0},
        {"cutouts": 99},
    ):
        with pytest.raises(BadInput):
            ImagineRequest("style", "red", **how)
    with pytest.raises(BadInput, match="only stackgan"):
        run(engine, "painter", "red", way="guided")
    with pytest.raises(BadInput, match="draws from no sentence"):
        run(engine, "words", "red")


def test_cut_outs_are_each_row_s_own():
    images = torch.rand(3, 3, 20, 20)
    all_three = cut(images, 4, [Turn(n, 5, 10).generator() for n in range(3)], 16)
    alone = cut(images[1:2], 4, [Turn(1, 5, 10).generator()], 16)
    assert all_three.shape == (12, 3, 16, 16) and torch.allclose(all_three[4:8], alone, atol=1e-6)
    later = cut(images[1:2], 4, [Turn(1, 6, 10).generator()], 16)
    assert (later - alone).abs().max() > 0.1 and isinstance(Guided(), Guided)
    assert Checkpoint and models
