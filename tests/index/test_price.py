"""What a setting costs that was never timed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.calibration import Params
from index.price import Price, fitted

GRID: list[Params] = [{"nprobe": nprobe, "rerank": rerank} for nprobe in (4, 8, 16, 32, 64) for rerank in (4, 16, 64)]
rate = st.floats(0.0, 100.0)
setting = st.fixed_dictionaries({"nprobe": st.integers(1, 2048), "rerank": st.integers(1, 256)})


@settings(deadline=None)
@given(st.floats(1.0, 500.0), rate, rate)
def test_a_price_that_is_linear_is_found(fixed: float, list_us: float, candidate_us: float) -> None:
    real = Price(fixed, {"nprobe": list_us, "rerank": candidate_us})
    found = fitted(GRID, [real.of(params) for params in GRID])
    # Between and a little beyond what was timed; what is 0 may come out as next to 0.
    for params in ({"nprobe": 45, "rerank": 10}, {"nprobe": 5, "rerank": 64}, {"nprobe": 100, "rerank": 100}):
        assert found.of(params) == pytest.approx(real.of(params), rel=1e-6)


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 4096), st.floats(1.0, 1e5), min_size=1, max_size=12), st.data())
def test_who_asks_for_more_never_pays_less(timed: dict[int, float], data: st.DataObject) -> None:
    """Whatever was timed."""
    price = fitted([{"ef_search": ef} for ef in timed], list(timed.values()))
    ef = data.draw(st.integers(1, 4096))
    assert 0 <= price.of({"ef_search": ef}) <= price.of({"ef_search": ef + 1})


@settings(deadline=None)
@given(st.lists(st.tuples(setting, st.floats(1.0, 1e5)), min_size=1, max_size=12), setting)
def test_nothing_is_worth_less_than_nothing(timed: list[tuple[Params, float]], asked: Params) -> None:
    price = fitted([params for params, _ in timed], [cost for _, cost in timed])
    assert price.fixed_us >= 0 and all(each >= 0 for each in price.each_us.values()) and price.of(asked) >= 0


def test_one_setting_costs_what_was_timed() -> None:
    assert fitted([{"nprobe": 32, "rerank": 16}], [230.0]).of({"nprobe": 32, "rerank": 16}) == pytest.approx(230.0)


def test_noise_is_levelled() -> None:
    real = Price(80.0, {"nprobe": 3.5, "rerank": 3.0})
    rng, noise, off = np.random.default_rng(5), [], []
    for _ in range(50):
        noisy = rng.lognormal(0, 0.2, len(GRID))
        price = fitted(GRID, [real.of(params) * each for params, each in zip(GRID, noisy, strict=True)])
        noise.append(abs(noisy - 1).mean())
        off += [abs(price.of(params) / real.of(params) - 1) for params in GRID]
    assert np.mean(off) < 0.6 * np.mean(noise)
