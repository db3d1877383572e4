"""What is measured of generators: against reference figures, and on generators whose faults are known."""

import json
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ganhub import checkpoint, hub, models
from ganhub.cli import main
from ganhub.data import PictureSet, write_set
from ganhub.engine import Engine, Job
from ganhub.errors import BadInput, CheckpointError, FetchError
from ganhub.metrics import distances, path_length, snapshots
from ganhub.metrics.features import load_features
from ganhub.metrics.plot import plot, ticks
from ganhub.models import inception
from ganhub.pipelines.evaluate import EvaluateRequest, evaluate
from ganhub.registry import Checkpoint, Registry, load_registry
from ganhub.training import features as recipe
from ganhub.training.loop import ship
from ganhub.training.mlp_gan import digits

# --- Distances


def test_distances_equal_the_reference(reference):
    case = reference("metrics/fid_kid")
    real, fake = case.inputs["f1"], case.inputs["f2"]
    case.check("fid_torch_fidelity_ddof1", distances.frechet_distance(real, torch.from_numpy(fake)))
    case.check("fid_rank_deficient_30_40_ddof1", distances.frechet_distance(real[:30], fake[:40]))
    case.check("fid_identical", distances.frechet_distance(real, real))
    kernel = distances.kernel_distance(real, fake, subsets=10, size=200)
    case.check("kid_torch_fidelity_mean_std_10x200_seed2020", np.array(kernel))
    case.check("mmd2_poly3_500_unbiased", distances.kernel_distance(real[:500], fake[:500], subsets=1)[0])
    both = distances.precision_recall(real, fake)
    case.check("precision_recall_nvlabs_fp32_nhood3", np.array(both))


def test_blocks_equal_the_whole(monkeypatch):
    """Neighbours in blocks of a few rows, against all distances written out in double precision."""
    monkeypatch.setattr(distances, "BLOCK", 0.02)
    rng = np.random.RandomState(0)
    real, fake = rng.randn(150, 9).astype(np.float32), rng.randn(170, 9).astype(np.float32) * 0.9 + 0.2

    def apart(a, b):
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2)

    def reach(x, k):
        return np.sort(apart(x, x), axis=1)[:, k]

    between = apart(real, fake)
    precision = (between <= reach(real, 3)[:, None]).any(0).mean()
    recall = (between <= reach(fake, 3)[None]).any(1).mean()
    assert distances.precision_recall(real, fake) == pytest.approx((precision, recall))
    density = (between < reach(real, 5)[:, None]).sum(0).mean() / 5
    coverage = (between.min(1) < reach(real, 5)).mean()
    assert distances.density_coverage(real, fake) == pytest.approx((density, coverage))
    distance, index = distances.nearest(fake, real)
    assert (index == between.argmin(0)).all() and distance == pytest.approx(between.min(0))
    mirrored = real[:, ::-1].copy()
    every = np.concatenate([apart(real, real), apart(real, mirrored)], axis=1)
    own = np.arange(150)
    every[own, own] = every[own, 150 + own] = np.inf
    assert distances.next_of_kind(real, mirrored) == pytest.approx(every.min(1))


def test_one_distribution_meets_the_known_marks():
    a, b = np.random.RandomState(0).randn(2, 600, 8)
    density, coverage = distances.density_coverage(a, b)
    assert density == pytest.approx(1, abs=0.1) and coverage == pytest.approx(1 - 2**-5, abs=0.03)
    assert abs(distances.kernel_distance(a, b, subsets=10)[0]) < 0.02


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ((20, 4), (20, 5), "4 and 5"),
        ((20, 4), (3, 4), "at least 16"),
        ((20, 4, 1), (20, 4), "at least 16"),
    ],
)
def test_features_that_do_not_fit_are_refused(a, b, words):
    with pytest.raises(BadInput, match=words):
        distances.frechet_distance(np.ones(a), np.ones(b))


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(BadInput, match="not finite"):
        distances.precision_recall(np.ones((20, 4)), np.full((20, 4), np.nan))


