"""Wrong tags would skew the balance of a data set: what is named is found, what is denied or only looks alike is not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from mugv.curation.tags import normalise, rules, tag


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red circle moves left", {"subject:circle", "action:move"}),
        ("Two puppies chase butterflies.", {"subject:dog", "subject:butterfly", "action:chase"}),
        ("A woman is swimming; her children jump into the swimming pool.", {"subject:woman", "subject:child", "action:swim", "scene:pool"}),
        ("He rode a bike through the woods at dusk", {"subject:bicycle", "action:ride", "scene:forest", "scene:sunset"}),
        (
            "A person in a t-shirt eats ice cream in a living room",
            {"subject:t shirt", "subject:ice cream", "action:eat", "scene:living room"},
        ),
        ("KNIVES AND GEESE", {"subject:knife", "subject:goose"}),
        ("a man carrying boxes, then putting them down", {"subject:box", "action:carry", "action:put"}),
    ],
)
def test_subjects_actions_and_scenes_are_found_in_any_form(caption: str, expected: set[str]) -> None:
    assert expected <= set(tag(caption))


@pytest.mark.parametrize(
    ("caption", "absent"),
    [
        ("An empty street with no people and no cars.", {"subject:person", "subject:car"}),
        ("A room without any furniture or windows.", {"subject:window"}),
        ("The camera is still, with a shallow depth of field.", {"subject:camera", "scene:field"}),
        ("A close-up of a face.", {"action:close"}),
        ("A man parks his car.", {"scene:park"}),
        ("An orange cat on a blue sofa", {"subject:orange"}),
        ("The camera pans to the right.", {"subject:frying pan"}),
        ("A walk in the rain", {"action:walk"}),
        ("The scarecrow and the carpet", {"subject:crow", "subject:car", "subject:carpet"}),
    ],
)
def test_what_is_denied_or_only_looks_alike_is_no_tag(caption: str, absent: set[str]) -> None:
    assert not absent & set(tag(caption))


def test_a_denial_ends_with_its_sentence() -> None:
    assert "subject:dog" in tag("There are no people. A dog sleeps.")
    assert "subject:dog" in tag("There are no people, but a dog sleeps.")


@pytest.mark.parametrize(
    ("caption", "meant"),
    [
        ("She watches the sea.", "action:watch"),
        ("A watch lies on the table.", "subject:watch"),
        ("They are building a wall.", "action:build"),
        ("The building is tall.", "scene:building"),
        ("Leaves fall.", "subject:leaf"),
        ("He leaves the room.", "action:leave"),
        ("Men fish at dawn.", "action:fish"),
        ("A fish swims.", "subject:fish"),
    ],
)
def test_a_word_that_is_noun_and_verb_is_told_apart_by_the_word_before(caption: str, meant: str) -> None:
    word = meant.partition(":")[2]
    assert [t for t in tag(caption) if t.endswith(f":{word}")] == [meant]


def test_a_word_brings_its_group_so_that_shares_of_people_can_be_asked_for() -> None:
    assert {"subject:man", "subject:person"} <= set(tag("a man"))
    assert {"subject:cat", "subject:animal"} <= set(tag("a cat"))
    assert {"scene:kitchen", "scene:indoor"} <= set(tag("in the kitchen"))


def test_tags_are_sorted_and_each_comes_once() -> None:
    found = tag("dogs and a dog, walking and walks")
    assert list(found) == sorted(set(found))
    assert tag("") == ()
    assert tag("Ein Hund läuft.") == ()


def test_a_model_s_words_come_in_the_form_of_the_rules() -> None:
    assert normalise("subject", " Puppies ") == ("subject:dog", "subject:animal")
    assert normalise("action", "running") == ("action:run", "action:move")
    assert normalise("scene", "Rice_Paddy") == ("scene:rice paddy",)
    assert normalise("subject", "--") == ()


def test_no_word_of_the_list_means_two_things_of_one_kind() -> None:
    tree = yaml.safe_load((Path(rules.__file__).parent / "words.yaml").read_text())
    meanings: dict[tuple[str, str], set[str]] = {}
    for kind, _, forms in rules._entries(tree):
        for shape in {shape for form in forms for shape in rules._shapes(kind, form)}:
            meanings.setdefault((kind if kind == "action" else "noun", shape), set()).add(f"{kind}:{forms[0]}")
    assert len(meanings) > 2000
    assert {word: lemmas for word, lemmas in meanings.items() if len(lemmas) > 1} == {}


def test_a_hundred_thousand_captions_take_seconds_and_not_minutes() -> None:
    caption = "This video shows a young woman in a white dress sitting at a table in a cafe, drinking coffee. The camera is still. " * 2
    tag(caption)
    began = time.process_time()
    for _ in range(500):
        tag(caption)
    assert (time.process_time() - began) / 500 < 1e-3
