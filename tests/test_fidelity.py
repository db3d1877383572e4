import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.fidelity.__main__ import main, run
from benchmarks.fidelity.cases import Tolerances, beside
from benchmarks.fidelity.rules import NOT_UNDERSTOOD, Skip, layers, number, words
from benchmarks.fidelity.stylegan2 import GRAMMAR
from ganhub.models import stylegan2


def lines_of(folder, capsys):
    code = main([str(folder)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, lines[:-1], lines[-1]


def mlp_case(folder, name="digits", side=8, **wrong):
    """A fully connected GAN made with plain torch, and what it answers; `wrong` are arrays to put in their place."""
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, side * side), nn.Tanh())
    D = nn.Sequential(nn.Linear(side * side, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1), nn.Sigmoid())
    torch.save(G.state_dict(), folder / f"{name}.G--3.ckpt")
    torch.save(D.state_dict(), folder / f"{name}.D--3.ckpt")
    z = np.random.RandomState(0).randn(3, 5).astype(np.float32)
    with torch.no_grad():
        raw = G(torch.from_numpy(z))
        answers = {"out_raw": raw.numpy(), "out_D": D(raw).numpy()}
    answers["out_image_denorm"] = (answers["out_raw"] / 2 + 0.5).reshape(3, 1, side, side)
    np.savez(folder / f"{name}.npz", in_z=z, **{**answers, **wrong})


def test_equal_arrays_pass_and_the_last_line_counts_them(tmp_path, capsys):
    mlp_case(tmp_path)
    code, lines, counts = lines_of(tmp_path, capsys)
    assert code == 0 and counts == {"arrays": 3, "ok": 3, "failed": 0, "skipped": 0}
    assert {line["array"]: line["checkpoint"] for line in lines} == {
        "raw": "digits.G--3.ckpt",
        "image_denorm": "digits.G--3.ckpt",
        "D": "digits.D--3.ckpt",
    }
    assert all(line["difference"] <= line["tolerance"] < 1e-4 for line in lines)


def test_a_difference_fails(tmp_path, capsys):
    mlp_case(tmp_path, out_raw=np.zeros((3, 64), np.float32), out_D=np.zeros((2, 1), np.float32))
    code, lines, counts = lines_of(tmp_path, capsys)
    found = {line["array"]: line for line in lines}
    assert code == 1 and counts["failed"] == 2
    assert found["raw"]["difference"] > found["raw"]["tolerance"]
    assert not found["D"]["ok"] and "error" in found["D"]


def test_strange_files_become_lines(tmp_path, capsys):
    mlp_case(tmp_path, out_something_else=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "objects.npz", out_a=np.array([{}], dtype=object))
    np.savez(tmp_path / "broken.npz", in_z=np.zeros((1, 4)), out_img=np.zeros((1, 3, 8, 8)))
    (tmp_path / "broken.pkl").write_bytes(b"\x80\x04no pickle")
    np.savez(tmp_path / "foreign.npz", in_lr=np.zeros(3), out_sr=np.zeros(3), out_sr2=np.zeros(3))
    torch.save({"body.0.weight": torch.zeros(4, 4, 3, 3)}, tmp_path / "foreign.pth")
    np.savez(tmp_path / "lonely.npz", out_mean=np.zeros(3))
    code, lines, counts = lines_of(tmp_path, capsys)
    found = {(line["case"], line.get("array")): line for line in lines}
    assert code == 1 and counts == {"arrays": 10, "ok": 3, "failed": 3, "skipped": 4}
    assert found["digits.npz", "something_else"]["skipped"] == NOT_UNDERSTOOD
    assert "no archive" in found["text.npz", None]["error"]
    assert "objects.npz" in found["objects.npz", None]["error"]
    assert "broken.pkl" in found["broken.npz", None]["error"]
    assert "family not built yet" in found["foreign.npz", None]["skipped"] and found["foreign.npz", None]["arrays"] == 2
    assert "skipped" in found["lonely.npz", None]


def test_the_tolerance_is_the_manifests_where_there_is_one(tmp_path, capsys):
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    mlp_case(folder, out_raw=np.full((3, 64), 0.5, np.float32))
    stated = {"raw": 2.0, "D": "<=1 level", "image_denorm": "1e-5 for steps <10"}
    (tmp_path / "manifest.json").write_text(json.dumps({"deep/er/digits.npz": {"suggested_atol": stated}}))
    code, lines, counts = lines_of(folder, capsys)
    assert code == 1 and counts["ok"] == 2
    assert {line["array"]: line.get("tolerance") for line in lines} == {"raw": 2.0, "D": 1.0, "image_denorm": None}


def test_default_tolerances(tmp_path):
    default = Tolerances(tmp_path / "x.npz")
    assert default.of("img", np.full(3, 8.0, np.float32)) == pytest.approx(2.4e-4)
    assert default.of("img", np.full(3, 8.0, np.float32), half=True) == pytest.approx(2.4e-2)
    assert default.of("img_force_fp32", np.full(3, 8.0, np.float32), half=True) == pytest.approx(2.4e-4)
    assert default.of("synthesis.b8.conv0", np.full(3, 0.1, np.float32)) == pytest.approx(3e-5)
    assert default.of("img_uint8", np.zeros(3, np.uint8)) == 1 and default.of("n", np.zeros(3, np.int64)) == 0