def test_a_missing_library_is_named_before_work_begins(monkeypatch, digit_set):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(BadInput, match=r"pip install 'ganhub\[metrics\]'"):
        distances.frechet_distance(np.ones((20, 4)), np.ones((20, 4)))
    with pytest.raises(BadInput, match="torchmetrics"):
        snapshots.measure(digit_set, 100)


# --- Features


@pytest.fixture(scope="module")
def small():
    return load_features("small", load_registry())


@pytest.fixture(scope="module")
def grey():
    """The digits as pictures, uint8 [1797, 28, 28, 1], and their labels; shuffled, for one writer follows another."""
    pictures, labels = digits()
    order = np.random.RandomState(0).permutation(len(labels))
    return ((pictures + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)[order], labels[order]


def test_small_features_know_what_pictures_show(small, grey):
    pictures, labels = grey
    found = small(pictures)
    assert found.shape == (1797, small.dim) and found.dtype == np.float32 and 128 <= small.dim <= 256
    order = np.random.RandomState(0).permutation(len(labels))  # where each stood when the network was trained
    kept = recipe.held_out([str(i) for i in order], recipe.Recipe.held_out, recipe.Recipe.seed).numpy()
    knows = KNeighborsClassifier(5).fit(found[~kept], labels[~kept])
    assert knows.score(found[kept], labels[kept]) > 0.9
    alone = small(pictures[:3])
    assert np.abs(alone - found[:3]).max() < 1e-4  # whatever else is in the batch


def test_small_features_see_damage(small, shared):
    files = sorted((shared / "data/pomological/images").glob("*.jpg"))[:200]
    from PIL import Image

    pictures = np.stack([np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    one, other = small(pictures[:100]), small(pictures[100:])
    alike = distances.frechet_distance(one, other)
    for kind in range(1, len(recipe.DAMAGES)):
        broken, kinds = recipe.damage(x[100:], 1.0, torch.Generator().manual_seed(kind))
        assert (kinds > 0).all()
        worse = small(broken[kinds == kind].round().byte().permute(0, 2, 3, 1))
        assert len(worse) >= 16
        assert distances.frechet_distance(one, worse) > 1.2 * alike, recipe.DAMAGES[kind]


def test_features_refuse_what_is_no_picture(small):
    for wrong in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 2), np.uint8)):
        with pytest.raises(BadInput, match="uint8"):
            small(wrong)
    with pytest.raises(BadInput, match="small and inception"):
        load_features("vgg", load_registry())


def test_missing_weights_name_the_command():
    with pytest.raises(FetchError, match="ganhub pull inception-fid") as caught:
        load_features("inception", load_registry(), offline=True)
    assert caught.value.code == "offline"


def inception_weights():
    """Random weights in the layout of the published file, the same on every machine."""
    rng = np.random.RandomState(0)
    tensors = {}
    for name, value in inception.Inception().state_dict().items():
        if not name.endswith("num_batches_tracked"):
            draw = rng.standard_normal(value.shape).astype(np.float32)
            if name.endswith("conv.weight"):
                draw *= np.float32(2 / value[0].numel()) ** 0.5
            else:
                draw = 1 + 0.1 * draw.clip(-3, 3) if name.endswith(("bn.weight", "running_var")) else 0.1 * draw
            tensors[name] = torch.from_numpy(draw.astype(np.float32))
    return tensors


PLACES = [0, 476, 993, 1157, 1659, 2003]
THEIRS = [
    [0.972226, 0.817363, 0.860739, 0.841992, 0.795938, 1.356517],
    [0.968725, 0.798325, 0.878248, 0.822503, 0.797671, 1.387300],
]


