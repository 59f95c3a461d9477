"""What the estimators are compared with is right."""

import pytest


def test_double_backward_and_the_exact_estimator_agree(load):
    benchmark = load("hypergradient")
    problem = benchmark.Problem(benchmark.Setting((32, 32), 1, "fp32", "cpu", "ce_dice"))
    found = {}
    for case in ("reference", "exact"):
        step = problem.step(case)
        # At Adam's first step the derivative is a difference of nearly equal numbers.
        for _ in range(4):
            found[case] = float(step()[0])
    # Both are exact: fp32, and four steps that round differently.
    assert found["exact"] == pytest.approx(found["reference"], rel=1e-3)


def test_amortised_is_a_cycle_of_steps(load):
    benchmark = load("hypergradient")
    problem = benchmark.Problem(benchmark.Setting((32, 32), 4, "fp32", "cpu", "ce"))
    assert len(problem.step("amortised")()) == 1
    assert problem.step("plain")() == []


def test_largest_patch_is_found(load):
    largest = load("hypergradient").largest
    for most in (0, 1, 2, 7, 8):
        tried = []

        def fits(n, most=most, tried=tried):
            tried.append(n)
            return n <= most

        assert largest(fits) == most
        assert len(tried) == len(set(tried))
