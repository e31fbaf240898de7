"""Nested elimination gives what one large system gives."""

from dataclasses import replace

import numpy as np

from parhelion.algorithms.ctf_refine.settings import CtfRefineSettings, layout_of
from parhelion.algorithms.ctf_refine.solve import Normal, solve
from parhelion.algorithms.ctf_refine.state import Start

from .conftest import Case

USED = 24
MICROGRAPHS = np.repeat([0, 1, 2, 3], 6)


def problem(odd_case: Case, seed: int = 1) -> tuple[Start, list[Normal], np.ndarray, np.ndarray]:
    """Random Jacobians of 24 particles in four micrographs and two optics groups."""
    particles = odd_case.start.take(np.arange(USED))
    group = np.repeat([0, 1], USED // 2)
    particles = replace(
        particles,
        optics=(particles.optics[0], replace(particles.optics[0], voltage_kv=200.0)),
        views=replace(particles.views, optics_group=group),
    )
    settings = CtfRefineSettings(astigmatism="micrograph", trefoil=False)
    start = Start(particles=particles, layout=layout_of(settings), micrograph=MICROGRAPHS, frequency=0.3)
    rng = np.random.default_rng(seed)
    jacobian = rng.normal(size=(USED, len(start.layout.columns), 40))
    residual = rng.normal(size=(USED, 40))
    h, g = jacobian @ jacobian.transpose(0, 2, 1), np.einsum("ndk,nk->nd", jacobian, residual)
    rows = np.arange(USED)
    parts = [Normal(rows=rows[half], g=g[half], h=h[half]) for half in (slice(12, 24), slice(0, 12))]
    return start, parts, g, h


def dense(start: Start, g: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solution and covariance of the whole system in units of the solver, and where each column stands."""
    a, b, c = start.layout.sizes
    groups, micrographs = 2, 4
    size = USED * a + micrographs * b + groups * c
    place = np.zeros((USED, a + b + c), int)
    for i in range(USED):
        place[i, :a] = i * a + np.arange(a)
        place[i, a : a + b] = USED * a + MICROGRAPHS[i] * b + np.arange(b)
        place[i, a + b :] = USED * a + micrographs * b + start.group[i] * c + np.arange(c)
    full, right = np.zeros((size, size)), np.zeros(size)
    precision = np.zeros(size)
    for i in range(USED):
        full[np.ix_(place[i], place[i])] += h[i]
        right[place[i]] += g[i]
        precision[place[i]] = 0.5 * (start.unit / start.prior)[start.group[i]] ** 2
    full += np.diag(precision)
    return np.linalg.solve(full, right), 0.5 * np.linalg.inv(full), place


def test_nested_elimination_is_the_dense_solution(odd_case: Case) -> None:
    start, parts, g, h = problem(odd_case)
    # steps so small that no limit on their length acts
    parts = [replace(part, g=part.g * 0.05) for part in parts]
    frozen = np.zeros((2, len(start.layout.columns)), bool)
    found = solve(start, start.unchanged(), parts, frozen)
    step, covariance, place = dense(start, g * 0.05, h)
    unit = start.unit[start.group]
    np.testing.assert_allclose(start.total(found.changes) / unit, step[place], rtol=1e-6, atol=1e-9)
    errors = start.total(found.errors) / unit
    np.testing.assert_allclose(errors, np.sqrt(np.diag(covariance))[place], rtol=1e-6)
    first = place[0, -2:]
    scale = np.outer(start.unit[0, -2:], start.unit[0, -2:])
    np.testing.assert_allclose(
        found.covariance[0][-2:, -2:] / scale, covariance[np.ix_(first, first)], rtol=1e-6
    )


def test_priors_pull_back_to_the_input(odd_case: Case) -> None:
    start, parts, _, _ = problem(odd_case)
    silent = [replace(part, g=0 * part.g, h=1e-9 * part.h) for part in parts]
    away = start.unchanged()
    away = replace(away, particle=away.particle + 0.1, group=away.group + 0.01)
    found = solve(start, away, silent, np.zeros((2, len(start.layout.columns)), bool))
    np.testing.assert_allclose(found.changes.group, 0, atol=1e-4)
    np.testing.assert_allclose(found.changes.particle, 0, atol=1e-4)
    # without data the error is the prior
    prior = np.concatenate([start.prior[start.group][:, :2]])
    np.testing.assert_allclose(found.errors.particle, prior, rtol=1e-3)


def test_frozen_parameters_stay_and_others_do_not(odd_case: Case) -> None:
    start, parts, _, _ = problem(odd_case)
    frozen = np.zeros((2, len(start.layout.columns)), bool)
    frozen[1, -2:] = True
    found = solve(start, start.unchanged(), parts, frozen)
    assert np.all(found.changes.group[1, -2:] == 0)
    assert np.all(found.changes.group[0, -2:] != 0)
    assert np.all(found.changes.group[1, :-2] != 0)
