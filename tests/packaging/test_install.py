"""The folder mapping: what an installed diffgen contains, and that it is found from anywhere."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def packages() -> dict[str, Path]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    outer = dict(line.split(" = ") for line in config["options"]["package_dir"].strip().splitlines())
    found = {}
    for name in config["options"]["packages"].split():
        top = next(key for key in sorted(outer, key=len, reverse=True) if name == key or name.startswith(key + "."))
        found[name] = ROOT / outer[top] / name.removeprefix(top).strip(".").replace(".", "/")
    return found


def test_every_package_on_disk_is_installed() -> None:
    listed = set(packages().values())
    on_disk = {
        init.parent for top in ("diffgen", "pipelines", "train", "assets") for init in (ROOT / top).rglob("__init__.py")
    }
    assert on_disk == listed


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    # From a copy: building leaves a build folder behind, and takes up files that an older one still holds.
    for name in ("diffgen", "pipelines", "train", "assets"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True
    )
    return next(folder.glob("*.whl"))


def test_a_wheel_takes_one_name_and_carries_the_model(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        top = next(name for name in names if name.endswith("top_level.txt"))
        assert archive.read(top).split() == [b"diffgen"]
    outside = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert outside == {"diffgen"}
    assets = ("assets/box/model_index.json", "assets/box-motion/config.json")
    for needed in ("pipelines/text_to_image.py", "train/__init__.py", *assets, "py.typed"):
        assert f"diffgen/{needed}" in names


def run(code: str, cwd: Path, site: Path) -> str:
    command = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = [{str(cwd)!r}, {str(site)!r}]; {code}"]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("place", ["elsewhere", "repository root"])
def test_an_installed_wheel_is_whole_from_any_folder(wheel: Path, tmp_path: Path, place: str) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel], check=True
    )
    cwd = tmp_path if place == "elsewhere" else ROOT
    found = run("import diffgen.assets, diffgen.train, diffgen.app; print(diffgen.__file__)", cwd, site)
    assert Path(found).is_relative_to(ROOT if place == "repository root" else site)
    assert "torch" not in run("import diffgen; print([m for m in sys.modules if m == 'torch'])", cwd, site)


def test_an_editable_install_sees_the_working_tree(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    code = "import diffgen.pipelines.request as r; print(r.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == ROOT / "pipelines" / "request.py"
