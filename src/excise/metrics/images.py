"""Distances between two sets of images: KID and CMMD on given features, and pixel drift at equal seeds."""

from __future__ import annotations

import numpy as np

from excise.metrics.rates import Estimate

LEAST_FOR_KID = 4  # images of each set: two in each subset
CMMD_BANDWIDTH = 10.0
CMMD_SCALE = 1000.0


def kid(
    features_a: np.ndarray,
    features_b: np.ndarray,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
) -> Estimate:
    """Return the kernel inception distance (KID): the unbiased MMD^2 under the kernel (x . y / d + 1)^3.

    Its expectation is 0 for two samples of one distribution, at any sample size, so a value may be negative. Source:
    Binkowski et al., arXiv 1801.01401.

    Args:
        features_a: (n, d), computed in float64.
        features_b: (m, d).
        subsets: number of random subsets to compare.
        subset_size: images of each set in a subset; by default half of the smaller set, 1000 at most.
        seed: of the random subsets.

    Returns:
        The mean over subsets. Low and high are the 2.5 and 97.5 percentiles over subsets, the spread at `subset_size`
        images, which is wider than the interval of the mean. n is the number of images of the smaller set.

    Raises:
        ValueError: widths differ, or there are too few images.
    """
    import torch  # not at the top: the other metrics do without its slow import
    from torchmetrics.image.kid import poly_mmd

    a, b = _features(features_a, features_b)
    n = min(len(a), len(b))
    size = min(1000, n // 2) if subset_size is None else subset_size
    if not 2 <= size <= n:
        raise ValueError(f"subsets of {size} images; needs at least 2 and at most the {n} of the smaller set")
    if subsets < 1:
        raise ValueError(f"{subsets} subsets; needs at least 1")
    rng = np.random.default_rng(seed)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    values = [
        float(poly_mmd(x[rng.choice(len(a), size, replace=False)], y[rng.choice(len(b), size, replace=False)]))
        for _ in range(subsets)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(np.mean(values)), float(low), float(high), n)


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """Return CMMD: 1000 MMD^2 under the kernel exp(-|x - y|^2 / (2 10^2)).

    The estimator is biased: it is never negative, and above 0 even for two samples of one distribution. Source:
    Jayasumana et al., arXiv 2401.09603; the published figures use CLIP ViT-L/14-336.

    Args:
        x: (n, d) embeddings; each is scaled to length 1.
        y: (m, d) embeddings.

    Raises:
        ValueError: widths differ, a set is empty, or an embedding is zero.
    """
    a, b = unit_rows(*_features(x, y))
    means = [float(np.mean(cmmd_kernel(p, q))) for p, q in ((a, a), (b, b), (a, b))]
    return max(0.0, CMMD_SCALE * (means[0] + means[1] - 2 * means[2]))


def unit_rows(*features: np.ndarray) -> list[np.ndarray]:
    """Return sets of embeddings (n, d), each embedding scaled to length 1.

    Raises:
        ValueError: an embedding is zero.
    """
    lengths = [np.linalg.norm(f, axis=1, keepdims=True) for f in features]
    if any((length == 0).any() for length in lengths):
        raise ValueError("an embedding is all zeros; it has no direction")
    return [f / length for f, length in zip(features, lengths, strict=True)]


def cmmd_kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the kernel of CMMD less 1, (n, m), of unit embeddings (n, d) and (m, d).

    All values of the kernel are close to 1, and the ones cancel in the sum of the three terms: expm1 keeps the digits.
    """
    return np.expm1((p @ q.T - 1) / CMMD_BANDWIDTH**2)


def drift(images_a: np.ndarray, images_b: np.ndarray) -> np.ndarray:
    """Return the mean absolute pixel difference, 0..1, of each pair of images, (n,).

    Args:
        images_a: (n, ...), uint8, or floating point within 0..1.
        images_b: the same shape, drawn from the same prompts and seeds.

    Raises:
        ValueError: shapes differ, no images, or floating point outside 0..1.
    """
    a, b = _pixels(images_a), _pixels(images_b)
    if a.shape != b.shape or a.ndim < 2 or len(a) == 0:
        raise ValueError(f"images of shapes {a.shape} and {b.shape}; both must be (n, ...) and the same")
    return np.abs(a - b).reshape(len(a), -1).mean(axis=1)


def _features(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(f"features of shapes {a.shape} and {b.shape}; they must be (n, d) and (m, d) of one width")
    return a, b


def _pixels(images: np.ndarray) -> np.ndarray:
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return array / 255.0
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images of type {array.dtype}; pass uint8, or floating point within 0..1")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"pixels from {array.min()} to {array.max()}; floating point must lie within 0..1")
    return array.astype(np.float64)
