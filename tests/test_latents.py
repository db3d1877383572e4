"""Latents: seeds, ways between them, mixing, files."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganhub.errors import BadInput
from ganhub.latents import (
    Latents,
    lerp,
    load_latents,
    mix,
    parse_layers,
    parse_seeds,
    path,
    save_latents,
    slerp,
    truncate,
    z_from_seeds,
)


def test_z_is_nvidias():
    z = z_from_seeds([0, 85, 2**32 - 1], 64)
    assert z.shape == (3, 64) and z.dtype == np.float64
    for row, seed in zip(z, [0, 85, 2**32 - 1], strict=True):
        assert np.array_equal(row, np.random.RandomState(seed).randn(1, 64)[0])


def test_z_equals_the_reference(reference):
    case = reference("stylegan2ada/f_skip_uncond_r32.G")
    assert np.array_equal(z_from_seeds(range(4), 64), case.inputs["z"])


def test_uniform_z():
    z = z_from_seeds(range(50), 100, "uniform")
    assert z.min() >= -1 and z.max() <= 1 and abs(z.std() - 3**-0.5) < 0.02
    assert np.array_equal(z[7], z_from_seeds([7], 100, "uniform")[0])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", [5]),
        ("0-3", [0, 1, 2, 3]),
        ("0-7,12, 20-22", [*range(8), 12, 20, 21, 22]),
        (" 3 , 1\n2 ", [3, 1, 2]),
        ("1 - 3; 9", [1, 2, 3, 9]),
        ("1–3", [1, 2, 3]),
        ("7,7", [7, 7]),
        ("4294967295", [2**32 - 1]),
        ("0-2,", [0, 1, 2]),
    ],
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "a", "1.5", "-1", "3--1", "5-2", "4294967296", "0-4294967295", "0-99999999999999999999", "1e3", "٣",
     "0x10", "1-2-3", "9" * 5000, "0-10000", "nan"],
)  # fmt: skip
def test_bad_seeds_are_a_sentence(text):
    with pytest.raises(BadInput) as error:
        parse_seeds(text)
    assert error.value.message.endswith(".") and len(error.value.message) < 200


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789-,; a٣", max_size=30))
def test_any_text_gives_seeds_or_a_sentence(text):
    try:
        seeds = parse_seeds(text, limit=100)
    except BadInput:
        return
    assert 1 <= len(seeds) <= 100 and all(0 <= s < 2**32 for s in seeds)


@pytest.mark.parametrize("seeds", [[], [-1], [2**32], [1.5], [True], ["3"], [None]])
def test_bad_seed_values(seeds):
    with pytest.raises(BadInput):
        z_from_seeds(seeds, 4)


def test_layers():
    assert parse_layers("0-6,8") == [0, 1, 2, 3, 4, 5, 6, 8]
    assert parse_layers("3,1,3") == [1, 3]
    for text in ["", "6-0", "-1", "a", "9999", "0-"]:
        with pytest.raises(BadInput):
            parse_layers(text)


def test_slerp_keeps_the_norm_and_lerp_does_not():
    a, b = np.random.RandomState(0).randn(2, 5, 512)
    b *= np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=1, keepdims=True)
    length = np.linalg.norm(a, axis=1)
    for t in (0.1, 0.5, 0.9):
        assert np.allclose(np.linalg.norm(slerp(a, b, t), axis=1), length, rtol=1e-12)
    assert (np.linalg.norm(lerp(a, b, 0.5), axis=1) < 0.8 * length).all()


def test_slerp_turns_evenly_and_rows_are_independent():
    a, b = np.random.RandomState(1).randn(2, 3, 64)
    middle = slerp(a, b, 0.3)
    for k in range(3):
        assert np.allclose(middle[k], slerp(a[k], b[k], 0.3))
        whole, part = (
            np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in ((a[k], b[k]), (a[k], middle[k]))
        )
        assert part == pytest.approx(0.3 * whole)


@pytest.mark.parametrize("nudge", [0.0, 1e-16, 1e-12, 1e-9, 1e-7, 1e-5])
@pytest.mark.parametrize("sign", [1, -1])
def test_slerp_of_parallel_and_opposite(sign, nudge):
    a = np.random.RandomState(2).randn(4, 16)
    b = sign * a + nudge * np.random.RandomState(3).randn(4, 16)
    assert np.allclose(slerp(a, b, 0.0), a, atol=1e-6) and np.allclose(slerp(a, b, 1.0), b, atol=1e-6)
    for t in (0.25, 0.5, 0.75):
        got = slerp(a, b, t)
        assert np.isfinite(got).all()
        assert np.allclose(np.linalg.norm(got, axis=1), np.linalg.norm(lerp(a, a, t), axis=1), rtol=1e-4)


def test_slerp_with_zero_goes_straight():
    a, b = np.zeros((2, 8)), np.ones((2, 8))
    assert np.allclose(slerp(a, b, 0.25), 0.25) and np.allclose(slerp(a, a, 0.5), 0)


def test_mix_takes_layers_from_the_column():
    row, col = np.zeros((8, 4)), np.ones((8, 4))
    mixed = mix(row, col, [0, 2])
    assert mixed[:, 0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0] and not row.any()
    with pytest.raises(BadInput, match="no layer 8"):
        mix(row, col, [8])
    with pytest.raises(BadInput):
        mix(row, col, [-1])


def test_mix_equals_the_reference(reference):
    case = reference("stylegan2ada/f_skip_uncond_r32.G")
    w = case.outputs["w"]
    case.check("w_mix_row0_col1_012", mix(w[0], w[1], [0, 1, 2]), 0)


def test_truncate_equals_the_reference(reference):
    case = reference("stylegan2ada/f_skip_uncond_r32.G")
    mean = case.outputs["w_psi0"][0, 0]
    case.check("w_psi0.7", truncate(case.outputs["w"], mean, 0.7), 1e-4)
    case.check("w_psi0.5_cutoff4", truncate(case.outputs["w"], mean, 0.5, 4), 1e-4)


@pytest.mark.parametrize("method", ["linear", "slerp", "spline"])
@pytest.mark.parametrize("easing", ["none", "smooth"])
@pytest.mark.parametrize("shape", [(5, 16), (4, 8, 16)])
def test_path_goes_through_every_point(method, easing, shape):
    points = np.random.RandomState(0).randn(*shape)
    open_way = path(points, 6, method=method, easing=easing)
    assert len(open_way) == (len(points) - 1) * 6 + 1
    assert np.allclose(open_way[::6], points)
    ring = path(points, 6, method=method, easing=easing, loop=True)
    assert len(ring) == len(points) * 6
    assert np.allclose(ring[::6], points)
    # no doubled frame where the ring closes
    assert np.linalg.norm(ring[-1] - ring[0]) > 1e-3


def test_smooth_easing_rests_at_the_points_and_spline_has_no_corner():
    points = np.random.RandomState(0).randn(4, 16)
    steps = np.linalg.norm(np.diff(path(points, 20, easing="smooth"), axis=0), axis=1)
    even = np.linalg.norm(np.diff(path(points, 20), axis=0), axis=1)
    assert steps[0] < 0.2 * even[0] and steps[10] > 1.3 * even[10]
    for method, most in (("linear", np.inf), ("spline", 0.1)):
        way = path(points, 1000, method=method)
        before, after = way[1000] - way[999], way[1001] - way[1000]
        turn = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert turn < most
        assert method == "spline" or turn > 0.5


def test_slerp_path_keeps_the_norm():
    points = z_from_seeds(range(3), 512)
    way = path(points, 10, method="slerp", loop=True)
    lengths = np.linalg.norm(points, axis=1)
    found = np.linalg.norm(way, axis=1)
    assert found.min() >= lengths.min() - 1e-9 and found.max() <= lengths.max() + 1e-9


@pytest.mark.parametrize(
    ("points", "options"), [(1, {}), (3, {"frames": 0}), (3, {"method": "teleport"}), (3, {"easing": "bounce"})]
)
def test_bad_paths(points, options):
    with pytest.raises(BadInput):
        path(np.zeros((points, 4)), **{"frames": 3, **options})


@pytest.mark.parametrize(("space", "shape"), [("z", (3, 16)), ("w", (3, 16)), ("w+", (3, 8, 16))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_files_keep_everything(tmp_path, space, shape, dtype):
    values = np.random.RandomState(0).randn(*shape).astype(dtype)
    saved = Latents(space, values, "tiny", "ab" * 32, 0.7, 4, 2, (1, 2, 2**32 - 1))
    save_latents(tmp_path / "a.npz", saved)
    got = load_latents(tmp_path / "a.npz")
    assert np.array_equal(got.values, values) and got.values.dtype == dtype
    assert got.digest() == saved.digest()
    for name in ("space", "checkpoint", "sha256", "psi", "cutoff", "label", "seeds"):
        assert getattr(got, name) == getattr(saved, name)
    with open(tmp_path / "a.npz", "rb") as stream:
        assert load_latents(stream).seeds == saved.seeds


@pytest.mark.parametrize(
    ("arrays", "space", "shape"),
    [
        ({"w": (1, 18, 512)}, "w+", (1, 18, 512)),
        ({"ws": (4, 14, 512)}, "w+", (4, 14, 512)),
        ({"latents": (18, 512)}, "w+", (1, 18, 512)),
        ({"w": (512,)}, "w", (1, 512)),
        ({"w": (7, 512)}, "w", (7, 512)),
        ({"z": (512,)}, "z", (1, 512)),
        ({"z": (10, 512)}, "z", (10, 512)),
    ],
)
def test_files_of_other_tools(tmp_path, arrays, space, shape):
    made = {k: np.random.RandomState(0).randn(*s).astype(np.float32) for k, s in arrays.items()}
    np.savez(tmp_path / "projected_w.npz", **made)
    got = load_latents(tmp_path / "projected_w.npz")
    assert (got.space, got.values.shape, got.checkpoint, got.psi) == (space, shape, "", 1.0)
    assert np.array_equal(got.values.ravel(), next(iter(made.values())).ravel())


def test_bare_npy(tmp_path):
    values = np.random.RandomState(0).randn(1, 18, 512)
    np.save(tmp_path / "w.npy", values)
    assert np.array_equal(load_latents(tmp_path / "w.npy").values, values)
    np.save(tmp_path / "f.npy", np.asfortranarray(values))
    assert np.array_equal(load_latents(tmp_path / "f.npy").values, values)


def test_projector_reference(shared):
    file = shared / "reference" / "projector" / "project_f_skip_uncond_r32.npz"
    with pytest.raises(BadInput, match="holds no latents"):
        load_latents(file)


def npz(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def npy(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def about(**changes):
    told = {"format": "ganhub-latents-1", "space": "z", "checkpoint": "t", "sha256": "", "psi": 1.0, "cutoff": None}
    return npy(np.array(json.dumps({**told, "label": None, "seeds": [], **changes})))


def lying(data, size):
    """A zip whose directory claims less than its data unpacks to."""
    return data.replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little"))


BOMB = header("{'descr': '<f8', 'fortran_order': False, 'shape': (16777216,), }\n") + bytes(2**27)
HOSTILE = {
    "empty": b"",
    "text": b"hello",
    "truncated zip": npz(w=npy(np.zeros((1, 18, 512))))[:200],
    "pickle": npz(w=npy(np.array([{"a": 1}], dtype=object))),
    "pickled npy": npy(np.array([print], dtype=object)),
    "integers": npz(w=npy(np.zeros((1, 18, 512), int))),
    "not finite": npz(w=npy(np.full((1, 18, 512), np.nan))),
    "four axes": npz(w=npy(np.zeros((1, 1, 18, 512)))),
    "no rows": npz(w=npy(np.zeros((0, 512)))),
    "scalar": npz(w=npy(np.float64(3))),
    "another key": npz(images=npy(np.zeros((1, 18, 512)))),
    "no members": npz(),
    "huge claim": npz(w=header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }\n")),
    "negative side": npz(w=header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 512), }\n") + bytes(4096)),
    "structured": npz(w=header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }\n") + bytes(8)),
    "code in the header": npz(w=header("{'descr': __import__('os').system('true'), 'shape': (1,)}\n")),
    "deep header": npz(w=header("(" * 9000 + ")" * 9000)),
    "zip bomb": npz(w=BOMB),
    "lying zip bomb": lying(npz(w=BOMB), len(BOMB)),
    "many members": npz(**{f"m{i}": b"" for i in range(200)}),
    "values alone": npz(values=npy(np.zeros((2, 8)))),
    "about is no JSON": npz(values=npy(np.zeros((2, 8))), about=npy(np.array("{"))),
    "about is a list": npz(values=npy(np.zeros((2, 8))), about=npy(np.array("[1]"))),
    "about is deep": npz(values=npy(np.zeros((2, 8))), about=npy(np.array("[" * 50_000))),
    "newer": npz(values=npy(np.zeros((2, 8))), about=about(format="ganhub-latents-9")),
    "unknown space": npz(values=npy(np.zeros((2, 8))), about=about(space="y")),
    "space and shape": npz(values=npy(np.zeros((2, 8))), about=about(space="w+")),
    "seed too many": npz(values=npy(np.zeros((2, 8))), about=about(seeds=[1])),
    "bad seed": npz(values=npy(np.zeros((2, 8))), about=about(seeds=[-1, 2])),
    "bad psi": npz(values=npy(np.zeros((2, 8))), about=about(psi="much")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_a_sentence(tmp_path, name):
    file = tmp_path / "latents.npz"
    file.write_bytes(HOSTILE[name])
    with pytest.raises(BadInput) as error:
        load_latents(file)
    assert error.value.message.endswith(".") and len(error.value.message) < 300


def test_too_large_and_missing(tmp_path):
    (tmp_path / "large.npz").write_bytes(bytes(65 * 2**20))
    for name in ("large.npz", "none.npz"):
        with pytest.raises(BadInput, match=name):
            load_latents(tmp_path / name)


GOOD = npz(values=npy(np.zeros((2, 8))), about=about())


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(GOOD)))
def test_damaged_files_are_a_sentence(changes, cut):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    for damaged in (data, data[:cut]):
        with contextlib.suppress(BadInput):
            load_latents(io.BytesIO(bytes(damaged)))
