"""Image retrieval without a downloaded model: which survey images show what this frame shows.

Each image becomes one vector, a VLAD (Jégou et al., 2010) of its local descriptors over a vocabulary that is learnt
on the survey itself, so that finding the nearest survey images is one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omniad_ros.mapping.features import unit

VOCABULARY_SAMPLE = 40_000
"""So many descriptors are enough to learn a vocabulary of some dozens of words."""


def learn_vocabulary(descriptors: Sequence[np.ndarray], words: int = 64) -> np.ndarray:
    """Vocabulary (words, D) float32 by k-means on samples of the survey's descriptors, each (N_i, D)."""
    from sklearn.cluster import MiniBatchKMeans

    everything = np.concatenate(descriptors)
    chosen = np.random.default_rng(0).permutation(len(everything))[:VOCABULARY_SAMPLE]
    words = min(words, len(chosen))
    means = MiniBatchKMeans(words, batch_size=2048, n_init=1, max_iter=20, random_state=0).fit(everything[chosen])
    return means.cluster_centers_.astype(np.float32)


def vlad(descriptors: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Global descriptor (words * D,) float32 of unit length, of local descriptors (N, D); zero where N is 0."""
    words, dimension = vocabulary.shape
    sums = np.zeros((words, dimension), np.float32)
    if len(descriptors):
        # argmin of |d - w|^2 over words; |d|^2 is the same for all of them
        nearest = np.argmin((vocabulary**2).sum(1) - 2.0 * descriptors @ vocabulary.T, axis=1)
        np.add.at(sums, nearest, descriptors - vocabulary[nearest])
    sums = unit(sums).ravel()  # within a word first: a repeated texture must not outweigh all else
    return unit(np.sign(sums) * np.sqrt(np.abs(sums)))


def nearest_images(query: np.ndarray, database: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` rows of ``database`` (N, K) most like ``query`` (K,), best first."""
    similarity = database @ query.astype(database.dtype)
    count = min(count, len(similarity))
    best = np.argpartition(-similarity, count - 1)[:count]
    return best[np.argsort(-similarity[best], kind="stable")]
