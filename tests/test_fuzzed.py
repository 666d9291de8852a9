"""Anything at all as input: understood, or refused in one sentence; never a traceback.

CUBSLIB_FUZZ in the environment is how many of each are tried. The data sets' files have a module
of their own, `test_fuzzed_data.py`.
"""

import json
import math
import warnings

import pytest
import small
import tally
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from papermill.cli import _resolve_type
from papermill.translators import PythonTranslator
from refusals import assert_sentence

from cubslib import CubsError, __main__, augment, blocks, losses, metrics, state, training
from cubslib.pages.table import table
from cubslib.runs import finished, parameters

fuzz = settings(
    max_examples=tally.EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TASKS = st.sampled_from(sorted(parameters.TASKS))
NAMES = st.sampled_from(sorted({row.name for row in parameters.TABLE})) | st.text(max_size=9)
EDITS = st.lists(  # where, how many bytes go, what comes
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4
)
CUTS = st.tuples(st.floats(0, 1), st.just(10**9), st.just(b"")).map(lambda cut: [cut])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS)
NUMBERS = st.sampled_from(["nan", "inf", "-inf", "1e308", "1e-320", "1" * 400, "-0", "0x1", "1_0"])
TEXTS = st.text(max_size=30) | NUMBERS | st.integers().map(str) | st.floats().map(str)
TYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


def clear(what, action):
    """Assert that `action` ends well or in one sentence; return what it gives, None if refused."""
    with tally.case(what):
        try:
            return action()
        except CubsError as error:
            assert_sentence(str(error))
            return None


def edited(content: bytes, edits) -> bytes:
    for where, gone, new in edits:
        at = int(where * len(content))
        content = content[:at] + new + content[at + gone :]
    return content


def spoil(path, good, data):
    """Write a file of JSON again, some of its bytes or values changed or gone."""
    if data.draw(st.booleans()):
        path.write_bytes(edited(good, data.draw(EDITS | CUTS)))
    else:
        path.write_text(json.dumps(spoilt(data, json.loads(good))))


def spoilt(data, tree):
    """Return nested dicts with the value at some place replaced, or the place removed."""
    tree = json.loads(json.dumps(tree))
    inner, place = tree, data.draw(st.sampled_from(sorted(tree)))
    while isinstance(inner[place], dict) and inner[place] and data.draw(st.booleans()):
        inner, place = inner[place], data.draw(st.sampled_from(sorted(inner[place])))
    if data.draw(st.booleans()):
        inner[place] = data.draw(VALUES)
    else:
        del inner[place]
    return tree


# --- parameters ---


@fuzz
@given(text=TEXTS)
def test_the_command_line_reads_a_value_as_papermill_does(text):
    with tally.case("values on the command line: read as papermill does"):
        found, theirs = __main__._parsed(["x", text])[1], _resolve_type(text)
        assert type(found) is type(theirs)
        assert found == theirs or math.isnan(found)


@fuzz
@given(task=TASKS, texts=st.dictionaries(NAMES, TEXTS, max_size=4))
def test_parameters_as_papermill_injects_them(task, texts):
    values = {name: _resolve_type(text) for name, text in texts.items() if name.isidentifier()}
    cell, namespace = PythonTranslator.codify(values), {}
    try:
        exec(cell, namespace)
    except (SyntaxError, ValueError):  # a keyword for a name: no kernel runs it either
        return
    namespace["In"] = [cell]

    def asked():
        found = parameters.check(task, parameters.given(task, namespace))
        assert found.keys() == parameters.defaults(task).keys()
        name = parameters.run_name(task, found)
        assert len(name) <= 200
        assert "/" not in name

    clear("parameters, by papermill's conversions: taken or refused in a sentence", asked)


@fuzz
@given(task=TASKS, values=st.dictionaries(NAMES, VALUES, max_size=3))
def test_parameters_of_any_kind(task, values):
    clear("parameters of any kind: taken or refused in a sentence",
          lambda: parameters.check(task, values))  # fmt: skip


# --- a run's files ---


