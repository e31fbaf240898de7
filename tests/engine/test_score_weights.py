"""Which particles a threshold of scores keeps."""

import numpy as np

from parhelion.engine.score_weights import best_scores

SCORE = np.array([10.0, 30.0, 20.0, 5.0])


def test_thresholds_are_shares_up_to_1_and_scores_above() -> None:
    alike = np.ones(4)
    assert best_scores(SCORE, alike, 0.0).all()
    assert best_scores(SCORE, alike, 0.5).tolist() == [False, True, True, False]
    assert best_scores(SCORE, alike, 1.0).all()
    assert best_scores(SCORE, alike, 15.0).tolist() == [False, True, True, False]


def test_a_share_is_that_of_what_belongs_to_a_class() -> None:
    # the particles of the best scores are not in this class: half of what is are not those
    inside = np.array([1.0, 0.0, 0.0, 1.0])
    assert best_scores(SCORE, inside, 0.5)[[0, 3]].tolist() == [True, False]
    assert best_scores(SCORE, np.zeros(4), 0.5).sum() == 1
