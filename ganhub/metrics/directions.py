"""Learning a direction from latents and labels, and whether the result means anything. Plain NumPy and scikit-learn.

The normal of a linear classifier between latents with and without an attribute is the direction (Shen et al.,
"InterFaceGAN", https://arxiv.org/abs/1907.10786). Everything said of it was measured on latents that it did not see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ganhub.errors import BadInput

METHODS = ("svm", "logistic", "mean")
FEWEST = 6
"""Of either kind."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Values of the SVM's C that are tried, for standardised latents."""
FOLDS = 5
SHUFFLES = 1000
CHANCE = 0.01
"""Labels that so many of a hundred shuffles would match as well count as chance."""
_CHOOSING = 400
"""Latents that C is chosen on: more of them choose the same."""


@dataclass(frozen=True)
class Learned:
    """A direction and its proof.

    `accuracy` is the mean over both kinds, so that a one-sided set does not flatter; like `auc` it was measured by
    cross-validation, with C chosen anew inside each part (for the other methods once). Intervals hold the truth in 95
    of 100 cases.
    """

    vector: np.ndarray
    """Of the latents' own shape, not normalised: its product with a latent, plus `offset`, is the score."""
    offset: float
    unit: float
    """Length along the vector from the middle between the two kinds to the typical latent with the attribute."""
    method: str
    penalty: float | None
    accuracy: float
    accuracy_interval: tuple[float, float]
    auc: float
    auc_interval: tuple[float, float]
    chance: float
    """How often shuffled labels are told apart as well as these (permutation test)."""
    counts: tuple[int, int]
    """Latents without and with, duplicates taken out."""
    others: dict[str, dict[str, float]] = field(default_factory=dict)
    """accuracy and auc of the other methods, and the cosine of their direction with this one."""
    notes: tuple[str, ...] = ()

    def scores(self, latents: np.ndarray) -> np.ndarray:
        """Which side latents [N, ...] lie on, and how far: [N]."""
        return latents.reshape(len(latents), -1) @ self.vector.ravel() + self.offset

    def figures(self) -> dict[str, Any]:
        """What a card says, JSON-able."""
        return {
            "method": self.method,
            "C": self.penalty,
            "without": self.counts[0],
            "with": self.counts[1],
            "accuracy": round(self.accuracy, 4),
            "accuracy_interval": [round(x, 4) for x in self.accuracy_interval],
            "auc": round(self.auc, 4),
            "auc_interval": [round(x, 4) for x in self.auc_interval],
            "chance": round(self.chance, 4),
            "other_methods": {m: {k: round(v, 4) for k, v in values.items()} for m, values in self.others.items()},
        }


