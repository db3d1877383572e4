"""The generate pipeline, on tiny random networks behind a real engine, and against pictures of NVIDIA's own scripts."""

import json
import threading
import time

import numpy as np
import pytest
import torch
import yaml
from hub_server import COMMIT, HubServer
from PIL import Image
from tiny import tiny_networks

import ganhub
from ganhub import checkpoint, imaging
from ganhub.engine import Engine
from ganhub.errors import BadInput, EngineError, GanHubError
from ganhub.latents import Latents, load_latents, mix, save_latents, z_from_seeds
from ganhub.pipelines import generate as pipeline
from ganhub.pipelines.convert import convert
from ganhub.pipelines.generate import LoadedGenerator
from ganhub.pipelines.requests import (
    GenerateRequest,
    GenerateResult,
    InterpolateRequest,
    MixRequest,
    Progress,
    SweepRequest,
    request_of,
)
from ganhub.registry import load_registry


@pytest.fixture(scope="session")
def engine(registry_file):
    with Engine(load_registry(registry_file), device="cpu") as engine:
        yield engine


def last(events):
    *_, result = events
    return result


def levels(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()


def test_pictures_progress_and_provenance(engine):
    request = GenerateRequest("tiny", seeds=[3, 1, 4, 1], psi=0.7, cutoff=5)
    *events, result = pipeline.generate(engine, request)
    assert all(isinstance(event, Progress) for event in events) and isinstance(result, GenerateResult)
    made = [event for event in events if event.picture]
    assert [event.index for event in made] == [0, 1, 2, 3] and [event.done for event in made] == [1, 2, 3, 4]
    assert {event.total for event in made} == {4} and made[-1].seconds_left == 0
    assert result.seeds == [3, 1, 4, 1] and result.images[1].size == (32, 32)
    assert levels(result.images[1], result.images[3]) <= 1 and levels(result.images[0], result.images[1]) > 10
    for seed, about in zip(result.seeds, result.provenance, strict=True):
        assert about["seed"] == seed and about["psi"] == 0.7 and about["cutoff"] == 5
        assert about["checkpoint"] == "tiny" and about["license"] == "apache-2.0" and len(about["sha256"]) == 64
        assert about["generated"] is True and about["notice"] == "AI-generated" and about["precision"] == "exact"
        again = request_of(about)
        assert isinstance(again, GenerateRequest) and (again.seeds, again.psi, again.cutoff) == ((seed,), 0.7, 5)


def test_the_picture_is_the_networks(engine):
    net = tiny_networks()["tiny"][1].eval()
    with torch.inference_mode():
        want = imaging.to_uint8(net(torch.from_numpy(z_from_seeds([7], 16)), psi=0.6, noise_mode="const"))[0]
    got = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=[7], psi=0.6)))
    assert levels(got.images[0], want) <= 1


@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_a_seed_is_a_picture_whatever_its_neighbours(engine, noise_mode):
    many = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=range(9), noise_mode=noise_mode)))
    alone = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=[6], noise_mode=noise_mode)))
    assert levels(many.images[6], alone.images[0]) <= 1


def test_grey_without_styles(engine):
    result = last(pipeline.generate(engine, GenerateRequest("tiny-grey", seeds=[0])))
    assert result.images[0].mode == "L" and result.images[0].size == (28, 28)


def test_classes_differ_and_are_needed(engine):
    pictures = [
        last(pipeline.generate(engine, GenerateRequest("tiny-classes", seeds=[0], label=label))).images[0]
        for label in range(3)
    ]
    assert levels(pictures[0], pictures[1]) > 3 and levels(pictures[1], pictures[2]) > 3
    with pytest.raises(BadInput, match="3 classes; name one from 0 to 2"):
        last(pipeline.generate(engine, GenerateRequest("tiny-classes", seeds=[0])))
    with pytest.raises(BadInput, match="classes 0 to 2"):
        last(pipeline.generate(engine, GenerateRequest("tiny-classes", seeds=[0], label=3)))
    with pytest.raises(BadInput, match="no classes"):
        last(pipeline.generate(engine, GenerateRequest("tiny", seeds=[0], label=0)))


