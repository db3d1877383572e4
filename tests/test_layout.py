"""The import rules of docs/architecture.md, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "ganhub").rglob("*.py"))
ORDER = [
    ["errors"],
    ["registry"],
    ["hub"],
    ["checkpoint"],
    ["models"],
    ["latents", "imaging"],
    ["directions"],
    ["data"],
    ["metrics"],
    ["engine"],
    ["pipelines", "training"],
    ["tabs"],
    ["ui"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
ONLY = {
    "gradio": {"tabs", "ui"},
    "huggingface_hub": {"hub"},
    "pickle": {"checkpoint"},
    "pickletools": {"checkpoint"},
    "yaml": {"registry"},
    "spaces": {"zerogpu"},
}


def part(file: Path) -> str:
    """First name below `ganhub`: `ganhub/engine/cache.py` -> `engine`."""
    return file.relative_to(ROOT / "ganhub").with_suffix("").parts[0]


def imports(file: Path):
    """Every module that a file imports, wherever in the file; those for type checking only are left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_run_one_way(file):
    if file.name == "__init__.py" and file.parent.name == "ganhub":
        return
    own = part(file)
    assert own in RANK or own == "zerogpu", f"docs/architecture.md does not say where {own} stands"
    for name in imports(file):
        top, _, rest = name.partition(".")
        for library, owners in ONLY.items():
            if top == library:
                assert own in owners, f"{file} imports {name}, which only {', '.join(sorted(owners))} may"
        other = rest.split(".")[0]
        if top == "ganhub" and other in RANK and own in RANK and other != own:
            assert RANK[other] < RANK[own], f"{file} imports {name}, which stands to its right"


@pytest.mark.parametrize("file", [f for f in SOURCES if part(f) == "tabs"], ids=lambda f: f.name)
def test_tabs_know_no_torch(file):
    assert not [name for name in imports(file) if name.split(".")[0] == "torch"]


@pytest.mark.parametrize("file", [f for f in SOURCES if part(f) == "models"], ids=lambda f: f.name)
def test_a_family_is_one_file(file):
    """What a family may know: the readers below it, the shared operations, and other families' networks."""
    allowed = {"errors", "registry", "checkpoint", "models"}
    used = {name.split(".")[1] for name in imports(file) if name.startswith("ganhub.")}
    assert used <= allowed, f"{file.name} imports {', '.join(sorted(used - allowed))}"


def test_spaces_is_no_package():
    assert not list((ROOT / "spaces").rglob("__init__.py"))
    assert all("_" not in folder.name for folder in (ROOT / "spaces").iterdir() if folder.is_dir())


def test_nothing_is_named_utils():
    assert not [f for f in SOURCES if f.stem in {"utils", "common", "helpers", "misc"}]


def test_import_is_light():
    code = "import sys, ganhub; print([m for m in ('torch', 'gradio', 'numpy', 'pydantic', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_nothing_happens_on_import():
    """Importing every module starts no thread, opens no socket and touches no accelerator."""
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in SOURCES]
    names = [n for n in names if not n.endswith("__main__") and part_of(n) not in {"tabs", "ui", "zerogpu"}]
    code = f"""
import importlib, socket, sys, threading
def audit(event, args):
    if event in ("socket.connect", "socket.bind", "urllib.Request"):
        raise SystemExit(f"{{event}} on import: {{args}}")
sys.addaudithook(audit)
for name in {names!r}:
    importlib.import_module(name)
import torch
assert not torch.cuda.is_initialized()
others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
assert not others, others
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""