@pytest.fixture
def run(begin):
    """A run of T1 that was stopped after its first epoch."""
    run = begin("T1", run_dir="runs/mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "over", lambda history, _: len(history) == 1)
        small.fit(run)
    return run


def test_settings(run, begin):
    path = run.folder / "settings.json"
    good = path.read_bytes()

    @fuzz
    @given(data=st.data())
    def fuzzed(data):
        spoil(path, good, data)

        def start():
            again = begin("T1", run_dir="runs/mine")
            assert again.recipe("classification") == run.recipe("classification")

        clear("settings.json changed or cut: read or refused", start)

    fuzzed()


def test_records(t1, t4, tmp_path):
    good = {run.task: run.folder.joinpath("metrics.json").read_bytes() for run in (t1, t4)}
    (tmp_path / "mine").mkdir()

    @fuzz
    @given(task=st.sampled_from(["T1", "T4"]), data=st.data())
    def fuzzed(task, data):
        path = tmp_path / "mine/metrics.json"
        spoil(path, good[task], data)
        clear("metrics.json changed or cut: read or refused", lambda: finished.read(path.parent))
        table(finished.find(tmp_path))

    fuzzed()


def test_histories(run):
    path = run.folder / "history.csv"
    good = path.read_bytes()

    @fuzz
    @given(edits=EDITS | CUTS)
    def fuzzed(edits):
        path.write_bytes(edited(good, edits))
        clear("history.csv changed or cut: read or refused", lambda: run.best("classification"))

    fuzzed()


@pytest.mark.parametrize("name", ["last", "best"])
def test_checkpoints(name, run):
    path = run.checkpoint("classification", name)
    good = path.read_bytes()

    @fuzz
    @given(edits=EDITS | CUTS)
    def fuzzed(edits):
        path.write_bytes(edited(good, edits))
        model = small.small(run)
        clear("checkpoints changed or cut: loaded or refused",
              lambda: state.begin(run, "classification", model, 3))  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuzzed()


@fuzz
@given(data=st.data())
def test_the_config_in_a_checkpoint(tmp_path_factory, data):
    config = {"network": "resnet18", "num_classes": 3, "stem": "7x7", "embedding_dim": 4}
    path = tmp_path_factory.mktemp("config") / "best.ckpt"
    saved = {"state_dict": {"conv1.weight": torch.ones(1)}, "config": spoilt(data, config)}
    saved |= {"classes": ["a", "b", "c"], "image_size": 32}
    torch.save(saved, path)
    clear("checkpoints changed or cut: loaded or refused", lambda: training.load(path))
    path.unlink()


# --- tensors ---


@st.composite
def tensors(draw, *sides):
    """A tensor with sides of at most `sides`, of any float type, some values not finite."""
    shape = [draw(st.integers(0, side)) for side in sides]
    values = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    values = values * draw(st.sampled_from([1.0, 0.0, 1e-30, 1e30]))
    for special in draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), max_size=2)):
        if values.numel():
            values.view(-1)[draw(st.integers(0, values.numel() - 1))] = special
    return values.to(draw(TYPES))


@st.composite
def labelled(draw):
    """Embeddings (N, D), sometimes of another shape, and labels, sometimes of another number."""
    x = draw(tensors(6, 4) | tensors(6, 4) | tensors(5) | tensors(3, 3, 2))
    count = draw(st.just(x.shape[0]) | st.integers(0, 7))
    return x, torch.tensor(
        draw(st.lists(st.integers(-2, 3), min_size=count, max_size=count))
    ).long()


@fuzz
@given(
    pair=labelled(),
    mining=st.sampled_from(losses.MININGS),
    weights=st.tuples(st.floats(0.001, 1e4), st.floats(0.001, 1e4), st.floats(0, 1)),
)
def test_the_loss(pair, mining, weights):
    x, labels = pair
    x = x.requires_grad_()

    def value():
        loss = losses.MultiSimilarityLoss(*weights, mining=mining)(x, labels)
        loss.backward()
        assert loss.shape == ()
        if x.isfinite().all():
            assert 0 <= loss < math.inf
            assert x.grad.isfinite().all()
        else:
            assert loss.isnan()

    clear("the loss of any tensors: finite, NaN for NaN, or refused", value)


@fuzz
@given(pair=labelled(), ks=st.lists(st.integers(-1, 9), max_size=3))
def test_recall(pair, ks):
    x, labels = pair
    found = clear("recall of any tensors: a share, or refused",
                  lambda: metrics.recall_at_k(x, labels, ks))  # fmt: skip
    if found is not None:
        assert found.keys() == set(ks)
        assert x.isfinite().all()
        shares = [found[k] for k in sorted(found)]
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 for share in shares)


@pytest.mark.parametrize("fashion", blocks.FASHIONS)
def test_blocks(fashion):
    """In a network it is torch that refuses a shape; what comes out is never of another."""
    torch.manual_seed(0)
    block = blocks.CubsAttention(3, fashion)

    @fuzz
    @given(x=tensors(3, 4, 4, 4) | tensors(3, 3, 4))
    def fuzzed(x):
        with tally.case("the CUBS blocks on any tensors: the input's shape, or refused"):
            try:
                out = block(x.float())
            except (RuntimeError, IndexError, ValueError):
                assert x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape
                return
            assert out.shape == x.shape
            if (x.float().abs() < 1e9).all():
                assert out.isfinite().all()
                assert (out.abs() <= 2 * x.float().abs() + 1e-6).all()  # two gates below 1

    fuzzed()


@fuzz
@given(
    shape=st.tuples(*[st.integers(0, n) for n in (3, 4, 9, 9)]),
    size=st.integers(0, 12),
    how=st.tuples(st.floats(0.01, 1), st.floats(1, 4), st.booleans(), st.floats(0, 0.99),
                  st.floats(0, 1)),
    value=st.integers(0, 255),
)  # fmt: skip
def test_augmentation(shape, size, how, value):
    images = torch.full(shape, value, dtype=torch.uint8)
    with tally.case("augmentation of any images: finite and of the size asked, or refused"):
        try:
            numbers = augment.draws(len(images), 0, "fit", 0)
            out = augment.augment(images, numbers, augment.Augmentation(*how), size)
        except (RuntimeError, IndexError, ValueError, ZeroDivisionError):
            assert shape[1] != 3 or 0 in (*shape, size)
            return
        assert out.shape == (shape[0], 3, size, size)
        assert out.isfinite().all()