def learn(latents: np.ndarray, labels: np.ndarray, method: str = "svm", seed: int = 0) -> Learned:
    """The direction that separates latents with an attribute from those without.

    Args:
        latents: [N, dim], or [N, layers, dim] for a direction of each layer's own.
        labels: [N], true or 1 with the attribute.
        method: `svm` (a linear one), `logistic` (regression), or `mean` (the difference of the two means).
        seed: of the folds and shuffles.

    Raises:
        BadInput: labels that no direction can be learned from; the code is `few`, `one_sided`, `contradictory` or
            `chance`, and the sentence says what to do.
    """
    if method not in METHODS:
        raise BadInput(f"There is no method '{str(method)[:40]}'; there are {', '.join(METHODS)}.")
    shape = latents.shape[1:]
    x, y, notes = _usable(np.asarray(latents, np.float64).reshape(len(latents), -1), np.asarray(labels))
    rng = np.random.RandomState(seed)
    centre, scale = x.mean(0), np.maximum(x.std(0), 1e-6 * max(float(x.std()), 1e-12))
    x = (x - centre) / scale
    chance = _chance(x, y, rng)
    if chance > CHANCE:
        raise BadInput(
            f"These labels could be chance: {chance * 100:.0f} of 100 shuffles of them are told apart as well in this "
            "latent space. Label more pictures, the clear ones first, or choose another attribute, space or range of "
            "layers.",
            "chance",
        )
    folds = _folds(y, rng)
    found = {}
    for name in METHODS:
        held_out = np.empty(len(y))
        penalty = _penalty(name, x, y, rng)
        for fold in range(FOLDS):
            train = folds != fold
            inside = _penalty(name, x[train], y[train], rng) if name == method else penalty
            weights, bias = _fit(name, x[train], y[train], rng, inside)
            held_out[~train] = x[~train] @ weights + bias
        weights, bias = _fit(name, x, y, rng, penalty)
        found[name] = (weights / scale, bias - float(centre @ (weights / scale)), penalty, held_out)
    vector, offset, penalty, held_out = found[method]
    ones, zeros = int(y.sum()), int((~y).sum())
    accuracy, auc = mean_accuracy(held_out, y), area(held_out, y)
    raw = x * scale + centre
    between = float((raw[y].mean(0) - raw[~y].mean(0)) @ vector) / 2
    others = {
        name: {
            "accuracy": mean_accuracy(scores, y),
            "auc": area(scores, y),
            "cosine": float(other @ vector / (np.linalg.norm(other) * np.linalg.norm(vector))),
        }
        for name, (other, _, _, scores) in found.items()
        if name != method
    }
    return Learned(
        vector=vector.reshape(shape),
        offset=offset,
        unit=between / float(np.linalg.norm(vector)),
        method=method,
        penalty=penalty,
        accuracy=accuracy,
        accuracy_interval=wilson(accuracy, 4 / (1 / ones + 1 / zeros)),
        auc=auc,
        auc_interval=wilson(auc, min(ones, zeros)),
        chance=chance,
        counts=(zeros, ones),
        others=others,
        notes=notes,
    )


