"""Lloyd's k-means with a seeded k-means++ start, for a few dozen token states."""

from __future__ import annotations

import torch
from torch import Tensor


def kmeans(points: Tensor, clusters: int, generator: torch.Generator, iterations: int = 100) -> Tensor:
    """Return the centroids of `points`, (clusters, d), or the distinct points themselves if they are no more.

    Args:
        points: (n, d).
        clusters: number of centroids.
        generator: on the CPU; draws the k-means++ start (Arthur and Vassilvitskii, 2007).
        iterations: at most; stops earlier when no centroid moves.
    """
    distinct = torch.unique(points, dim=0)
    if len(distinct) <= clusters:
        return distinct
    centroids = distinct[torch.randint(len(distinct), (1,), generator=generator)]
    while len(centroids) < clusters:
        nearest = torch.cdist(distinct, centroids).square().amin(dim=1)
        pick = torch.multinomial(nearest.cpu(), 1, generator=generator)
        centroids = torch.cat([centroids, distinct[pick]])
    for _ in range(iterations):
        owner = torch.cdist(points, centroids).argmin(dim=1)
        member = torch.nn.functional.one_hot(owner, clusters).to(points)
        counts = member.sum(dim=0)
        means = member.mT @ points / counts.clamp(min=1).unsqueeze(1)
        moved = torch.where(counts.unsqueeze(1) > 0, means, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids
