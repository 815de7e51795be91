"""What a bound means: chance warns of nothing, nor does what another cause explains."""

from typing import Any

from data_builders.quality.verdicts import load_thresholds, with_checks


def test_a_liking_for_the_first_place_shows_in_every_kind_of_pair() -> None:
    """Where the wrong caption always stands second in one kind, that is why the first one wins there."""
    votes = {"n": 400, "a": 270, "b": 130, "tie": 0}
    whole = {"value": 0.675, "low": 0.63, "high": 0.72, "n": 400}
    wrong = {"value": 0.99, "low": 0.97, "high": 1.0, "n": 190}
    machines = {"value": 0.5, "low": 0.43, "high": 0.57, "n": 200}
    few = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10}

    def verdict(**kinds: dict[str, Any]) -> dict[str, Any]:
        checks = with_checks({"records": {"n": 6}, "votes": votes, "first_wins": whole | {"by_kind": kinds}})["checks"]
        return next(check for check in checks if check["name"] == "position_bias")

    judged = verdict(HI=wrong, MM=machines, XX=few)
    assert judged["verdict"] == "pass" and judged["value"] == 0.5 and judged["n"] == 200
    assert "HI 99.0% (97.0 to 100.0), MM 50.0%" in judged["message"] and "67.5%" in judged["message"]
    assert verdict(HI=wrong, HM={**wrong, "value": 0.8, "low": 0.75})["verdict"] == "warn", "in every kind"
    assert verdict(HI=wrong, XX=few)["value"] == 0.675, "one kind that has enough votes is none to compare"


def test_one_case_of_many_is_no_warning() -> None:
    bounds, interval = load_thresholds(), {"low": 0.006, "high": 0.47}
    assert bounds["languages"].verdict({"value": 1 / 1317, "low": 0.0001, "high": 0.01}) == "pass"
    assert bounds["languages"].verdict({"value": 1 / 8, **interval}) == "pass", "one of eight may be chance"
    assert bounds["languages"].verdict({"value": 0.05, "low": 0.03, "high": 0.08}) == "warn"
    assert bounds["identical_answers"].verdict({"value": 1 / 5000}) == "pass"
    assert bounds["identical_answers"].verdict({"value": 1 / 50}) == "warn"
    assert bounds["disagreeing_raters"].verdict({"value": 1 / 100}) == "pass"
    assert bounds["disagreeing_raters"].verdict({"value": 1 / 3}) == "warn"
    assert bounds["leaking_media"].verdict({"value": 1 / 2000}) == "pass"
    assert bounds["problems"].verdict({"value": 1 / 5000}) == "fail", "one such record crashes training"
    above_nothing = [name for name, one in bounds.items() if 0.0 in (one.warn.above, one.fail.above)]
    assert above_nothing == ["problems"]