def test_names_are_parsed():
    assert words("img_G_psi0.35_cutoff12_none", GRAMMAR) == {
        "img": "", "through": "", "psi": "0.35", "cutoff": "12", "noise": "none",
    }  # fmt: skip
    assert number(words("img_psi0_25_const", GRAMMAR)["psi"]) == 0.25
    assert number(words("w_psi-1", GRAMMAR)["psi"]) == -1
    mixed = words("img_mix_row2_col3_4567_const", GRAMMAR)
    assert (mixed["row"], mixed["col"], layers(mixed["layers"])) == ("2", "3", [4, 5, 6, 7])
    assert layers("0-3") == [0, 1, 2, 3] and layers("1,4-5") == [1, 4, 5]
    with pytest.raises(Skip, match=NOT_UNDERSTOOD):
        words("img_sideways", GRAMMAR)


def test_a_case_finds_its_own_checkpoints(tmp_path):
    for name in ("a.nosrc.pkl", "a.era.pkl", "a2.pkl", "b_epoch_3.pth", "other.pt", "a.json"):
        (tmp_path / name).write_bytes(b"")
    for case in ("a.G.npz", "a.G_ema.state.npz", "a2.npz", "b.npz", "nobody.npz"):
        (tmp_path / case).write_bytes(b"")

    def names(case):
        mine, free = beside(tmp_path / case)
        return [p.name for p in mine], [p.name for p in free]

    assert names("a.G.npz") == names("a.G_ema.state.npz") == (["a.era.pkl", "a.nosrc.pkl"], ["other.pt"])
    assert names("a2.npz") == (["a2.pkl"], ["other.pt"])
    assert names("b.npz") == (["b_epoch_3.pth"], ["other.pt"])
    assert names("nobody.npz") == ([], ["other.pt"])


def test_an_unseen_stylegan2_with_unseen_settings(tmp_path, capsys):
    """Everything comes from names and shapes: 8x16 pixels, three classes, grey, any psi, cutoff and layers."""
    torch.manual_seed(3)
    config = {"z_dim": 6, "w_dim": 7, "c_dim": 3, "img_channels": 1, "const": [4, 8], "channels": [5, 4]}
    G = stylegan2.build("G", {**config, "mapping_features": [7, 7], "embed_features": 7}).eval().requires_grad_(False)
    for tensor in G.state_dict().values():
        tensor.add_(torch.randn(tensor.shape) / 2)
    torch.save(G.state_dict(), tmp_path / "unseen.pt")
    z = torch.from_numpy(np.random.RandomState(9).randn(3, 6))
    c = torch.eye(3)[[2, 0, 1]]
    ws = G.mapping(z, c)
    mixed = ws[2].clone()
    mixed[1:3] = ws[0, 1:3]
    torch.manual_seed(17)
    answers = {
        "w_psi0.31_cutoff2": G.mapping(z, c, psi=0.31, cutoff=2),
        "img_G_psi0.31_none": G(z, c, psi=0.31, noise_mode="none"),
        "img_class1_psi0_6_const": G(z, torch.eye(3)[[1, 1, 1]], psi=0.6),
        "w_mix_row2_col0_12": mixed,
        "img_random_torchseed17": G.synthesis(ws[:2], noise_mode="random"),
        "synthesis.b4.conv1.affine": G.synthesis.b4.conv1.affine(ws[:, 0]),
        "img_torn": ws,
    }
    arrays = {f"out_{name}": tensor.numpy() for name, tensor in answers.items()}
    np.savez(tmp_path / "unseen.G.npz", in_z=z.numpy(), in_c=c.numpy(), **arrays)
    code, lines, counts = lines_of(tmp_path, capsys)
    assert code == 0, lines
    assert counts == {"arrays": 7, "ok": 6, "failed": 0, "skipped": 1}


def test_flat_folders_with_other_names(shared, tmp_path, capsys):
    """Families are told by their checkpoints: no folder of their own, no manifest, other stems."""
    reference = shared / "reference"
    for source, name in {
        "mlp_gan/mlp_gan.npz": "first.npz", "mlp_gan/G--300.ckpt": "G--1.ckpt", "mlp_gan/D--300.ckpt": "D--1.ckpt",
        "sagan/sagan.npz": "second.npz", "sagan/1000_G.pth": "77_G.pth", "sagan/1000_D.pth": "77_D.pth",
        "stylegan3/t_r32.G.npz": "third.G.npz", "stylegan3/t_r32.nosrc.pkl": "third.pkl",
        "stylegan2_tf/configf_r32.D.npz": "fourth.D.npz", "stylegan2_tf/configf_r32.nosrc.pkl": "fourth.tf.pkl",
        "dcgan/csinva_mnist_r28.npz": "fifth.npz", "dcgan/csinva_mnist_r28.netG.module.era.pth": "fifth.netG.era.pth",
        "dcgan/csinva_mnist_r28.netD_epoch_24.pth": "fifth.netD_epoch_24.pth",
    }.items():  # fmt: skip
        shutil.copy(reference / source, tmp_path / name)
    code, lines, counts = lines_of(tmp_path, capsys)
    assert code == 0, [line for line in lines if not line.get("ok")]
    assert {line["skipped"] for line in lines if "skipped" in line} == {"a classifier, not a family"}
    assert counts["ok"] == 32


@pytest.mark.slow
def test_all_reference_cases(shared, capsys):
    code, lines, counts = lines_of(shared / "reference", capsys)
    assert code == 0, [line for line in lines if line.get("ok") is False]
    assert counts["ok"] >= 1100
    assert not [line for line in lines if line.get("skipped") == NOT_UNDERSTOOD]


def test_one_file_is_a_folder_of_one(tmp_path):
    mlp_case(tmp_path)
    assert [line["array"] for line in run(tmp_path / "digits.npz")] == ["raw", "D", "image_denorm"]
