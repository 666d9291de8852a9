"""The house holds to its own plan: floors, layout, notebooks, sizes, nothing private in a file.

Every check is a generator of breaches, a sentence each, of the project at `root`; the last test
breaks a copy of the project in many ways and sees that each is found.
"""

import ast
import graphlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from cubslib import settings

ROOT = Path(__file__).parent.parent
AGREED = {"notebooks", "cubslib", "data_scripts", "tests", "environment.yml", "README.md"}
OF_TOOLS = {"pyproject.toml", "Makefile", "LICENSE"}
CELLAR = {"__init__", "disk"}
PARAMETER = re.compile(r"(\w+): (int|float|str|bool) = ([^=#]+?)  # [^=]+")
HEADER = "| room | imports from the project |"
PRIVATE = {
    "an absolute path": r"(?<!\w)/(work|root|home|Users|tmp)/|\b[A-Z]:\\Users",
    "a package registry's host": r"\b(pypi|anaconda)\.org\b|pythonhosted\.|download\.pytorch\.",
    "a note of the workshop": r"\b(design|facts|assignment|plan)\.md\b|\bissues? #?\d",
}


def project_files(root):
    """The files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    paths = [root / name for name in sorted(set(done.stdout.split("\0"))) if name]
    return [path for path in paths if path.is_file()]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def notebooks(root):
    """Name and content of the four notebooks."""
    for stem in settings.NOTEBOOKS.values():
        yield stem, nbformat.read(root / "notebooks" / f"{stem}.ipynb", as_version=4)


def modules(root):
    """Name and syntax tree of all Python files of the library and beside it."""
    for path in sorted([*root.glob("cubslib/*.py"), *root.glob("data_scripts/*.py")]):
        yield f"{path.parent.name}/{path.name}", ast.parse(path.read_text())


def table_of_floors(root):
    """Room → rooms it may import, from the README; `all others` is the rule for the rest."""
    lines = (root / "README.md").read_text().splitlines()
    floors = {}
    for line in lines[lines.index(HEADER) + 2 :]:
        if not line.startswith("|"):
            break
        room, allowed = line.replace("`", "").strip("| ").split("|")
        floors[room.strip()] = set(re.findall(r"\w+", allowed)) - {"none"}
    return floors


def imported_rooms(tree, rooms):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("cubslib." if node.level else "") + (node.module or "")
            names = [f"{base.rstrip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from {name.split(".")[1] for name in names if name.startswith("cubslib.")} & rooms


def floors(root):
    table = table_of_floors(root)
    rooms = {path.stem for path in root.glob("cubslib/*.py")}
    for name in sorted(set(table).union(*table.values()) - rooms - {"all others"}):
        yield f"the README's table names {name}, which is no room"
    for room in sorted(rooms - {"__main__"}):
        tree = ast.parse((root / "cubslib" / f"{room}.py").read_text())
        allowed = set() if room in CELLAR else table.get(room, table["all others"]) | CELLAR
        for other in sorted(set(imported_rooms(tree, rooms)) - allowed):
            yield f"cubslib/{room}.py imports {other}, which the README's table does not allow"
    try:
        graphlib.TopologicalSorter(table).prepare()
    except graphlib.CycleError as error:
        yield f"the README's table goes round: {' → '.join(error.args[1])}"


def layout(root):
    tops = {path.relative_to(root).parts[0] for path in project_files(root)}
    for name in sorted(AGREED - tops):
        yield f"{name} is missing at the top"
    for name in sorted(tops - AGREED - OF_TOOLS):
        if not name.startswith("."):
            yield f"{name} does not belong at the top"


def committed_files(root):
    for path in project_files(root):
        name = path.relative_to(root).as_posix()
        if path.stat().st_size > 500_000:
            yield f"{name} is larger than 500 KB"
        if path.suffix.lower() in {
            ".jpg",
            ".jpeg",
            ".npz",
            ".npy",
            ".ckpt",
            ".mat",
            ".zip",
            ".tgz",
        }:
            yield f"{name} is data, which is not committed"
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for what, pattern in PRIVATE.items():
            for found in re.finditer(pattern, text):
                yield f"{name} holds {what}: {found.group()}"


def environment(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    (pip,) = [item["pip"] for item in conda if isinstance(item, dict)]
    for name in sorted(set(pip) ^ {"-e .", *project["dependencies"]}):
        yield f"{name} is not in both pyproject.toml and environment.yml"
    if {"python=3.11", "python=3.12", "python=3.13"}.isdisjoint(map(str, conda)):
        yield "environment.yml asks for no Python that we support"


def parameters(root):
    for stem, notebook in notebooks(root):
        first, *rest = code_cells(notebook)
        tagged = ["parameters" in cell.metadata.get("tags", []) for cell in (first, *rest)]
        if tagged != [True] + [False] * len(rest):
            yield f"{stem}: the first code cell, and no other, is tagged parameters"
        have = {}
        for line in first.source.splitlines():
            match = PARAMETER.fullmatch(line)
            if match:
                have[match[1]] = match[2], ast.literal_eval(match[3])
            elif line.strip() and not line.startswith("#"):
                yield f"{stem}: not of the form 'name: type = value  # meaning': {line}"
        want = {
            name: (settings.PARAMETERS[name].type.__name__, default)
            for name, default in settings.defaults(stem[:2]).items()
        }
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                yield f"{stem}: {name} is {have.get(name)}, in the library {want.get(name)}"


def notebook_code(root):
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    banned = re.compile(r"sys\.path|get_ipython|subprocess|os\.system|urlretrieve|import \*")
    for stem, notebook in notebooks(root):
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            where = f"{stem}, cell {number}"
            if number_of_lines(cell) > 20 and "parameters" not in cell.metadata.get("tags", []):
                yield f"{where}: more than 20 lines"
            for word in banned.findall(cell.source):
                yield f"{where}: {word}"
            try:
                nodes = list(ast.walk(ast.parse(cell.source)))
            except SyntaxError:
                yield f"{where}: not plain Python (a magic?)"
                continue
            if any(isinstance(node, definitions) for node in nodes):
                yield f"{where}: defines what belongs in the library"
            loops = [node for node in nodes if isinstance(node, (ast.For, ast.AsyncFor, ast.While))]
            if any(ast.unparse(getattr(loop, "iter", loop)) != "fits" for loop in loops):
                yield f"{where}: a loop over more than fits, which belongs in the library"


def number_of_lines(cell):
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def notebook_form(root):
    for stem, notebook in notebooks(root):
        nbformat.validate(notebook)
        cells = code_cells(notebook)
        if any(cell.outputs or cell.execution_count for cell in cells):
            yield f"{stem}: committed with outputs"
        if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
            yield f"{stem}: its kernel is not python3"
        if len(notebook.cells) > 60 or sum(map(number_of_lines, cells)) > 250:
            yield f"{stem}: more than 60 cells or 250 lines of code"


def public(body):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            yield from public(node.body if isinstance(node, ast.ClassDef) else [])


def docstrings(root):
    for name, tree in modules(root):
        if not ast.get_docstring(tree):
            yield f"{name} has no docstring"
        for node in public(tree.body):
            if not ast.get_docstring(node):
                yield f"{name}: {node.name} has no docstring"


def sizes(root):
    for name, tree in modules(root):
        if len((root / name).read_text().splitlines()) > 300:
            yield f"{name} is longer than 300 lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                told = len((ast.get_docstring(node, clean=False) or "").splitlines())
                if node.end_lineno - node.lineno + 1 - told > 40:
                    yield f"{name}: {node.name} is longer than 40 lines, its docstring apart"


CHECKS = (
    floors, layout, committed_files, environment, parameters, notebook_code, notebook_form,
    docstrings, sizes,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_the_project(check):
    assert list(check(ROOT)) == []


def plus(text):
    """An edit: the file with `text` at its end."""
    return lambda old: old + text


def swap(old, new):
    """An edit: the file with `new` for `old`, which it must hold."""
    return lambda text: text.replace(old, new) if old in text else pytest.fail(f"no {old!r}")


def cell(source="pass", **fields):
    """An edit of a notebook: a code cell more."""

    def edit(text):
        notebook = nbformat.reads(text, as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell(source, **fields))
        return nbformat.writes(notebook)

    return edit


ROOM = "cubslib/metrics.py"
T1, T4 = "notebooks/T1_custom_cnn.ipynb", "notebooks/T4_retrieval.ipynb"
BREACHES = [
    (floors, ROOM, plus("from cubslib import sampling\n")),
    (floors, ROOM, plus("from . import sampling\n")),
    (floors, ROOM, plus("from .sampling import shuffled\n")),
    (floors, ROOM, plus("import cubslib.sampling as s\n")),
    (floors, ROOM, plus("def late():\n    from cubslib.sampling import shuffled\n")),
    (floors, "cubslib/__init__.py", plus("from cubslib import disk\n")),
    (floors, "README.md", swap("`models` | blocks |", "`models` | blocs |")),
    (floors, "README.md", swap("`models` | blocks |", "`models` | blocks |\n|`blocks`|models|")),
    (layout, "utils.py", plus("")),
    (layout, "environment.yml", None),
    (committed_files, "notes.txt", plus("x" * 500_001)),
    (committed_files, "notebooks/car.jpg", plus("")),
    (committed_files, "tests/a.py", plus("PATH = '" + "/" + "home/me'")),
    (committed_files, "README.md", plus("see " + "design" + ".md")),
    (environment, "environment.yml", swap("- torch>=", "- torch==")),
    (environment, "environment.yml", swap("python=3.12", "python=3.9")),
    (environment, "pyproject.toml", swap('"papermill', '"more>=1",\n    "papermill')),
    (parameters, T4, swap("margin: float = 0.1", "margin: float = 0.2")),
    (parameters, T4, swap("margin: float", "margin: int")),
    (parameters, T4, swap("margin: float", "margins: float")),
    (parameters, T4, swap("margin: float = 0.1", "margin = 0.1")),
    (parameters, T1, cell(metadata={"tags": ["parameters"]})),
    (notebook_code, T1, cell("def late():\n    pass")),
    (notebook_code, T1, cell("twice = lambda x: 2 * x")),
    (notebook_code, T1, cell("while False:\n    pass")),
    (notebook_code, T1, cell("%matplotlib inline")),
    (notebook_code, T1, cell("import sys\nsys.path.append('x')")),
    (notebook_code, T1, cell("pass\n" * 21)),
    (notebook_form, T1, cell(execution_count=1)),
    (notebook_form, T1, swap('"python3"', '"mine"')),
    (docstrings, ROOM, plus("def bare():\n    pass\n")),
    (docstrings, ROOM, plus('class A:\n    "A."\n    def b(self):\n        pass\n')),
    (sizes, ROOM, plus("#\n" * 300)),
    (sizes, ROOM, plus("def long():\n" + "    pass\n" * 40)),
]  # fmt: skip


@pytest.mark.parametrize(("check", "name", "edit"), BREACHES)
def test_a_breach_is_seen(check, name, edit, tmp_path):
    for path in project_files(ROOT):
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    before = set(check(tmp_path))
    broken = tmp_path / name
    if edit is None:
        broken.unlink()
    else:
        broken.write_text(edit(broken.read_text() if broken.exists() else ""))
    assert set(check(tmp_path)) - before