@pytest.mark.parametrize(
    ("run", "request_", "words"),
    [
        ("generate", GenerateRequest("tiny-grey", seeds=[0], psi=0.7), "no truncation"),
        ("generate", GenerateRequest("tiny-grey", seeds=[0], cutoff=2), "no truncation"),
        ("sweep", SweepRequest("tiny-grey", seeds=[0]), "no truncation"),
        ("mix", MixRequest("tiny-grey", rows=[0], cols=[1]), "no styles"),
        ("mix", MixRequest("tiny", rows=[0], cols=[1], layers=[8]), "no layer 8"),
        ("interpolate", InterpolateRequest("tiny-grey", seeds=[0, 1], space="w"), "no intermediate latent"),
        ("generate", GenerateRequest("tiny", seeds=[0], cutoff=9), "8 layers"),
        ("generate", GenerateRequest("tinny", seeds=[0]), "did you mean 'tiny'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(engine, run, request_, words):
    with pytest.raises(GanHubError, match=words):
        last(getattr(pipeline, run)(engine, request_))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (GenerateRequest, {}),
        (GenerateRequest, {"seeds": [0], "psi": float("nan")}),
        (GenerateRequest, {"seeds": [0], "psi": 3}),
        (GenerateRequest, {"seeds": [0], "psi": "1"}),
        (GenerateRequest, {"seeds": [0], "cutoff": -1}),
        (GenerateRequest, {"seeds": [0], "cutoff": 1.5}),
        (GenerateRequest, {"seeds": [0], "label": "bee"}),
        (GenerateRequest, {"seeds": [0], "noise_mode": "loud"}),
        (GenerateRequest, {"seeds": [0], "noise_mode": ["const"]}),
        (GenerateRequest, {"seeds": [0], "precision": "half"}),
        (GenerateRequest, {"seeds": [-1]}),
        (GenerateRequest, {"seeds": ["a"]}),
        (GenerateRequest, {"seeds": range(10_001)}),
        (GenerateRequest, {"seeds": [0], "latents": Latents("z", np.zeros((1, 4)))}),
        (SweepRequest, {"seeds": [0], "psis": []}),
        (SweepRequest, {"seeds": range(500), "psis": [0, 0.5, 1]}),
        (MixRequest, {"rows": [0], "cols": []}),
        (MixRequest, {"rows": [0], "cols": [1], "layers": []}),
        (MixRequest, {"rows": range(40), "cols": range(40)}),
        (InterpolateRequest, {"seeds": [0]}),
        (InterpolateRequest, {"seeds": [0, 1], "frames": 0}),
        (InterpolateRequest, {"seeds": [0, 1], "frames": 10_000}),
        (InterpolateRequest, {"seeds": [0, 1], "fps": 0}),
        (InterpolateRequest, {"seeds": [0, 1], "space": "s"}),
        (InterpolateRequest, {"seeds": [0, 1], "method": "jump"}),
        (InterpolateRequest, {"seeds": [0, 1], "easing": "bounce"}),
    ],
)
def test_bad_requests_are_refused_when_made(kind, values):
    with pytest.raises(BadInput) as error:
        kind("tiny", **values)
    assert error.value.message.endswith(".")


def test_saved_files_carry_their_origin_and_make_the_same_picture(engine, tmp_path):
    result = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=[0, 12], psi=0.5)))
    for format in ("png", "jpg", "webp"):
        files = result.save(tmp_path / format, format)
        assert [file.name for file in files] == [f"tiny_seed0000.{format}", f"tiny_seed0012.{format}"]
        for file, picture in zip(files, result.pictures, strict=True):
            about = imaging.read_provenance(file)
            assert about == picture.provenance
            again = last(pipeline.generate(engine, request_of(about)))
            assert levels(again.images[0], picture.image) == 0
            if format != "jpg":
                assert levels(Image.open(file), picture.image) == 0
    with pytest.raises(BadInput, match="not as 'bmp'"):
        result.save(tmp_path, "bmp")


