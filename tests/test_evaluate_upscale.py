"""`ganhub evaluate` of networks that enlarge pictures: figures by hand, arrangements of folders, faults of folders."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_lpips import tiny as tiny_lpips
from test_pictures import photo

from ganhub import checkpoint, models
from ganhub.checkpoint import Network
from ganhub.cli import main
from ganhub.data.photos import PhotoSet
from ganhub.engine import Engine
from ganhub.errors import BadInput
from ganhub.metrics import pictures
from ganhub.models import srresnet
from ganhub.pipelines.evaluate_upscale import EvaluateUpscaleRequest, evaluate_upscale, held_out, read_pairs
from ganhub.pipelines.requests import Progress
from ganhub.registry import Registry, load_registry, read_rows


def save_network(file, channels=3):
    torch.manual_seed(0)
    network = srresnet.SRResNet(8, 1, [[2, 8], [2, 8]], (3, 3), norm=False, base="bilinear", img_channels=channels)
    checkpoint.save(file, {"G": Network("SRResNet", network.config, network.state_dict())}, {"family": "srresnet"})
    return network.eval()


def save_photos(folder, names, size=(66, 81)):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(photo(*size, seed=i)).save(folder / name)


@pytest.fixture
def rows(tmp_path):
    """A registry with a network for colour and one for grey, and no LPIPS."""
    about = {"task": "upscale", "family": "srresnet", "title": "Tiny", "license": "CC0-1.0", "commercial_use": True}
    found = []
    for name, channels in (("colour", 3), ("grey", 1)):
        save_network(tmp_path / f"{name}.safetensors", channels)
        found.append({"id": name, "source": {"path": f"{name}.safetensors"}, **about})
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump(found))
    return read_rows(tmp_path / "rows.yaml")


def run(registry, request):
    engine = Engine(registry, device="cpu")
    try:
        *events, result = evaluate_upscale(engine, request)
    finally:
        engine.close(drain=False)
    assert all(isinstance(event, Progress) for event in events)
    return events, result


def test_figures_are_those_of_the_bare_network(tmp_path, rows):
    save_photos(tmp_path / "My set", ["b.png", "a.bmp"])
    events, result = run(Registry(rows), EvaluateUpscaleRequest("colour", tmp_path / "My set"))
    assert [one["name"] for one in result.pictures] == ["a", "b"]
    network = save_network(tmp_path / "same.safetensors")
    for one, file in zip(result.pictures, ("a.bmp", "b.png"), strict=True):
        true, small = pictures.pair_of(np.asarray(Image.open(tmp_path / "My set" / file)), 4)
        assert one["size"] == [80, 64]
        with torch.no_grad():
            made = pictures.to_levels(network(torch.from_numpy(small).permute(2, 0, 1)[None] / 255))
        assert one["model"] == pytest.approx(pictures.compare(made, true, 4), rel=1e-3)
        assert one["bicubic"] == pytest.approx(pictures.compare(pictures.imresize(small, 4), true, 4))
    line = json.loads(json.dumps(result.line()))
    assert line["metrics"]["psnr_y_my_set"] == pytest.approx(
        np.mean([one["model"]["psnr_y"] for one in result.pictures]), abs=1e-4
    )
    assert line["scale"] == 4 and "MATLAB's bicubic" in line["protocol"] and line["data"]["pictures"] == 2
    assert "lpips-alex" in line["notes"][0] and "lpips" not in line["model"]
    assert any("1 of 2 pictures, now b: 1 of 1 tiles" in event.message for event in events)


def test_lpips_is_measured_where_its_files_are(tmp_path, rows):
    save_photos(tmp_path / "set", ["a.png"])
    registry = Registry([*rows, *tiny_lpips(tmp_path)])
    _, result = run(registry, EvaluateUpscaleRequest("colour", tmp_path / "set"))
    true, small = pictures.pair_of(np.asarray(Image.open(tmp_path / "set/a.png")), 4)
    want = pictures.lpips(pictures.imresize(small, 4), true, pictures.load_lpips(registry), border=4)
    assert result.mean["bicubic"]["lpips"] == pytest.approx(want, rel=1e-4) and want > 0
    assert not result.notes and "LPIPS" in result.line()["protocol"]


def test_grey_pictures_and_grey_networks_are_measured(tmp_path, rows):
    (tmp_path / "set").mkdir()
    Image.fromarray(photo(48, 64)[..., 0]).save(tmp_path / "set/grey.png")
    for name in ("colour", "grey"):
        _, result = run(Registry(rows), EvaluateUpscaleRequest(name, tmp_path / "set"))
        assert result.pictures[0]["bicubic"]["psnr_y"] > 15 and result.pictures[0]["model"]["psnr_y"] > 5


ARRANGEMENTS = {
    "plain": (["baby.png", "bird.png"], [], False),
    "EDSR": (["HR/baby.png", "HR/bird.png"], ["LR_bicubic/X4/babyx4.png", "LR_bicubic/X4/birdx4.png"], True),
    "BasicSR": (["GTmod12/baby.png", "GTmod12/bird.png"], ["LRbicx4/baby.png", "LRbicx4/bird.png"], True),
    "DIV2K": (["DIV2K_valid_HR/0801.png"], ["DIV2K_valid_LR_bicubic/X4/0801x4.png"], True),
    "SelfExSR": (["img_001_SRF_4_HR.png"], ["img_001_SRF_4_LR.png"], True),
    "another scale": (["HR/baby.png"], ["LR_bicubic/X2/babyx2.png"], False),
    "a name like a scale": (["HR/box4.png"], ["LRbicx4/box4.png"], True),
}


@pytest.mark.parametrize("kind", ARRANGEMENTS)
def test_small_versions_are_found_in_the_usual_arrangements(tmp_path, kind):
    true, small, found = ARRANGEMENTS[kind]
    for file in (*true, *small):
        save_photos((tmp_path / file).parent, [Path(file).name], size=(16, 16))
    pairs = read_pairs(tmp_path, 4)
    assert [pair.true for pair in pairs] == [tmp_path / file for file in true]
    assert [pair.small for pair in pairs] == ([tmp_path / file for file in small] if found else [None] * len(true))


def test_small_versions_of_the_set_are_what_the_network_gets(tmp_path, rows):
    save_photos(tmp_path / "set/HR", ["a.png"], size=(67, 66))
    save_photos(tmp_path / "set/LRbicx4", ["a.png"], size=(16, 16))  # another picture altogether
    _, result = run(Registry(rows), EvaluateUpscaleRequest("colour", tmp_path / "set"))
    small = np.asarray(Image.open(tmp_path / "set/LRbicx4/a.png"))
    true = np.asarray(Image.open(tmp_path / "set/HR/a.png"))[:64, :64]
    assert result.mean["bicubic"] == pytest.approx(pictures.compare(pictures.imresize(small, 4), true, 4))
    assert "from the set" in result.about["protocol"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no high-resolution picture"),
        ({"one/a.png": 64, "two/a.png": 64}, r"several sets \(one, two\)"),
        ({"HR/a.png": 64, "HR/b.png": 64, "x4/a.png": 16}, "none for b.png"),
        ({"HR/a.png": 64, "x4/a.png": 15}, "15x15, which does not belong to 64x64 at x4"),
        ({"a.png": 3}, "a: A picture of 3x3 cannot be made 4 times smaller"),
        ({"a.png": 12}, "a: A picture for SSIM has at least 11 pixels"),
    ],
)
def test_faults_of_a_folder_are_said(tmp_path, rows, files, words):
    (tmp_path / "set").mkdir()
    for file, side in files.items():
        save_photos((tmp_path / "set" / file).parent, [Path(file).name], size=(side, side))
    with pytest.raises(BadInput, match=words):
        run(Registry(rows), EvaluateUpscaleRequest("colour", tmp_path / "set"))


def test_a_file_that_is_no_picture_is_named(tmp_path, rows):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"a\.png: This is no picture"):
        run(Registry(rows), EvaluateUpscaleRequest("colour", tmp_path / "set"))
    with pytest.raises(BadInput, match="is no folder"):
        run(Registry(rows), EvaluateUpscaleRequest("colour", tmp_path / "set/a.png"))


def test_a_generator_does_not_enlarge(registry_file, tmp_path):
    save_photos(tmp_path / "set", ["a.png"])
    with pytest.raises(BadInput, match="'tiny' does not enlarge pictures"):
        run(load_registry(registry_file), EvaluateUpscaleRequest("tiny", tmp_path / "set"))


@pytest.fixture
def trained(tmp_path):
    """The folder of a training that kept every second photo apart."""
    save_photos(tmp_path / "photos", [f"{i}.png" for i in range(4)])
    data = PhotoSet(tmp_path / "photos", hold_out=2, least=32)
    settings = {"shrink": 1.0, "hold_out": 2, "patch": 32}
    about = {"recipe": "srgan", "settings": settings, "data": {"sha256": data.sha256, "license": "CC0-1.0"}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(about))
    save_network(tmp_path / "run/G.safetensors")
    return tmp_path / "run", about


def command(*arguments):
    """Exit status of `ganhub evaluate`."""
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return ended.value.code


def test_a_training_is_measured_on_what_it_kept_apart(trained, tmp_path, capsys):
    folder, about = trained
    assert command(folder, "--data", tmp_path / "photos", "--json", "--write") == 0
    line = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in line["each"]] == ["1", "3"] and line["data"]["name"] == "photos (held out)"
    assert "psnr_y_photos_held_out" in line["metrics"]
    save_photos(tmp_path / "others", ["a.png"])
    assert command(folder, "--data", tmp_path / "others", "--write") == 0
    out = capsys.readouterr().out
    assert "others" in out and "PSNR-Y" in out and "mean" in out and "ganhub pull lpips-alex" in out
    kept = json.loads((folder / "evaluation.json").read_text())
    assert [entry["data"]["name"] for entry in kept] == ["photos (held out)", "others"]
    about["settings"]["hold_out"] = 0
    with pytest.raises(BadInput, match="has seen all photos"):
        held_out(about, tmp_path / "photos")
    assert command(folder, "--data", tmp_path / "photos", "--psi", "0.5") == 2
    assert "enlarges pictures" in capsys.readouterr().err


@pytest.mark.skipif("GANHUB_SET5" not in os.environ, reason="no Set5: name its folder as GANHUB_SET5")
def test_bicubic_has_the_published_figure_on_set5():
    found = []
    for pair in read_pairs(Path(os.environ["GANHUB_SET5"]), 4):
        true, small = pictures.pair_of(np.asarray(Image.open(pair.true).convert("RGB")), 4)
        found.append(pictures.compare(pictures.imresize(small, 4), true, 4))
    assert len(found) == 5 and round(pictures.mean_of(found)["psnr_y"], 2) == 28.42


def test_the_network_is_one_that_the_engine_knows_as_an_upscaler(tmp_path):
    save_network(tmp_path / "net.safetensors")
    assert isinstance(models.read(checkpoint.read(tmp_path / "net.safetensors")), models.Upscaler)