def _usable(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Latents and labels without duplicates, and what was left out.

    Raises:
        BadInput: too few are left, all on one side, or the same latents stand on both.
    """
    if len(x) != len(labels) or not np.isin(labels, (0, 1)).all():
        raise BadInput("Each latent needs one label, 1 with the attribute and 0 without it.")
    if not np.isfinite(x).all():
        raise BadInput("The latents hold numbers that are not finite.")
    y = labels.astype(bool)
    _, first, places = np.unique(x, axis=0, return_index=True, return_inverse=True)
    places = places.ravel()
    share = np.bincount(places, y) / np.bincount(places)
    both = int(((share > 0) & (share < 1)).sum())
    if both > 0.1 * len(first):
        raise BadInput(
            f"{both} of {len(first)} pictures are labelled both with and without; look at them again.", "contradictory"
        )
    kept = np.sort(first[(share == 0) | (share == 1)])
    notes = []
    if len(x) - len(first):
        notes.append(f"{len(x) - len(first)} duplicates counted once.")
    if both:
        notes.append(f"{both} pictures were left out: they are labelled both with and without.")
    x, y = x[kept], y[kept]
    ones, zeros = int(y.sum()), int((~y).sum())
    if not ones or not zeros:
        missing = "with" if not ones else "without"
        raise BadInput(
            f"All {len(y)} pictures are on one side: there is none {missing} the attribute. Add pictures {missing} it.",
            "one_sided",
        )
    if min(ones, zeros) < FEWEST:
        same = " (duplicates counted once)" if len(x) < len(labels) else ""
        raise BadInput(
            f"There are {ones} pictures with the attribute and {zeros} without{same}; label at least {FEWEST} of "
            "either, better twenty.",
            "few",
        )
    return x, y, tuple(notes)


def _folds(y: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """The part of each latent, both kinds spread evenly: [N]."""
    folds = np.empty(len(y), int)
    for kind in (True, False):
        places = np.flatnonzero(y == kind)
        folds[rng.permutation(places)] = np.arange(len(places)) % FOLDS
    return folds


def _penalty(method: str, x: np.ndarray, y: np.ndarray, rng: np.random.RandomState) -> float | None:
    """The largest C of `PENALTIES` whose held-out AUC is the best, or nearly; None for the mean.

    A small C answers with the difference of the means, which leads along whatever varies most in the latents and goes
    with the attribute; a large one with the normal alone, where the labels allow it.
    """
    if method == "mean":
        return None
    chosen = rng.permutation(len(y))[:_CHOOSING]
    x, y = x[chosen], y[chosen]
    folds = _folds(y, rng)
    found = []
    for penalty in PENALTIES:
        areas = []
        for fold in range(3):
            train = folds != fold
            if min(y[~train].sum(), (~y[~train]).sum()):
                weights, _ = _fit(method, x[train], y[train], rng, penalty)
                areas.append(area(x[~train] @ weights, y[~train]))
        found.append(areas or [0.0])
    means = np.array([np.mean(areas) for areas in found])
    error = np.std(found[int(means.argmax())]) / np.sqrt(3)
    return PENALTIES[int(np.flatnonzero(means >= means.max() - error / 4 - 1e-9)[-1])]


def _fit(
    method: str, x: np.ndarray, y: np.ndarray, rng: np.random.RandomState, penalty: float | None
) -> tuple[np.ndarray, float]:
    """Weights [D] and bias of a linear classifier; both kinds count the same however many they are."""
    if method == "mean":
        one, other = x[y].mean(0), x[~y].mean(0)
        return one - other, -float((one + other) @ (one - other)) / 2
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    seed = int(rng.randint(2**31 - 1))
    if method == "svm":
        wide = x.shape[1] > len(x)
        model: Any = LinearSVC(C=penalty, class_weight="balanced", dual=wide, tol=1e-3, max_iter=500, random_state=seed)
    else:
        model = LogisticRegression(C=penalty, class_weight="balanced", tol=1e-3, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a last digit that no picture shows
        model.fit(x, y)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def _chance(x: np.ndarray, y: np.ndarray, rng: np.random.RandomState, shuffles: int = SHUFFLES) -> float:
    """Share of shuffled labels that are told apart at least as well as these: a permutation test.

    Each label is foretold by ridge regression on all others, which has a closed form: one matrix answers for all
    shuffles at once. The measure is the correlation of what was foretold with what is so.
    """
    n = len(y)
    wide = x.shape[1] > n
    gram = x @ x.T if wide else x.T @ x
    ridge = float(np.trace(gram)) / min(x.shape)
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    # What is foretold of labels b is x @ slope @ b; how much of it a label says of itself stands on the diagonal.
    slope = x.T @ inverse if wide else inverse @ x.T
    own = (np.einsum("ij,ji->i", x, slope) + 1 / n)[:, None]
    labels = np.stack([y, *(rng.permutation(y) for _ in range(shuffles))], 1).astype(np.float64)
    labels -= labels.mean(0)
    foretold = (x @ (slope @ labels) - own * labels) / (1 - own)
    foretold -= foretold.mean(0)
    agreement = (foretold * labels).sum(0) / np.maximum(np.linalg.norm(foretold, axis=0), 1e-12)
    return float((1 + (agreement[1:] >= agreement[0] - 1e-12).sum()) / (1 + shuffles))


def mean_accuracy(scores: np.ndarray, y: np.ndarray) -> float:
    """Share that lies on the right side of 0, the mean over both kinds."""
    right = (scores > 0) == y
    return float((right[y].mean() + right[~y].mean()) / 2)


def area(scores: np.ndarray, y: np.ndarray) -> float:
    """Probability that one with scores higher than one without."""
    from scipy.stats import rankdata

    ones = int(y.sum())
    return float((rankdata(scores)[y].sum() - ones * (ones + 1) / 2) / (ones * (len(y) - ones)))


def wilson(share: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share measured on so many cases; never empty, even for all of them."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    width = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(max(0, middle - width)), float(min(1, middle + width))


def top_and_bottom(scores: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The places of the highest and of the lowest scores, a share of all each, as places and labels.

    Args:
        scores: [N].
        share: above 0, at most a half.

    Raises:
        BadInput: all scores are the same, or the share is none.
    """
    if not 0 < share <= 0.5:
        raise BadInput(f"The share that is kept on either side is above 0 and at most 0.5, not {share:g}.")
    if not np.isfinite(scores).all():
        raise BadInput("The scores hold numbers that are not finite.")
    if float(np.ptp(scores)) < 1e-9:
        raise BadInput("All pictures have the same score, so there is nothing to learn from.", "one_sided")
    count = max(1, int(len(scores) * share))
    order = np.argsort(-scores, kind="stable")
    places = np.concatenate([order[:count], order[-count:]])
    return places, np.repeat([1, 0], count)


def interfacegan(
    latents: np.ndarray, scores: np.ndarray, kept: float = 0.02, split: float = 0.7, seed: int = 0
) -> tuple[np.ndarray, float]:
    """InterFaceGAN's own procedure: a linear SVM between the highest and the lowest scores, latents as they are.

    Args:
        latents: [N, dim].
        scores: [N].
        kept: how many on either side, as a share or (above 1) a number.
        split: share of these that is learned from; the rest is held out.

    Returns:
        The normal, of length 1, float32 [1, dim] as its files have it; and the accuracy on what was held out (`nan`
        where nothing was).
    """
    from sklearn.svm import SVC

    order = np.argsort(scores.ravel())[::-1]
    count = min(int(len(order) * kept) if kept <= 1 else int(kept), len(order) // 2)
    learned = int(count * split)
    rng = np.random.RandomState(seed)
    high, low = rng.permutation(count), rng.permutation(count)
    top, bottom = latents[order[:count]], latents[order[-count:]]
    model = SVC(kernel="linear")
    model.fit(np.concatenate([top[high[:learned]], bottom[low[:learned]]]), np.repeat([1, 0], learned))
    rest = np.concatenate([top[high[learned:]], bottom[low[learned:]]])
    right = model.score(rest, np.repeat([1, 0], count - learned)) if len(rest) else float("nan")
    normal = model.coef_.astype(np.float32)
    return normal / np.linalg.norm(normal), float(right)


def principal(ws: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """GANSpace: the directions in which latents vary most (https://arxiv.org/abs/2004.02546).

    Args:
        ws: [N, dim].

    Returns:
        Components [count, dim] of length 1, and standard deviations along them [count].

    Raises:
        BadInput: there are not so many.
    """
    if not 1 <= count <= min(len(ws) - 1, ws.shape[1]):
        raise BadInput(f"{len(ws)} latents of {ws.shape[1]} numbers have no {count} principal components.")
    _, sizes, rows = np.linalg.svd(ws.astype(np.float64) - ws.mean(0), full_matrices=False)
    return _signed(rows[:count]), sizes[:count] / np.sqrt(len(ws) - 1)


def factorised(weights: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """SeFa: the directions that the first weights after the latent enlarge most (https://arxiv.org/abs/2007.06600).

    Args:
        weights: of each layer that takes styles, [outputs, dim].

    Returns:
        Components [count, dim] of length 1, and by how much they are enlarged [count].

    Raises:
        BadInput: there are not so many.
    """
    dim = weights[0].shape[1]
    if not 1 <= count <= dim:
        raise BadInput(f"Latents of {dim} numbers have no {count} directions.")
    rows = np.concatenate(weights).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    _, sizes, components = np.linalg.svd(rows, full_matrices=False)
    return _signed(components[:count]), sizes[:count]


def _signed(components: np.ndarray) -> np.ndarray:
    """The largest number of each is positive: the same file from every linear algebra."""
    largest = np.abs(components).argmax(1)
    return components * np.sign(components[np.arange(len(components)), largest])[:, None]
