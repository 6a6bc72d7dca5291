"""Measures beside libraries that others wrote. They come with the extra `oracles`."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.similarity import one_pair as measures

Float64 = NDArray[np.float64]


def cases() -> list[tuple[Float64, Float64]]:
    """Random rows, and rows as a ReLU network makes them: sparse, skewed, with a mean."""
    random = np.random.default_rng(0)
    x = random.normal(size=(64, 12))
    y = x @ random.normal(size=(12, 9)) + random.normal(size=(64, 9))
    hidden = np.maximum(x @ random.normal(size=(12, 40)) + 0.5, 0)
    deeper = np.maximum(hidden @ random.normal(size=(40, 30)) - 1, 0)
    return [(x, y), (hidden, deeper)]


@pytest.mark.parametrize(("x", "y"), cases())
def test_ckatorch(x: Float64, y: Float64) -> None:
    torch = pytest.importorskip("torch")
    core = pytest.importorskip("ckatorch.core")
    batches = [torch.tensor(part.reshape(4, 16, -1)) for part in (x, y)]
    assert measures.minibatch_cka(x, y, 16) == pytest.approx(
        float(core.cka_batch(*batches)), abs=1e-6
    )
    assert measures.debiased_cka(x, y) == pytest.approx(
        float(core.cka_base(torch.tensor(x), torch.tensor(y), unbiased=True)), abs=1e-6
    )


@pytest.mark.parametrize(("x", "y"), cases())
def test_pytorch_cka(x: Float64, y: Float64) -> None:
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("cka")
    theirs = library.cka_from_features(torch.tensor(x), torch.tensor(y))
    # It cuts negative estimates to 0, which would bias a mean over pairs; ours does not.
    assert max(measures.debiased_cka(x, y), 0) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize(("x", "y"), cases())
def test_rsatoolbox(x: Float64, y: Float64) -> None:
    toolbox = pytest.importorskip("rsatoolbox")
    matrices = [
        toolbox.rdm.calc_rdm(toolbox.data.Dataset(part), method="euclidean") for part in (x, y)
    ]
    theirs = toolbox.rdm.compare(*matrices, method="spearman")
    assert measures.rsa(x, y) == pytest.approx(float(np.asarray(theirs).item()), abs=1e-6)


@pytest.mark.parametrize(("x", "y"), cases())
def test_pot(x: Float64, y: Float64) -> None:
    ot = pytest.importorskip("ot")
    moved = x @ np.diag(np.linspace(0.5, 1.5, x.shape[1])) + 0.3
    along = np.random.default_rng(1).normal(size=(x.shape[1], 50))
    along /= np.linalg.norm(along, axis=0)
    theirs = ot.sliced.max_sliced_wasserstein_distance(x, moved, projections=along)
    ours = measures.max_sliced_wasserstein(x, moved, projections=along)
    assert ours == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize(("x", "y"), cases())
def test_repsim_pwcca_and_svcca_bound(x: Float64, y: Float64) -> None:
    library = pytest.importorskip("repsim")
    # Its SVCCA sums squared correlations (Yanai, Pillai); ours is the mean of the paper. With
    # nothing cut off both come from the same correlations, so Pillai bounds the mean.
    theirs = float(library.cca([x, y], summary_type="pillai")[0, 1])
    ours = measures.svcca(x, y, share=1.0)
    assert theirs <= ours + 1e-6