@pytest.mark.slow
def test_inception_equals_torch_fidelity(tmp_path):
    """Its activations on these weights and pictures (torch-fidelity 0.4.0, float32)."""
    published = {**inception_weights(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(published, tmp_path / "inception.pth")
    row = Checkpoint(
        id="inception-fid",
        task=("component",),
        family="inception",
        source={"path": str(tmp_path / "inception.pth")},
        title="Inception",
        license="mit",
        commercial_use=True,
    )
    network = load_features("inception", Registry([row]))
    pictures = np.random.RandomState(1).randint(0, 256, (2, 50, 40, 3)).astype(np.uint8)
    found = network(pictures)
    assert found.shape == (2, 2048) and network.dim == 2048
    assert found[:, PLACES] == pytest.approx(np.array(THEIRS), abs=1e-4)

    del published["Mixed_6b.branch7x7_2.bn.bias"]
    torch.save(published, tmp_path / "inception.pth")
    with pytest.raises(CheckpointError, match="Mixed_6b.branch7x7_2.bn.bias"):
        models.read(checkpoint.read(tmp_path / "inception.pth"))


# --- Generators


class Recalled(torch.nn.Module):
    """A generator that gives pictures out of a list, one after the other."""

    z_dim, z_distribution, c_dim = 4, "normal", 0

    def __init__(self, pictures):
        super().__init__()
        self.pictures, self.at = pictures, 0
        self.img_size = pictures.shape[1:3]
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, z, c=None):
        chosen = self.pictures[(np.arange(len(z)) + self.at) % len(self.pictures)]
        self.at += len(z)
        return (torch.from_numpy(chosen).permute(0, 3, 1, 2).float() - 127.5) / 127.5


@pytest.fixture(scope="module")
def digit_set(grey, tmp_path_factory):
    """300 digits as a prepared set."""
    pictures, labels = grey
    file = tmp_path_factory.mktemp("sets") / "digits.zip"
    names = [f"{i}.png" for i in range(300)]
    write_set(file, pictures[:300], names=names, labels=labels[:300].tolist(), license="CC BY 4.0")
    return PictureSet(file)


def test_measures_tell_copies_collapse_and_noise_apart(digit_set, grey, small, tmp_path):
    pictures = grey[0]
    honest = snapshots.snapshot_metrics(Recalled(pictures[300:900]), digit_set, small, 300)
    assert set(honest) >= {"features", "pictures", "frechet", "kernel", "precision", "recall", "density", "coverage"}
    assert honest["precision"] > 0.6 and honest["recall"] > 0.6 and honest["coverage"] > 0.8
    assert honest["nearest_median"] == pytest.approx(honest["real_nearest_median"], rel=0.15)

    copies = snapshots.snapshot_metrics(Recalled(pictures[:300]), digit_set, small, 300, tmp_path / "pairs.png")
    assert copies["precision"] == copies["recall"] == 1 and copies["frechet"] < 0.1 * honest["frechet"]
    assert copies["nearest_median"] < 0.01 * copies["real_nearest_1_percent"]
    from PIL import Image

    assert Image.open(tmp_path / "pairs.png").width > 8 * 96

    mirrored = snapshots.snapshot_metrics(Recalled(pictures[:300, :, ::-1].copy()), digit_set, small, 300)
    assert mirrored["nearest_median"] < 0.01 * mirrored["real_nearest_1_percent"]

    one = snapshots.snapshot_metrics(Recalled(pictures[:1]), digit_set, small, 300)
    assert one["recall"] < 0.02 and one["coverage"] < 0.1 and one["frechet"] > 3 * honest["frechet"]

    noise = np.random.RandomState(0).randint(0, 256, (300, 28, 28, 1)).astype(np.uint8)
    drawn = snapshots.snapshot_metrics(Recalled(noise), digit_set, small, 300)
    assert drawn["precision"] == drawn["recall"] == drawn["density"] == 0
    assert drawn["nearest_1_percent"] > 2 * drawn["real_nearest_median"]


def test_features_of_a_set_are_taken_once(digit_set, small, monkeypatch):
    first = snapshots.real_of(digit_set, small)
    monkeypatch.setattr(digit_set, "pictures", None)
    assert snapshots.real_of(digit_set, small) is first


def test_a_set_that_does_not_fit_is_refused(digit_set, grey, small, tmp_path):
    with pytest.raises(BadInput, match=r"are 28x28 and the generator draws 16x16.*ganhub data prepare"):
        snapshots.snapshot_metrics(Recalled(np.zeros((2, 16, 16, 1), np.uint8)), digit_set, small)
    write_set(tmp_path / "few.zip", grey[0][:20], names=[str(i) for i in range(20)])
    with pytest.raises(BadInput, match="has 20 pictures; to measure against it takes at least 32"):
        snapshots.snapshot_metrics(Recalled(grey[0][:9]), PictureSet(tmp_path / "few.zip"), small)
    with pytest.raises(BadInput, match="knows 3 classes and .* has 10"):
        snapshots.classes_of(digit_set, 3, 10)


def test_classes_are_drawn_as_the_set_has_them(tmp_path):
    labels = [0] * 90 + [2] * 30
    pictures = np.zeros((120, 8, 8, 3), np.uint8)
    write_set(tmp_path / "s.zip", pictures, names=[str(i) for i in range(120)], labels=labels, classes=["a", "b", "c"])
    drawn = snapshots.classes_of(PictureSet(tmp_path / "s.zip"), 3, 2000)
    assert drawn.mean(0) == pytest.approx([0.75, 0, 0.25], abs=0.03)


def test_path_length_of_known_ways():
    ws = np.random.RandomState(0).randn(40, 3, 5)
    ends = path_length.steps(ws)
    assert ends.shape == ws.shape and (ends[0::2] == ws[0::2]).all()
    assert ends[1] == pytest.approx(ws[0] + 1e-4 * (ws[1] - ws[0]))
    features = np.zeros((2000, 4), np.float32)
    features[1::2, 0] = 3e-4  # every way moves by three steps
    features[1] = features[3] = 1e3  # but for two, which are left out
    assert path_length.path_length(features) == pytest.approx(9, rel=1e-4)


# --- `ganhub evaluate`


@pytest.fixture
def run(registry_file, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANHUB_REGISTRY", str(registry_file))
    monkeypatch.setenv("GANHUB_DEVICE", "cpu")

    def command(line, *more):
        with pytest.raises(SystemExit) as end:
            main([*line.split(), *more])
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return end.value.code, out, error

    return command


@pytest.fixture
def noise_set(tmp_path):
    """`noise_set(side, classes)` writes a set of 40 pictures."""

    def write(side, classes=0):
        pictures = np.random.RandomState(side).randint(0, 256, (40, side, side, 3)).astype(np.uint8)
        labels = [i % classes for i in range(40)] if classes else None
        write_set(tmp_path / f"noise-{side}.zip", pictures, names=[str(i) for i in range(40)], labels=labels)
        return str(tmp_path / f"noise-{side}.zip")

    return write


def test_evaluate_an_embedded_checkpoint(run, digit_set, tmp_path):
    code, out, _ = run("evaluate mlp-gan-digits --count 100 --json --pairs near.png --data", str(digit_set.path))
    line = json.loads(out)
    assert code == 0 and line["checkpoint"] == "mlp-gan-digits" and line["pictures"] == 100
    assert line["sha256"] == load_registry().find("mlp-gan-digits").sha256 and line["features"] == "small"
    assert line["data"] == {"name": "digits", "sha256": digit_set.sha256, "pictures": 300}
    assert line["real"]["frechet"] < line["half"]["frechet"] and line["real"]["pictures"] == 100
    assert line["metrics"] == {"frechet_small": line["frechet"], "kernel_small": line["kernel"]}
    assert (tmp_path / "near.png").exists()
    code, out, _ = run("evaluate mlp-gan-digits --count 100 --data", str(digit_set.path))
    assert code == 0 and "Fréchet distance (small features)" in out and "FID" not in out
    assert f"{line['frechet']:.4g}" in out and "100 generated pictures" in out


def test_evaluate_a_sweep_and_a_path(run, noise_set):
    code, out, _ = run("evaluate tiny --count 40 --psi 1,0.3 --ppl --json --data", noise_set(32))
    line = json.loads(out)
    assert code == 0 and [entry["psi"] for entry in line["sweep"]] == [0.3] and "psi" not in line
    assert line["path_length"] > 0 and line["sweep"][0]["frechet"] != line["frechet"]


def test_evaluate_with_classes(run, noise_set, registry_file):
    code, out, _ = run("evaluate tiny-classes --count 40 --ppl --json --data", noise_set(16, classes=3))
    assert code == 0 and json.loads(out)["pictures"] == 40
    code, _, error = run("evaluate tiny-classes --count 40 --data", noise_set(16))
    assert code == 2 and "knows 3 classes" in error


def test_the_engine_draws_what_a_bare_call_draws(run, noise_set, registry_file, small):
    """Psi, classes and seeds reach the network: the figures equal those of a loop of one's own."""
    rows = load_registry(registry_file)
    data = PictureSet(noise_set(16, classes=3))
    with Engine(rows, device="cpu") as engine:
        *_, result = evaluate(engine, EvaluateRequest("tiny-classes", data=data, count=40, psis=(0.6,)))
        ws = engine.run(Job("tiny-classes", "map", {"z": np.zeros(16), "label": 0}))
        rendered = engine.run(Job("tiny-classes", "render", {"ws": ws}))
        rounded = engine.run(Job("tiny-classes", "synthesize", {"ws": ws}))
    assert rendered.dtype == np.float32 and rendered.shape == (3, 16, 16)
    levels = (rendered * 127.5 + 128).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    assert np.abs(levels.astype(int) - rounded).max() <= 1
    row = rows.find("tiny-classes")
    G = models.read(checkpoint.read(hub.fetch(row)), row.family, **row.config)
    at_psi = torch.nn.Module()
    at_psi.forward = lambda z, c=None: G(z, c, psi=0.6)
    for name in ("img_size", "c_dim", "z_dim", "z_distribution"):
        setattr(at_psi, name, getattr(G, name))
    at_psi.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    bare = snapshots.snapshot_metrics(at_psi, data, small, 40)
    for key in ("frechet", "nearest_median"):
        assert result.figures[0.6][key] == pytest.approx(bare[key], rel=0.02)


def test_evaluate_a_run_and_keep_it(run, digit_set, tmp_path):
    row = load_registry().find("mlp-gan-digits")
    G = models.read(checkpoint.read(hub.fetch(row)), row.family)
    (tmp_path / "run").mkdir()
    ship(G, "mlp_gan", tmp_path / "run/G.safetensors", kimg=1)
    (tmp_path / "run/run.json").write_text(json.dumps({"commit": "a" * 40, "data": {"license": "CC BY 4.0"}}))
    for _ in range(2):  # the second takes the place of the first
        code, out, error = run("evaluate run --count 40 --write --data", str(digit_set.path))
        assert code == 0, error
    (line,) = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert line["commit"] == "a" * 40 and line["pictures"] == 40 and line["features"] == "small"
    assert (tmp_path / "run/nearest.png").exists() and f"commit {'a' * 12}" in out
    code, out, _ = run("evaluate run/G.safetensors --count 40 --json --data", str(digit_set.path))
    assert code == 0 and json.loads(out)["frechet"] == pytest.approx(line["frechet"], rel=1e-3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate tiny --count 40 --data noise-8.zip", "8x8 and 'tiny' draws 32x32"),
        ("evaluate tiny-grey --count 40 --psi 0.5 --data noise-28.zip", "no intermediate latent"),
        ("evaluate tiny-grey --count 40 --ppl --data noise-28.zip", "no intermediate latent"),
        ("evaluate tiny --count 5 --data noise-32.zip", "must be a whole number from 32"),
        ("evaluate tiny --psi high --data noise-32.zip", "--psi cannot be read"),
        ("evaluate tiny --psi 9 --data noise-32.zip", "psi '9.0' must be a number"),
        ("evaluate tiny --features vgg --data noise-32.zip", "no features 'vgg'"),
        ("evaluate tiny --write --data noise-32.zip", "--write keeps figures in the folder of a run"),
        ("evaluate tiny --data nowhere.zip", "no set nowhere.zip"),
        ("evaluate empty --data noise-32.zip", "neither G.safetensors nor a snapshot"),
        ("evaluate no-such-gan --data noise-32.zip", "no checkpoint 'no-such-gan'"),
        ("evaluate some/where.pt --data noise-32.zip", "no file some/where.pt"),
    ],
)
def test_what_cannot_be_evaluated_is_told(run, noise_set, tmp_path, line, words):
    for side in (8, 28, 32):
        noise_set(side)
    (tmp_path / "empty").mkdir()
    code, _, error = run(line)
    assert code == 2 and words in error and error.count("\n") <= 3, error


# --- Curves


def test_curves_of_a_training(tmp_path):
    lines = [{"kimg": k, "features": "small", "pictures": 9, "frechet": 5.0 / k, "recall": None} for k in (1, 2, 3)]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sheet = np.asarray(plot(file)).astype(int)
    blue = (np.abs(sheet - (31, 111, 178)).sum(2) < 30).nonzero()
    assert len(blue[0]) > 200 and blue[1].max() < sheet.shape[1] // 2 and blue[0].max() < 400  # in one panel alone
    left, right = (blue[0][blue[1] == x].mean() for x in (blue[1].min() + 3, blue[1].max() - 3))
    assert left < right - 100  # it falls
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadInput, match="no measures yet"):
        plot(tmp_path / "empty.jsonl")
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(BadInput, match="bad.jsonl"):
        plot(tmp_path / "bad.jsonl")