def test_sweep(engine):
    result = last(pipeline.sweep(engine, SweepRequest("tiny", seeds=[1, 2], psis=[0, 0.5, 1])))
    assert len(result.pictures) == 6 and levels(result.images[0], result.images[3]) <= 1  # psi 0: the mean of both
    single = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=[2], psi=0.5)))
    assert levels(result.images[4], single.images[0]) <= 1
    assert (result.provenance[4]["seed"], result.provenance[4]["psi"]) == (2, 0.5)
    assert result.grid.image.width > 3 * 96 and result.grid.provenance["psis"] == [0, 0.5, 1]
    assert request_of(result.grid.provenance) == SweepRequest("tiny", seeds=[1, 2], psis=[0, 0.5, 1], precision="exact")


def test_mix(engine):
    request = MixRequest("tiny", rows=[0, 1], cols=[5, 1, 6], layers=[0, 1, 2], psi=0.9)
    result = last(pipeline.mix(engine, request))
    assert len(result.pictures) == 6 and set(result.sources) == {0, 1, 5, 6}
    assert levels(result.images[4], result.sources[1].image) <= 1  # row 1, column 1
    plain = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=[5], psi=0.9)))
    assert levels(plain.images[0], result.sources[5].image) <= 1
    assert result.grid.image.size == (4 * 32, 3 * 32)
    assert (result.provenance[1]["row"], result.provenance[1]["col"]) == (0, 1)
    assert request_of(result.provenance[1]).rows == (0, 1)


@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("method", ["linear", "slerp", "spline"])
def test_interpolation_passes_the_seeds(engine, space, method):
    request = InterpolateRequest("tiny", seeds=[0, 5], frames=4, space=space, method=method, psi=0.8, strip=3)
    result = last(pipeline.interpolate(engine, request))
    ends = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=[0, 5], psi=0.8)))
    assert result.frames == len(result.pictures) == 5 and result.strip.image.size == (3 * 32, 32)
    assert levels(result.images[0], ends.images[0]) <= 1 and levels(result.images[-1], ends.images[1]) <= 1


def test_interpolation_as_video(engine, tmp_path):
    file = tmp_path / "way.mp4"
    request = InterpolateRequest("tiny-grey", seeds=[0, 1, 2], frames=5, loop=True, fps=12, file=file, strip=4)
    result = last(pipeline.interpolate(engine, request))
    assert [path.name for path in result.save(tmp_path / "saved")] == ["tiny-grey_strip.png"]
    assert result.video == file and file.stat().st_size > 1000 and result.frames == 15 and not result.pictures
    about = imaging.read_provenance(file)
    assert about == result.about and about["space"] == "z" and about["method"] == "slerp" and about["loop"] is True
    again = request_of(about, file=tmp_path / "again.mp4")
    assert again.seeds == (0, 1, 2) and again.fps == 12
    assert last(pipeline.interpolate(engine, again)).video.stat().st_size == file.stat().st_size


