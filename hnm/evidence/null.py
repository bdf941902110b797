"""The null control: labels that say nothing of the slides. What finds something there, finds it anywhere."""

import numpy as np

from shards.seeding import numpy_generator


def permuted_labels(labels: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray:
    """Return labels (S,) int8 with as many positive slides, which are those of some patients at random; -1 stays.

    Patients are drawn, not slides: where all slides of a patient had one label they still have, but for one patient at most,
    and the folds are as well balanced as the true ones.

    Args:
        labels: (S,) 1, 0, or -1: takes no part.
        patients: (S,) whose slide it is.
        seed: another seed, another draw; the order of the slides does not matter.
    """
    used = np.flatnonzero(labels >= 0)
    names, patient_of = np.unique(patients[used].astype(str), return_inverse=True)
    place = numpy_generator(seed, "null labels").permutation(len(names))[patient_of]
    first = used[np.argsort(place, kind="stable")][: np.count_nonzero(labels == 1)]
    permuted = np.where(labels >= 0, 0, -1).astype(np.int8)
    permuted[first] = 1
    return permuted
