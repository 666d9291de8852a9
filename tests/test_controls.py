import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch.nn.functional import normalize

from cubslib import CubsError, controls, metrics
from cubslib.datasets import Cars196


def features(count=200, dim=6, seed=0):
    """Never negative, and of very different spread by direction, as after ReLU and pooling."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, dim, generator=generator).mul(torch.logspace(0, -3, dim)).add(2).relu()
    )


@pytest.mark.parametrize("count", [4, 200])
def test_whitened_features_have_the_covariance_of_the_shrunk_estimate(count):
    mean, whitening = controls.statistics(features(count))
    unit = normalize(features(count).double(), dim=1)
    expected, _ = ledoit_wolf(unit.numpy())
    torch.testing.assert_close(mean, unit.mean(0).float())
    inverse = np.linalg.inv(expected)
    np.testing.assert_allclose((whitening @ whitening).numpy(), inverse, rtol=1e-3, atol=1e-3)


def test_statistics_of_equal_features_are_finite():
    assert all(x.isfinite().all() for x in controls.statistics(torch.ones(5, 3)))


def test_bootstrap_draws_classes_and_not_images():
    labels = torch.arange(20).repeat_interleave(50)
    by_class = torch.randn(20, generator=torch.Generator().manual_seed(1))
    mean, low, high = controls.bootstrap(by_class[labels], labels)
    assert mean == pytest.approx(by_class.mean().item(), abs=1e-6)
    wanted = 1.96 * by_class.std().item() / 20**0.5
    assert (high - low) / 2 == pytest.approx(wanted, rel=0.1)  # not that of 1,000 images
    assert low < mean < high
    assert controls.bootstrap(by_class[labels], labels) == (mean, low, high)
    order = torch.randperm(1000)
    assert controls.bootstrap(by_class[labels][order], labels[order]) == pytest.approx(
        (mean, low, high)
    )


def test_bootstrap_weighs_classes_by_their_images():
    labels = torch.tensor([0] * 9 + [5])
    differences = torch.tensor([1.0] * 9 + [0.0])
    assert controls.bootstrap(differences, labels) == (0.9, 0.0, 1.0)
    assert controls.bootstrap(torch.zeros(10), labels) == (0.0, 0.0, 0.0)


def test_a_comparison_is_paired_on_the_same_queries():
    labels = torch.arange(8).repeat_interleave(5)
    noise = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))
    better, worse = torch.eye(16)[labels] + 0.3 * noise[0], torch.eye(16)[labels] + 0.8 * noise[1]
    found = controls.compare(better, worse, labels)
    recalls = [metrics.recall_at_k(x, labels, (1,))[1] for x in (better, worse)]
    means = [metrics.map_at_r(x, labels) for x in (better, worse)]
    assert found["recall_at_1"][0] == pytest.approx(recalls[0] - recalls[1])
    assert found["map_at_r"][0] == pytest.approx(means[0] - means[1], abs=1e-6)
    back = controls.compare(worse, better, labels)["map_at_r"]
    assert back[0] == pytest.approx(-found["map_at_r"][0])
    assert controls.compare(better, better, labels)["recall_at_1"] == [0, 0, 0]


def test_duplicates_are_equal_files_under_two_labels(cars_copy):
    test, train = (Cars196(cars_copy, split, size=32) for split in ("test", "train"))
    assert not controls.duplicates(test, train, None).any()
    here = [test.root / name for name in test.names]
    same = torch.nonzero(test.labels == test.labels[0])[:2, 0].tolist()
    other = torch.nonzero(test.labels != test.labels[0])[0].item()
    here[same[1]].write_bytes(here[same[0]].read_bytes())  # one label: kept
    assert not controls.duplicates(test, train).any()
    here[other].write_bytes(here[same[0]].read_bytes())
    assert np.flatnonzero(controls.duplicates(test)).tolist() == sorted([*same, other])
    here[-1].write_bytes((train.root / train.names[0]).read_bytes())
    assert controls.duplicates(test, train)[-1]
    assert not controls.duplicates(test)[-1]
    here[3].unlink()
    with pytest.raises(CubsError, match=f"{here[3].name} cannot be read .*: restore it"):
        controls.duplicates(test)


def test_rows_are_made_from_what_is_kept():
    arrays = {"labels": np.arange(12) % 3}
    for stage in controls.STAGES:
        arrays[f"embeddings_{stage}"] = normalize(features(12, seed=len(stage))).numpy()
    assert [name for name, *_ in controls.rows(arrays)] == list(controls.STAGES)
    arrays["duplicates"] = np.arange(12) == 4
    mean, whitening = controls.statistics(features(50))
    arrays |= {"mean": mean.numpy(), "whitening": whitening.numpy()}
    arrays |= {"mirrored_embedding": arrays["embeddings_classification"]}
    found = {name: row for name, *row in controls.rows(arrays)}
    assert list(found) == [
        *("classification", "embedding", "centred", "whitened", "embedding, with mirror images"),
        *("classification, without duplicates", "embedding, without duplicates"),
    ]
    torch.testing.assert_close(found["centred"][0] + mean, found["classification"][0])
    torch.testing.assert_close(found["whitened"][0], found["centred"][0] @ whitening)
    assert [len(x) for x in found["embedding, without duplicates"]] == [11, 11]
    kept = np.delete(arrays["embeddings_embedding"], 4, axis=0)
    assert (found["embedding, without duplicates"][0].numpy() == kept).all()
    scores = controls.measures(*found["whitened"])
    assert scores.keys() == {"recall", "share_found", "map_at_r", "r_precision"}
    assert scores["recall"].keys() == scores["share_found"].keys() == {"1", "2", "4", "8"}
