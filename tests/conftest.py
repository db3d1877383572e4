import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("GANHUB_SHARED", ROOT.parent / "shared"))

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count() or 1)))


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    """No test touches the caches of the person who runs it."""
    home = tmp_path_factory.mktemp("ganhub-home")
    monkeypatch.setenv("GANHUB_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def small_numbers():
    """A training flushes the smallest numbers to zero, in its whole process, which is that of other tests here."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium for the tests of the pages, which skip where there is none."""
    from page_rig import launched

    with launched(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="session")
def shared():
    """The folder of reference cases and real checkpoints, where it lies beside the project."""
    if not (SHARED / "reference" / "manifest.json").exists():
        pytest.skip("no reference cases beside the project (GANHUB_SHARED)")
    return SHARED


class Case:
    """Inputs and outputs that another implementation gave, with their tolerances."""

    def __init__(self, root: Path, name: str):
        self.name, self.root = f"{name}.npz", root
        with np.load(root / self.name) as arrays:
            self.inputs = {k[3:]: arrays[k] for k in arrays.files if k.startswith("in_")}
            self.outputs = {k[4:]: arrays[k] for k in arrays.files if k.startswith("out_")}
        manifest = json.loads((root / "manifest.json").read_text())
        self.tolerance = manifest.get(self.name, {}).get("suggested_atol", {})

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.inputs[key])

    def check(self, key: str, got, atol: float | None = None) -> float:
        want = self.outputs[key]
        got = got.detach().cpu().numpy() if hasattr(got, "detach") else np.asarray(got)
        assert got.shape == want.shape, f"{self.name}:{key} has shape {got.shape}, not {want.shape}"
        difference = float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0))
        if atol is None:
            stated = self.tolerance.get(key, 1.0 if want.dtype == np.uint8 else 1e-5)
            if isinstance(stated, str):
                stated = 0.0 if stated == "exact" else 1.0
            atol = float(stated)
        assert difference <= atol, f"{self.name}:{key} differs by {difference:.3g}, more than {atol:.3g}"
        return difference


@pytest.fixture(scope="session")
def reference(shared):
    """`reference("stylegan2ada/cond_c5_r32.G")` is a `Case`."""
    return lambda name: Case(shared / "reference", name)


@pytest.fixture(scope="session")
def registry_file(tmp_path_factory):
    """An owner's registry of tiny random networks: `tiny`, `tiny-classes`, `tiny-grey`."""
    from tiny import write_registry

    return write_registry(tmp_path_factory.mktemp("rows"))