@pytest.mark.parametrize("span", [(0, 1), (3, 3), (0.013, 0.0131), (50, 25000), (-0.002, 0.004), (0, 0)])
def test_ticks_are_round_and_hold_the_range(span):
    found = ticks(*span)
    assert 2 <= len(found) <= 9 and found[0] <= span[0] and found[-1] >= span[1]
    assert all(len(f"{tick:g}") <= 8 for tick in found)


# --- The recipe of the small features


def test_the_recipe_of_the_small_features(tmp_path, grey):
    rng = np.random.RandomState(0)
    rows = [{"fruit": "apple" if i % 3 else "pear"} for i in range(60)]
    pictures = rng.randint(0, 256, (60, 16, 16, 3)).astype(np.uint8)
    write_set(tmp_path / "fruit.zip", pictures, names=[f"page{i // 2}" for i in range(60)], rows=rows)
    people = [
        {"source": "london_x" if i % 2 else "us", "age": str(20 + 2 * i), "gender": ("male", "female", "")[i % 3]}
        for i in range(30)
    ]
    names = [f"london_{face}_{i}" for face in ("neutral", "smiling") for i in range(30)]
    write_set(tmp_path / "people.zip", pictures, names=names, rows=people * 2)
    tiny = recipe.Recipe(widths=(4, 6, 8, 10), size=16, batch=8, fewest=2, held_out=0.3)
    sets = PictureSet(tmp_path / "fruit.zip"), PictureSet(tmp_path / "people.zip")
    trunk = recipe.train(*sets, tmp_path / "run", tiny, steps=3)
    accuracy = json.loads((tmp_path / "run/accuracy.json").read_text())
    assert set(accuracy) == {"fruit", "digit", "gender", "decade", "source", "damage"}
    assert all(0 <= found["right"] <= 1 for found in accuracy.values())
    read = models.read(checkpoint.read(tmp_path / "run/G.safetensors"))
    x = torch.rand(2, 3, 20, 24) * 255
    assert read.dim == 16 and (read(x) - trunk(x)).abs().max() < 0.01

    part, _ = recipe.portraits(sets[1], tiny)
    assert (part.held_out[:30] == part.held_out[30:]).all() and 0 < part.held_out.sum() < 60  # a person stays together
    fruit, kinds = recipe.fruit(sets[0], tiny)
    assert (fruit.held_out[0::2] == fruit.held_out[1::2]).all() and kinds == {"fruit": ["apple", "pear"]}
    with pytest.raises(BadInput, match="no gender"):
        recipe.portraits(sets[0], tiny)
    with pytest.raises(BadInput, match="No fruit"):
        recipe.fruit(sets[1], tiny)
