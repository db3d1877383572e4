"""Directions of latent spaces: files of every kind, moving along them, and whom they belong to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ganhub.directions import (
    UNIT,
    Direction,
    cosine,
    load_direction,
    move,
    open_direction,
    orthogonal,
    read_direction,
    save_direction,
)
from ganhub.errors import BadInput, GanHubError, RegistryError
from ganhub.registry import Registry, load_registry, make_row

RNG = np.random.RandomState(0)
VECTOR = (RNG.randn(16) / 4).astype(np.float32)
VECTOR /= np.linalg.norm(VECTOR)
GENERATOR = {"family": "stylegan2", "dataset": "FFHQ"}


def row_of(path, id="direction-test", generator=GENERATOR, **more):
    entry = {"id": id, "task": "direction", "family": "stylegan2", "source": {"path": str(path)}, "title": "A test"}
    return make_row({**entry, "license": "MIT", "commercial_use": True, "generator": generator, **more}, str(path))


def generator_row(**more):
    entry = {"id": "a-generator", "task": "generate", "family": "stylegan2", "source": {"path": "G.pkl"}}
    entry |= {"title": "G", "license": "MIT", "commercial_use": True, "dataset": "FFHQ", **more}
    return make_row(entry, "rows.yaml")


def files(folder):
    """The same direction as the published files have it."""
    np.save(folder / "resefa.npy", VECTOR[None])
    np.save(folder / "wide.npy", np.repeat(VECTOR[None], 8, 0).astype(np.float64))  # equal rows: w
    np.savez(folder / "own.npz", latent_direction=VECTOR * 3)
    torch.save(torch.from_numpy(VECTOR[None]), folder / "nada.pt")
    torch.save(torch.from_numpy(np.repeat(VECTOR[None, None], 8, 1)), folder / "pose.pt")
    return sorted(folder.iterdir())


def test_files_of_every_kind_hold_the_same_direction(tmp_path):
    found = {path.name: read_direction(row_of(path), path) for path in files(tmp_path)}
    assert len(found) == 5
    for direction in found.values():
        assert direction.space == "w" and direction.unit == UNIT and direction.layers is None
        np.testing.assert_allclose(direction.vector, VECTOR, atol=1e-6)


def test_a_row_turns_round_and_names_layers_and_steps(tmp_path):
    np.save(tmp_path / "d.npy", VECTOR)
    path = tmp_path / "d.npy"
    turned = read_direction(row_of(path, config={"scale": -1, "layers": [8, 11], "range": [-10, 10]}), path)
    np.testing.assert_allclose(turned.vector, -VECTOR, atol=1e-6)
    assert turned.layers == (8, 11) and turned.unit == 5
    assert read_direction(row_of(path, config={"unit": 2.5}), path).unit == 2.5


def test_principal_components(tmp_path):
    components = np.linalg.qr(RNG.randn(16, 16))[0][:5].astype(np.float32)
    sizes = np.array([5, 4, 3, 2, 1], np.float32)
    path = tmp_path / "pca.pt"
    arrays = {"comp": components[:, None], "mean": np.zeros((1, 16), np.float32), "std": sizes}
    torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, path)
    row = row_of(path, config={"count": 5})
    third = read_direction(row, path, 2)
    assert third.id == "direction-test:2" and third.unit == 3
    np.testing.assert_allclose(third.vector, components[2], atol=1e-6)
    assert read_direction(row, path).unit == 5
    with pytest.raises(BadInput, match="components 0 to 4, and no 5"):
        read_direction(row, path, 5)


@pytest.mark.parametrize(
    "name, array, told",
    [
        ("many.npz", {"a": VECTOR, "b": VECTOR}, "holds no direction \\(a, b\\)"),
        ("zero.npy", VECTOR * 0, "no length"),
        ("nan.npy", VECTOR * np.nan, "no length"),
        ("cube.npy", RNG.randn(2, 3, 4, 16).astype(np.float32), "is no direction"),
    ],
)
def test_what_is_no_direction(tmp_path, name, array, told):
    path = tmp_path / name
    np.savez(path, **array) if isinstance(array, dict) else np.save(path, array)
    with pytest.raises(BadInput, match=told):
        read_direction(row_of(path), path)


def test_one_of_several_arrays_is_named(tmp_path):
    path = tmp_path / "many.npz"
    np.savez(path, age=VECTOR, smile=-VECTOR)
    np.testing.assert_allclose(read_direction(row_of(path, config={"key": "smile"}), path).vector, -VECTOR, atol=1e-6)


@pytest.mark.parametrize("space, shape", [("z", (16,)), ("w", (16,)), ("w+", (6, 16))])
def test_what_is_saved_is_read_back(tmp_path, space, shape):
    generator = {**GENERATOR, "space": space, "sha256": "a" * 64}
    made = Direction("mine", "Mine", space, RNG.randn(*shape), 2.5, (1, 3), generator, {"accuracy": 0.9})
    path = save_direction(made, tmp_path / "new" / "mine.safetensors")
    read = read_direction(row_of(path, id="mine", generator=generator, title="Mine"), path)
    np.testing.assert_array_equal(read.vector, made.vector)
    assert (read.space, read.unit, read.layers, read.card) == (space, 2.5, (1, 3), {"accuracy": 0.9})
    alone = load_direction(path)
    assert np.array_equal(alone.vector, made.vector) and alone.card == made.card
    assert (alone.id, alone.title, alone.generator, alone.layers) == ("mine", "Mine", generator, (1, 3))
    np.save(tmp_path / "d.npy", VECTOR)
    with pytest.raises(BadInput, match="d.npy is no direction saved by GAN Hub"):
        load_direction(tmp_path / "d.npy")
    with pytest.raises(BadInput, match="cannot be written"):
        save_direction(made, path / "below" / "d.safetensors")


# Moving


def test_moving_is_so_many_steps():
    ws = RNG.randn(3, 6, 16).astype(np.float32)
    one = Direction("d", "D", "w", VECTOR, 2.0)
    moved = move(ws, one, 1.5)
    np.testing.assert_allclose(moved - ws, np.broadcast_to(3 * VECTOR, ws.shape), atol=1e-6)
    assert moved.dtype == np.float32 and np.array_equal(move(ws, one, 0), ws)
    each = move(ws, one, np.array([0, 1, -1]))
    np.testing.assert_allclose((each - ws)[:, 0] @ VECTOR, [0, 2, -2], atol=1e-5)


def test_only_some_layers_move():
    ws = RNG.randn(2, 6, 16).astype(np.float32)
    local = Direction("d", "D", "w", VECTOR, layers=(4, 9))  # more than this generator has
    touched = np.abs(move(ws, local, 1) - ws).sum((0, 2)) > 0
    assert touched.tolist() == [False] * 4 + [True] * 2
    touched = np.abs(move(ws, local, 1, layers=[0, 2]) - ws).sum((0, 2)) > 0
    assert touched.tolist() == [True, False, True, False, False, False]
    with pytest.raises(BadInput, match="no layer 6"):
        move(ws, local, 1, layers=[6])


def test_each_layer_its_own_way():
    vector = RNG.randn(6, 16)
    direction = Direction("d", "D", "w+", vector, 1.0)
    ws = np.zeros((1, 6, 16))
    step = move(ws, direction, 1)[0]
    np.testing.assert_allclose(step / vector, np.full_like(vector, (step / vector)[0, 0]), rtol=1e-5)
    assert (step**2).sum(1).mean() == pytest.approx(1, abs=1e-5)
    with pytest.raises(BadInput, match="has 6 layers; this generator has 8"):
        move(np.zeros((1, 8, 16)), direction, 1)


def test_moving_in_z():
    z = RNG.randn(4, 16)
    np.testing.assert_allclose(move(z, Direction("d", "D", "z", VECTOR, 2.0), 1) - z, np.tile(2 * VECTOR, (4, 1)))
    for space, latents in (("z", np.zeros((1, 6, 16))), ("w", np.zeros((1, 16))), ("w", np.zeros((1, 6, 8)))):
        with pytest.raises(BadInput, match="do not move along it"):
            move(latents, Direction("d", "D", space, VECTOR), 1)


def test_holding_others_still():
    a, b, c = RNG.randn(3, 16)
    rest = orthogonal(a, [b, c, b + c])  # the third says nothing new
    assert np.linalg.norm(rest) == pytest.approx(1) and abs(rest @ b) < 1e-9 and abs(rest @ c) < 1e-9 and rest @ a > 0
    with pytest.raises(BadInput, match="Nothing is left"):
        orthogonal(a, [a * 2])


def test_cosines():
    one, other = Direction("a", "A", "w", VECTOR), Direction("b", "B", "w", -VECTOR)
    wide = Direction("c", "C", "w+", np.repeat(VECTOR[None], 4, 0))
    assert cosine(one, other) == pytest.approx(-1) and cosine(one, wide) == pytest.approx(1)
    for strange in (Direction("z", "Z", "z", VECTOR), Direction("s", "S", "w", VECTOR[:8])):
        with pytest.raises(BadInput, match="no angle"):
            cosine(one, strange)


# Whom they belong to


def test_a_direction_of_another_training_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", VECTOR)
    bound = row_of(tmp_path / "d.npy", generator={**GENERATOR, "sha256": "a" * 64, "w_dim": 16})
    registry = Registry([bound])
    own = generator_row(sha256="a" * 64)
    assert open_direction(registry, "direction-test", own, 16).space == "w"
    assert [row.id for row in registry.directions_for(own, 16)] == ["direction-test"]
    retrained = generator_row(sha256="b" * 64)
    assert not registry.directions_for(retrained)
    for generator, w_dim, told in (
        (retrained, 16, "sha256 aaaa"),
        (generator_row(dataset="cats"), 16, "dataset FFHQ, and this one has cats"),
        (own, 512, "w_dim 16"),
    ):
        with pytest.raises(RegistryError, match=told) as error:
            open_direction(registry, "direction-test", generator, w_dim)
        assert error.value.code == "wrong_generator"
    with pytest.raises(BadInput, match="names no component"):
        open_direction(registry, "direction-test:x", own)


def test_the_hash_of_a_file_counts_where_the_row_names_none(tmp_path):
    import hashlib

    from ganhub import hub

    (tmp_path / "G.pkl").write_bytes(b"some generator")
    np.save(tmp_path / "d.npy", VECTOR)
    own = generator_row(source={"path": str(tmp_path / "G.pkl")})
    hub.fetch(own)
    digest = hashlib.sha256(b"some generator").hexdigest()
    rows = [row_of(tmp_path / "d.npy", id=n, generator={**GENERATOR, "sha256": s}) for n, s in
            (("right", digest), ("wrong", "c" * 64))]  # fmt: skip
    assert open_direction(Registry(rows), "right", own).id == "right"
    with pytest.raises(RegistryError, match="sha256 cccc"):
        open_direction(Registry(rows), "wrong", own)


PUBLISHED = {
    "direction-age": "directions_stylegan_nada/age.pt",
    "direction-pose": "directions_stylegan_nada/pose.pt",
    "direction-e4e-age": "directions_e4e/age.pt",
    "directions-ganspace-ffhq": "directions_e4e/ganspace_ffhq_pca.pt",
    "direction-eyebrows": "directions_resefa_sg2/eyebrows.npy",
}


def test_published_files(shared):
    registry = load_registry()
    read = {}
    for name, file in PUBLISHED.items():
        path = Path(shared) / "weights" / file
        if not path.exists():
            pytest.skip(f"{path.name} is not beside the project")
        read[name] = read_direction(registry.find(name), path)
        assert read[name].space == "w" and read[name].vector.shape == (512,)
    assert cosine(read["direction-age"], read["direction-e4e-age"]) == pytest.approx(0.58, abs=0.01)
    assert read["direction-eyebrows"].layers == (8, 11) and read["direction-eyebrows"].unit == 5
    assert 0.1 < read["directions-ganspace-ffhq"].unit < 100
    with pytest.raises(GanHubError, match="has the sha256"):
        read_direction(registry.find("direction-age"), Path(shared) / "weights" / PUBLISHED["direction-pose"])
