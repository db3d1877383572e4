"""Learning a direction: the statistics against a reference, and the pipeline on small generators."""

import numpy as np
import pytest

from ganhub.directions import Direction, move, orthogonal
from ganhub.errors import BadInput
from ganhub.metrics import directions as stats

RNG = np.random.RandomState(1)


def planted(count, dim, noise=0.0, seed=0):
    """Latents [count, dim], labels that a known direction decides, and that direction."""
    rng = np.random.RandomState(seed)
    latents, true = rng.randn(count, dim), rng.randn(dim)
    true /= np.linalg.norm(true)
    return latents, latents @ true + noise * rng.randn(count) > 0, true


def cosine(a, b):
    return float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))


# Statistics


def test_interfacegan_as_published(reference):
    case = reference("directions/interfacegan")
    w = case.inputs["w"]
    scores = {n: case.inputs[n] for n in ("scores", "scores2", "scores3")}
    found = {
        "boundary_default": stats.interfacegan(w, scores["scores"])[0],
        "boundary_ratio0.2": stats.interfacegan(w, scores["scores"], 0.2)[0],
        "boundary_num300_split1": stats.interfacegan(w, scores["scores"], 300, 1.0)[0],
        "boundary_cond2": stats.interfacegan(w, scores["scores2"], 0.2)[0],
        "boundary_cond3": stats.interfacegan(w, scores["scores3"], 0.2)[0],
    }
    for key, normal in found.items():
        case.check(key, normal)
    primal, *others = (found[f"boundary_{n}"][0] for n in ("ratio0.2", "cond2", "cond3", "default"))
    for count in (1, 2, 3):
        case.check(f"project_{count}", orthogonal(primal, others[:count])[None])
    steps = np.linspace(-3, 3, 7)
    wide = np.repeat(w[1:2, None], 8, 1)
    moved = move(np.repeat(wide, 7, 0), Direction("d", "D", "w", primal, 1.0), steps)
    case.check("interp_wplus_3d", moved)


@pytest.mark.parametrize("method", stats.METHODS)
def test_a_planted_direction_is_found(method):
    latents, labels, true = planted(400, 32)
    found = stats.learn(latents, labels, method)
    assert cosine(found.vector, true) > 0.9 and found.accuracy > 0.85 and found.auc > 0.93
    assert found.chance <= 0.002 and found.accuracy_interval[0] < found.accuracy < found.accuracy_interval[1]
    assert set(found.others) == set(stats.METHODS) - {method}
    assert found.unit == pytest.approx(1.6, abs=0.25)  # two halves of a Gaussian are 2 * 0.8 apart
    agree = (found.scores(latents) > 0) == labels
    assert agree.mean() > 0.9


def test_what_is_held_out_is_not_seen():
    """Accuracies are those of new latents, with noise on the labels too."""
    latents, labels, true = planted(500, 64, noise=0.7)
    found = stats.learn(latents, labels)
    new = np.random.RandomState(5).randn(5000, 64)
    truth = new @ true + 0.7 * np.random.RandomState(6).randn(5000) > 0
    got = ((found.scores(new) > 0) == truth).mean()
    assert found.accuracy_interval[0] - 0.02 < got < found.accuracy_interval[1] + 0.02


@pytest.mark.parametrize("seed", range(10))
def test_random_labels_are_refused_as_chance(seed):
    rng = np.random.RandomState(seed)
    with pytest.raises(BadInput, match="could be chance.*Label more pictures") as error:
        stats.learn(rng.randn(200, 32), rng.randint(0, 2, 200))
    assert error.value.code == "chance"


def test_layers_of_their_own():
    rng = np.random.RandomState(0)
    latents = rng.randn(120, 4, 16)
    labels = latents[:, 2] @ np.ones(16) > 0
    found = stats.learn(latents, labels)
    size = np.linalg.norm(found.vector, axis=1)
    assert found.vector.shape == (4, 16) and size.argmax() == 2 and size[2] > 1.5 * np.delete(size, 2).max()


@pytest.mark.parametrize(
    "change, code, told",
    [
        (lambda x, y: (x[:30], np.ones(30)), "one_sided", "none without the attribute"),
        (lambda x, y: (x[:30], np.zeros(30)), "one_sided", "none with the attribute"),
        (
            lambda x, y: (x[:8], np.array([1, 1, 1, 1, 1, 1, 1, 0])),
            "few",
            "7 pictures with the attribute and 1 without",
        ),
        (lambda x, y: (np.repeat(x[:10], 9, 0), np.tile(np.repeat([0, 1], 45), 1)), "few", "duplicates counted once"),
        (lambda x, y: (np.concatenate([x, x]), np.concatenate([y, ~y])), "contradictory", "both with and without"),
        (lambda x, y: (x, np.full(len(x), 2)), "bad_input", "1 with the attribute and 0 without"),
        (lambda x, y: (x, y[:-1]), "bad_input", "needs one label"),
        (lambda x, y: (x * np.inf, y), "bad_input", "not finite"),
    ],
)
def test_labels_that_nothing_can_be_learned_from(change, code, told):
    latents, labels, _ = planted(100, 8)
    with pytest.raises(BadInput, match=told) as error:
        stats.learn(*change(latents, labels))
    assert error.value.code == code


def test_duplicates_count_once():
    latents, labels, _ = planted(100, 8)
    found = stats.learn(np.concatenate([latents, latents[:20]]), np.concatenate([labels, labels[:20]]))
    assert sum(found.counts) == 100 and found.notes == ("20 duplicates counted once.",)


def test_top_and_bottom():
    places, labels = stats.top_and_bottom(np.array([3.0, 1, 2, 5, 4, 0]), 1 / 3)
    assert places.tolist() == [3, 4, 1, 5] and labels.tolist() == [1, 1, 0, 0]
    for scores, share, told in ((np.ones(9), 0.2, "same score"), (np.arange(9), 0.7, "at most 0.5")):
        with pytest.raises(BadInput, match=told):
            stats.top_and_bottom(scores, share)


def test_intervals():
    assert stats.wilson(0.5, 100) == pytest.approx((0.404, 0.596), abs=1e-3)
    low, high = stats.wilson(1.0, 20)
    assert high == 1 and low == pytest.approx(0.839, abs=1e-3)


def test_principal_directions():
    basis = np.linalg.qr(RNG.randn(12, 12))[0]
    ws = RNG.randn(4000, 3) * [5, 2, 1] @ basis[:3] + 7
    found, sizes = stats.principal(ws, 3)
    np.testing.assert_allclose(sizes, [5, 2, 1], rtol=0.06)
    assert all(abs(cosine(a, b)) > 0.99 for a, b in zip(found, basis[:3], strict=True))
    with pytest.raises(BadInput, match="no 13 principal"):
        stats.principal(ws, 13)


def test_factorised_directions():
    basis = np.linalg.qr(RNG.randn(6, 6))[0]
    layers = [RNG.randn(40, 6) * [4, 1, 1, 1, 1, 0.2] @ basis for _ in range(3)]
    found, sizes = stats.factorised(layers, 6)
    assert abs(cosine(found[0], basis[0])) > 0.98 and abs(cosine(found[5], basis[5])) > 0.98
    rows = np.concatenate(layers)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(rows.T @ rows)[::-1]
    np.testing.assert_allclose(sizes**2, values, rtol=1e-6)  # SeFa takes eigenvectors of A^T A
