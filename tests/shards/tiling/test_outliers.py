from shards.tiling.outliers import find_outliers


def test_slides_with_far_more_or_fewer_patches_stand_out() -> None:
    counts = {f"s{number}": 1000 + 10 * number for number in range(20)} | {"few": 60, "many": 9000}
    outliers = {outlier.slide_id: outlier for outlier in find_outliers(counts)}
    assert outliers.keys() == {"few", "many"}
    assert outliers["few"].robust_z < -3.5 < 3.5 < outliers["many"].robust_z
    assert str(outliers["few"]) == "few: 60 patches, far fewer than usual (median 1,095)"


def test_twice_stands_out_among_equals_and_a_tenth_does_not() -> None:
    assert [o.slide_id for o in find_outliers(dict.fromkeys("abcdefg", 100) | {"h": 200, "i": 110})] == ["h"]


def test_of_a_few_slides_none_stands_out() -> None:
    assert find_outliers({"a": 1, "b": 1000, "c": 1, "d": 1}) == []
    assert find_outliers({}) == []
