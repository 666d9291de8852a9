"""The project holds to its own plan: imports, layout, notebooks, sizes, nothing private in a file.

Every check is a generator of breaches, a sentence each, of what it is given: files (name → text),
of the library, the notebooks or all that git tracks. The checks are tested on small files.
"""

import ast
import graphlib
import re
import subprocess
import tomllib
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml

from cubslib import machine
from cubslib.runs import published
from cubslib.runs.parameters import TASKS, table

ROOT = Path(__file__).parent.parent
AGREED = {"notebooks", "cubslib", "data_scripts", "tests", "environment.yml", "README.md"}
OF_TOOLS = {"pyproject.toml", "Makefile", "LICENSE"}
FOR_ALL = {"__init__", "disk"}
PARAMETER = re.compile(r"(\w+): (int|float|str|bool) = ([^=#]+?)  # [^=]+")
HEADER = "| module | what it is for | may import |"
DATA = {".jpg", ".jpeg", ".npz", ".npy", ".ckpt", ".mat", ".zip", ".tgz"}
PRIVATE = {
    "an absolute path": r"(?<!\w)/(work|root|home|Users|tmp)/|\b[A-Z]:\\Users",
    "a package registry's host": r"\b(pypi|anaconda)\.org\b|pythonhosted\.|download\.pytorch\.",
    "a note of the workshop": r"\b(design|facts|assignment|plan)\.md\b|\bissues? #?\d",
}


def git(*arguments):
    """What git says in the project, as bytes; None where it is no checkout."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
    return None if done.returncode else done.stdout


@cache
def project():
    """All files that git tracks or would track, name → bytes.

    A notebook is what was committed: that a reader ran it and saved the outputs breaks nothing.
    """
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if names is None:
        pytest.skip("not a git checkout")
    files = {}
    for name in sorted(set(names.decode().split("\0")) - {""}):
        committed = git("show", f"HEAD:{name}") if name.endswith(".ipynb") else None
        if committed is not None or (ROOT / name).is_file():
            files[name] = committed if committed is not None else (ROOT / name).read_bytes()
    return files


def library():
    """The Python files of the library and beside it."""
    paths = [*ROOT.glob("cubslib/**/*.py"), *ROOT.glob("data_scripts/*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(paths)}


def notebooks(*stems):
    """Stem → the four notebooks as committed, or as they are where git is not there."""
    found = {}
    for stem in stems or [task.notebook for task in TASKS.values()]:
        name = f"notebooks/{stem}.ipynb"
        text = git("show", f"HEAD:{name}") or (ROOT / name).read_bytes()
        found[stem] = nbformat.reads(text.decode(), as_version=4)
    return found


def launcher():
    """The launcher as committed, without the calls of the shell that it alone may make."""
    found = notebooks("colab")
    for cell in found["colab"].cells:
        cell.source = re.sub(r"^( *)!.*", r"\1pass", cell.source, flags=re.MULTILINE)
    return found


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# --- imports ---


def rows(readme):
    """Module or folder → what it may import, by the README's table."""
    lines = readme.splitlines()
    found = {}
    for line in lines[lines.index(HEADER) + 2 :]:
        if not line.startswith("|"):
            break
        name, purpose, allowed = (cell.strip() for cell in line.strip("| ").split("|"))
        assert purpose, f"the README does not say what {name} is for"
        found[name.strip("`/")] = set(re.findall(r"\w+", allowed)) - {"none"}
    return found