def test_interpolation_refuses_a_file_that_cannot_be(engine, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("a.avi", "file/a.mp4"):
        with pytest.raises(BadInput, match=name.split("/")[-1]):
            last(pipeline.interpolate(engine, InterpolateRequest("tiny", seeds=[0, 1], frames=2, file=tmp_path / name)))


def test_closing_cancels(engine, tmp_path):
    request = InterpolateRequest("tiny", seeds=[0, 1], frames=3000, file=tmp_path / "long.mp4")
    events = pipeline.interpolate(engine, request)
    for event in events:
        if event.done == 3:
            break
    events.close()
    until = time.monotonic() + 5
    while engine.status()["waiting"] and time.monotonic() < until:
        time.sleep(0.01)
    assert engine.status()["waiting"] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_visitors_limit_and_a_full_queue_only_slow_it_down(registry_file):
    with Engine(load_registry(registry_file), device="cpu", queue=3, per_visitor=2) as engine:
        result = last(pipeline.generate(engine, GenerateRequest("tiny-grey", seeds=range(20), visitor="v")))
        assert len(result.pictures) == 20
        result = last(pipeline.generate(engine, GenerateRequest("tiny-grey", seeds=range(20))))
        assert len(result.pictures) == 20


@pytest.fixture
def far(registry_file, tmp_path, monkeypatch):
    """An engine whose network lies on a slow Hub."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    content = (registry_file.parent / "tiny.safetensors").read_bytes()
    row = yaml.safe_load(registry_file.read_text())[0]
    source = {"hub": "owner/name", "file": "g.safetensors", "revision": COMMIT}
    row |= {"id": "far", "aliases": [], "source": source, "bytes": len(content), "title": "Far"}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump([row]))
    with HubServer() as server:
        server.add("owner/name", "g.safetensors", content)
        server.fault("GET", "trickle")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with Engine(load_registry(tmp_path / "far.yaml"), device="cpu") as engine:
            yield engine


def test_a_download_is_told(far):
    *events, result = pipeline.generate(far, GenerateRequest("far", seeds=[0]))
    fetching = [event for event in events if event.message.startswith("Fetching Far:")]
    assert fetching and fetching[-1].total == far.registry.find("far").bytes and fetching[-1].done > 0
    assert len(result.pictures) == 1


def test_a_download_is_left(far):
    events = pipeline.generate(far, GenerateRequest("far", seeds=[0]))
    for event in events:
        if event.message.startswith("Fetching"):
            break
    events.close()
    until = time.monotonic() + 20
    while far.status()["loading"] and time.monotonic() < until:
        time.sleep(0.05)
    assert not far.status()["loading"]


def test_pictures_share_batches(registry_file):
    with Engine(load_registry(registry_file), device="cpu", max_batch=8) as engine:
        last(pipeline.generate(engine, GenerateRequest("tiny-grey", seeds=[0])))
        before = engine.status()["batches"]
        last(pipeline.generate(engine, GenerateRequest("tiny-grey", seeds=range(32))))
        assert engine.status()["batches"] - before == 4


def test_two_at_once_keep_their_own_pictures(engine):
    found = {}

    def work(name, seeds):
        found[name] = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=seeds, visitor=name))).images

    threads = [threading.Thread(target=work, args=(f"v{k}", range(k, k + 6))) for k in range(4)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    alone = last(pipeline.generate(engine, GenerateRequest("tiny", seeds=range(9)))).images
    for k in range(4):
        assert max(levels(a, b) for a, b in zip(found[f"v{k}"], alone[k : k + 6], strict=True)) <= 1


def test_without_keeping(engine):
    *events, result = pipeline.generate(engine, GenerateRequest("tiny", seeds=range(3), keep=False))
    assert not result.pictures and sum(event.picture is not None for event in events) == 3


def test_latents_make_the_same_pictures(engine, tmp_path):
    asked = GenerateRequest("tiny", seeds=[0, 7], psi=0.7, cutoff=5)
    result = last(pipeline.generate(engine, asked))
    for name, latents in (("z", result.latents), ("w", pipeline.to_w(engine, asked))):
        save_latents(tmp_path / f"{name}.npz", latents)
        saved = load_latents(tmp_path / f"{name}.npz")
        assert saved.checkpoint == "tiny" and saved.psi == 0.7 and saved.cutoff == 5 and saved.seeds == (0, 7)
        again = last(pipeline.generate(engine, GenerateRequest.from_latents("tiny", saved)))
        assert max(levels(a, b) for a, b in zip(result.images, again.images, strict=True)) <= 1
        assert again.provenance[1]["latents"] == saved.digest() and again.pictures[1].name == "tiny_latent0001"
        with pytest.raises(BadInput, match="load their .npz"):
            request_of(again.provenance[0])
    plain_w = Latents("w", np.asarray(saved.values)[:, 0])
    again = last(pipeline.generate(engine, GenerateRequest("tiny", latents=plain_w, psi=0.7, cutoff=5)))
    assert levels(again.images[0], result.images[0]) <= 1


def test_latents_of_another_generator_are_refused(engine):
    def refused(latents, words, checkpoint="tiny", **how):
        with pytest.raises(BadInput, match=words):
            last(pipeline.generate(engine, GenerateRequest(checkpoint, latents=latents, **how)))

    z = z_from_seeds([0], 16)
    refused(Latents("z", z, "tiny-classes"), "belong to 'tiny-classes'")
    refused(Latents("z", z[:, :5], "tiny"), "5 numbers each; 'tiny' wants 16")
    refused(Latents("w+", np.zeros((1, 18, 512))), "18 x 512 numbers each; 'tiny' wants 8 x 12")
    refused(Latents("w", np.zeros((1, 12))), "no intermediate latent", "tiny-grey")
    own = Latents("z", z, "tiny-of-old")
    assert len(last(pipeline.generate(engine, GenerateRequest("tiny-of-old", latents=own))).pictures) == 1


def test_provenance_that_is_no_request():
    good = {"ganhub": "0.1.0", "task": "generate", "checkpoint": "tiny", "seed": 3}
    assert request_of(good).seeds == (3,)
    for change in ({"task": "upscale"}, {"seed": "x"}, {"seed": None}, {"psi": []}, {"cutoff": {}}, {"noise_mode": 3}):
        with pytest.raises(BadInput):
            request_of({**good, **change})
    mixed = {"ganhub": "0.1.0", "task": "mix", "checkpoint": "tiny", "rows": 3, "cols": [1]}
    with pytest.raises(BadInput):
        request_of(mixed)


def test_from_python(registry_file, tmp_path):
    with ganhub.load("tiny", registry=registry_file, device="cpu") as G:
        assert G.spec["z_dim"] == 16 and G.spec["img_size"] == (32, 32)
        result = G.generate(seeds=[0, 1], psi=0.7)
        assert result.seeds == [0, 1] and G.generate("0-3,9").seeds == [0, 1, 2, 3, 9]
        assert json.dumps(result.provenance)
        assert [p.name for p in result.save(tmp_path)] == ["tiny_seed0000.png", "tiny_seed0001.png"]
        assert len(G.sweep("0-1", psis=[0, 1]).pictures) == 4
        assert len(G.mix("0-1", [5], "0-3").pictures) == 2
        assert G.interpolate([0, 1], tmp_path / "a.mp4", frames=3).video.exists()
        w = G.to_w([0, 1], psi=0.7)
        assert levels(G.generate(latents=w).images[0], result.images[0]) <= 1
        save_latents(tmp_path / "w.npz", w)
        assert G.generate(latents=tmp_path / "w.npz").seeds == [0, 1]
        with pytest.raises(BadInput):
            G.generate(seeds="0", latents=w)
        with ganhub.load("tiny-grey", registry=registry_file, device="cpu") as other:
            assert other.engine is G.engine
    with pytest.raises(EngineError, match="was closed"):
        G.generate([0])
    G.close()
    with pytest.raises(GanHubError, match="did you mean"):
        ganhub.load("tinny", registry=registry_file)


def test_convert_gives_equal_output(registry_file, shared, tmp_path):
    source = shared / "reference" / "stylegan2ada" / "cond_c5_r32.nosrc.pkl"
    made = convert(source, tmp_path / "c.safetensors", parts=["G", "D"])
    assert made.differences == {"G": 0.0, "D": 0.0} and made.family == "stylegan2"
    raw = checkpoint.read(made.path)
    assert raw.format == "ganhub" and set(raw.networks) == {"G", "D"} and raw.sha256 == made.sha256
    again = convert(made.path, tmp_path / "d.safetensors")
    assert again.differences == {"G": 0.0}
    for out, words in ((made.path, "itself"), (tmp_path / "x.pkl", "ends with .safetensors")):
        with pytest.raises(BadInput, match=words):
            convert(made.path, out)
    with pytest.raises(BadInput, match="G and D"):
        convert(made.path, tmp_path / "e.safetensors", parts=["E"])


# Against the pixels of NVIDIA's generate.py and style_mixing.py


@pytest.fixture(scope="session")
def nvidia(shared, tmp_path_factory):
    """An engine over the very pickles that NVIDIA's scripts were given."""
    folder = shared / "reference" / "stylegan2ada"
    rows = [
        {
            "id": name.replace("_", "-").replace(".nosrc", "").replace(".era", "-era"),
            "task": "generate",
            "family": "stylegan2",
            "source": {"path": str(folder / f"{name}.pkl")},
            "resolution": 32,
            "title": name,
            "license": "reference",
            "commercial_use": False,
        }
        for name in ("f_skip_uncond_r32.era2021.nosrc", "f_skip_uncond_r32.nosrc", "cond_c5_r32.nosrc")
    ]
    file = tmp_path_factory.mktemp("nvidia") / "rows.yaml"
    file.write_text(yaml.safe_dump(rows))
    with Engine(load_registry(file), device="cpu") as engine:
        yield engine


def same(got, want):
    """At most one level, over 99.9 % of the values equal."""
    difference = np.abs(np.asarray(got).astype(int) - want.astype(int))
    assert difference.shape == want.shape and difference.max() <= 1
    return int((difference > 0).sum()), difference.size


def test_equals_nvidias_generate(nvidia, reference):
    want = reference("stylegan2ada/cli_png").outputs
    counts = []
    request = GenerateRequest("f-skip-uncond-r32-era2021", seeds=[0, 1, 2, 3, 85], psi=0.7)
    for seed, image in zip(request.seeds, last(pipeline.generate(nvidia, request)).images, strict=True):
        counts.append(same(image, want[f"uncond_trunc0.7_const:seed{seed:04d}"]))
    request = GenerateRequest("cond-c5-r32", seeds=[0, 1], label=3, noise_mode="none")
    for seed, image in zip(request.seeds, last(pipeline.generate(nvidia, request)).images, strict=True):
        counts.append(same(image, want[f"cond_class3_trunc1_none:seed{seed:04d}"]))
    assert sum(n for n, _ in counts) < 0.001 * sum(size for _, size in counts)


def test_equals_nvidias_style_mixing(nvidia, reference):
    want = reference("stylegan2ada/cli_png").outputs
    run = "stylemix_rows85,100_cols55,821_styles0-3_trunc0.9_const"
    request = MixRequest("f-skip-uncond-r32", rows=[85, 100], cols=[55, 821], layers=[0, 1, 2, 3], psi=0.9)
    result = last(pipeline.mix(nvidia, request))
    counts = [same(result.sources[s].image, want[f"{run}:{s}-{s}"]) for s in (85, 100, 55, 821)]
    for picture in result.pictures:
        pair = f"{picture.provenance['row']}-{picture.provenance['col']}"
        counts.append(same(picture.image, want[f"{run}:{pair}"]))
    counts.append(same(result.grid.image, want[f"{run}:grid"]))
    assert sum(n for n, _ in counts) < 0.001 * sum(size for _, size in counts)


def test_mixes_as_the_reference(nvidia, reference):
    case = reference("stylegan2ada/f_skip_uncond_r32.G")
    w = pipeline.to_w(nvidia, GenerateRequest("f-skip-uncond-r32", seeds=[0, 1]))
    case.check("w_mix_row0_col1_012", mix(w.values[0], w.values[1], [0, 1, 2]))


def test_loaded_generator_takes_a_running_engine(engine):
    with LoadedGenerator("tiny-of-old", engine) as G:
        assert G.id == "tiny"
        assert len(G.generate([1]).images) == 1
    assert engine.run(pipeline.Job("tiny", "describe", {}))["z_dim"] == 16
