import pytest

from shards.cohort.groups import Role, Roles, names_in_vain

DEFAULT = ["_2", "exclusion", "normal", "negative"]


@pytest.mark.parametrize(
    ("group", "positive", "role"),
    [
        ("", None, "positive"),
        ("", ["Tumor"], "ignored"),
        ("TUMOR", ["tumor"], "positive"),
        ("Stroma", ["tumor"], "ignored"),
        ("Normal", None, "cut out"),
        ("Ignore*", None, "ignored"),
        ("Region*", None, "ignored"),
        ("Region*", ["region*"], "positive"),
        ("Tumor: Ignore*", ["Tumor"], "ignored"),
        ("Normal: Ignore*", None, "ignored"),
        ("Tumor: Positive", ["Tumor"], "positive"),
        ("Tumor:Positive", ["tumor: positive"], "positive"),
        ("Tumor: Negative", ["Tumor"], "positive"),  # without the stained marker, but tumour
        ("Tumor: Negative", None, "positive"),
        ("Normal: Positive", None, "cut out"),
        ("Exclusion: fat", None, "cut out"),
        ("Krebs: Mu\u0308ll", ["m\u00fcll"], "positive"),  # composed and decomposed
    ],
)
def test_what_a_group_is_taken_as(group: str, positive: list[str] | None, role: Role) -> None:
    assert Roles(positive, DEFAULT).of(group) == role


def test_a_part_of_a_derived_class_can_be_cut_out() -> None:
    assert Roles(["Tumor"], ["Necrosis"]).of("Tumor: Necrosis") == "cut out"
    assert Roles(["Tumor: Necrosis"], ["Necrosis"]).of("Tumor: Necrosis") == "positive"


def test_names_of_the_settings_that_name_nothing() -> None:
    groups = ["Tumor: Positive", "Stroma"]
    assert names_in_vain(["tumor", "Positive", "stroma", "Tumour", "Tumor: Negative"], groups) == ["Tumour", "Tumor: Negative"]