def imported(text):
    """The modules of the library that a file imports, such as `runs.settle`, or names in them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, "a relative import of more than one dot"
            base = ("cubslib." if node.level else "") + (node.module or "")
            names = [f"{base.rstrip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("cubslib.") for name in names if name.startswith("cubslib."))


def module(name):
    """`cubslib/runs/run.py` → `runs.run`, `cubslib/runs/__init__.py` → `runs`."""
    parts = name.removesuffix(".py").split("/")[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


def imports(files, readme):
    """Hold `files` (name → text) of `cubslib/` to the table in `readme`."""
    allowed = rows(readme)
    texts = {module(name): text for name, text in files.items() if name.startswith("cubslib/")}
    tops = {name.split(".")[0] for name in texts}
    for name in sorted(set(allowed).union(*allowed.values()) - tops):
        yield f"the README's table names {name}, which is no module"
    for name in sorted(tops - set(allowed) - {"__init__", "__main__"}):
        yield f"the README's table has no row for {name}"
    within = {}
    for name, text in texts.items():
        top = name.split(".")[0]
        for other in imported(text):
            if other.split(".")[0] == top and "." in name + other:
                known = max((o for o in texts if f"{other}.".startswith(f"{o}.")), key=len)
                within.setdefault(name, set()).update({known} - {name, top})
            elif top == "__main__" or other.split(".")[0] not in tops:
                continue
            elif top in FOR_ALL or other.split(".")[0] not in allowed.get(top, set()) | FOR_ALL:
                yield f"{name} imports {other}, which the README's table does not allow"
    for graph in (allowed, within):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            yield f"imports go round: {' → '.join(error.args[1])}"


def sources(files):
    """Hold `machine.USED` to what a fit and a score run through, and what chooses among them."""
    texts = {module(name): text for name, text in files.items() if name.startswith("cubslib/")}
    # These choose no number.
    apart = {"__init__", "budget", "disk", "progress", "recipes", "machine", "runs"}
    used = [name.replace("/", ".") for name in machine.USED]
    for name in used:
        for other in {one.split(".")[0] for one in imported(texts[name])} & set(texts):
            if other not in apart | set(used):
                yield f"{name} imports {other}, whose code no record fingerprints"


# --- files ---


def layout(files):
    tops = {name.split("/")[0] for name in files}
    for name in sorted(AGREED - tops):
        yield f"{name} is missing at the top"
    for name in sorted(tops - AGREED - OF_TOOLS):
        if not name.startswith("."):
            yield f"{name} does not belong at the top"
    known = {f"notebooks/{stem}.ipynb" for stem in ("colab", *(t.notebook for t in TASKS.values()))}
    for name in sorted({name for name in files if name.endswith(".ipynb")} - known):
        yield f"{name} is none of the four notebooks, nor their launcher"


def committed(files):
    for name, content in files.items():
        weights = fnmatch(name, "notebooks/results/*/best.ckpt")  # of published runs
        if len(content) > (published.LARGEST if weights else 500_000):
            yield f"{name} is larger than 500 KB"
        if Path(name).suffix.lower() in DATA and not weights:
            yield f"{name} is data, which is not committed"
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        for what, pattern in PRIVATE.items():
            for found in re.finditer(pattern, text):
                yield f"{name} holds {what}: {found.group()}"


def environment(files):
    wanted = tomllib.loads(files["pyproject.toml"].decode())["project"]
    conda = yaml.safe_load(files["environment.yml"])["dependencies"]
    (pip,) = [item["pip"] for item in conda if isinstance(item, dict)]
    for name in sorted(set(pip) ^ {"-e .", *wanted["dependencies"]}):
        yield f"{name} is not in both pyproject.toml and environment.yml"
    if {"python=3.11", "python=3.12", "python=3.13"}.isdisjoint(map(str, conda)):
        yield "environment.yml asks for no Python that we support"


# --- notebooks ---


def parameters(notebooks):
    for stem, notebook in notebooks.items():
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
        want = {n: (type(r.default).__name__, r.default) for n, r in table(stem[:2]).items()}
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                yield f"{stem}: {name} is {have.get(name)}, in the library {want.get(name)}"


def notebook_code(notebooks):
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    banned = re.compile(r"sys\.path|get_ipython|subprocess|os\.system|urlretrieve|import \*")
    for stem, notebook in notebooks.items():
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


def notebook_form(notebooks):
    for stem, notebook in notebooks.items():
        nbformat.validate(notebook)
        cells = code_cells(notebook)
        if any(cell.outputs or cell.execution_count for cell in cells):
            yield f"{stem}: committed with outputs"
        if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
            yield f"{stem}: its kernel is not python3"
        if len(notebook.cells) > 60 or sum(map(number_of_lines, cells)) > 250:
            yield f"{stem}: more than 60 cells or 250 lines of code"


# --- code ---


def public(body):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            yield from public(node.body if isinstance(node, ast.ClassDef) else [])


def docstrings(files):
    for name, text in files.items():
        tree = ast.parse(text)
        if not ast.get_docstring(tree):
            yield f"{name} has no docstring"
        for node in public(tree.body):
            if not ast.get_docstring(node):
                yield f"{name}: {node.name} has no docstring"


def sizes(files):
    for name, text in files.items():
        if len(text.splitlines()) > 300:
            yield f"{name} is longer than 300 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                told = len((ast.get_docstring(node, clean=False) or "").splitlines())
                if node.end_lineno - node.lineno + 1 - told > 40:
                    yield f"{name}: {node.name} is longer than 40 lines, its docstring apart"


# --- the project, and a breach of everything ---


@pytest.mark.parametrize(
    ("check", "given"),
    [
        (lambda files: imports(files, (ROOT / "README.md").read_text()), library),
        (sources, library), (layout, project), (committed, project), (environment, project),
        (parameters, notebooks), (notebook_code, notebooks), (notebook_form, notebooks),
        (notebook_code, launcher), (notebook_form, launcher),
        (docstrings, library), (sizes, library),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)  # fmt: skip
def test_the_project(check, given):
    assert list(check(given())) == []


README = f"""
{HEADER}
|---|---|---|
| `metrics` | scores | none |
| `runs/` | runs | metrics, sampling |
| `sampling` | batches | none |
"""
FILES = {
    "cubslib/__init__.py": "", "cubslib/disk.py": "", "cubslib/__main__.py": "import cubslib.runs",
    "cubslib/metrics.py": "from cubslib import CubsError, disk", "cubslib/sampling.py": "",
    "cubslib/runs/__init__.py": "from cubslib.runs.run import start\n",
    "cubslib/runs/run.py": "from cubslib import metrics\nfrom cubslib.runs import history\n",
    "cubslib/runs/history.py": "from cubslib.disk import whole",
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "says"), [
    ("metrics.py", "from cubslib import sampling", "metrics imports sampling"),
    ("metrics.py", "from . import sampling", "metrics imports sampling"),
    ("metrics.py", "from .sampling import shuffled", "metrics imports sampling.shuffled"),
    ("metrics.py", "import cubslib.sampling as s", "metrics imports sampling"),
    ("metrics.py", "def f():\n  from cubslib.sampling import x", "metrics imports sampling.x"),
    ("metrics.py", "from cubslib.runs.run import start", "metrics imports runs.run.start"),
    ("runs/history.py", "from cubslib.losses import x", None),  # no such module: Python says it
    ("__init__.py", "from cubslib import disk", "__init__ imports disk"),
    ("disk.py", "from cubslib import metrics", "disk imports metrics"),
    ("runs/history.py", "from cubslib.runs.run import start", "go round"),
    ("runs/history.py", "from cubslib.runs import run", "go round"),
    ("runs/history.py", "from cubslib import sampling", None),
    ("losses.py", "", "no row for losses"),
    ("pages/site.py", "", "no row for pages"),
])  # fmt: skip
def test_an_import_that_is_not_allowed_is_seen(name, text, says):
    allowed = README + "| `disk` | files | none |\n"
    assert list(imports(FILES, allowed)) == []
    found = list(imports(FILES | {f"cubslib/{name}": text}, allowed))
    assert bool(found) == bool(says)
    assert says is None or says in found[0]


@pytest.mark.parametrize(("row", "says"), [
    ("| `los` | a loss | none |", "names los, which is no module"),
    ("| `losses` | a loss | metrix |", "names losses, which is no module"),
    ("| `disk` | files | metrics |\n| `metrics` | x | disk |", "go round"),
])  # fmt: skip
def test_a_row_that_is_wrong_is_seen(row, says):
    found = list(imports(FILES, f"{README}| `disk` | files | none |\n{row}\n"))
    assert any(says in breach for breach in found)


def test_code_that_a_number_comes_from_and_no_record_names_is_seen():
    files = {f"cubslib/{name}.py": "" for name in (*machine.USED, "attend", "disk")}
    assert list(sources(files | {"cubslib/blocks.py": "from cubslib import disk"})) == []
    found = list(sources(files | {"cubslib/blocks.py": "from cubslib.attend import x"}))
    assert found == ["blocks imports attend, whose code no record fingerprints"]


@pytest.mark.parametrize(("check", "breach"), [
    (layout, {"utils.py": b""}),
    (layout, {"notebooks/T5.ipynb": b""}),
    (layout, {"environment.yml": None}),
    (committed, {"notes.txt": b"x" * 500_001}),
    (committed, {"notebooks/car.jpg": b""}),
    (committed, {"notebooks/best.ckpt": b""}),
    (committed, {"notebooks/results/T1/last.ckpt": b""}),
    (committed, {"notebooks/results/T1/best.ckpt": b"x" * 32_000_001}),
    (committed, {"notebooks/results/T1/metrics.json": b"x" * 500_001}),
    (committed, {"tests/a.py": b"PATH = '/" + b"home/me'"}),
    (committed, {"README.md": b"see design" + b".md"}),
    (committed, {"README.md": b"from pypi" + b".org"}),
    (environment, {"environment.yml": b"dependencies: [python=3.12, pip: [-e ., torch==2]]"}),
    (environment, {"environment.yml": b"dependencies: [python=3.9, pip: [-e ., torch>=2]]"}),
    (environment, {"pyproject.toml": b"[project]\ndependencies = ['torch>=2', 'more']"}),
    (docstrings, {"cubslib/a.py": '"A."\ndef bare():\n    pass\n'}),
    (docstrings, {"cubslib/a.py": '"A."\nclass A:\n    "A."\n    def b(self):\n        1\n'}),
    (docstrings, {"cubslib/a.py": "A = 1"}),
    (sizes, {"cubslib/a.py": "#\n" * 301}),
    (sizes, {"cubslib/a.py": "def long():\n" + "    pass\n" * 40}),
])  # fmt: skip
def test_a_breach_of_a_file_is_seen(check, breach):
    files = dict.fromkeys(AGREED | OF_TOOLS, b"")
    files["pyproject.toml"] = b"[project]\ndependencies = ['torch>=2']"
    files["environment.yml"] = b"dependencies: [python=3.12, pip: [-e ., torch>=2]]"
    if check in (docstrings, sizes):
        files = {"cubslib/a.py": '"A."\ndef a():\n    "A."\n' + "    pass\n" * 38}
    else:
        files["notebooks/results/T1/best.ckpt"] = b"x" * 500_001
    assert list(check(files)) == []
    assert list(check({name: x for name, x in (files | breach).items() if x is not None}))


def notebook(*sources, first="", **fields):
    """A T1 with the agreed parameters and a code cell for each of `sources`."""
    told = [
        f"{name}: {type(row.default).__name__} = {row.default!r}  # {row.meaning}"
        for name, row in table("T1").items()
    ]
    cell = nbformat.v4.new_code_cell
    cells = [cell(first or "\n".join(told), metadata={"tags": ["parameters"]})]
    cells += [cell(source, **fields) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def edited(old, new):
    source = notebook().cells[0].source
    assert old in source
    return notebook(first=source.replace(old, new))


@pytest.mark.parametrize(("check", "breach"), [
    (parameters, edited("epochs: int = 0", "epochs: int = 3")),
    (parameters, edited("epochs: int", "epochs: float")),
    (parameters, edited("epochs: int", "epoch: int")),
    (parameters, edited("epochs: int = 0", "epochs = 0")),
    (parameters, notebook("x = 1", metadata={"tags": ["parameters"]})),
    (notebook_code, notebook("def late():\n    pass")),
    (notebook_code, notebook("twice = lambda x: 2 * x")),
    (notebook_code, notebook("while False:\n    pass")),
    (notebook_code, notebook("for x in range(3):\n    pass")),
    (notebook_code, notebook("%matplotlib inline")),
    (notebook_code, notebook("!pip install cubslib")),
    (notebook_code, notebook("import sys\nsys.path.append('x')")),
    (notebook_code, notebook("pass\n" * 21)),
    (notebook_form, notebook("pass", execution_count=1)),
    (notebook_form, notebook(*["pass"] * 60)),
    (notebook_form, notebook("x = 1\n" * 251)),
])  # fmt: skip
def test_a_breach_of_a_notebook_is_seen(check, breach):
    good = notebook("for fit in fits:\n    pass")
    assert list(check({"T1_custom_cnn": good})) == []
    assert list(check({"T1_custom_cnn": breach}))
    good.metadata.kernelspec.name = "mine"
    assert list(notebook_form({"T1_custom_cnn": good}))


def test_a_notebook_that_a_reader_ran_and_saved_breaks_nothing(monkeypatch, tmp_path):
    if git("rev-parse", "HEAD") is None:
        pytest.skip("not a git checkout")
    before = notebooks()
    monkeypatch.setattr(nbformat, "read", lambda *_, **__: pytest.fail("read as it is now"))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path} as it is now"))
    assert notebooks() == before
