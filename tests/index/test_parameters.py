"""What HTTP is told about index parameters."""

import pytest

from index.parameters import KINDS, PARAMETERS, check_params


@pytest.mark.parametrize("kind", KINDS)
def test_ranges(kind: str) -> None:
    for parameter in PARAMETERS[kind]:
        for value in (parameter.minimum, parameter.maximum):
            assert check_params(kind, {parameter.name: value}) == []
        for value in (parameter.minimum - 1, parameter.maximum + 1):
            ((name, message),) = check_params(kind, {parameter.name: value})
            assert name == parameter.name and str(parameter.minimum) in message and str(parameter.maximum) in message


def test_no_parameters_are_fine() -> None:
    assert all(check_params(kind, {}) == [] for kind in KINDS)


def test_unknown_ones_are_named() -> None:
    assert check_params("hnsw", {"nlist": 5, "m": 16})[0][0] == "nlist"
    assert check_params("flat", {"m": 16})[0][0] == "m"
    assert check_params("auto", {"m": 16})[0][0] == "m"
    assert check_params("tree", {})[0][0] == "kind"


def test_only_integers() -> None:
    assert check_params("hnsw", {"m": True}) == [("m", "must be an integer")]
    assert check_params("hnsw", {"m": 16.0}) == [("m", "must be an integer")]  # type: ignore[dict-item]
